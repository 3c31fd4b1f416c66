locals {
  serverless = var.cosmos_capacity_mode == "serverless"

  # What is large and only ever read whole stays out of the index: every entry costs on every write.
  unindexed = {
    runs    = ["/events/*", "/state/*"]
    records = ["/artifact/*", "/queued/*", "/release/*", "/result/*", "/running/*", "/wish/*"]
  }
}

resource "azurerm_cosmosdb_account" "this" {
  #checkov:skip=CKV_AZURE_100:Encrypted with the platform's keys; it holds no secrets, those are in the vault
  #checkov:skip=CKV_AZURE_101:Closed by network_mode = private_endpoints; without it only Entra identities get in

  name                               = local.global
  resource_group_name                = azurerm_resource_group.this.name
  location                           = azurerm_resource_group.this.location
  offer_type                         = "Standard"
  kind                               = "GlobalDocumentDB"
  local_authentication_disabled      = true
  access_key_metadata_writes_enabled = false
  minimal_tls_version                = "Tls12"
  public_network_access_enabled      = local.public_access
  is_virtual_network_filter_enabled  = local.networked
  ip_range_filter                    = local.networked ? var.operator_ip_ranges : []
  tags                               = local.tags

  consistency_policy {
    consistency_level = var.cosmos_consistency
  }

  geo_location {
    location          = azurerm_resource_group.this.location
    failover_priority = 0
    zone_redundant    = var.zone_redundant
  }

  dynamic "capabilities" {
    for_each = local.serverless ? ["EnableServerless"] : []

    content {
      name = capabilities.value
    }
  }

  dynamic "virtual_network_rule" {
    for_each = local.endpoint_subnets["Microsoft.AzureCosmosDB"]

    content {
      id = virtual_network_rule.value
    }
  }

  backup {
    type = "Continuous"
    tier = "Continuous7Days"
  }
}

resource "azurerm_cosmosdb_sql_database" "windlass" {
  name                = "windlass"
  resource_group_name = azurerm_resource_group.this.name
  account_name        = azurerm_cosmosdb_account.this.name

  # Both containers share one ceiling.
  dynamic "autoscale_settings" {
    for_each = local.serverless ? [] : [var.cosmos_max_throughput]

    content {
      max_throughput = autoscale_settings.value
    }
  }
}

resource "azurerm_cosmosdb_sql_container" "this" {
  for_each = local.unindexed

  name                  = each.key
  resource_group_name   = azurerm_resource_group.this.name
  account_name          = azurerm_cosmosdb_account.this.name
  database_name         = azurerm_cosmosdb_sql_database.windlass.name
  partition_key_paths   = ["/pk"]
  partition_key_version = 2
  # Documents expire only by a ttl of their own.
  default_ttl = -1

  indexing_policy {
    indexing_mode = "consistent"

    included_path {
      path = "/*"
    }

    dynamic "excluded_path" {
      for_each = concat(each.value, ["/\"_etag\"/?"])

      content {
        path = excluded_path.value
      }
    }
  }
}

# Data access has its own roles: 00000000-0000-0000-0000-000000000002 is "Cosmos DB Built-in Data Contributor".
resource "azurerm_cosmosdb_sql_role_assignment" "service" {
  name                = uuidv5("url", "windlass/${local.global}/service/data-contributor")
  resource_group_name = azurerm_resource_group.this.name
  account_name        = azurerm_cosmosdb_account.this.name
  role_definition_id  = "${azurerm_cosmosdb_account.this.id}/sqlRoleDefinitions/00000000-0000-0000-0000-000000000002"
  principal_id        = azurerm_user_assigned_identity.service.principal_id
  scope               = "${azurerm_cosmosdb_account.this.id}/dbs/${azurerm_cosmosdb_sql_database.windlass.name}"
}

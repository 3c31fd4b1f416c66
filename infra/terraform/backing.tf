# What deployed apps may use beside themselves: a frontend's home, a database, a cache. Nothing here exists unless it is
# asked for; presets/ has three sensible choices.

locals {
  database_skus = { burstable = "B_Standard_B1ms", general = "GP_Standard_D2ds_v5" }
  with_database = var.database != "none"
  with_cache    = var.cache != "none"
}

# Static files on the platform's own network of servers, with certificates of its own.
resource "azurerm_static_web_app" "site" {
  count = var.site == "none" ? 0 : 1

  name                         = "${local.base}-site"
  resource_group_name          = azurerm_resource_group.this.name
  location                     = var.site_location
  sku_tier                     = var.site
  sku_size                     = var.site
  preview_environments_enabled = true
  tags                         = local.tags
}

resource "azurerm_postgresql_flexible_server" "apps" {
  #checkov:skip=CKV_AZURE_136:Backups stay in the region, as the storage account does unless storage_replication says otherwise

  count = local.with_database ? 1 : 0

  name                          = "${local.global}-db"
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  version                       = "16"
  sku_name                      = local.database_skus[var.database]
  storage_mb                    = 32768
  auto_grow_enabled             = true
  backup_retention_days         = min(var.soft_delete_days, 35)
  geo_redundant_backup_enabled  = false
  public_network_access_enabled = local.public_access
  tags                          = local.tags

  # Tokens of Entra only: there is no password to keep.
  authentication {
    active_directory_auth_enabled = true
    password_auth_enabled         = false
    tenant_id                     = data.azurerm_client_config.current.tenant_id
  }

  # The burstable sizes cannot have a second server.
  dynamic "high_availability" {
    for_each = var.database == "general" && var.zone_redundant ? ["ZoneRedundant"] : []

    content {
      mode = high_availability.value
    }
  }

  lifecycle {
    # The platform chooses the zone, and a failover changes it.
    ignore_changes = [zone]
  }
}

resource "azurerm_postgresql_flexible_server_active_directory_administrator" "apps" {
  for_each = { for name, admin in var.database_admins : name => admin if local.with_database }

  server_name         = azurerm_postgresql_flexible_server.apps[0].name
  resource_group_name = azurerm_resource_group.this.name
  tenant_id           = data.azurerm_client_config.current.tenant_id
  object_id           = each.value.object_id
  principal_name      = each.key
  principal_type      = each.value.type
}

# The apps' environment has no address of its own to let in. Whoever comes still needs a token.
resource "azurerm_postgresql_flexible_server_firewall_rule" "azure" {
  #checkov:skip=CKV2_AZURE_26:0.0.0.0 means services of Azure alone; network_mode = private_endpoints goes without

  count = local.with_database && !local.private ? 1 : 0

  name             = "azure-services"
  server_id        = azurerm_postgresql_flexible_server.apps[0].id
  start_ip_address = "0.0.0.0"
  end_ip_address   = "0.0.0.0"
}

# The smallest Managed Redis: the older Azure Cache for Redis takes no new instances.
resource "azurerm_managed_redis" "apps" {
  count = local.with_cache ? 1 : 0

  name                      = "${local.global}-cache"
  resource_group_name       = azurerm_resource_group.this.name
  location                  = azurerm_resource_group.this.location
  sku_name                  = "Balanced_B0"
  high_availability_enabled = var.cache == "replicated"
  public_network_access     = local.public_access ? "Enabled" : "Disabled"
  tags                      = local.tags

  default_database {
    access_keys_authentication_enabled = false
    client_protocol                    = "Encrypted"
    clustering_policy                  = "EnterpriseCluster"
    eviction_policy                    = "VolatileLRU"
  }
}

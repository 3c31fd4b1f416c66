# Content, logs and packages of Windlass, its alarms, and what the Functions host keeps (leases, timers, keys).
resource "azurerm_storage_account" "this" {
  #checkov:skip=CKV_AZURE_33:Classic queue logging needs the account's key, which is off; diagnostics_enabled covers blobs
  #checkov:skip=CKV_AZURE_35:Denied by default with every network_mode but public, where only Entra identities get in
  #checkov:skip=CKV_AZURE_43:The validations of name and environment keep the name within the rules; the scanner cannot compute it
  #checkov:skip=CKV_AZURE_59:Closed by network_mode = private_endpoints; no container allows anonymous access
  #checkov:skip=CKV_AZURE_206:variable storage_replication; sources and artifacts can be made again
  #checkov:skip=CKV2_AZURE_1:Encrypted twice with the platform's keys; secrets are in the vault

  name                              = local.global_plain
  resource_group_name               = azurerm_resource_group.this.name
  location                          = azurerm_resource_group.this.location
  account_kind                      = "StorageV2"
  account_tier                      = "Standard"
  account_replication_type          = var.storage_replication
  min_tls_version                   = "TLS1_2"
  https_traffic_only_enabled        = true
  shared_access_key_enabled         = false
  default_to_oauth_authentication   = true
  local_user_enabled                = false
  allow_nested_items_to_be_public   = false
  cross_tenant_replication_enabled  = false
  infrastructure_encryption_enabled = true
  public_network_access_enabled     = local.public_access
  tags                              = local.tags

  blob_properties {
    delete_retention_policy {
      days = var.soft_delete_days
    }

    container_delete_retention_policy {
      days = var.soft_delete_days
    }
  }

  network_rules {
    default_action             = local.networked ? "Deny" : "Allow"
    bypass                     = ["AzureServices"]
    ip_rules                   = local.networked ? var.operator_ip_ranges : []
    virtual_network_subnet_ids = local.endpoint_subnets["Microsoft.Storage"]
  }

  # A signed link may live for a day.
  sas_policy {
    expiration_period = "01.00:00:00"
    expiration_action = "Log"
  }
}

resource "azurerm_storage_container" "this" {
  #checkov:skip=CKV2_AZURE_21:Classic logging needs the account's key, which is off; diagnostics_enabled sends the audit log to the workspace

  for_each = toset(["content", "logs", "packages"])

  name                  = each.value
  storage_account_id    = azurerm_storage_account.this.id
  container_access_type = "private"
}

resource "azurerm_storage_queue" "this" {
  for_each = local.storage_queues

  name               = each.value
  storage_account_id = azurerm_storage_account.this.id
}

resource "azurerm_storage_management_policy" "this" {
  storage_account_id = azurerm_storage_account.this.id

  rule {
    name    = "expire-logs"
    enabled = true

    filters {
      blob_types   = ["blockBlob", "appendBlob"]
      prefix_match = ["${azurerm_storage_container.this["logs"].name}/"]
    }

    actions {
      base_blob {
        delete_after_days_since_modification_greater_than = var.log_days
      }
    }
  }
}

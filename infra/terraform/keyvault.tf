# Secrets of the deployed apps; messages, state and settings only ever name them.
resource "azurerm_key_vault" "this" {
  name                          = local.global
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  tenant_id                     = data.azurerm_client_config.current.tenant_id
  sku_name                      = "standard"
  rbac_authorization_enabled    = true
  purge_protection_enabled      = true
  soft_delete_retention_days    = var.soft_delete_days
  public_network_access_enabled = local.public_access
  tags                          = local.tags

  network_acls {
    default_action             = local.networked ? "Deny" : "Allow"
    bypass                     = "AzureServices"
    ip_rules                   = local.networked ? var.operator_ip_ranges : []
    virtual_network_subnet_ids = local.endpoint_subnets["Microsoft.KeyVault"]
  }
}

# Images of the deployed apps, always named by digest.
resource "azurerm_container_registry" "this" {
  #checkov:skip=CKV_AZURE_139:Closed for Premium by network_mode = private_endpoints; Basic has no network rules
  #checkov:skip=CKV_AZURE_163:Scanning belongs to Defender for Containers, which is switched on for a subscription and not here
  #checkov:skip=CKV_AZURE_164:Content trust is retired by the platform; images are named by digest
  #checkov:skip=CKV_AZURE_165:One region: the environment that pulls is in the same
  #checkov:skip=CKV_AZURE_166:Quarantine blocks every pull until a scanner of ours releases the image, and there is none
  #checkov:skip=CKV_AZURE_167:Releases name images by digest: a purge of untagged manifests would delete images in use
  #checkov:skip=CKV_AZURE_233:Zones are for Premium, with zone_redundant
  #checkov:skip=CKV_AZURE_237:Data endpoints are for Premium; a private endpoint brings its own

  name                          = local.global_plain
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  sku                           = var.registry_sku
  admin_enabled                 = false
  anonymous_pull_enabled        = false
  zone_redundancy_enabled       = local.premium_acr && var.zone_redundant
  public_network_access_enabled = !local.premium_acr || local.public_access
  export_policy_enabled         = !local.premium_acr || local.public_access
  tags                          = local.tags

  dynamic "network_rule_set" {
    for_each = local.premium_acr && local.private ? [true] : []

    content {
      default_action = "Deny"

      dynamic "ip_rule" {
        for_each = var.operator_ip_ranges

        content {
          action   = "Allow"
          ip_range = ip_rule.value
        }
      }
    }
  }
}

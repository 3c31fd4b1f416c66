data "azurerm_client_config" "current" {}

locals {
  base = "${var.name}-${var.environment}"
  # Global names get six characters that follow from what is installed where, so they stay the same on every run.
  suffix       = substr(sha256("${var.subscription_id}/${local.base}"), 0, 6)
  global       = "${local.base}-${local.suffix}"
  global_plain = replace(local.global, "-", "")

  tags = merge(var.tags, {
    application = "windlass"
    environment = var.environment
    managed-by  = "terraform"
  })

  networked = var.network_mode != "public"
  private   = var.network_mode == "private_endpoints"
  # Private addresses close the public ones, unless an operator was let in.
  public_access = !local.private || length(var.operator_ip_ranges) > 0
  premium_bus   = var.service_bus_sku == "Premium"
  premium_acr   = var.registry_sku == "Premium"
}

resource "azurerm_resource_group" "this" {
  name     = var.resource_group_name == "" ? "${local.base}-rg" : var.resource_group_name
  location = var.location
  tags     = local.tags
}

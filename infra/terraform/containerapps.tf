# What the deployed apps and build jobs run in.
resource "azurerm_container_app_environment" "this" {
  name                               = "${local.base}-env"
  resource_group_name                = azurerm_resource_group.this.name
  location                           = azurerm_resource_group.this.location
  infrastructure_resource_group_name = "${local.base}-env-infra"
  infrastructure_subnet_id           = local.networked ? azurerm_subnet.this["environment"].id : null
  internal_load_balancer_enabled     = local.networked ? var.internal_apps : null
  zone_redundancy_enabled            = local.networked ? var.zone_redundant : null
  # By way of a diagnostic setting: no key of the workspace is needed.
  logs_destination = "azure-monitor"
  tags             = local.tags

  workload_profile {
    name                  = "Consumption"
    workload_profile_type = "Consumption"
  }
}

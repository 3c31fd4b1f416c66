# terraform test -test-directory=presets -filter=presets/mvp.tftest.hcl -var-file=presets/mvp.tfvars

mock_provider "azurerm" {}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
}

run "a_frontend_and_no_servers" {
  command = plan

  assert {
    condition     = azurerm_static_web_app.site[0].sku_tier == "Free" && azurerm_container_registry.this.sku == "Basic"
    error_message = "The frontend costs nothing, and the registry is the smallest."
  }

  assert {
    condition     = length(azurerm_postgresql_flexible_server.apps) + length(azurerm_managed_redis.apps) + length(azurerm_cdn_frontdoor_profile.this) == 0
    error_message = "There is no database, no cache and no Front Door."
  }
}

# terraform test -test-directory=presets -filter=presets/standard.tftest.hcl -var-file=presets/standard.tfvars

mock_provider "azurerm" {
  mock_data "azurerm_client_config" {
    defaults = {
      tenant_id = "33333333-3333-3333-3333-333333333333"
    }
  }
}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
  database_admins = {
    "Database admins" = { object_id = "44444444-4444-4444-4444-444444444444", type = "Group" }
  }
}

run "a_small_database" {
  command = plan

  assert {
    condition     = azurerm_postgresql_flexible_server.apps[0].sku_name == "B_Standard_B1ms" && azurerm_postgresql_flexible_server.apps[0].version == "16" && azurerm_postgresql_flexible_server.apps[0].storage_mb == 32768
    error_message = "The database is PostgreSQL 16 on B1ms with 32 GB."
  }

  assert {
    condition     = !one(azurerm_postgresql_flexible_server.apps[0].authentication).password_auth_enabled && length(azurerm_postgresql_flexible_server_active_directory_administrator.apps) == 1
    error_message = "Nobody gets in with a password, and somebody gets in."
  }

  assert {
    condition     = azurerm_postgresql_flexible_server_firewall_rule.azure[0].start_ip_address == "0.0.0.0" && azurerm_postgresql_flexible_server_firewall_rule.azure[0].end_ip_address == "0.0.0.0"
    error_message = "The firewall lets in services of Azure and nobody else."
  }

  assert {
    condition     = azurerm_static_web_app.site[0].sku_tier == "Free" && length(azurerm_managed_redis.apps) + length(azurerm_cdn_frontdoor_profile.this) == 0
    error_message = "There is a frontend, no cache and no Front Door."
  }
}

run "nobody_to_administer_it" {
  command = plan

  variables {
    database_admins = {}
  }

  expect_failures = [var.database_admins]
}

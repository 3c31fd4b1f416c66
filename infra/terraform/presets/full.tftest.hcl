# terraform test -test-directory=presets -filter=presets/full.tftest.hcl -var-file=presets/full.tfvars

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
  front_door_origins = { shop = ["one.example.com", "two.example.com"] }
  front_door_domains = { api = "deploy.example.com", shop = "shop.example.com" }
}

run "more_than_one_of_everything" {
  command = plan

  assert {
    condition     = startswith(azurerm_postgresql_flexible_server.apps[0].sku_name, "GP_") && one(azurerm_postgresql_flexible_server.apps[0].high_availability).mode == "ZoneRedundant"
    error_message = "The database is General Purpose with a second server."
  }

  assert {
    condition     = azurerm_managed_redis.apps[0].high_availability_enabled && one(azurerm_managed_redis.apps[0].default_database).client_protocol == "Encrypted"
    error_message = "The cache is replicated and speaks TLS only."
  }

  assert {
    condition     = one([for group in azurerm_function_app_flex_consumption.this.always_ready : group.instance_count]) == 2
    error_message = "Two instances of the API are always there."
  }

  assert {
    condition     = toset(keys(azurerm_cdn_frontdoor_endpoint.this)) == toset(["api", "shop"]) && toset([for domain in azurerm_cdn_frontdoor_custom_domain.this : domain.host_name]) == toset(["deploy.example.com", "shop.example.com"])
    error_message = "The API and the app each have an endpoint and a host name."
  }

  assert {
    condition     = length(azurerm_cdn_frontdoor_origin.this) == 3 && alltrue([for route in azurerm_cdn_frontdoor_route.this : route.https_redirect_enabled && route.forwarding_protocol == "HttpsOnly"])
    error_message = "The traffic is shared by the app's two servers and is never plain HTTP."
  }

  assert {
    condition     = alltrue([for domain in azurerm_cdn_frontdoor_custom_domain.this : one(domain.tls).minimum_tls_version == "TLS12"]) && azurerm_cdn_frontdoor_firewall_policy.this[0].mode == "Prevention"
    error_message = "Old TLS and floods are refused."
  }

  assert {
    condition     = one(azurerm_function_app_flex_consumption.this.site_config).ip_restriction_default_action == "Deny" && one(one(azurerm_function_app_flex_consumption.this.site_config).ip_restriction).service_tag == "AzureFrontDoor.Backend"
    error_message = "The API cannot be reached past Front Door."
  }
}

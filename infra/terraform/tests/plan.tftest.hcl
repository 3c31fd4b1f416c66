# Plans without Azure: `terraform init -backend=false && terraform test`.

mock_provider "azurerm" {
  mock_data "azurerm_client_config" {
    defaults = {
      client_id       = "11111111-1111-1111-1111-111111111111"
      object_id       = "22222222-2222-2222-2222-222222222222"
      subscription_id = "00000000-0000-0000-0000-000000000000"
      tenant_id       = "33333333-3333-3333-3333-333333333333"
    }
  }
}

variables {
  subscription_id = "00000000-0000-0000-0000-000000000000"
  environment     = "test"
}

run "the_smallest_installation" {
  command = plan

  assert {
    condition     = azurerm_resource_group.this.location == "eastus" && azurerm_resource_group.this.name == "windlass-test-rg"
    error_message = "The group is in eastus and named after the installation."
  }

  assert {
    condition     = azurerm_key_vault.this.rbac_authorization_enabled && azurerm_key_vault.this.purge_protection_enabled
    error_message = "The vault asks Entra's roles, and nobody can wipe it."
  }

  assert {
    condition     = contains(keys(azurerm_servicebus_queue.work), "deployment-queue") && azurerm_servicebus_queue.dead_letters.name == "deployment-dlq"
    error_message = "The queues that producers know have to be there."
  }

  assert {
    condition     = alltrue([for queue in azurerm_servicebus_queue.work : queue.forward_dead_lettered_messages_to == "deployment-dlq"])
    error_message = "Every queue hands its dead letters on."
  }

  assert {
    condition     = alltrue([for queue in concat(values(azurerm_servicebus_queue.work), [azurerm_servicebus_queue.dead_letters]) : queue.requires_duplicate_detection])
    error_message = "Every queue drops what was sent twice."
  }

  assert {
    condition     = toset(keys(azurerm_storage_queue.this)) == toset(["alarm"]) && toset(keys(azurerm_storage_container.this)) == toset(["content", "logs", "packages"])
    error_message = "The storage account has the alarms and three containers."
  }

  assert {
    condition     = azurerm_storage_account.this.account_tier == "Standard" && azurerm_storage_account.this.account_replication_type == "LRS" && azurerm_container_registry.this.sku == "Basic" && azurerm_servicebus_namespace.this.sku == "Standard"
    error_message = "The defaults are the smallest."
  }

  assert {
    condition     = !azurerm_storage_account.this.shared_access_key_enabled && !azurerm_servicebus_namespace.this.local_auth_enabled && azurerm_cosmosdb_account.this.local_authentication_disabled && !azurerm_container_registry.this.admin_enabled && azurerm_application_insights.this.local_authentication_disabled
    error_message = "No key or password opens anything."
  }

  assert {
    condition     = one(azurerm_cosmosdb_account.this.consistency_policy).consistency_level == "Eventual" && alltrue([for container in azurerm_cosmosdb_sql_container.this : container.partition_key_paths == tolist(["/pk"]) && container.default_ttl == -1])
    error_message = "The containers have one partition key and expire nothing by themselves."
  }

  assert {
    condition     = length(azurerm_virtual_network.this) == 0 && length(azurerm_private_endpoint.this) == 0
    error_message = "No network unless it is asked for."
  }

  assert {
    condition     = length(azurerm_role_assignment.service) == 17 && length(azurerm_role_assignment.apps) == 2 && azurerm_role_assignment.builds.role_definition_name == "AcrPull"
    error_message = "A role too many, or one too few."
  }

  assert {
    condition = length(setintersection(
      toset(concat([for role in azurerm_role_assignment.service : role.role_definition_name], [for role in azurerm_role_assignment.apps : role.role_definition_name], [azurerm_role_assignment.builds.role_definition_name])),
      ["Owner", "Contributor", "User Access Administrator", "Role Based Access Control Administrator", "Key Vault Administrator"],
    )) == 0
    error_message = "Nobody gets a role that could do everything, or give roles away."
  }

  assert {
    condition     = local.builder == "auto" && azurerm_role_assignment.service["tasks"].role_definition_name == "Container Registry Tasks Contributor"
    error_message = "What needs commands to be built is built by ACR Tasks, which the service may start."
  }

  assert {
    condition     = azurerm_role_assignment.service["secrets"].role_definition_name == "Key Vault Secrets Officer" && azurerm_role_assignment.apps["secrets"].role_definition_name == "Key Vault Secrets User"
    error_message = "The service keeps secrets, and the apps read them."
  }

  assert {
    condition     = alltrue([for alert in azurerm_monitor_scheduled_query_rules_alert_v2.this : alert.skip_query_validation]) && length(setintersection(keys(azurerm_monitor_scheduled_query_rules_alert_v2.this), ["failed-deployments", "function-failures"])) == 2
    error_message = "Somebody hears of failures."
  }
}

run "private_addresses" {
  command = plan

  variables {
    network_mode         = "private_endpoints"
    registry_sku         = "Premium"
    service_bus_sku      = "Premium"
    cosmos_capacity_mode = "autoscale"
    diagnostics_enabled  = true
    zone_redundant       = true
    build_strategies     = ["layers", "job"]
    kaniko_image         = "ghcr.io/osscontainertools/kaniko@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = local.builder == "job" && !contains(keys(azurerm_role_assignment.service), "tasks")
    error_message = "A job builds, and needs no right to tasks."
  }

  assert {
    condition     = toset(keys(azurerm_private_endpoint.this)) == toset(["blobs", "bus", "database", "queues", "registry", "tables", "vault"])
    error_message = "Everything that holds data has a private address."
  }

  assert {
    condition     = !azurerm_storage_account.this.public_network_access_enabled && !azurerm_cosmosdb_account.this.public_network_access_enabled && !azurerm_key_vault.this.public_network_access_enabled && !azurerm_container_registry.this.public_network_access_enabled && !azurerm_servicebus_namespace.this.public_network_access_enabled
    error_message = "Nothing that holds data has a public address."
  }

  assert {
    condition     = toset(keys(azurerm_network_security_group.this)) == toset(["environment", "functions", "service", "shared"])
    error_message = "Every subnet has its rules."
  }
}

run "service_endpoints" {
  command = plan

  variables {
    network_mode       = "service_endpoints"
    internal_apps      = true
    operator_ip_ranges = ["203.0.113.0/28"]
    build_strategies   = ["layers", "aci"]
    kaniko_image       = "ghcr.io/osscontainertools/kaniko@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  assert {
    condition     = toset(keys(azurerm_subnet.this)) == toset(["environment", "functions"]) && length(azurerm_private_endpoint.this) == 0
    error_message = "Only the subnets that something runs in."
  }

  assert {
    condition     = one(azurerm_storage_account.this.network_rules).default_action == "Deny" && one(azurerm_key_vault.this.network_acls).default_action == "Deny"
    error_message = "The data is closed to everybody else."
  }

  assert {
    condition     = local.builder == "aci" && length(azurerm_role_assignment.service) == 17 && contains(keys(azurerm_role_assignment.service), "instances")
    error_message = "A build strategy brings its own role."
  }
}

run "backing_services_with_private_addresses" {
  command = plan

  variables {
    network_mode        = "private_endpoints"
    resource_group_name = "libra-resources"
    database            = "burstable"
    database_admins     = { admins = { object_id = "44444444-4444-4444-4444-444444444444", type = "Group" } }
    cache               = "basic"
  }

  assert {
    condition     = azurerm_resource_group.this.name == "libra-resources"
    error_message = "The group has the name that was asked for."
  }

  assert {
    condition     = contains(keys(azurerm_private_endpoint.this), "apps-database") && contains(keys(azurerm_private_endpoint.this), "apps-cache")
    error_message = "The apps' database and cache have private addresses."
  }

  assert {
    condition     = !azurerm_postgresql_flexible_server.apps[0].public_network_access_enabled && azurerm_managed_redis.apps[0].public_network_access == "Disabled" && length(azurerm_postgresql_flexible_server_firewall_rule.azure) == 0
    error_message = "They have no public address."
  }

  assert {
    condition     = toset(flatten([for rule in azurerm_network_security_group.this["shared"].security_rule : rule.destination_port_ranges if rule.access == "Allow"])) == toset(["443", "5432", "10000"])
    error_message = "The rules of their subnet let the apps through."
  }
}

run "front_door_with_rule_sets" {
  command = plan

  variables {
    front_door = "Premium"
  }

  assert {
    condition     = azurerm_cdn_frontdoor_profile.this[0].sku_name == "Premium_AzureFrontDoor" && length(azurerm_cdn_frontdoor_firewall_policy.this[0].managed_rule) == 2
    error_message = "Premium brings the platform's rule sets."
  }

  assert {
    condition     = one(azurerm_cdn_frontdoor_firewall_policy.this[0].custom_rule).rate_limit_threshold == 1000
    error_message = "One address may not ask without end."
  }
}

run "refusals" {
  command = plan

  variables {
    subscription_id       = "mine"
    environment           = "production"
    service_bus_sku       = "Basic"
    cosmos_max_throughput = 1500
    queue_lock_duration   = "PT10M"
    settings              = { AZURE_CLIENT_ID = "other" }
    internal_apps         = true
    address_space         = "10.0.0.0/24"
    front_door            = "Basic"
    front_door_domains    = { shop = "shop.example.com" }
    site                  = "Basic"
    site_location         = "eastus"
    database              = "general"
    database_admins       = { me = { object_id = "", type = "Person" } }
    cache                 = "small"
    resource_group_name   = "ends."
  }

  expect_failures = [
    var.subscription_id,
    var.environment,
    var.service_bus_sku,
    var.cosmos_max_throughput,
    var.queue_lock_duration,
    var.settings,
    var.internal_apps,
    var.address_space,
    var.front_door,
    var.front_door_domains,
    var.site,
    var.site_location,
    var.database_admins,
    var.cache,
    var.resource_group_name,
  ]
}

run "unreachable_builds" {
  command = plan

  variables {
    network_mode     = "private_endpoints"
    registry_sku     = "Premium"
    build_strategies = ["acr"]
  }

  expect_failures = [var.build_strategies]
}

run "sites_whose_files_nobody_can_fetch" {
  command = plan

  variables {
    network_mode    = "service_endpoints"
    static_web_apps = true
  }

  expect_failures = [var.static_web_apps]
}

run "kaniko_without_an_image" {
  command = plan

  variables {
    build_strategies = ["job"]
  }

  expect_failures = [var.kaniko_image]
}

run "container_groups_that_nothing_uses" {
  command = plan

  variables {
    build_strategies = ["acr", "aci"]
    kaniko_image     = "ghcr.io/osscontainertools/kaniko@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }

  expect_failures = [var.build_strategies]
}

run "nothing_without_an_address" {
  command = plan

  variables {
    network_mode    = "service_endpoints"
    database        = "general"
    database_admins = { admins = { object_id = "44444444-4444-4444-4444-444444444444", type = "Group" } }
    cache           = "basic"
  }

  expect_failures = [var.database, var.cache]
}

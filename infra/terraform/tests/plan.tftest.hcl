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
    condition     = azurerm_storage_account.this.account_replication_type == "LRS" && azurerm_container_registry.this.sku == "Basic" && azurerm_servicebus_namespace.this.sku == "Standard"
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
    condition     = length(azurerm_role_assignment.service) == 15 && length(azurerm_role_assignment.apps) == 2 && azurerm_role_assignment.builds.role_definition_name == "AcrPush"
    error_message = "A role too many, or one too few."
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
    build_strategies   = ["layers", "acr", "aci"]
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
    condition     = length(azurerm_role_assignment.service) == 17
    error_message = "A build strategy brings its own role."
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

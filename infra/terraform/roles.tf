locals {
  group_scope = azurerm_resource_group.this.id

  # Every role is on the one thing that it is for.
  service_roles = merge(
    {
      # The host's own storage, and Windlass's blobs and alarms.
      blobs  = { role = "Storage Blob Data Owner", scope = azurerm_storage_account.this.id }
      queues = { role = "Storage Queue Data Contributor", scope = azurerm_storage_account.this.id }
      tables = { role = "Storage Table Data Contributor", scope = azurerm_storage_account.this.id }

      send    = { role = "Azure Service Bus Data Sender", scope = azurerm_servicebus_namespace.this.id }
      receive = { role = "Azure Service Bus Data Receiver", scope = azurerm_servicebus_namespace.this.id }

      secrets = { role = "Key Vault Secrets Officer", scope = azurerm_key_vault.this.id }
      # Pulls as well.
      push = { role = "AcrPush", scope = azurerm_container_registry.this.id }
      # Images that no release needs; the registry belongs to this installation alone.
      forget = { role = "AcrDelete", scope = azurerm_container_registry.this.id }

      # Revisions, jobs, host names and certificates of the deployed apps.
      apps        = { role = "Container Apps Contributor", scope = local.group_scope }
      jobs        = { role = "Container Apps Jobs Contributor", scope = local.group_scope }
      environment = { role = "Container Apps ManagedEnvironments Contributor", scope = azurerm_container_app_environment.this.id }

      # Giving an app or a build its identity; no other identity can be given away.
      assign-apps   = { role = "Managed Identity Operator", scope = azurerm_user_assigned_identity.apps.id }
      assign-builds = { role = "Managed Identity Operator", scope = azurerm_user_assigned_identity.builds.id }

      # What validate looks at before a deployment starts: addresses and states, no data.
      read    = { role = "Reader", scope = local.group_scope }
      logs    = { role = "Log Analytics Reader", scope = azurerm_log_analytics_workspace.this.id }
      metrics = { role = "Monitoring Metrics Publisher", scope = azurerm_application_insights.this.id }
    },
    contains(var.build_strategies, "acr") ? {
      tasks = { role = "Container Registry Tasks Contributor", scope = azurerm_container_registry.this.id }
    } : {},
    var.container_instances ? {
      assign-groups = { role = "Managed Identity Operator", scope = azurerm_user_assigned_identity.groups[0].id }
    } : {},
    contains(var.build_strategies, "aci") || var.container_instances ? {
      instances = { role = "Azure Container Instances Contributor Role", scope = local.group_scope }
    } : {},
  )

  apps_roles = {
    pull    = { role = "AcrPull", scope = azurerm_container_registry.this.id }
    secrets = { role = "Key Vault Secrets User", scope = azurerm_key_vault.this.id }
  }
}

resource "azurerm_role_assignment" "service" {
  for_each = local.service_roles

  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = azurerm_user_assigned_identity.service.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "apps" {
  for_each = local.apps_roles

  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = azurerm_user_assigned_identity.apps.principal_id
  principal_type       = "ServicePrincipal"
}

resource "azurerm_role_assignment" "groups" {
  count = var.container_instances ? 1 : 0

  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.groups[0].principal_id
  principal_type       = "ServicePrincipal"
}

# What runs in a container group of a build can use its identity (ADR 0015): it pulls kaniko and whatever else is in the registry. Where
# that is too much, mirror kaniko to a registry of its own.
resource "azurerm_role_assignment" "builds" {
  scope                = azurerm_container_registry.this.id
  role_definition_name = "AcrPull"
  principal_id         = azurerm_user_assigned_identity.builds.principal_id
  principal_type       = "ServicePrincipal"
}

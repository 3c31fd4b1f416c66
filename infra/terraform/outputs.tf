output "resource_group" {
  description = "Group of everything here, and of the deployed apps."
  value       = azurerm_resource_group.this.name
}

output "function_app" {
  description = "Function app that the package goes to."
  value       = azurerm_function_app_flex_consumption.this.name
}

output "api_url" {
  description = "Where the API answers."
  value       = "https://${azurerm_function_app_flex_consumption.this.default_hostname}"
}

output "apps_domain" {
  description = "Domain under which the deployed apps get their names."
  value       = azurerm_container_app_environment.this.default_domain
}

output "service_bus_host" {
  description = "Host name of the Service Bus namespace."
  value       = local.bus_host
}

output "service_bus_queues" {
  description = "Queues of the Service Bus namespace."
  value       = sort(concat([azurerm_servicebus_queue.dead_letters.name], [for queue in azurerm_servicebus_queue.work : queue.name]))
}

output "cosmos_endpoint" {
  description = "Address of the database account."
  value       = azurerm_cosmosdb_account.this.endpoint
}

output "storage_account" {
  description = "Name of the storage account."
  value       = azurerm_storage_account.this.name
}

output "key_vault_uri" {
  description = "Address of the vault."
  value       = azurerm_key_vault.this.vault_uri
}

output "registry_server" {
  description = "Host name of the registry, as the registry tells it."
  value       = azurerm_container_registry.this.login_server
}

output "identities" {
  description = "The identities: resource id, client id and principal id."
  value = {
    for name, identity in merge(
      {
        service = azurerm_user_assigned_identity.service
        apps    = azurerm_user_assigned_identity.apps
        builds  = azurerm_user_assigned_identity.builds
      },
      { for identity in azurerm_user_assigned_identity.groups : "groups" => identity },
      { for identity in azurerm_user_assigned_identity.data : "data" => identity },
    ) : name => { id = identity.id, client_id = identity.client_id, principal_id = identity.principal_id }
  }
}

output "log_workspace" {
  description = "Workspace id for queries of the apps' logs."
  value       = azurerm_log_analytics_workspace.this.workspace_id
}

output "action_group" {
  description = "Action group of the alerts, for further rules."
  value       = azurerm_monitor_action_group.this.id
}

output "front_door_hosts" {
  description = "Host name of each endpoint of Front Door."
  value       = { for name, endpoint in azurerm_cdn_frontdoor_endpoint.this : name => endpoint.host_name }
}

output "front_door_validation" {
  description = "TXT record _dnsauth.<host> that proves each host name of yours."
  value       = { for name, domain in azurerm_cdn_frontdoor_custom_domain.this : domain.host_name => domain.validation_token }
}

output "site" {
  description = "Static Web App: its name, and where it answers."
  value       = [for site in azurerm_static_web_app.site : { name = site.name, host = site.default_host_name }]
}

output "database_host" {
  description = "Host name of the apps' database."
  value       = one(azurerm_postgresql_flexible_server.apps[*].fqdn)
}

output "cache_host" {
  description = "Host name of the apps' cache; its port is 10000."
  value       = one(azurerm_managed_redis.apps[*].hostname)
}

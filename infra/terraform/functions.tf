locals {
  # Host name alone, as the Service Bus clients want it.
  bus_host = trimsuffix(trimprefix(azurerm_servicebus_namespace.this.endpoint, "https://"), ":443/")

  # What the Functions host reads. Connections name an account and an identity, never a key.
  host_settings = {
    # The provider writes a connection string without a key here unless it is given something; the host ignores it empty.
    AzureWebJobsStorage                           = ""
    AzureWebJobsStorage__accountName              = azurerm_storage_account.this.name
    AzureWebJobsStorage__credential               = "managedidentity"
    AzureWebJobsStorage__clientId                 = azurerm_user_assigned_identity.service.client_id
    ServiceBusConnection__fullyQualifiedNamespace = local.bus_host
    ServiceBusConnection__credential              = "managedidentity"
    ServiceBusConnection__clientId                = azurerm_user_assigned_identity.service.client_id
    APPLICATIONINSIGHTS_AUTHENTICATION_STRING     = "Authorization=AAD;ClientId=${azurerm_user_assigned_identity.service.client_id}"
  }

  # Only acr has others to fall back on; without it one builder does everything.
  builder = (
    contains(var.build_strategies, "acr") ? (length(var.build_strategies) == 1 ? "acr" : "auto") :
    contains(var.build_strategies, "job") ? "job" :
    contains(var.build_strategies, "aci") ? "aci" : "layers"
  )

  # Whoever signs in to another registry is refused there, also for a public image.
  pulls_kaniko = startswith(var.kaniko_image, "${azurerm_container_registry.this.login_server}/")

  # What Windlass reads: addresses and names, no secrets.
  windlass_settings = {
    WINDLASS_BACKEND           = "azure"
    WINDLASS_AZURE_AUTH        = "managed-identity"
    AZURE_SUBSCRIPTION_ID      = var.subscription_id
    AZURE_TENANT_ID            = data.azurerm_client_config.current.tenant_id
    AZURE_CLIENT_ID            = azurerm_user_assigned_identity.service.client_id
    AZURE_RESOURCE_GROUP       = azurerm_resource_group.this.name
    AZURE_LOCATION             = azurerm_resource_group.this.location
    AZURE_CONTAINER_REGISTRY   = azurerm_container_registry.this.name
    COSMOS_ENDPOINT            = azurerm_cosmosdb_account.this.endpoint
    COSMOS_DATABASE            = azurerm_cosmosdb_sql_database.windlass.name
    SERVICEBUS_NAMESPACE       = local.bus_host
    STORAGE_ACCOUNT            = azurerm_storage_account.this.name
    KEYVAULT_URL               = azurerm_key_vault.this.vault_uri
    CONTAINER_APPS_ENVIRONMENT = azurerm_container_app_environment.this.id
    APPS_IDENTITY              = azurerm_user_assigned_identity.apps.id
    GROUPS_IDENTITY            = var.container_instances ? azurerm_user_assigned_identity.groups[0].id : ""
    WINDLASS_BUILDER           = local.builder
    WINDLASS_KANIKO_IMAGE      = var.kaniko_image
    WINDLASS_KANIKO_IDENTITY   = local.pulls_kaniko ? azurerm_user_assigned_identity.builds.id : ""
    LOG_ANALYTICS_WORKSPACE    = azurerm_log_analytics_workspace.this.workspace_id
  }
}

resource "azurerm_service_plan" "this" {
  #checkov:skip=CKV_AZURE_212:Flex Consumption has no fixed number of instances; variable always_ready keeps some warm
  #checkov:skip=CKV_AZURE_225:Flex Consumption plans are made without zones in most regions; a lost instance loses no work, the next delivery repeats it

  name                = "${local.base}-plan"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  os_type             = "Linux"
  sku_name            = "FC1"
  tags                = local.tags
}

resource "azurerm_function_app_flex_consumption" "this" {
  name                = local.global
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  service_plan_id     = azurerm_service_plan.this.id

  runtime_name           = "custom"
  runtime_version        = "1.0"
  instance_memory_in_mb  = var.instance_memory_mb
  maximum_instance_count = var.maximum_instance_count

  storage_container_type            = "blobContainer"
  storage_container_endpoint        = "${azurerm_storage_account.this.primary_blob_endpoint}${azurerm_storage_container.this["packages"].name}"
  storage_authentication_type       = "UserAssignedIdentity"
  storage_user_assigned_identity_id = azurerm_user_assigned_identity.service.id

  # For callers outside. Until there are API tokens, the service refuses all of them.
  public_network_access_enabled                  = true
  https_only                                     = true
  webdeploy_publish_basic_authentication_enabled = false
  virtual_network_subnet_id                      = local.networked ? azurerm_subnet.this["functions"].id : null

  app_settings = merge(var.settings, local.host_settings, local.windlass_settings)
  tags         = local.tags

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.service.id]
  }

  dynamic "always_ready" {
    for_each = var.always_ready

    content {
      name           = always_ready.key
      instance_count = always_ready.value
    }
  }

  site_config {
    application_insights_connection_string = azurerm_application_insights.this.connection_string
    http2_enabled                          = true
    minimum_tls_version                    = "1.2"
    scm_minimum_tls_version                = "1.2"
    ip_restriction_default_action          = length(var.api_allowed_ip_ranges) > 0 || local.fronted ? "Deny" : "Allow"

    dynamic "ip_restriction" {
      for_each = { for index, range in var.api_allowed_ip_ranges : index => range }

      content {
        name       = "allowed-${ip_restriction.key}"
        action     = "Allow"
        ip_address = ip_restriction.value
        priority   = 100 + ip_restriction.key
      }
    }

    # Of all the Front Doors of the world only ours.
    dynamic "ip_restriction" {
      for_each = azurerm_cdn_frontdoor_profile.this[*].resource_guid

      content {
        name        = "front-door"
        action      = "Allow"
        service_tag = "AzureFrontDoor.Backend"
        priority    = 90

        headers {
          x_azure_fdid = [ip_restriction.value]
        }
      }
    }
  }

  # Without its roles the host cannot start.
  depends_on = [azurerm_role_assignment.service, azurerm_cosmosdb_sql_role_assignment.service]
}

resource "azurerm_log_analytics_workspace" "this" {
  name                         = "${local.base}-logs"
  resource_group_name          = azurerm_resource_group.this.name
  location                     = azurerm_resource_group.this.location
  sku                          = "PerGB2018"
  retention_in_days            = var.workspace_days
  daily_quota_gb               = var.workspace_daily_quota_gb
  local_authentication_enabled = false
  tags                         = local.tags
}

resource "azurerm_application_insights" "this" {
  name                          = "${local.base}-insights"
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  workspace_id                  = azurerm_log_analytics_workspace.this.id
  application_type              = "web"
  local_authentication_disabled = true
  tags                          = local.tags
}

# Logs of the deployed apps and jobs.
resource "azurerm_monitor_diagnostic_setting" "apps" {
  name                       = "to-workspace"
  target_resource_id         = azurerm_container_app_environment.this.id
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  dynamic "enabled_log" {
    for_each = ["ContainerAppConsoleLogs", "ContainerAppSystemLogs"]

    content {
      category = enabled_log.value
    }
  }
}

# Who did what to the resources themselves.
resource "azurerm_monitor_diagnostic_setting" "audit" {
  for_each = var.diagnostics_enabled ? {
    bus      = azurerm_servicebus_namespace.this.id
    database = azurerm_cosmosdb_account.this.id
    registry = azurerm_container_registry.this.id
    blobs    = "${azurerm_storage_account.this.id}/blobServices/default"
    vault    = azurerm_key_vault.this.id
  } : {}

  name                       = "to-workspace"
  target_resource_id         = each.value
  log_analytics_workspace_id = azurerm_log_analytics_workspace.this.id

  enabled_log {
    category_group = "audit"
  }
}

resource "azurerm_monitor_action_group" "this" {
  name                = "${local.base}-alerts"
  resource_group_name = azurerm_resource_group.this.name
  short_name          = substr(replace(local.base, "-", ""), 0, 12)
  tags                = local.tags

  dynamic "email_receiver" {
    for_each = var.alert_emails

    content {
      name                    = email_receiver.key
      email_address           = email_receiver.value
      use_common_alert_schema = true
    }
  }
}

locals {
  metric_alerts = {
    dead-letters-kept = {
      description = "Dead letters that could not be handed on: look at the queue's own dead letters."
      severity    = 1
      scope       = azurerm_servicebus_namespace.this.id
      namespace   = "Microsoft.ServiceBus/namespaces"
      metric      = "DeadletteredMessages"
      aggregation = "Maximum"
      threshold   = 0
      window      = "PT5M"
      dimension   = { name = "EntityName", value = "*" }
    }
    dead-letters-waiting = {
      description = "Dead letters wait and are not taken: the function dead-letter does not run."
      severity    = 1
      scope       = azurerm_servicebus_namespace.this.id
      namespace   = "Microsoft.ServiceBus/namespaces"
      metric      = "ActiveMessages"
      aggregation = "Minimum"
      threshold   = 0
      window      = "PT15M"
      dimension   = { name = "EntityName", value = local.dead_letters }
    }
    database-throttled = {
      description = "The database refuses requests (429): raise its throughput, or deploy less at once."
      severity    = 3
      scope       = azurerm_cosmosdb_account.this.id
      namespace   = "Microsoft.DocumentDB/databaseAccounts"
      metric      = "TotalRequests"
      aggregation = "Count"
      threshold   = var.alert_throttled_requests
      window      = "PT5M"
      dimension   = { name = "StatusCode", value = "429" }
    }
  }

  # The host records every call of a function as a request, and leaves requests out of sampling.
  log_alerts = {
    dead-letters = {
      description = "A message failed too often and was dead-lettered: see the deployment that it names."
      severity    = 1
      query       = "requests | where name == 'dead-letter' | summarize found = count()"
      operator    = "GreaterThan"
      threshold   = 0
      window      = "PT5M"
      by          = []
    }
    function-failures = {
      description = "Calls of a function fail."
      severity    = 2
      query       = "requests | where success == false or toint(resultCode) >= 500 | summarize found = count() by name"
      operator    = "GreaterThan"
      threshold   = var.alert_function_failures
      window      = "PT5M"
      by          = ["name"]
    }
    failed-deployments = {
      description = "A deployment failed, or could not be undone and waits for somebody: see its log."
      severity    = 3
      query       = "traces | extend line = parse_json(message) | where tostring(line.message) == 'Deployment ended' and tostring(line.status) in ('failed', 'stuck') | summarize found = count()"
      operator    = "GreaterThan"
      threshold   = 0
      window      = "PT5M"
      by          = []
    }
    no-sweep = {
      description = "No sweep has succeeded for a quarter of an hour: late steps are not sent again and deadlines do not end."
      severity    = 1
      query       = "requests | where name == 'timer-sweep' and success == true | summarize found = count()"
      operator    = "LessThan"
      threshold   = 1
      window      = "PT15M"
      by          = []
    }
  }
}

resource "azurerm_monitor_metric_alert" "this" {
  for_each = local.metric_alerts

  name                = "${local.base}-${each.key}"
  resource_group_name = azurerm_resource_group.this.name
  description         = each.value.description
  severity            = each.value.severity
  scopes              = [each.value.scope]
  frequency           = "PT5M"
  window_size         = each.value.window
  tags                = local.tags

  criteria {
    metric_namespace = each.value.namespace
    metric_name      = each.value.metric
    aggregation      = each.value.aggregation
    operator         = "GreaterThan"
    threshold        = each.value.threshold

    dimension {
      name     = each.value.dimension.name
      operator = "Include"
      values   = [each.value.dimension.value]
    }
  }

  action {
    action_group_id = azurerm_monitor_action_group.this.id
  }
}

resource "azurerm_monitor_scheduled_query_rules_alert_v2" "this" {
  for_each = local.log_alerts

  name                    = "${local.base}-${each.key}"
  resource_group_name     = azurerm_resource_group.this.name
  location                = azurerm_resource_group.this.location
  description             = each.value.description
  severity                = each.value.severity
  scopes                  = [azurerm_application_insights.this.id]
  evaluation_frequency    = "PT5M"
  window_duration         = each.value.window
  auto_mitigation_enabled = true
  # The table is made by the first row in it.
  skip_query_validation = true
  tags                  = local.tags

  criteria {
    query                   = each.value.query
    metric_measure_column   = "found"
    time_aggregation_method = "Total"
    operator                = each.value.operator
    threshold               = each.value.threshold

    dynamic "dimension" {
      for_each = each.value.by

      content {
        name     = dimension.value
        operator = "Include"
        values   = ["*"]
      }
    }

    failing_periods {
      minimum_failing_periods_to_trigger_alert = 1
      number_of_evaluation_periods             = 1
    }
  }

  action {
    action_groups = [azurerm_monitor_action_group.this.id]
  }
}

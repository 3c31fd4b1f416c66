locals {
  functions_dir = "${path.module}/../../functions"
  bindings      = flatten([for path in fileset(local.functions_dir, "*/function.json") : jsondecode(file("${local.functions_dir}/${path}")).bindings])

  # The queues are those that the functions listen on: there is no second list.
  bus_queues     = toset([for binding in local.bindings : binding.queueName if binding.type == "serviceBusTrigger"])
  storage_queues = toset([for binding in local.bindings : binding.queueName if binding.type == "queueTrigger"])
  dead_letters   = "deployment-dlq"
}

resource "azurerm_servicebus_namespace" "this" {
  #checkov:skip=CKV_AZURE_199:Double encryption is for Premium with a customer-managed key; messages name runs and deployments and hold no secrets
  #checkov:skip=CKV_AZURE_201:Customer-managed keys are for Premium; messages name runs and deployments and hold no secrets
  #checkov:skip=CKV_AZURE_202:The namespace calls nobody, so it needs no identity
  #checkov:skip=CKV_AZURE_204:Standard has no private network; local authentication is off and Premium is closed by network_mode

  name                          = local.global
  resource_group_name           = azurerm_resource_group.this.name
  location                      = azurerm_resource_group.this.location
  sku                           = var.service_bus_sku
  capacity                      = local.premium_bus ? var.service_bus_capacity : 0
  premium_messaging_partitions  = local.premium_bus ? 1 : 0
  local_auth_enabled            = false
  minimum_tls_version           = "1.2"
  public_network_access_enabled = !local.premium_bus || local.public_access
  tags                          = local.tags

  dynamic "network_rule_set" {
    # The service takes no empty list of exceptions: without any, public access is off altogether.
    for_each = local.premium_bus && local.networked && length(concat(var.operator_ip_ranges, local.endpoint_subnets["Microsoft.ServiceBus"])) > 0 ? [true] : []

    content {
      default_action                = "Deny"
      public_network_access_enabled = local.public_access
      trusted_services_allowed      = true
      ip_rules                      = var.operator_ip_ranges

      dynamic "network_rules" {
        for_each = local.endpoint_subnets["Microsoft.ServiceBus"]

        content {
          subnet_id = network_rules.value
        }
      }
    }
  }
}

# Where every queue's dead letters go; its own stay where they are.
resource "azurerm_servicebus_queue" "dead_letters" {
  name                                    = local.dead_letters
  namespace_id                            = azurerm_servicebus_namespace.this.id
  lock_duration                           = var.queue_lock_duration
  max_delivery_count                      = var.queue_max_delivery_count
  requires_duplicate_detection            = true
  duplicate_detection_history_time_window = var.queue_duplicate_window
  dead_lettering_on_message_expiration    = true
  default_message_ttl                     = "P14D"
}

resource "azurerm_servicebus_queue" "work" {
  for_each = setsubtract(local.bus_queues, [local.dead_letters])

  name                                    = each.value
  namespace_id                            = azurerm_servicebus_namespace.this.id
  lock_duration                           = var.queue_lock_duration
  max_delivery_count                      = var.queue_max_delivery_count
  requires_duplicate_detection            = true
  duplicate_detection_history_time_window = var.queue_duplicate_window
  dead_lettering_on_message_expiration    = true
  default_message_ttl                     = "P14D"
  forward_dead_lettered_messages_to       = azurerm_servicebus_queue.dead_letters.name
}

# Nothing here exists in the mode "public".

locals {
  prefixes = zipmap(["environment", "functions", "shared", "service"], cidrsubnets(var.address_space, 3, 6, 7, 7))

  # Deployed apps are other people's programs: they share their images, secrets and sources' addresses with the service
  # ("shared"), and never see its database, queues and tables ("service").
  subnets = merge(
    local.networked ? {
      environment = { delegated = true, service_endpoints = local.private ? [] : ["Microsoft.KeyVault", "Microsoft.Storage"] }
      functions   = { delegated = true, service_endpoints = local.private ? [] : local.endpoint_services }
    } : {},
    local.private ? {
      shared  = { delegated = false, service_endpoints = [] }
      service = { delegated = false, service_endpoints = [] }
    } : {},
  )

  endpoint_services = ["Microsoft.AzureCosmosDB", "Microsoft.KeyVault", "Microsoft.ServiceBus", "Microsoft.Storage"]
  endpoint_subnets = {
    for service in local.endpoint_services :
    service => [for name, subnet in local.subnets : azurerm_subnet.this[name].id if contains(subnet.service_endpoints, service)]
  }

  # Who may come in, by subnet; all else is refused.
  everybody = var.internal_apps ? "VirtualNetwork" : "Internet"
  inbound = {
    environment = [
      { name = "visitors", from = length(var.apps_allowed_ip_ranges) > 0 ? var.apps_allowed_ip_ranges : [local.everybody], ports = ["80", "443", "31080", "31443"] },
      { name = "probes", from = ["AzureLoadBalancer"], ports = ["30000-32767"] },
      { name = "itself", from = [local.prefixes["environment"]], ports = ["0-65535"], protocol = "*" },
    ]
    functions = []
    shared    = [{ name = "apps-and-service", from = [local.prefixes["environment"], local.prefixes["functions"]], ports = concat(["443"], local.with_database ? ["5432"] : [], local.with_cache ? ["10000"] : []) }]
    service   = [{ name = "service", from = [local.prefixes["functions"]], ports = ["443", "5671"] }]
  }

  endpoints = local.private ? merge(
    {
      blobs    = { subnet = "shared", resource = azurerm_storage_account.this.id, part = "blob", zone = "privatelink.blob.core.windows.net" }
      vault    = { subnet = "shared", resource = azurerm_key_vault.this.id, part = "vault", zone = "privatelink.vaultcore.azure.net" }
      queues   = { subnet = "service", resource = azurerm_storage_account.this.id, part = "queue", zone = "privatelink.queue.core.windows.net" }
      tables   = { subnet = "service", resource = azurerm_storage_account.this.id, part = "table", zone = "privatelink.table.core.windows.net" }
      database = { subnet = "service", resource = azurerm_cosmosdb_account.this.id, part = "Sql", zone = "privatelink.documents.azure.com" }
    },
    local.premium_acr ? {
      registry = { subnet = "shared", resource = azurerm_container_registry.this.id, part = "registry", zone = "privatelink.azurecr.io" }
    } : {},
    local.premium_bus ? {
      bus = { subnet = "service", resource = azurerm_servicebus_namespace.this.id, part = "namespace", zone = "privatelink.servicebus.windows.net" }
    } : {},
    local.with_database ? {
      apps-database = { subnet = "shared", resource = azurerm_postgresql_flexible_server.apps[0].id, part = "postgresqlServer", zone = "privatelink.postgres.database.azure.com" }
    } : {},
    local.with_cache ? {
      apps-cache = { subnet = "shared", resource = azurerm_managed_redis.apps[0].id, part = "redisEnterprise", zone = "privatelink.redis.azure.net" }
    } : {},
  ) : {}
}

resource "azurerm_virtual_network" "this" {
  count = local.networked ? 1 : 0

  name                = "${local.base}-net"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  address_space       = [var.address_space]
  tags                = local.tags
}

resource "azurerm_subnet" "this" {
  for_each = local.subnets

  name                              = each.key
  resource_group_name               = azurerm_resource_group.this.name
  virtual_network_name              = azurerm_virtual_network.this[0].name
  address_prefixes                  = [local.prefixes[each.key]]
  service_endpoints                 = each.value.service_endpoints
  private_endpoint_network_policies = each.value.delegated ? "Disabled" : "NetworkSecurityGroupEnabled"

  # The same delegation serves Flex Consumption and Container Apps; they cannot share a subnet.
  dynamic "delegation" {
    for_each = each.value.delegated ? ["Microsoft.App/environments"] : []

    content {
      name = "apps"

      service_delegation {
        name    = delegation.value
        actions = ["Microsoft.Network/virtualNetworks/subnets/join/action"]
      }
    }
  }
}

resource "azurerm_network_security_group" "this" {
  for_each = local.subnets

  name                = "${local.base}-${each.key}-nsg"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags

  dynamic "security_rule" {
    for_each = { for index, rule in local.inbound[each.key] : index => rule }

    content {
      name                       = security_rule.value.name
      priority                   = 100 + security_rule.key
      direction                  = "Inbound"
      access                     = "Allow"
      protocol                   = try(security_rule.value.protocol, "Tcp")
      source_port_range          = "*"
      source_address_prefix      = length(security_rule.value.from) == 1 ? one(security_rule.value.from) : null
      source_address_prefixes    = length(security_rule.value.from) == 1 ? null : security_rule.value.from
      destination_port_ranges    = security_rule.value.ports
      destination_address_prefix = local.prefixes[each.key]
    }
  }

  security_rule {
    name                       = "nobody-else"
    priority                   = 4096
    direction                  = "Inbound"
    access                     = "Deny"
    protocol                   = "*"
    source_port_range          = "*"
    source_address_prefix      = "*"
    destination_port_range     = "*"
    destination_address_prefix = "*"
  }
}

resource "azurerm_subnet_network_security_group_association" "this" {
  for_each = local.subnets

  subnet_id                 = azurerm_subnet.this[each.key].id
  network_security_group_id = azurerm_network_security_group.this[each.key].id
}

resource "azurerm_private_dns_zone" "this" {
  for_each = local.endpoints

  name                = each.value.zone
  resource_group_name = azurerm_resource_group.this.name
  tags                = local.tags
}

resource "azurerm_private_dns_zone_virtual_network_link" "this" {
  for_each = local.endpoints

  name                  = "${local.base}-net"
  resource_group_name   = azurerm_resource_group.this.name
  private_dns_zone_name = azurerm_private_dns_zone.this[each.key].name
  virtual_network_id    = azurerm_virtual_network.this[0].id
  tags                  = local.tags
}

resource "azurerm_private_endpoint" "this" {
  for_each = local.endpoints

  name                = "${local.base}-${each.key}"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  subnet_id           = azurerm_subnet.this[each.value.subnet].id
  tags                = local.tags

  private_service_connection {
    name                           = each.key
    private_connection_resource_id = each.value.resource
    subresource_names              = [each.value.part]
    is_manual_connection           = false
  }

  private_dns_zone_group {
    name                 = "default"
    private_dns_zone_ids = [azurerm_private_dns_zone.this[each.key].id]
  }
}

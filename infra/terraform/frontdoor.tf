# One address in front of everything, absorbing floods near their source; nothing here exists without front_door.

locals {
  fronted = var.front_door != "none"
  # An endpoint each: the API, and what else was named.
  front_origins = local.fronted ? merge({ api = [azurerm_function_app_flex_consumption.this.default_hostname] }, var.front_door_origins) : {}
  # Known before anything is made, so that it can be repeated over.
  front_names   = local.fronted ? setunion(["api"], keys(var.front_door_origins)) : toset([])
  front_domains = { for name, host in var.front_door_domains : name => host if local.fronted }
  front_servers = merge([
    for name in local.front_names : {
      for index in range(name == "api" ? 1 : length(var.front_door_origins[name])) : "${name}-${index}" => { group = name, index = index }
    }
  ]...)
}

resource "azurerm_cdn_frontdoor_profile" "this" {
  count = local.fronted ? 1 : 0

  name                     = "${local.base}-front"
  resource_group_name      = azurerm_resource_group.this.name
  sku_name                 = "${var.front_door}_AzureFrontDoor"
  response_timeout_seconds = 240
  tags                     = local.tags
}

resource "azurerm_cdn_frontdoor_endpoint" "this" {
  for_each = local.front_names

  name                     = "${local.global}-${each.key}"
  cdn_frontdoor_profile_id = azurerm_cdn_frontdoor_profile.this[0].id
  tags                     = local.tags
}

resource "azurerm_cdn_frontdoor_origin_group" "this" {
  for_each = local.front_names

  name                     = each.key
  cdn_frontdoor_profile_id = azurerm_cdn_frontdoor_profile.this[0].id
  session_affinity_enabled = false

  load_balancing {}

  # A single origin gets all the traffic whatever its probe says, and the API answers probes without a token with 403.
  dynamic "health_probe" {
    for_each = each.key != "api" && length(lookup(var.front_door_origins, each.key, [])) > 1 ? [30] : []

    content {
      interval_in_seconds = health_probe.value
      path                = "/"
      protocol            = "Https"
      request_type        = "HEAD"
    }
  }
}

resource "azurerm_cdn_frontdoor_origin" "this" {
  for_each = local.front_servers

  name                           = each.key
  cdn_frontdoor_origin_group_id  = azurerm_cdn_frontdoor_origin_group.this[each.value.group].id
  enabled                        = true
  certificate_name_check_enabled = true
  host_name                      = local.front_origins[each.value.group][each.value.index]
  origin_host_header             = local.front_origins[each.value.group][each.value.index]
}

resource "azurerm_cdn_frontdoor_custom_domain" "this" {
  for_each = local.front_domains

  name                     = replace(each.value, ".", "-")
  cdn_frontdoor_profile_id = azurerm_cdn_frontdoor_profile.this[0].id
  host_name                = each.value

  tls {
    certificate_type    = "ManagedCertificate"
    minimum_tls_version = "TLS12"
  }
}

# Nothing is cached: what may be is for the apps to say, and answers of the API change from one moment to the next.
resource "azurerm_cdn_frontdoor_route" "this" {
  for_each = local.front_names

  name                            = each.key
  cdn_frontdoor_endpoint_id       = azurerm_cdn_frontdoor_endpoint.this[each.key].id
  cdn_frontdoor_origin_group_id   = azurerm_cdn_frontdoor_origin_group.this[each.key].id
  cdn_frontdoor_origin_ids        = [for name, server in local.front_servers : azurerm_cdn_frontdoor_origin.this[name].id if server.group == each.key]
  cdn_frontdoor_custom_domain_ids = [for name, host in local.front_domains : azurerm_cdn_frontdoor_custom_domain.this[name].id if name == each.key]
  patterns_to_match               = ["/*"]
  supported_protocols             = ["Http", "Https"]
  https_redirect_enabled          = true
  forwarding_protocol             = "HttpsOnly"
  link_to_default_domain          = true
}

resource "azurerm_cdn_frontdoor_custom_domain_association" "this" {
  for_each = local.front_domains

  cdn_frontdoor_custom_domain_id = azurerm_cdn_frontdoor_custom_domain.this[each.key].id
  cdn_frontdoor_route_ids        = [azurerm_cdn_frontdoor_route.this[each.key].id]
}

resource "azurerm_cdn_frontdoor_firewall_policy" "this" {
  count = local.fronted ? 1 : 0

  name                = replace("${local.base}front", "-", "")
  resource_group_name = azurerm_resource_group.this.name
  sku_name            = "${var.front_door}_AzureFrontDoor"
  mode                = "Prevention"
  tags                = local.tags

  custom_rule {
    name                           = "TooMany"
    type                           = "RateLimitRule"
    action                         = "Block"
    priority                       = 1
    rate_limit_duration_in_minutes = 1
    rate_limit_threshold           = var.front_door_requests_per_minute

    # Every address: each is counted by itself.
    match_condition {
      match_variable     = "SocketAddr"
      operator           = "IPMatch"
      negation_condition = false
      match_values       = ["0.0.0.0/0", "::/0"]
    }
  }

  # The rule sets of the platform come with Premium only.
  dynamic "managed_rule" {
    for_each = var.front_door == "Premium" ? { Microsoft_DefaultRuleSet = "2.1", Microsoft_BotManagerRuleSet = "1.1" } : {}

    content {
      type    = managed_rule.key
      version = managed_rule.value
      action  = "Block"
    }
  }
}

resource "azurerm_cdn_frontdoor_security_policy" "this" {
  count = local.fronted ? 1 : 0

  name                     = "firewall"
  cdn_frontdoor_profile_id = azurerm_cdn_frontdoor_profile.this[0].id

  security_policies {
    firewall {
      cdn_frontdoor_firewall_policy_id = azurerm_cdn_frontdoor_firewall_policy.this[0].id

      association {
        patterns_to_match = ["/*"]

        dynamic "domain" {
          for_each = concat(
            [for name in local.front_names : azurerm_cdn_frontdoor_endpoint.this[name].id],
            [for name, host in local.front_domains : azurerm_cdn_frontdoor_custom_domain.this[name].id],
          )

          content {
            cdn_frontdoor_domain_id = domain.value
          }
        }
      }
    }
  }
}

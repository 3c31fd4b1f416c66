# Static web apps. Windlass makes them; no built-in role but Contributor lets it.

resource "azurerm_role_definition" "static_web_apps" {
  count = var.static_web_apps ? 1 : 0

  name        = "Windlass Static Web Apps ${substr(md5(local.group_scope), 0, 8)}"
  scope       = local.group_scope
  description = "Make, change and delete static web apps."

  permissions {
    actions = ["Microsoft.Web/staticSites/*"]
  }

  assignable_scopes = [local.group_scope]
}

resource "azurerm_role_assignment" "static_web_apps" {
  count = var.static_web_apps ? 1 : 0

  scope              = local.group_scope
  role_definition_id = azurerm_role_definition.static_web_apps[0].role_definition_resource_id
  principal_id       = azurerm_user_assigned_identity.service.principal_id
  principal_type     = "ServicePrincipal"
}

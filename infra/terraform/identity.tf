# The service: what the function app is.
resource "azurerm_user_assigned_identity" "service" {
  name                = "${local.base}-service"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# Deployed apps: they pull their image and read their secrets, and can do nothing else.
resource "azurerm_user_assigned_identity" "apps" {
  name                = "${local.base}-apps"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# Builds: it pulls the image of kaniko. Other people's commands run beside it, so it can change nothing and sees no secret.
resource "azurerm_user_assigned_identity" "builds" {
  name                = "${local.base}-builds"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

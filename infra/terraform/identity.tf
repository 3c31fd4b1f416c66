# The service: what the function app is.
resource "azurerm_user_assigned_identity" "service" {
  name                = "${local.base}-service"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# Deployed apps: their image is pulled and their secrets are read with it. What runs in an app cannot use it, because it may read
# the images and secrets of all of them.
resource "azurerm_user_assigned_identity" "apps" {
  name                = "${local.base}-apps"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# Apps in container groups: what runs there can use it, so it pulls images and sees no secret.
resource "azurerm_user_assigned_identity" "groups" {
  count = var.container_instances ? 1 : 0

  name                = "${local.base}-groups"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# What apps sign in to the database and the cache with. Apps get it by hand, and keep it: az containerapp identity assign.
resource "azurerm_user_assigned_identity" "data" {
  count = var.database != "none" || var.cache != "none" ? 1 : 0

  name                = "${local.base}-data"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

# Builds: it pulls the image of kaniko. A container group cannot keep it from other people's commands, so it can change nothing
# and sees no secret.
resource "azurerm_user_assigned_identity" "builds" {
  name                = "${local.base}-builds"
  resource_group_name = azurerm_resource_group.this.name
  location            = azurerm_resource_group.this.location
  tags                = local.tags
}

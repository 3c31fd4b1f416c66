# Where and what

variable "subscription_id" {
  type        = string
  description = "Subscription that everything is made in."
  nullable    = false

  validation {
    condition     = can(regex("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", var.subscription_id))
    error_message = "Use a subscription id in lower case, such as 00000000-0000-0000-0000-000000000000."
  }
}

variable "name" {
  type        = string
  description = "First part of every name."
  default     = "windlass"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,9}$", var.name))
    error_message = "Use 2 to 10 lower-case letters and digits, beginning with a letter."
  }
}

variable "resource_group_name" {
  type        = string
  description = "Name of the resource group; empty makes one of name and environment."
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^[A-Za-z0-9_().-]{0,89}$", var.resource_group_name)) && !endswith(var.resource_group_name, ".")
    error_message = "Use up to 89 letters, digits and _().-, not ending in a period."
  }
}

variable "environment" {
  type        = string
  description = "Second part of every name: which installation this is."
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,5}$", var.environment))
    error_message = "Use 2 to 6 lower-case letters and digits, beginning with a letter."
  }
}

variable "location" {
  type        = string
  description = "Region; it must offer Flex Consumption."
  default     = "eastus"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]+$", var.location))
    error_message = "Use the region's short name, such as eastus or westeurope."
  }
}

variable "zone_redundant" {
  type        = bool
  description = "Spread the database, the apps' environment and a Premium registry over zones; only set when they are made, and the environment's needs a network."
  default     = false
  nullable    = false
}

variable "tags" {
  type        = map(string)
  description = "Further tags of every resource."
  default     = {}
  nullable    = false

  validation {
    condition     = length(var.tags) <= 40 && alltrue([for name, value in var.tags : length(name) <= 128 && length(value) <= 256])
    error_message = "At most 40 tags, names up to 128 characters and values up to 256."
  }
}

# Function app

variable "instance_memory_mb" {
  type        = number
  description = "Memory of an instance; 2048 is one core."
  default     = 2048
  nullable    = false

  validation {
    condition     = contains([512, 2048, 4096], var.instance_memory_mb)
    error_message = "Use 512, 2048 or 4096."
  }
}

variable "maximum_instance_count" {
  type        = number
  description = "Most instances of the function app."
  default     = 40
  nullable    = false

  validation {
    condition     = var.maximum_instance_count >= 40 && var.maximum_instance_count <= 1000
    error_message = "Use a number from 40 to 1000."
  }
}

variable "always_ready" {
  type        = map(number)
  description = "Instances that are kept warm and paid for while idle, by scale group: http, or function:<name>."
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for group, count in var.always_ready : can(regex("^(http|function:[a-z][a-z0-9-]*)$", group)) && count >= 0])
    error_message = "Name the groups http or function:<name>, with counts from 0."
  }
}

variable "settings" {
  type        = map(string)
  description = "Further app settings, such as LOG_LEVEL or MAX_CONCURRENT_DEPLOYMENTS; no secrets, and none that this folder sets."
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.settings) : can(regex("^[A-Za-z][A-Za-z0-9_]*$", name)) && !can(regex("^(AZURE_|APPLICATIONINSIGHTS_|AzureWebJobsStorage|ServiceBusConnection|COSMOS_|SERVICEBUS_|STORAGE_|KEYVAULT_|WINDLASS_(BACKEND|AZURE_AUTH|BUILDER|KANIKO_IMAGE|KANIKO_IDENTITY)$)", name))])
    error_message = "Use letters, digits and underscores; connections and identities come from the resources."
  }
}

variable "api_allowed_ip_ranges" {
  type        = list(string)
  description = "Ranges that may call the API; none is everybody. The API asks every caller for a token all the same."
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for range in var.api_allowed_ip_ranges : can(cidrhost(range, 0))])
    error_message = "Use ranges such as 203.0.113.0/24."
  }
}

variable "build_strategies" {
  type        = set(string)
  description = "How images may be built; each brings the roles that it needs. acr beside others is WINDLASS_BUILDER=auto: layers where they are enough, else acr, and job where the registry refuses tasks. Without acr, job or aci builds everything."
  default     = ["layers", "acr"]
  nullable    = false

  validation {
    condition     = length(var.build_strategies) > 0 && length(setsubtract(var.build_strategies, ["layers", "acr", "job", "aci"])) == 0
    error_message = "Use some of layers, acr, job and aci."
  }

  validation {
    condition     = !(var.network_mode == "private_endpoints" && var.registry_sku == "Premium") || length(setintersection(var.build_strategies, ["acr", "aci"])) == 0
    error_message = "A private registry cannot be reached by acr and aci; use layers and job."
  }

  validation {
    condition     = length(setintersection(var.build_strategies, ["acr", "aci"])) < 2 && length(setintersection(var.build_strategies, ["job", "aci"])) < 2
    error_message = "Nothing would use aci beside acr or job: leave it out, or them."
  }
}

variable "kaniko_image" {
  type        = string
  description = "Image of kaniko with a shell, by digest, for the strategies job and aci. The identity of the builds pulls it where it is in the registry made here; elsewhere it has to be public."
  default     = ""
  nullable    = false

  validation {
    condition     = var.kaniko_image == "" || can(regex("^[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}$", var.kaniko_image))
    error_message = "Use <registry>/<repository>@sha256:<64 hexadecimal digits>."
  }

  validation {
    condition     = var.kaniko_image != "" || length(setintersection(var.build_strategies, ["job", "aci"])) == 0
    error_message = "The strategies job and aci run kaniko: name its image."
  }
}

variable "container_instances" {
  type        = bool
  description = "Whether apps may run on Container Instances."
  default     = false
  nullable    = false

  validation {
    condition     = !(var.container_instances && var.network_mode == "private_endpoints" && var.registry_sku == "Premium")
    error_message = "Container Instances cannot pull from a private registry."
  }
}

variable "static_web_apps" {
  type        = bool
  description = "Whether static sites may be static web apps."
  default     = false
  nullable    = false

  validation {
    condition     = !(var.static_web_apps && var.network_mode != "public")
    error_message = "Static Web Apps fetches files from the storage account over the internet: static_web_apps needs network_mode = public."
  }
}

# Service Bus

variable "service_bus_sku" {
  type        = string
  description = "Standard, or Premium for private endpoints and network rules."
  default     = "Standard"
  nullable    = false

  validation {
    condition     = contains(["Standard", "Premium"], var.service_bus_sku)
    error_message = "Use Standard or Premium: Basic has no duplicate detection."
  }
}

variable "service_bus_capacity" {
  type        = number
  description = "Messaging units of a Premium namespace."
  default     = 1
  nullable    = false

  validation {
    condition     = contains([1, 2, 4, 8, 16], var.service_bus_capacity)
    error_message = "Use 1, 2, 4, 8 or 16."
  }
}

variable "queue_lock_duration" {
  type        = string
  description = "How long a message is locked before the host renews the lock."
  default     = "PT5M"
  nullable    = false

  validation {
    condition     = contains(["PT30S", "PT1M", "PT2M", "PT3M", "PT4M", "PT5M"], var.queue_lock_duration)
    error_message = "Use PT30S, or PT1M to PT5M."
  }
}

variable "queue_max_delivery_count" {
  type        = number
  description = "Deliveries before a message goes to the dead letters."
  default     = 10
  nullable    = false

  validation {
    condition     = var.queue_max_delivery_count >= 1 && var.queue_max_delivery_count <= 2000
    error_message = "Use a number from 1 to 2000."
  }
}

variable "queue_duplicate_window" {
  type        = string
  description = "How long a message id is remembered; a message sent twice within it arrives once."
  default     = "PT10M"
  nullable    = false

  validation {
    condition     = can(regex("^P(T[0-9]+[HM]|[1-7]D)$", var.queue_duplicate_window))
    error_message = "Use a duration such as PT10M, PT1H or P1D."
  }
}

# Cosmos DB

variable "cosmos_capacity_mode" {
  type        = string
  description = "serverless pays per request; autoscale has a ceiling, several regions and zones."
  default     = "serverless"
  nullable    = false

  validation {
    condition     = contains(["serverless", "autoscale"], var.cosmos_capacity_mode)
    error_message = "Use serverless or autoscale; it cannot be changed later."
  }
}

variable "cosmos_max_throughput" {
  type        = number
  description = "Most request units a second, for both containers together, in the mode autoscale."
  default     = 1000
  nullable    = false

  validation {
    condition     = var.cosmos_max_throughput >= 1000 && var.cosmos_max_throughput % 1000 == 0
    error_message = "Use a multiple of 1000."
  }
}

variable "cosmos_consistency" {
  type        = string
  description = "Default consistency. Every write names the version that it follows, so Eventual loses nothing; Session shows a caller its own writes at once."
  default     = "Eventual"
  nullable    = false

  validation {
    condition     = contains(["Eventual", "Session", "Strong"], var.cosmos_consistency)
    error_message = "Use Eventual, Session or Strong."
  }
}

# Storage, vault, registry

variable "storage_replication" {
  type        = string
  description = "Replication of the storage account."
  default     = "LRS"
  nullable    = false

  validation {
    condition     = contains(["LRS", "ZRS", "GRS", "GZRS"], var.storage_replication)
    error_message = "Use LRS, ZRS, GRS or GZRS."
  }
}

variable "soft_delete_days" {
  type        = number
  description = "Days for which deleted blobs, containers and secrets can be restored; the vault's are only set when it is made."
  default     = 7
  nullable    = false

  validation {
    condition     = var.soft_delete_days >= 7 && var.soft_delete_days <= 90
    error_message = "Use a number from 7 to 90."
  }
}

variable "log_days" {
  type        = number
  description = "Days for which deployments' logs are kept; at least WINDLASS_KEEP_DAYS."
  default     = 30
  nullable    = false

  validation {
    condition     = var.log_days >= 1 && var.log_days <= 3650
    error_message = "Use a number from 1 to 3650."
  }
}

variable "registry_sku" {
  type        = string
  description = "Basic, Standard, or Premium for private endpoints and zones."
  default     = "Basic"
  nullable    = false

  validation {
    condition     = contains(["Basic", "Standard", "Premium"], var.registry_sku)
    error_message = "Use Basic, Standard or Premium."
  }
}

# Monitoring

variable "workspace_days" {
  type        = number
  description = "Days for which telemetry is kept."
  default     = 30
  nullable    = false

  validation {
    condition     = var.workspace_days >= 30 && var.workspace_days <= 730
    error_message = "Use a number from 30 to 730."
  }
}

variable "workspace_daily_quota_gb" {
  type        = number
  description = "Most gigabytes of telemetry a day; -1 is no limit. Alerts on logs are blind once it is reached."
  default     = 1
  nullable    = false

  validation {
    condition     = var.workspace_daily_quota_gb == -1 || var.workspace_daily_quota_gb > 0
    error_message = "Use -1 or a positive number."
  }
}

variable "diagnostics_enabled" {
  type        = bool
  description = "Send the resources' own audit logs to the workspace."
  default     = false
  nullable    = false
}

variable "alert_emails" {
  type        = map(string)
  description = "Who hears of alerts: address by name."
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for address in values(var.alert_emails) : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", address))])
    error_message = "Use e-mail addresses."
  }
}

variable "alert_function_failures" {
  type        = number
  description = "Failed calls of one function in five minutes that are still no alert; a failed call is retried."
  default     = 5
  nullable    = false

  validation {
    condition     = var.alert_function_failures >= 0
    error_message = "Use a number from 0."
  }
}

variable "alert_throttled_requests" {
  type        = number
  description = "Requests refused by the database (429) in five minutes that are still no alert; the client repeats them."
  default     = 10
  nullable    = false

  validation {
    condition     = var.alert_throttled_requests >= 0
    error_message = "Use a number from 0."
  }
}

# Network

variable "network_mode" {
  type        = string
  description = "public: everything is reachable and only Entra identities get in. service_endpoints: the data is open to our subnets alone. private_endpoints: the data has private addresses alone."
  default     = "public"
  nullable    = false

  validation {
    condition     = contains(["public", "service_endpoints", "private_endpoints"], var.network_mode)
    error_message = "Use public, service_endpoints or private_endpoints."
  }
}

variable "address_space" {
  type        = string
  description = "Range of the virtual network."
  default     = "10.60.0.0/20"
  nullable    = false

  validation {
    condition     = can(cidrsubnets(var.address_space, 3, 6, 7, 7)) && can(regex("/(1[6-9]|20)$", var.address_space))
    error_message = "Use a private range of /16 to /20."
  }
}

variable "operator_ip_ranges" {
  type        = list(string)
  description = "Public ranges of people who must reach the data past the network's rules; none closes public access in the mode private_endpoints."
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for range in var.operator_ip_ranges : can(cidrhost(range, 0)) && can(regex("/([0-9]|[12][0-9]|30)$", range))])
    error_message = "Use public ranges up to /30, such as 203.0.113.0/28."
  }
}

variable "internal_apps" {
  type        = bool
  description = "Serve the deployed apps inside the virtual network alone; needs a network."
  default     = false
  nullable    = false

  validation {
    condition     = !var.internal_apps || var.network_mode != "public"
    error_message = "internal_apps needs a network_mode other than public."
  }
}

variable "apps_allowed_ip_ranges" {
  type        = list(string)
  description = "Ranges that may call the deployed apps; none is everybody. Only with a network."
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for range in var.apps_allowed_ip_ranges : can(cidrhost(range, 0))])
    error_message = "Use ranges such as 203.0.113.0/24."
  }
}

variable "front_door" {
  type        = string
  description = "One address for the API and what front_door_origins names, with a firewall: Standard limits rates, Premium has the platform's rule sets too."
  default     = "none"
  nullable    = false

  validation {
    condition     = contains(["none", "Standard", "Premium"], var.front_door)
    error_message = "Use none, Standard or Premium."
  }
}

variable "front_door_origins" {
  type        = map(list(string))
  description = "Further endpoints: the host names that share the traffic of each, by name."
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name, hosts in var.front_door_origins : can(regex("^[a-z][a-z0-9]{1,9}$", name)) && name != "api" && length(hosts) > 0 && alltrue([for host in hosts : can(regex("^[a-z0-9.-]+\\.[a-z]+$", host))])])
    error_message = "Use names of 2 to 10 lower-case letters and digits other than api, each with one or more host names."
  }
}

variable "front_door_domains" {
  type        = map(string)
  description = "Host name of yours, by endpoint: api, or a name of front_door_origins."
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.front_door_domains) : name == "api" || contains(keys(var.front_door_origins), name)])
    error_message = "Name endpoints that exist: api, or one of front_door_origins."
  }
}

variable "front_door_requests_per_minute" {
  type        = number
  description = "Requests of one address in a minute; what is above is refused."
  default     = 1000
  nullable    = false

  validation {
    condition     = var.front_door_requests_per_minute >= 100
    error_message = "Use a number from 100."
  }
}

# What deployed apps may use

variable "site" {
  type        = string
  description = "A Static Web App for a frontend: Free, or Standard for more domains."
  default     = "none"
  nullable    = false

  validation {
    condition     = contains(["none", "Free", "Standard"], var.site)
    error_message = "Use none, Free or Standard."
  }
}

variable "site_location" {
  type        = string
  description = "Region of the Static Web App's settings; its files are everywhere."
  default     = "eastus2"
  nullable    = false

  validation {
    condition     = contains(["westus2", "centralus", "eastus2", "westeurope", "eastasia"], var.site_location)
    error_message = "Use westus2, centralus, eastus2, westeurope or eastasia: there are no others."
  }
}

variable "database" {
  type        = string
  description = "PostgreSQL 16 for the apps: burstable (B1ms) or general (D2ds_v5)."
  default     = "none"
  nullable    = false

  validation {
    condition     = contains(["none", "burstable", "general"], var.database)
    error_message = "Use none, burstable or general."
  }

  validation {
    condition     = var.database == "none" || var.network_mode != "service_endpoints"
    error_message = "The database has no service endpoint; use network_mode public or private_endpoints."
  }
}

variable "database_admins" {
  type        = map(object({ object_id = string, type = string }))
  description = "Who administers the database, by the name in Entra; they make the roles of the apps."
  default     = {}
  nullable    = false

  validation {
    condition     = var.database == "none" || length(var.database_admins) > 0
    error_message = "Name somebody: there is no password, so nobody else could ever get in."
  }

  validation {
    condition     = alltrue([for admin in values(var.database_admins) : contains(["User", "Group", "ServicePrincipal"], admin.type)])
    error_message = "The type is User, Group or ServicePrincipal."
  }
}

variable "cache" {
  type        = string
  description = "Managed Redis for the apps: basic is one server, replicated is two."
  default     = "none"
  nullable    = false

  validation {
    condition     = contains(["none", "basic", "replicated"], var.cache)
    error_message = "Use none, basic or replicated."
  }

  validation {
    condition     = var.cache == "none" || var.network_mode != "service_endpoints"
    error_message = "The cache has no service endpoint; use network_mode public or private_endpoints."
  }
}

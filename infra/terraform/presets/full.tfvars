# For load: more than one server of everything, in several zones, behind one address with a firewall. Apps of the
# environment `production` have 2 to 10 replicas by themselves. Name the database's administrators in a file of yours
# (database_admins), and your host name (front_door_domains).
environment          = "full"
site                 = "Standard"
database             = "general"
cache                = "replicated"
front_door           = "Standard"
zone_redundant       = true
cosmos_capacity_mode = "autoscale"
storage_replication  = "ZRS"
soft_delete_days     = 30
always_ready         = { "http" = 2 }

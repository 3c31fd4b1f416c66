# For production: as mvp, and a small PostgreSQL. Name its administrators in a file of yours (database_admins).
environment      = "std"
site             = "Free"
database         = "burstable"
cache            = "none"
front_door       = "none"
soft_delete_days = 30

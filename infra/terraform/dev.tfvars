# The smallest installation: no network, pay per request. The subscription comes from TF_VAR_subscription_id.
environment = "dev"
location    = "eastus"

# A first version: the frontend on Static Web Apps, the backend in one container, nothing that costs while nobody comes.
environment = "mvp"
site        = "Free"
database    = "none"
cache       = "none"
front_door  = "none"

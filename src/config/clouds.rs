//! Where the services of Microsoft's clouds are.

/// Names of services in one of Microsoft's clouds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cloud {
    pub(super) authority: &'static str,
    pub(super) arm: &'static str,
    pub(super) service_bus: &'static str,
    pub(super) storage: &'static str,
    pub(super) vault: &'static str,
    pub(super) logs: &'static str,
    pub(super) registry: &'static str,
}

/// Clouds by the word in the setting. From the endpoint lists of the clouds' documentation.
pub(super) const CLOUDS: [(&str, Cloud); 3] = [
    (
        "public",
        Cloud {
            authority: "https://login.microsoftonline.com/",
            arm: "https://management.azure.com/",
            service_bus: "servicebus.windows.net",
            storage: "core.windows.net",
            vault: "vault.azure.net",
            logs: "https://api.loganalytics.io/",
            registry: "azurecr.io",
        },
    ),
    (
        "usgovernment",
        Cloud {
            authority: "https://login.microsoftonline.us/",
            arm: "https://management.usgovcloudapi.net/",
            service_bus: "servicebus.usgovcloudapi.net",
            storage: "core.usgovcloudapi.net",
            vault: "vault.usgovcloudapi.net",
            logs: "https://api.loganalytics.us/",
            registry: "azurecr.us",
        },
    ),
    (
        "china",
        Cloud {
            authority: "https://login.chinacloudapi.cn/",
            arm: "https://management.chinacloudapi.cn/",
            service_bus: "servicebus.chinacloudapi.cn",
            storage: "core.chinacloudapi.cn",
            vault: "vault.azure.cn",
            logs: "https://api.loganalytics.azure.cn/",
            registry: "azurecr.cn",
        },
    ),
];

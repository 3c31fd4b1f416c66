//! Settings of the targets beside Container Apps.

use super::{Reader, Variable, variable};

/// What a static web app costs, and how much it may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SiteSku {
    /// Costs nothing.
    #[default]
    Free,
    /// Costs a fixed sum for each app.
    Standard,
}

impl SiteSku {
    /// As the service writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Free => "Free",
            Self::Standard => "Standard",
        }
    }

    /// Bytes of all files of a site ("Quotas in Azure Static Web Apps", Microsoft Learn).
    #[must_use]
    pub fn most_bytes(self) -> u64 {
        match self {
            Self::Free => 250 << 20,
            Self::Standard => 500 << 20,
        }
    }
}

/// How static web apps are made.
#[derive(Debug, Clone)]
pub struct SiteSettings {
    /// Region; where their files are served from is everywhere.
    pub location: String,
    /// What they cost.
    pub sku: SiteSku,
}

/// Every variable of this page.
pub(super) const TARGET_VARIABLES: [Variable; 3] = [
    variable(
        "GROUPS_IDENTITY",
        "",
        "resource id of the identity with which container groups pull images, when it is not APPS_IDENTITY; what runs in a group can use it",
    ),
    variable(
        "WINDLASS_SITES_LOCATION",
        "",
        "region of static web apps, which few regions have, when it is not AZURE_LOCATION",
    ),
    variable("WINDLASS_SITES_SKU", "free", "what static web apps cost: free or standard"),
];

impl Reader<'_> {
    /// The identity with which container groups pull images: what runs in a group can use it, so that it should have no other right
    /// than that.
    pub(super) fn groups_identity(&self, of_apps: &str) -> String {
        self.text("GROUPS_IDENTITY").unwrap_or(of_apps).to_owned()
    }

    /// How static web apps are made, in this region unless another one is set.
    pub(super) fn sites(&mut self, location: &str) -> SiteSettings {
        let sku =
            self.parsed("WINDLASS_SITES_SKU", SiteSku::Free, "use free or standard", |word| match word {
                "free" => Some(SiteSku::Free),
                "standard" => Some(SiteSku::Standard),
                _ => None,
            });
        SiteSettings { location: self.text("WINDLASS_SITES_LOCATION").unwrap_or(location).to_owned(), sku }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn check(values: &[(&str, &str)]) -> (SiteSettings, Vec<String>) {
        let values: BTreeMap<String, String> =
            values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut reader = Reader { values: &values, problems: Vec::new() };
        (reader.sites("westeurope"), reader.problems)
    }

    #[test]
    fn groups_have_the_identity_of_apps_unless_set() {
        let identity = |values: &[(&str, &str)]| {
            let values =
                values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Reader { values: &values, problems: Vec::new() }.groups_identity("/apps")
        };
        assert_eq!(identity(&[]), "/apps");
        assert_eq!(identity(&[("GROUPS_IDENTITY", "/groups")]), "/groups");
    }

    #[test]
    fn sites_cost_nothing_and_are_where_everything_is_unless_set() {
        let (plain, problems) = check(&[]);
        assert_eq!((plain.location.as_str(), plain.sku, problems.len()), ("westeurope", SiteSku::Free, 0));
        let (set, problems) =
            check(&[("WINDLASS_SITES_LOCATION", "eastus2"), ("WINDLASS_SITES_SKU", "standard")]);
        assert_eq!((set.location.as_str(), set.sku, problems.len()), ("eastus2", SiteSku::Standard, 0));
        assert_eq!(check(&[("WINDLASS_SITES_SKU", "gold")]).1.len(), 1);
    }
}

//! Settings of the identity that a Kubernetes cluster gives to a workload, as AKS does it.

use std::path::PathBuf;

use super::Reader;

/// Names of the settings, in the order of the fields of [`Workload`].
const NAMES: [&str; 3] = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"];

/// Who a workload is, and with what it shows that.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its directory.
    pub tenant: String,
    /// Its id.
    pub client: String,
    /// The file with its token, which the platform renews.
    pub token_file: PathBuf,
}

impl Reader<'_> {
    pub(super) fn workload(&mut self) -> Workload {
        let [tenant, client, file] = NAMES.map(|name| {
            let found = self.text(name).map(str::to_owned);
            found.unwrap_or_else(|| {
                let why = "workload-identity needs it; AKS sets it where a pod has the label azure.workload.identity/use";
                self.problems.push(format!("{name} is not set; {why}"));
                String::new()
            })
        });
        Workload { tenant, client, token_file: PathBuf::from(file) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Settings;
    use super::*;

    #[test]
    fn what_the_platform_did_not_set_is_named() {
        let values = [
            ("WINDLASS_BACKEND", "azure"),
            ("WINDLASS_AZURE_AUTH", "workload-identity"),
            ("AZURE_CLIENT_ID", "c"),
        ];
        let values: BTreeMap<String, String> =
            values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let problems = Settings::from_values(&values).unwrap_err().0;
        let named = |name: &str| {
            let start = format!("{name} is not set; workload-identity needs it");
            problems.iter().any(|problem| problem.starts_with(&start))
        };
        assert_eq!(NAMES.map(named), [true, false, true], "{problems:?}");
    }
}

//! How an app in a container group is reached: its name, and whether it answers there.

use std::time::Duration;

use async_trait::async_trait;
use azure_core::http::{Context, Method, Pipeline, PipelineStreamOptions, Request, RetryOptions, Url};

use super::app_body::{app_name, port};
use super::transport::Wire;
use crate::deploy::detect::Probe;
use crate::deploy::ids::Digest;
use crate::deploy::release::Release;
use crate::deploy::runtime::{Addresses, Place, RuntimeError};

/// Longest look at an app; an invocation has 60 s for several.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Names of apps in container groups.
pub(super) struct GroupAddresses {
    region: String,
    /// Of the installation: names are taken once in a region, whoever wants them.
    mark: String,
}

/// Characters of the installation's mark.
const MARK: usize = 6;

impl GroupAddresses {
    /// Names in this region, which Azure writes with and without spaces, for the installation with this environment.
    pub(super) fn new(location: &str, environment: &str) -> Self {
        let digest = Digest::of(environment.to_ascii_lowercase().as_bytes()).to_string();
        Self {
            region: location.to_ascii_lowercase().replace(' ', ""),
            mark: digest.get(..MARK).unwrap_or_default().to_owned(),
        }
    }
}

#[async_trait]
impl Addresses for GroupAddresses {
    async fn host(&self, place: Place<'_>) -> Result<String, RuntimeError> {
        let name = app_name(place.label, &place.environment.to_string());
        Ok(format!("{name}-{}.{}.azurecontainer.io", self.mark, self.region))
    }

    fn url(&self, release: &Release, host: &str) -> String {
        match port(release) {
            80 => format!("http://{host}"),
            port => format!("http://{host}:{port}"),
        }
    }
}

/// Asks apps.
pub(super) struct Door(Pipeline);

impl Door {
    pub(super) fn new(wire: &Wire) -> Self {
        Self(wire.pipeline(RetryOptions::none(), None))
    }

    /// Whether the app answers at this address, asked once and within bounds: that its container runs says nothing of what
    /// is in it.
    pub(super) async fn is_open(&self, probe: &Probe, address: &str) -> bool {
        let path = probe.path.as_deref().unwrap_or("/");
        let Ok(url) = format!("{address}{path}").parse::<Url>() else { return false };
        let mut request = Request::new(url, Method::Get);
        let context = Context::new();
        let options = PipelineStreamOptions { skip_checks: true, ..PipelineStreamOptions::default() };
        let asked = self.0.stream(&context, &mut request, Some(options));
        let most = Duration::from_millis(probe.timeout_ms).min(LONGEST_LOOK);
        match tokio::time::timeout(most, asked).await {
            Ok(Ok(answer)) => is_fine(probe, answer.status().into()),
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

/// Whether the app is fine when it answers with this status.
fn is_fine(probe: &Probe, status: u16) -> bool {
    if probe.path.is_some() { (200..400).contains(&status) } else { status < 500 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::target::Target;
    use crate::deploy::wish::Environment;

    #[test]
    fn a_named_path_has_to_be_there_and_any_page_may_be_missing() {
        let named = Probe { path: Some("/health".to_owned()), ..Probe::default() };
        for (status, by_name, by_any) in
            [(200, true, true), (302, true, true), (404, false, true), (500, false, false)]
        {
            assert_eq!((is_fine(&named, status), is_fine(&Probe::default(), status)), (by_name, by_any));
        }
    }

    #[tokio::test]
    async fn a_name_is_the_apps_the_installations_and_the_regions() {
        let place = Place {
            app: "o/shop/production",
            label: "shop",
            environment: &Environment::Production,
            target: Target::ContainerInstances,
        };
        let host = GroupAddresses::new("West Europe", "/subscriptions/s/environment").host(place).await;
        assert_eq!(host.unwrap(), "shop-production-903fef-61158c.westeurope.azurecontainer.io");
    }
}

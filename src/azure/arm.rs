//! Azure Resource Manager: a few verbs on resource paths, long operations that can be watched, and errors with their cause.

use std::sync::Arc;
use std::time::Duration;

use azure_core::credentials::TokenCredential;
use azure_core::error::ErrorKind;
use azure_core::http::headers::{ACCEPT, CONTENT_TYPE, HeaderName, Headers};
use azure_core::http::{Method, Pipeline, Request, RetryOptions, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arm_error::{ArmError, Cause};
use super::transport::{Wire, ask, patient, retry_after};
use crate::ambient::{Clock as _, SystemClock};
use crate::config::AzureSettings;

const ASYNC_OPERATION: HeaderName = HeaderName::from_static("azure-asyncoperation");
const LOCATION: HeaderName = HeaderName::from_static("location");
/// Bounds of what a service may say about when to ask again, and what holds when it says nothing.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(120);
const USUALLY: Duration = Duration::from_secs(2);

/// A resource provider's contract: the version of it that we know. The one table of versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contract {
    /// `Microsoft.App`.
    ContainerApps,
    /// `Microsoft.ContainerInstance`.
    ContainerInstances,
    /// Static sites of `Microsoft.Web`.
    StaticSites,
    /// Builds of `Microsoft.ContainerRegistry`.
    RegistryTasks,
    /// `Microsoft.ServiceBus`.
    ServiceBus,
    /// Registries themselves.
    Registries,
    /// Subscriptions.
    Subscriptions,
    /// What somebody may do.
    Permissions,
}

impl Contract {
    /// The `api-version`.
    #[must_use]
    pub fn version(self) -> &'static str {
        match self {
            // The first ones do not know who may use an identity.
            Self::ContainerApps => "2025-07-01",
            Self::ContainerInstances => "2023-05-01",
            Self::StaticSites => "2024-04-01",
            Self::RegistryTasks => "2019-04-01",
            Self::ServiceBus => "2024-01-01",
            // The first stable ones do not tell how roles are assigned.
            Self::Registries => "2025-11-01",
            Self::Subscriptions => "2022-12-01",
            Self::Permissions => "2022-04-01",
        }
    }
}

/// Something that goes on at Azure. It is watched for as long as an invocation lasts; whoever comes later asks the resource
/// itself where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Where to ask; opaque, kept as it was given.
    url: String,
    /// Whether the answer has a `status`, or is told by its HTTP status.
    told_by: ToldBy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ToldBy {
    /// `Azure-AsyncOperation`.
    Status,
    /// `Location`.
    HttpStatus,
    /// `Location` of a deletion: that nothing is left to ask is its end too.
    Absence,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// It is done; what the service answered.
    Done(Value),
    /// It goes on.
    Running(Operation),
}

/// Where an operation stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// Ask again after this long.
    Running(Duration),
    /// It is done; what the service answered.
    Done(Value),
}

/// A subscription's resource group.
pub struct Arm {
    /// Repeats what got no answer.
    patient: Pipeline,
    /// Asks once: what is not idempotent.
    once: Pipeline,
    base: Url,
    group: String,
}

struct Answer {
    status: u16,
    headers: Headers,
    body: Value,
    text: String,
}

impl Arm {
    /// The resource group of the settings.
    #[must_use]
    pub fn new(settings: &AzureSettings, credential: &Arc<dyn TokenCredential>, wire: &Wire) -> Self {
        let base = Wire::secure(&settings.arm);
        let scope = format!("{}.default", base.as_str());
        let pipeline = |retry| wire.pipeline(retry, Some((credential, &scope)));
        Self {
            patient: pipeline(patient()),
            once: pipeline(RetryOptions::none()),
            base,
            group: format!("subscriptions/{}/resourceGroups/{}", settings.subscription, settings.group),
        }
    }

    /// The id of the group.
    #[must_use]
    pub fn scope(&self) -> String {
        format!("/{}", self.group)
    }

    /// The id of a resource in the group, from its provider on.
    #[must_use]
    pub fn id(&self, resource: &str) -> String {
        format!("/{}/providers/{resource}", self.group)
    }

    /// A resource; `None` when there is none.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn get(&self, contract: Contract, resource: &str) -> Result<Option<Value>, ArmError> {
        match self.look(contract, &self.id(resource)).await {
            Ok(found) => Ok(Some(found)),
            Err(ArmError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Anything by its whole id, which need not be in the group.
    ///
    /// # Errors
    /// [`ArmError`]; also when it is not there, because the reason says what is missing.
    pub async fn look(&self, contract: Contract, id: &str) -> Result<Value, ArmError> {
        let answer = self.ask(&self.patient, Method::Get, self.address(contract, id)?, None).await?;
        match answer.status {
            200 => Ok(answer.body),
            status => Err(refused(status, &answer)),
        }
    }

    /// Creates or replaces a resource.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn put(&self, contract: Contract, resource: &str, body: &Value) -> Result<Begun, ArmError> {
        self.change(&self.patient, Method::Put, (contract, resource), Some(body)).await
    }

    /// Changes parts of a resource; arrays are replaced whole.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn patch(&self, contract: Contract, resource: &str, body: &Value) -> Result<Begun, ArmError> {
        self.change(&self.patient, Method::Patch, (contract, resource), Some(body)).await
    }

    /// Calls an action whose answer says itself what was begun, whatever else there is to watch. Asked for once, as by
    /// [`Arm::act`].
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn call(
        &self,
        contract: Contract,
        action: &str,
        body: Option<&Value>,
    ) -> Result<Value, ArmError> {
        let answer = self.ask(&self.once, Method::Post, self.url(contract, action)?, body).await?;
        if (200..300).contains(&answer.status) {
            Ok(answer.body)
        } else {
            Err(refused(answer.status, &answer))
        }
    }

    /// Calls an action. It is asked for once: whoever repeats it must know that it may be done twice.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn act(
        &self,
        contract: Contract,
        action: &str,
        body: Option<&Value>,
    ) -> Result<Begun, ArmError> {
        self.change(&self.once, Method::Post, (contract, action), body).await
    }

    /// Deletes a resource. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`ArmError`].
    pub async fn delete(&self, contract: Contract, resource: &str) -> Result<Begun, ArmError> {
        match self.change(&self.patient, Method::Delete, (contract, resource), None).await {
            Err(ArmError::Missing(_)) => Ok(Begun::Done(Value::Null)),
            begun => begun,
        }
    }

    /// Asks how an operation is going.
    ///
    /// # Errors
    /// [`ArmError`]: of the question, or of the operation when it has failed.
    pub async fn poll(&self, operation: &Operation) -> Result<Progress, ArmError> {
        let url: Url = operation.url.parse().map_err(|_| self.stranger(&operation.url))?;
        // A token that went to a foreign host would be a token lost.
        if !belongs(&url, &self.base) {
            return Err(self.stranger(&operation.url));
        }
        let answer = self.ask(&self.patient, Method::Get, url, None).await?;
        let state = answer.body.get("status").and_then(Value::as_str).map(str::to_ascii_lowercase);
        match (operation.told_by, answer.status, state.as_deref()) {
            (ToldBy::Status, 200..=202, Some("succeeded"))
            | (ToldBy::HttpStatus | ToldBy::Absence, 200 | 201 | 204, _)
            | (ToldBy::Absence, 404, _) => Ok(Progress::Done(answer.body)),
            (ToldBy::Status, 200..=202, Some("failed" | "canceled")) => {
                Err(ArmError::failed(Cause::of(&answer.body, &answer.text)))
            }
            // Accepted a moment ago, and not yet known everywhere.
            (ToldBy::Status, 200..=202 | 404, _)
            | (ToldBy::HttpStatus, 202 | 404, _)
            | (ToldBy::Absence, 202, _) => Ok(Progress::Running(again(&answer.headers))),
            (_, status, _) => Err(refused(status, &answer)),
        }
    }

    /// What cannot be watched was accepted nevertheless: whoever comes again asks the resource where it stands.
    fn stranger(&self, url: &str) -> ArmError {
        let message = format!("the operation's address {url} is not one of {}", self.base);
        ArmError::Busy(Cause { code: "ForeignOperation".to_owned(), message, ..Cause::default() })
    }

    async fn change(
        &self,
        pipeline: &Pipeline,
        method: Method,
        (contract, resource): (Contract, &str),
        body: Option<&Value>,
    ) -> Result<Begun, ArmError> {
        let answer = self.ask(pipeline, method, self.url(contract, resource)?, body).await?;
        if !(200..300).contains(&answer.status) {
            return Err(refused(answer.status, &answer));
        }
        let watch = |header: &HeaderName, told_by| {
            let url = answer.headers.get_optional_string(header)?;
            // The SDK knows https only; a service on loopback says http.
            let url = url.parse().map_or(url, |url: Url| Wire::secure(&url).to_string());
            Some(Begun::Running(Operation { url, told_by }))
        };
        let told_by = if method == Method::Delete { ToldBy::Absence } else { ToldBy::HttpStatus };
        let by_header = watch(&ASYNC_OPERATION, ToldBy::Status)
            .or_else(|| if answer.status == 202 { watch(&LOCATION, told_by) } else { None });
        Ok(by_header.unwrap_or(Begun::Done(answer.body)))
    }

    fn url(&self, contract: Contract, resource: &str) -> Result<Url, ArmError> {
        self.address(contract, &self.id(resource))
    }

    fn address(&self, contract: Contract, id: &str) -> Result<Url, ArmError> {
        let mut url = self.base.join(id.trim_start_matches('/')).map_err(|error| {
            ArmError::Rejected(Cause {
                code: "BadName".to_owned(),
                message: error.to_string(),
                ..Cause::default()
            })
        })?;
        url.query_pairs_mut().append_pair("api-version", contract.version());
        Ok(url)
    }

    async fn ask(
        &self,
        pipeline: &Pipeline,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<Answer, ArmError> {
        let mut request = Request::new(url, method);
        request.insert_header(ACCEPT, "application/json");
        if let Some(body) = body {
            request.insert_header(CONTENT_TYPE, "application/json");
            request.set_json(body).map_err(unreachable)?;
        } else if method == Method::Post {
            request.insert_header("content-length".to_owned(), "0".to_owned());
        }
        let answer = ask(pipeline, request).await.map_err(unreachable)?;
        let text = answer.text();
        let body = serde_json::from_str(&text).unwrap_or_default();
        Ok(Answer { status: answer.status, headers: answer.headers, body, text })
    }
}

/// Whether the address is of the host `base`, or of a region of it.
fn belongs(url: &Url, base: &Url) -> bool {
    let (host, own) = (url.host_str().unwrap_or_default(), base.host_str().unwrap_or_default());
    let region = host.strip_suffix(own).is_some_and(|region| region.ends_with('.'));
    url.scheme() == "https" && url.port() == base.port() && (host == own || region)
}

fn unreachable(error: azure_core::Error) -> ArmError {
    if matches!(error.kind(), ErrorKind::Credential) {
        ArmError::sign_in(error)
    } else {
        ArmError::Unreachable(error)
    }
}

/// When the service wants to be asked again.
fn again(headers: &Headers) -> Duration {
    retry_after(headers, SystemClock.now()).unwrap_or(USUALLY).clamp(SOONEST, LATEST)
}

fn refused(status: u16, answer: &Answer) -> ArmError {
    let request = HeaderName::from_static("x-ms-correlation-request-id");
    let mut cause = Cause::of(&answer.body, &answer.text);
    cause.request = answer.headers.get_optional_string(&request);
    ArmError::of(status, cause, again(&answer.headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_azure_and_its_regions_only() {
        let base: Url = "https://management.azure.com/".parse().unwrap();
        for (url, ours) in [
            ("https://management.azure.com/subscriptions/s/operations/o", true),
            ("https://westeurope.management.azure.com/o", true),
            ("https://evilmanagement.azure.com/o", false),
            ("https://management.azure.com.evil.example/o", false),
            ("https://management.azure.com@evil.example/o", false),
            ("https://management.azure.com:8443/o", false),
            ("http://management.azure.com/o", false),
        ] {
            assert_eq!(belongs(&url.parse().unwrap(), &base), ours, "{url}");
        }
    }
}

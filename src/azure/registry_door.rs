//! The way to an image registry: what is asked and answered there, without who asks.

use azure_core::http::{Pipeline, Request, Url};
use serde_json::Value;

use super::transport::{Answer, Wire, ask, patient};
use crate::config::registry_address;
use crate::deploy::builder::BuilderError;

/// Characters of a registry's reason that are passed on.
const LONGEST: usize = 500;

/// Why a registry did not do it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Later.
    #[error("the registry {host} cannot be used now: {why}")]
    Unavailable {
        /// Which one.
        host: String,
        /// What happened.
        why: String,
    },
    /// Who we are there is not enough.
    #[error(
        "the registry {host} does not let Windlass do this ({why}); its identity needs AcrPush, or the repository's writer role"
    )]
    Forbidden {
        /// Which one.
        host: String,
        /// What it said.
        why: String,
    },
    /// Asking again does not help.
    #[error("the registry {host} refused: {why}")]
    Refused {
        /// Which one.
        host: String,
        /// What it said.
        why: String,
    },
}

impl From<RegistryError> for BuilderError {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::Unavailable { .. } => Self::Unavailable(message),
            RegistryError::Forbidden { .. } => Self::Rejected { code: "REGISTRY_FORBIDDEN", message },
            RegistryError::Refused { .. } => Self::Rejected { code: "REGISTRY_REFUSED", message },
        }
    }
}

/// One registry's address and the way there, without a sign-in.
pub(super) struct Door {
    pipeline: Pipeline,
    pub(super) host: String,
    pub(super) base: Url,
}

impl Door {
    pub(super) fn new(wire: &Wire, host: &str) -> Result<Self, RegistryError> {
        let Some(base) = registry_address(host) else {
            let why = "this is no host name".to_owned();
            return Err(RegistryError::Refused { host: host.to_owned(), why });
        };
        let pipeline = wire.pipeline(patient(), None);
        Ok(Self { pipeline, host: host.to_owned(), base: Wire::secure(&base) })
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Answer, RegistryError> {
        ask(&self.pipeline, request).await.map_err(|error| self.unavailable(&error))
    }

    /// The registry's interface below `/v2/`.
    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let url = self.base.join(&format!("v2/{path}"));
        url.map_err(|error| self.refused(&format!("{path} is no path there: {error}")))
    }

    pub(super) fn unavailable(&self, why: &dyn std::fmt::Display) -> RegistryError {
        RegistryError::Unavailable { host: self.host.clone(), why: why.to_string() }
    }

    pub(super) fn refused(&self, why: &str) -> RegistryError {
        RegistryError::Refused { host: self.host.clone(), why: why.to_owned() }
    }

    /// The error of an answer that is not what was asked for.
    pub(super) fn error(&self, answer: &Answer) -> RegistryError {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let member = |name: &str| body.pointer(&format!("/errors/0/{name}")).and_then(Value::as_str);
        let said = [member("code"), member("message")].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let said: String = said.chars().take(LONGEST).collect();
        let (host, why) =
            (self.host.clone(), format!("status {} {said}", answer.status).trim_end().to_owned());
        match answer.status {
            401 | 403 => RegistryError::Forbidden { host, why },
            408 | 429 | 500..=599 => RegistryError::Unavailable { host, why },
            _ => RegistryError::Refused { host, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_tried_again_only_where_asking_again_helps() {
        let (host, why) = (|| "registry.azurecr.io".to_owned(), || "status 400 NAME_INVALID".to_owned());
        for (error, wanted) in [
            (RegistryError::Unavailable { host: host(), why: why() }, None),
            (RegistryError::Forbidden { host: host(), why: why() }, Some("REGISTRY_FORBIDDEN")),
            (RegistryError::Refused { host: host(), why: why() }, Some("REGISTRY_REFUSED")),
        ] {
            let said = error.to_string();
            assert!(said.contains(&host()) && said.contains(&why()), "{said}");
            let (code, message) = match BuilderError::from(error) {
                BuilderError::Rejected { code, message } => (Some(code), message),
                BuilderError::Unavailable(message) => (None, message),
            };
            assert_eq!((code, message), (wanted, said));
        }
    }
}

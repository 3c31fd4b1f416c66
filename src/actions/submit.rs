//! Accepts a deployment: one durable write, the chain does the rest.

use serde_json::Value;

use crate::deploy::deployment::{NewDeployment, Origin, StoreError, Submitted};
use crate::deploy::ids::{DeploymentId, Digest};
use crate::deploy::wish::{FieldError, parse};
use crate::windlass::Windlass;

/// Deployments after which the estimate is learned.
const SAMPLES: usize = 5;

/// An accepted deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: DeploymentId,
    /// How long such a thing takes, for people.
    pub estimate: String,
}

/// Why it was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The request is wrong; every problem of it.
    #[error("the request has {} problems", .0.len())]
    Invalid(Vec<FieldError>),
    /// The idempotency key was used with another body.
    #[error("this Idempotency-Key was used with another body")]
    KeyReused,
    /// Too many wait; later.
    #[error("as many deployments wait as can be kept in order")]
    Full,
    /// Nothing was accepted; try again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Windlass {
    /// Accepts the deployment that `body` asks for. The same key and body give the same deployment again.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was accepted.
    pub async fn submit(
        &self,
        body: &Value,
        key: Option<String>,
        origin: impl Into<Origin>,
    ) -> Result<Accepted, SubmitError> {
        let tools = &self.tools;
        let Origin { correlation, trace } = origin.into();
        let wish = parse(body, &|text| tools.secrets.seal(text)).map_err(SubmitError::Invalid)?;
        let id = DeploymentId::new(tools.ids.random());
        let key = key.map(|key| (key, Digest::of(body.to_string().as_bytes())));
        let new =
            NewDeployment { id, wish, at: tools.clock.now(), correlation: correlation.clone(), trace, key };
        let id = match tools.deployments.submit(new).await? {
            Submitted::New => id,
            Submitted::Repeated(earlier) => earlier,
            Submitted::KeyReused => return Err(SubmitError::KeyReused),
            Submitted::Full => return Err(SubmitError::Full),
        };
        tracing::info!(deployment.id = %id, correlation_id = correlation, "accepted {id}");
        let estimate = estimate(&tools.deployments.durations_ms().await.unwrap_or_default());
        Ok(Accepted { id, estimate })
    }
}

/// The range in which the middle half of the newest deployments fell; a constant until there are some.
pub(super) fn estimate(durations: &[u64]) -> String {
    let at = |quarter: usize| {
        durations.get(durations.len() * quarter / 4).copied().unwrap_or_default().div_ceil(1_000)
    };
    if durations.len() < SAMPLES {
        return "5-10 minutes".to_owned();
    }
    match (at(1), at(3)) {
        (low, high) if high < 120 => range(low, high, "second"),
        (low, high) => range(low / 60, high.div_ceil(60), "minute"),
    }
}

fn range(low: u64, high: u64, unit: &str) -> String {
    match (low, high) {
        (1, 1) => format!("about 1 {unit}"),
        (low, high) if low == high => format!("about {low} {unit}s"),
        (low, high) => format!("{low}-{high} {unit}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_learned_from_five_samples_on() {
        assert_eq!(estimate(&[1_000; 4]), "5-10 minutes");
        assert_eq!(estimate(&[1_000, 1_500, 2_000, 3_000, 9_000]), "2-3 seconds");
        assert_eq!(estimate(&[900, 900, 950, 990, 1_000]), "about 1 second");
        assert_eq!(estimate(&[5_000; 5]), "about 5 seconds");
        assert_eq!(estimate(&[120_000; 5]), "about 2 minutes");
        assert_eq!(estimate(&[60_000, 120_000, 180_000, 200_000, 400_000]), "2-4 minutes");
    }
}

//! The container of one build by kaniko, whether of a job ([`super::kaniko_job`]) or of a group ([`super::kaniko_group`]).
//!
//! It runs commands of strangers as root, so that whatever it holds counts as theirs. It holds an address at which its own
//! source can be read, and a pass for the one repository that its image goes to, both for about an hour. It has no
//! identity, but for one with which its own image is pulled where that image is not public.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::arm::Begun;
use super::arm_error::ArmError;
use crate::deploy::builder::BuilderError;
use crate::deploy::reference::PinnedImage;
use crate::deploy::size::Size;
use crate::workflow::journal::RunId;

/// Name of the container in its resource.
pub const CONTAINER: &str = "build";
/// The tag of a resource that holds its run.
const TAG: &str = "windlass-run";
/// What the container says last, before the exit code.
pub(super) const LAST_WORDS: &str = "windlass: kaniko ended with exit code ";

/// What the container runs.
///
/// What it was given leaves the environment before a stranger's command begins, though not the memory of the machine. It
/// ends in time by itself where the image's busybox can see to that, because a group has no limit of its own and whoever
/// made it may be gone. The last line tells how kaniko ended, because neither service does.
const SCRIPT: &str = r#"/busybox/mkdir -p /kaniko/.docker
printf '%s' "$WINDLASS_REGISTRY" > /kaniko/.docker/config.json
from=$WINDLASS_CONTEXT
unset WINDLASS_REGISTRY WINDLASS_CONTEXT
limit=
[ -x /busybox/timeout ] && limit="/busybox/timeout $1"
shift
$limit /kaniko/executor "--context=$from" "$@"
code=$?
echo
echo "windlass: kaniko ended with exit code $code"
"#;

/// Of what containers are made, and where.
#[derive(Debug, Clone)]
pub struct Site {
    /// Region.
    pub location: String,
    /// What runs: an image of kaniko with a shell, which its makers tag `debug`.
    pub image: PinnedImage,
    /// Id of the identity that pulls the image; none where it is public. The build can use it too, so that it should have
    /// no other right.
    pub identity: Option<String>,
    /// CPU and memory.
    pub size: Size,
}

impl Site {
    /// The resource of an order's container, with these properties.
    pub(super) fn resource(&self, order: &Order, properties: &Value) -> Value {
        let tags = json!({ (TAG): order.run });
        let mut resource = json!({ "location": self.location, "tags": tags, "properties": properties });
        if let Some(identity) = &self.identity {
            let ids = json!({ (identity.as_str()): {} });
            resource["identity"] = json!({ "type": "UserAssigned", "userAssignedIdentities": ids });
        }
        resource
    }

    /// Who pulls the image.
    pub(super) fn registries(&self) -> Vec<Value> {
        let pulled = |identity: &String| json!({ "server": self.image.registry(), "identity": identity });
        self.identity.iter().map(pulled).collect()
    }
}

/// A container for one build.
pub struct Order {
    /// Name of its resource.
    pub name: String,
    /// The run, which its resource is tagged with.
    pub run: RunId,
    /// What kaniko is told.
    pub arguments: Vec<String>,
    /// Address of the packed source.
    pub context: SecretString,
    /// Docker's configuration, with the pass for the repository.
    pub registry: SecretString,
    /// How long it may run.
    pub most: Duration,
}

impl Order {
    /// The command of the container; `end` is what the script does after its last words.
    #[must_use]
    pub fn command(&self, end: &str) -> Vec<String> {
        let head = ["/busybox/sh", "-c"].map(str::to_owned);
        // The shell counts its arguments from what stands for its own name.
        let most = self.most.as_secs().max(1).to_string();
        let rest = [format!("{SCRIPT}{end}\n"), "windlass".to_owned(), most];
        head.into_iter().chain(rest).chain(self.arguments.iter().cloned()).collect()
    }

    /// What the container's environment has to hold in secret.
    #[must_use]
    pub fn secrets(&self) -> [(&'static str, &str); 2] {
        [
            ("WINDLASS_CONTEXT", self.context.expose_secret()),
            ("WINDLASS_REGISTRY", self.registry.expose_secret()),
        ]
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Kaniko made an image.
    Succeeded,
    /// It made none.
    Failed,
    /// Only its last words tell.
    Unsure,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// There is none.
    Missing,
    /// It may be begun, and is not.
    Made,
    /// It is being made, or waits, or runs.
    Running,
    /// It is over.
    Over {
        /// How it ended.
        verdict: Verdict,
        /// What the platform knows of its exit code.
        exit: Option<i64>,
        /// The platform's reason, when it has one.
        said: String,
    },
}

/// Where containers of builds run: all in which the strategies differ.
#[async_trait]
pub trait Cell: Send + Sync {
    /// The strategy's word: whose builds these are, in their records.
    fn word(&self) -> &'static str;

    /// Makes the resource of a container.
    ///
    /// # Errors
    /// [`ArmError`].
    async fn make(&self, order: &Order) -> Result<(), ArmError>;

    /// Begins what was [`Seen::Made`]. It is not known to be done once only.
    ///
    /// # Errors
    /// [`ArmError`].
    async fn begin(&self, name: &str) -> Result<(), ArmError>;

    /// Where the container stands.
    ///
    /// # Errors
    /// [`ArmError`].
    async fn look(&self, name: &str) -> Result<Seen, ArmError>;

    /// What it said after this time.
    ///
    /// # Errors
    /// [`BuilderError`].
    async fn lines(
        &self,
        name: &str,
        after: Option<Timestamp>,
    ) -> Result<Vec<(Timestamp, String)>, BuilderError>;

    /// How long its last words may be on their way.
    fn lag(&self) -> Duration;

    /// Stops what runs and deletes the resource. Deleting what is not there succeeds.
    ///
    /// # Errors
    /// [`ArmError`].
    async fn remove(&self, name: &str) -> Result<Begun, ArmError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_says_last_what_is_listened_for() {
        assert!(SCRIPT.ends_with(&format!("echo \"{LAST_WORDS}$code\"\n")));
    }
}

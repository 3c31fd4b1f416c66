//! Puts the service together on Azure: every port on its service, nothing kept in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::acr::{AcrBuilder, AcrParts};
use super::app_body::Place;
use super::app_changes::environment;
use super::app_secrets::AppSecrets;
use super::arm::{Arm, Contract};
use super::arm_error::ArmError;
use super::backlog::AzureBacklog;
use super::blobs::AzureBlobs;
use super::builders::{AutoBuilder, ServiceBuilder};
use super::container_apps::{AppsParts, ContainerApps};
use super::container_instances::{ContainerInstances, GroupsParts};
use super::cosmos::{Container, Fault, Stored};
use super::deployments::CosmosDeployments;
use super::footing::{AzureFooting, FootingParts};
use super::journal::CosmosJournal;
use super::kaniko::{KanikoBuilder, KanikoParts};
use super::kaniko_cell::{Cell, Site};
use super::kaniko_group::GroupCell;
use super::kaniko_job::JobCell;
use super::layers::{LayersBuilder, LayersParts};
use super::logs::AzureLogs;
use super::post::{Post, PostedQueue};
use super::releases::CosmosReleases;
use super::retention::CosmosRetention;
use super::secret_remains::SecretRemains;
use super::services::{ServiceError, Services};
use super::static_sites::{SitesParts, StaticSites};
use super::targets::Targets;
use super::vault::{VaultError, sealing_key};
use crate::ambient::{Clock, Ids, SystemClock, SystemIds};
use crate::config::{AzureSettings, Settings, Strategy};
use crate::deploy::blobs::Blobs;
use crate::deploy::builder::Builder;
use crate::deploy::footing::Footing;
use crate::deploy::log::Logs;
use crate::deploy::reference::PinnedImage;
use crate::deploy::retention::Remains;
use crate::deploy::secrets::Secrets;
use crate::deploy::size::Size;
use crate::windlass::{Check, Looks, Pace, Tools, Windlass};
use crate::workflow::Engine;
use crate::workflow::chain::Chains;
use crate::workflow::retry::RetryPolicy;

/// Nobody wakes a run when a build or a revision is ready, so that somebody has to look. Every step calls services that may
/// be gone for a while.
const LOOKS: Looks = Looks {
    build: Pace { first: Duration::from_secs(1), last: Duration::from_secs(5) },
    release: Duration::from_secs(3),
    retry: RetryPolicy::PATIENT,
};

/// Why the service cannot start on Azure.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A setting is missing.
    #[error("the settings of the Azure backend are missing; set WINDLASS_BACKEND=azure")]
    Settings,
    /// A service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Resource Manager.
    #[error(transparent)]
    Arm(#[from] ArmError),
    /// There is no such environment.
    #[error("the Container Apps environment {0} does not exist in the resource group, or has no domain yet")]
    Environment(String),
}

/// Everything on Azure.
///
/// # Errors
/// [`ConnectError`], which says what to do.
pub async fn connect(settings: &Settings) -> Result<Windlass, ConnectError> {
    let azure = settings.azure.as_deref().ok_or(ConnectError::Settings)?;
    let services = Services::new(azure)?;
    let (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>) = (Arc::new(SystemClock), Arc::new(SystemIds));
    let (runs, records) = services.cosmos().await?;
    let post: Arc<dyn Post> = Arc::new(services.post(Arc::clone(&clock))?);
    let deployments = Arc::new(CosmosDeployments::new(
        records.clone(),
        Arc::clone(&post),
        Arc::clone(&clock),
        Arc::clone(&ids),
    ));
    let secrets: Arc<dyn Secrets> = Arc::new(sealing_key(&services.vault()?, &records).await?);
    let arm = Arc::new(services.arm());
    let blobs: Arc<dyn Blobs> = Arc::new(AzureBlobs::new(services.content()?));
    let logs: Arc<dyn Logs> = Arc::new(AzureLogs::new(services.logs()?, Arc::clone(&clock)));
    let build = settings.limits.build;
    let parts = Parts { azure, services: &services, arm: &arm, records: &records, clock: &clock, build };
    let tools = Arc::new(Tools {
        clock: Arc::clone(&clock),
        ids: Arc::clone(&ids),
        remains: parts.remains(&deployments)?,
        deployments: Arc::clone(&deployments) as Arc<_>,
        releases: Arc::new(CosmosReleases(records.clone())),
        retention: Arc::new(CosmosRetention::new(records.clone(), runs.clone(), deployments)),
        artifacts: Arc::new(services.images()),
        builder: parts.builder((&blobs, &logs))?,
        footing: vec![parts.footing(&blobs)],
        runtime: Arc::new(parts.runtime(&secrets).await?),
        backlog: Arc::new(parts.backlog(&post)),
        blobs,
        logs,
        secrets,
        checks: vec![Arc::new(RecordsCheck { records: records.clone(), fine: AtomicBool::new(true) })],
        limits: settings.limits,
        looks: LOOKS,
    });
    let journal = CosmosJournal::new(runs, Arc::clone(&post), Arc::clone(&clock), Arc::clone(&ids));
    let engine = Engine {
        journal: Arc::new(journal),
        chains: Arc::new(Chains::new([crate::steps::deploy_chain(&tools)])),
        clock,
        ids,
    };
    Ok(Windlass { engine, queue: Arc::new(PostedQueue(post)), tools })
}

/// What several adapters are made of.
struct Parts<'a> {
    azure: &'a AzureSettings,
    services: &'a Services,
    arm: &'a Arc<Arm>,
    records: &'a Container,
    clock: &'a Arc<dyn Clock>,
    /// CPU and memory of builds.
    build: Size,
}

/// Where sources are, and where logs go.
type Stores<'a> = (&'a Arc<dyn Blobs>, &'a Arc<dyn Logs>);

/// Where kaniko runs.
#[derive(Clone, Copy)]
enum Where {
    Job,
    Group,
}

impl Parts<'_> {
    fn builder(&self, stores: Stores<'_>) -> Result<Arc<dyn Builder>, ConnectError> {
        Ok(match &self.azure.builder.strategy {
            Strategy::Auto(image) => {
                let contained = image.as_ref().map(|image| self.kaniko(image, Where::Job, stores));
                let service = ServiceBuilder { tasks: self.tasks(stores), contained: contained.transpose()? };
                Arc::new(AutoBuilder { layers: self.layers(stores), service })
            }
            Strategy::Layers => Arc::new(self.layers(stores)),
            Strategy::Acr => Arc::new(self.tasks(stores)),
            Strategy::Job(image) => Arc::new(self.kaniko(image, Where::Job, stores)?),
            Strategy::Aci(image) => Arc::new(self.kaniko(image, Where::Group, stores)?),
        })
    }

    /// The builder by this image of kaniko.
    fn kaniko(
        &self,
        image: &PinnedImage,
        place: Where,
        (blobs, logs): Stores<'_>,
    ) -> Result<KanikoBuilder, ConnectError> {
        let (arm, identity) = (Arc::clone(self.arm), self.azure.builder.puller.clone());
        let (location, image) = (self.azure.location.clone(), image.clone());
        let site = Site { location, image, identity, size: self.build };
        let cell: Box<dyn Cell> = match place {
            Where::Job => Box::new(JobCell {
                environment: arm.id(&environment(&self.azure.environment)),
                arm,
                site,
                logs: self.services.app_logs(),
            }),
            Where::Group => Box::new(GroupCell { arm, site }),
        };
        Ok(KanikoBuilder::new(KanikoParts {
            cell,
            blobs: Arc::clone(blobs),
            logs: Arc::clone(logs),
            records: self.records.clone(),
            loans: self.services.loans()?,
            registries: self.services.registries(),
            clock: Arc::clone(self.clock),
        }))
    }

    fn layers(&self, (blobs, logs): Stores<'_>) -> LayersBuilder {
        LayersBuilder::new(LayersParts {
            registries: self.services.registries(),
            settings: self.azure.builder.clone(),
            blobs: Arc::clone(blobs),
            logs: Arc::clone(logs),
            records: self.records.clone(),
            clock: Arc::clone(self.clock),
        })
    }

    fn tasks(&self, (blobs, logs): Stores<'_>) -> AcrBuilder {
        AcrBuilder::new(AcrParts {
            arm: Arc::clone(self.arm),
            registry: self.azure.registry.clone(),
            blobs: Arc::clone(blobs),
            logs: Arc::clone(logs),
            records: self.records.clone(),
            clock: Arc::clone(self.clock),
            wire: self.services.wire(),
            registries: self.services.registries(),
        })
    }

    async fn runtime(&self, secrets: &Arc<dyn Secrets>) -> Result<Targets, ConnectError> {
        let (place, domain) = place(self.azure, self.arm).await?;
        let groups = ContainerInstances::new(GroupsParts {
            arm: Arc::clone(self.arm),
            records: self.records.clone(),
            place: Place { identity: self.azure.groups_identity.clone(), ..place.clone() },
            secrets: Arc::clone(secrets),
            wire: self.services.wire(),
            clock: Arc::clone(self.clock),
        });
        let apps = ContainerApps::new(AppsParts {
            arm: Arc::clone(self.arm),
            records: self.records.clone(),
            place,
            domain,
            secrets: AppSecrets::new(
                Arc::clone(secrets),
                self.services.vault()?,
                self.services.installation(),
            ),
            logs: self.services.app_logs(),
            clock: Arc::clone(self.clock),
        });
        Ok(Targets { apps, groups, sites: self.sites()? })
    }

    fn sites(&self) -> Result<StaticSites, ConnectError> {
        Ok(StaticSites::new(SitesParts {
            arm: Arc::clone(self.arm),
            records: self.records.clone(),
            registries: self.services.registries(),
            platform: self.azure.builder.platform.clone(),
            loans: self.services.loans()?,
            settings: self.azure.sites.clone(),
            wire: self.services.wire(),
            clock: Arc::clone(self.clock),
        }))
    }

    /// Who looks before a deployment begins asks once: a deployment goes on without an answer.
    fn footing(&self, blobs: &Arc<dyn Blobs>) -> Arc<dyn Footing> {
        let wire = self.services.wire().hasty();
        Arc::new(AzureFooting::new(FootingParts {
            arm: Arm::new(self.azure, &self.services.credential(), &wire),
            settings: self.azure.clone(),
            blobs: Arc::clone(blobs),
            clock: Arc::clone(self.clock),
        }))
    }

    fn remains(&self, deployments: &Arc<CosmosDeployments>) -> Result<Vec<Arc<dyn Remains>>, ConnectError> {
        let secrets = SecretRemains {
            vault: self.services.vault()?,
            arm: Arc::clone(self.arm),
            deployments: Arc::clone(deployments) as Arc<_>,
            installation: self.services.installation(),
        };
        let remains: Vec<Arc<dyn Remains>> = vec![Arc::new(self.services.images()), Arc::new(secrets)];
        Ok(remains)
    }

    fn backlog(&self, post: &Arc<dyn Post>) -> AzureBacklog {
        let host = self.azure.service_bus.host_str().unwrap_or_default();
        AzureBacklog {
            arm: Arc::clone(self.arm),
            namespace: host.split('.').next().unwrap_or(host).to_owned(),
            records: self.records.clone(),
            post: Arc::clone(post),
            clock: Arc::clone(self.clock),
        }
    }
}

async fn place(azure: &AzureSettings, arm: &Arm) -> Result<(Place, String), ConnectError> {
    let resource = environment(&azure.environment);
    let found = arm.get(Contract::ContainerApps, &resource).await?;
    let domain = found.as_ref().and_then(|found| found.pointer("/properties/defaultDomain")?.as_str());
    let Some(domain) = domain else { return Err(ConnectError::Environment(azure.environment.clone())) };
    let place = Place {
        location: azure.location.clone(),
        environment: arm.id(&resource),
        identity: azure.apps_identity.clone(),
        registry: azure.login_server.clone(),
    };
    Ok((place, domain.to_owned()))
}

/// Whether Cosmos DB answers, and whether it did when it was asked last.
struct RecordsCheck {
    records: Container,
    fine: AtomicBool,
}

#[async_trait]
impl Check for RecordsCheck {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn check(&self) -> Result<(), String> {
        let read: Result<Option<Stored<Value>>, Fault> = self.records.read("installation", "probe").await;
        self.fine.store(read.is_ok(), Ordering::Relaxed);
        read.map(drop).map_err(|error| error.to_string())
    }

    fn last_use_was_fine(&self) -> bool {
        self.fine.load(Ordering::Relaxed)
    }
}

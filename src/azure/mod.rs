//! What belongs to Azure: the adapters on its services, and the custom handler's side of the Functions host protocol.

pub mod acr;
pub mod alarms;
pub mod app_body;
pub mod app_logs;
pub mod app_secrets;
pub mod arm;
pub mod arm_error;
pub mod backlog;
pub mod blobs;
pub mod connect;
pub mod container_apps;
pub mod context;
pub mod cosmos;
pub mod custom_handler;
pub mod deployments;
mod desk;
pub mod identity;
pub mod journal;
pub mod logs;
pub mod post;
mod record;
pub mod releases;
pub mod retention;
pub mod service_bus;
pub mod services;
pub mod transport;
pub mod vault;

//! The custom handler on Azure: API and triggers on the one port that the Functions host chose. Everything else is Azure's.

use std::net::Ipv4Addr;
use std::sync::Arc;

use azure_core::credentials::TokenCredential;

use crate::azure::connect::connect;
use crate::azure::identity::credential;
use crate::azure::transport::Wire;
use crate::config::Settings;
use crate::http::Api;
use crate::serve::{HANDLER_PORT, api_server, handler_port, listen};

/// Who we are to Azure, where its services are the backend.
///
/// # Errors
/// When the settings make no credential.
pub fn identity(settings: &Settings) -> anyhow::Result<Option<Arc<dyn TokenCredential>>> {
    let Some(azure) = settings.azure.as_deref() else { return Ok(None) };
    Ok(Some(credential(azure, &Wire::new(azure)?)?))
}

/// Serves until the host kills the process; there is no way to end well.
///
/// # Errors
/// Why it cannot start or go on, in words that say what to do.
pub async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let port = handler_port(settings)?;
    for name in settings.azure.iter().flat_map(|azure| &azure.unused_keys) {
        tracing::warn!(setting = name, "the key in {name} is not used: Windlass signs in with its identity");
    }
    let windlass = connect(settings).await?;
    // Bound once everything is connected: to the host any answer on this port means ready.
    let listener = listen(Ipv4Addr::LOCALHOST.into(), port, HANDLER_PORT)?;
    let server = api_server(listener, Arc::new(Api::new(&windlass, true)), true)?;
    tracing::info!(
        port,
        backend = "azure",
        "Windlass {} serves on http://127.0.0.1:{port}",
        env!("CARGO_PKG_VERSION")
    );
    Ok(server.await?)
}

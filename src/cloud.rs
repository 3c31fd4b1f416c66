//! The custom handler on Azure: API and triggers on the one port that the Functions host chose. Everything else is Azure's.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use actix_web::{App, HttpServer};
use anyhow::Context as _;

use crate::azure::connect::connect;
use crate::azure::custom_handler;
use crate::config::Settings;
use crate::http::{Api, routes};

/// Threads of the web server: the work is in Azure's services, not here.
const WORKERS: usize = 2;

/// Serves until the host kills the process; there is no way to end well.
///
/// # Errors
/// Why it cannot start or go on, in words that say what to do.
pub async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let port = settings
        .handler_port
        .context("FUNCTIONS_CUSTOMHANDLER_PORT is not set; the Functions host sets it")?;
    let windlass = connect(settings).await?;
    // Bound once everything is connected: to the host any answer on this port means ready.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let api = Arc::new(Api {
        windlass: windlass.clone(),
        started: windlass.tools.clock.now(),
        ready: AtomicBool::new(true),
        hosts: ["127.0.0.1", "localhost", "[::1]"].map(str::to_owned).to_vec(),
    });
    let triggers = Arc::new(windlass);
    let server = HttpServer::new(move || {
        App::new().configure(|config| {
            custom_handler::mount(config, &triggers);
            routes::mount(config, &api);
        })
    });
    tracing::info!(api = %address, backend = "azure", "Windlass {} serves on http://{address}", env!("CARGO_PKG_VERSION"));
    server.workers(WORKERS).listen(listener)?.run().await?;
    Ok(())
}

//! Commands that are the service: `up`, `serve` and `handler`.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;

use crate::cli::args::{DeployFlags, ServiceFlags};
use crate::cli::client::Client;
use crate::cli::exit;
use crate::config::{Backend, BadSettings, Level, Settings};
use crate::lock::find;
use crate::run::{deploy_here, deploy_to};
use crate::serve::{Extras, start, start_handler};
use crate::telemetry::{self, Format, Telemetry};

/// `windlass up`: the main job in one command.
pub(crate) async fn up(
    settings: &Settings,
    server: Option<String>,
    flags: DeployFlags,
    service: &ServiceFlags,
    json: bool,
) -> anyhow::Result<u8> {
    let level = if settings.log_level == Level::INFO { Level::WARN } else { settings.log_level };
    let telemetry = observe(settings, level, Format::People)?;
    // A service on the same data folder could not be started beside the one that runs.
    let running = || find(&settings.data_dir).map(|api| format!("http://{api}"));
    let named = server.or_else(|| settings.server.clone()).or_else(running);
    let wants_own = service.port.is_some() || service.data_dir.is_some() || service.apps_port.is_some();
    let known = Client::new(&named.clone().unwrap_or_else(|| format!("http://127.0.0.1:{}", settings.port)))?;
    if named.is_some() || (!wants_own && known.is_there().await) {
        return telemetry.until(deploy_to(&known, settings, flags, false, json)).await;
    }
    telemetry.until(up_here(settings, flags, json)).await
}

async fn up_here(settings: &Settings, flags: DeployFlags, json: bool) -> anyhow::Result<u8> {
    let service = start(settings, Extras::default()).await?;
    let client = Client::new(&format!("http://{}", service.api))?;
    // Listened to from before the deployment until the end, so that no signal falls in between.
    let mut stop = std::pin::pin!(told_to_stop());
    let code = tokio::select! {
        code = deploy_here(&client, settings, flags, json) => code,
        () = &mut stop => Ok(exit::DETACHED),
    };
    if code.as_ref().is_ok_and(|code| *code == exit::OK) {
        if !json {
            let api = service.api;
            // That nobody reads it is no reason to end the service.
            drop(writeln!(std::io::stdout(), "Serving; the API is on http://{api}. Press Ctrl-C to stop."));
        }
        stop.await;
    }
    service.stop().await;
    code
}

/// Logs and telemetry of a service.
fn observe(settings: &Settings, level: Level, format: Format) -> anyhow::Result<Telemetry> {
    let wanted = settings.telemetry.app_insights.as_ref().is_some_and(|insights| insights.with_identity);
    let identity = if wanted { crate::cloud::identity(settings)? } else { None };
    if wanted && identity.is_none() {
        let problem = "APPLICATIONINSIGHTS_AUTHENTICATION_STRING wants the tokens of WINDLASS_BACKEND=azure";
        return Err(BadSettings(vec![problem.to_owned()]).into());
    }
    telemetry::start_exporting((level, format), &settings.telemetry, identity.as_ref())
        .context("telemetry cannot be sent")
}

/// `windlass serve`.
pub(crate) async fn serve(settings: &Settings, json: bool) -> anyhow::Result<u8> {
    let people = std::io::stderr().is_terminal() && !json;
    let format = if people { Format::People } else { Format::Json };
    observe(settings, settings.log_level, format)?.until(serve_here(settings, json)).await
}

async fn serve_here(settings: &Settings, json: bool) -> anyhow::Result<u8> {
    let service = start(settings, Extras::default()).await?;
    if !json {
        let (version, api, apps) = (env!("CARGO_PKG_VERSION"), service.api, service.apps.port());
        drop(writeln!(
            std::io::stdout(),
            "Windlass {version} serves on http://{api}, apps on http://<project>.localhost:{apps}"
        ));
    }
    told_to_stop().await;
    service.stop().await;
    Ok(exit::OK)
}

/// Under the Functions host: there is no way to end well, so every end is an error to it.
pub(crate) async fn handler(settings: &Settings) -> anyhow::Result<u8> {
    observe(settings, settings.log_level, Format::JsonForHost)?.until(Box::pin(handle(settings))).await
}

async fn handle(settings: &Settings) -> anyhow::Result<u8> {
    if settings.backend == Backend::Azure {
        let ended = tokio::select! {
            ended = crate::cloud::serve(settings) => ended.context("the custom handler cannot go on"),
            () = told_to_stop() => Ok(()),
        };
        return ended.map(|()| exit::FAILED);
    }
    let service = start_handler(settings).await.context("the custom handler cannot start")?;
    told_to_stop().await;
    service.stop().await;
    Ok(exit::FAILED)
}

/// Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

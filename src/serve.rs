//! Starts the service: adapters, web servers, host. Stops it without losing anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServerHandle, ServiceRequest, ServiceResponse};
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, HttpServer};
use anyhow::Context as _;

use crate::azure::custom_handler;
use crate::config::{Backend, Settings};
use crate::embedded::connect::{Embedded, connect};
use crate::embedded::host::{Calls, Host, HostSettings};
use crate::embedded::privileges::guard;
use crate::embedded::proxy::{self, FrontDoor};
use crate::embedded::runtime::LocalRuntime;
use crate::http::{Api, routes};
use crate::lock::announce;
use crate::windlass::Windlass;
use crate::workflow::chain::Chain;

/// Threads of each web server: the work is in the store and in children, not here.
const WORKERS: usize = 2;
/// How long invocations and requests may end by themselves when the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// What else a service offers, for benchmarks.
#[derive(Default)]
pub struct Extras {
    /// Chains besides `deploy`.
    pub chains: Vec<Chain>,
}

/// A running service.
pub struct Service {
    /// Where the API answers.
    pub api: SocketAddr,
    /// Where the apps answer.
    pub apps: SocketAddr,
    /// The actions, for those who are in the same process.
    pub windlass: Windlass,
    /// The database, for figures.
    pub db: crate::embedded::db::Db,
    /// Loopback connections.
    pub pool: crate::embedded::upstream::Pool,
    host: Arc<Host>,
    state: Arc<Api>,
    servers: Vec<ServerHandle>,
    runtime: Arc<LocalRuntime>,
    _lock: std::fs::File,
}

/// Starts the embedded service; it takes work when this returns.
///
/// # Errors
/// Why it cannot start, in words that say what to do.
pub async fn start(settings: &Settings, extras: Extras) -> anyhow::Result<Service> {
    run(settings, extras, (settings.port, "--port"), settings.http_calls).await
}

/// Starts the custom handler on the port that the Functions host chose: API and triggers on one port.
///
/// # Errors
/// Why it cannot start, in words that say what to do.
pub async fn start_handler(settings: &Settings) -> anyhow::Result<Service> {
    let own = Settings { bind: Ipv4Addr::LOCALHOST.into(), ..settings.clone() };
    run(&own, Extras::default(), (handler_port(settings)?, HANDLER_PORT), true).await
}

/// The variable by which the Functions host says where it expects the handler.
pub(crate) const HANDLER_PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";

pub(crate) fn handler_port(settings: &Settings) -> anyhow::Result<u16> {
    settings.handler_port.with_context(|| format!("{HANDLER_PORT} is not set; the Functions host sets it"))
}

pub(crate) fn listen(bind: IpAddr, port: u16, flag: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(bind, port);
    TcpListener::bind(address)
        .with_context(|| format!("cannot listen on {address}; choose another port with {flag}"))
}

async fn run(
    settings: &Settings,
    extras: Extras,
    (port, flag): (u16, &str),
    handler: bool,
) -> anyhow::Result<Service> {
    if settings.backend == Backend::Azure {
        anyhow::bail!(
            "WINDLASS_BACKEND=azure works under the Functions host (`windlass handler`); here use embedded"
        );
    }
    guard();
    let Embedded { windlass, store, runtime, pool, lock } = connect(settings, extras.chains)?;
    // Both, before anything is started: whoever cannot listen leaves nothing behind. Nobody answers on them yet, since to
    // the Functions host any answer means ready.
    let apps_listener = listen(settings.bind, settings.apps_port, "--apps-port")?;
    let api_listener = listen(settings.bind, port, flag)?;
    let (api, apps) = (api_listener.local_addr()?, apps_listener.local_addr()?);
    runtime.addresses.set_port(apps.port());
    let live = windlass.tools.releases.live().await?;
    if let Err(error) = runtime.restore(&live).await {
        tracing::error!(error = %error, "a live release could not be brought back");
    }
    let state = Arc::new(Api::new(&windlass, false));
    let door = Arc::new(FrontDoor {
        routes: Arc::clone(&runtime.routes),
        pool: pool.clone(),
        clock: Arc::clone(&windlass.tools.clock),
    });
    let mut servers = vec![serve_apps(apps_listener, door)?];
    servers.push(start_server(api_server(api_listener, Arc::clone(&state), handler)?));
    let calls = match (handler, settings.handler_port) {
        (true, Some(_)) => Calls::Http(pool.clone(), api),
        (true, None) => {
            let (server, address) = serve_triggers(Arc::new(windlass.clone()))?;
            servers.push(server);
            Calls::Http(pool.clone(), address)
        }
        (false, _) => Calls::InProcess,
    };
    let host = Host::new(windlass.clone(), store.clone(), calls, host_settings(settings));
    host.start();
    go_on(&windlass);
    state.ready.store(true, Ordering::Relaxed);
    announce(&lock, api);
    tracing::info!(api = %api, apps = %apps, data_dir = %settings.data_dir.display(), backend = "embedded", "Windlass {} serves on http://{api}", env!("CARGO_PKG_VERSION"));
    Ok(Service { api, apps, windlass, db: store.0, pool, host, state, servers, runtime, _lock: lock })
}

fn host_settings(settings: &Settings) -> HostSettings {
    let host = settings.host;
    HostSettings {
        concurrency: host.concurrent_calls,
        batch: host.queue.batch_size,
        deliveries: host.queue.retries + 1,
        timeout: host.function_timeout,
        doubled_per_mille: settings.doubled_per_mille,
    }
}

/// What a crash interrupted goes on at once, not at the next tick.
fn go_on(windlass: &Windlass) {
    let repair = windlass.clone();
    drop(crate::ambient::spawn(async move {
        if let Err(error) = repair.engine.wake_all(repair.queue.as_ref()).await {
            tracing::warn!(error = %error, "open runs could not be woken; their alarms wake them later");
        }
        if let Err(error) = repair.sweep().await {
            tracing::warn!(error = %error, "the first sweep failed; the timer sweeps again");
        }
    }));
}

/// The web server of the API; of a handler's triggers too.
pub(crate) fn api_server(listener: TcpListener, state: Arc<Api>, handler: bool) -> anyhow::Result<Server> {
    let triggers = Arc::new(state.windlass.clone());
    let server = HttpServer::new(move || {
        App::new()
            .configure(|config| {
                if handler {
                    custom_handler::mount(config, &triggers);
                }
                routes::mount(config, &state);
            })
            .wrap(from_fn(decline))
    });
    Ok(server.workers(WORKERS).disable_signals().shutdown_timeout(GRACE.as_secs()).listen(listener)?.run())
}

/// Says that the connection ends after an offer to upgrade it that nobody took, such as `curl --http2` makes: the server
/// (`actix-http` 3.20) ends it, and a client that does not know loses its next request.
async fn decline(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let offered = request.head().upgrade();
    let mut answer = next.call(request).await?;
    if offered && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(answer)
}

/// Triggers get a port of their own, so that the API's port cannot reach them.
fn serve_triggers(windlass: Arc<Windlass>) -> anyhow::Result<(ServerHandle, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    let server =
        HttpServer::new(move || App::new().configure(|config| custom_handler::mount(config, &windlass)));
    let server = server.workers(WORKERS).disable_signals().shutdown_timeout(GRACE.as_secs());
    Ok((start_server(server.listen(listener)?.run()), address))
}

fn serve_apps(listener: TcpListener, door: Arc<FrontDoor>) -> anyhow::Result<ServerHandle> {
    let server = HttpServer::new(move || {
        App::new().configure(|config| proxy::mount(config, &door)).wrap(from_fn(decline))
    });
    Ok(start_server(server.workers(WORKERS).disable_signals().shutdown_timeout(1).listen(listener)?.run()))
}

fn start_server(server: Server) -> ServerHandle {
    let handle = server.handle();
    drop(crate::ambient::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(error = %error, "a web server ended");
        }
    }));
    handle
}

impl Service {
    /// Takes no more work, lets what is under way end, stops the apps. What could not end goes on after the next start.
    pub async fn stop(self) {
        self.state.ready.store(false, Ordering::Relaxed);
        self.host.stop(GRACE).await;
        for server in &self.servers {
            server.stop(true).await;
        }
        // Builds are ended by their supervisors; the next start brings back what was live and goes on with the rest.
        self.runtime.halt().await;
        tracing::info!("stopped");
    }
}

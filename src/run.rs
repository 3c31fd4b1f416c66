//! Parses the command line, loads the settings, and runs one command.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::ambient::SystemClock;
use crate::azure::doctor::Unknown;
use crate::cli::args::{Cli, Command, DeployFlags};
use crate::cli::client::Client;
use crate::cli::deploy::{Order, follow, submit};
use crate::cli::screen::{Mode, Screen};
use crate::cli::subcommands::ConfigCommand;
use crate::cli::{
    Ending, Identity, Output, doctor, exit, explain, failure, init, letters, logs, show, smoke,
};
use crate::config::{self, Level, Settings};
use crate::deploy::project_file::SCHEMA;
use crate::embedded::sandbox::become_command;
use crate::embedded::supervisor::supervise;
use crate::package;
use crate::serving;
use crate::setup::{Setup, is_handler, setup};
use crate::telemetry::{self, Format};
use crate::triggers::host_json::generated;

/// Where a service listens unless told otherwise.
const HERE: &str = "http://127.0.0.1:3010";

/// Runs the command that the arguments name, to its end.
///
/// The program itself only calls this: the bodies of async functions are compiled once for each crate that awaits them.
#[must_use]
pub fn run() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let inner = match arguments.next() {
        Some(name) if name == "__exec" => Some(supervise as fn(&OsStr) -> _),
        Some(name) if name == "__caged" => Some(become_command as _),
        _ => None,
    };
    if let Some(inner) = inner {
        // Only a failure comes back.
        let error = match inner(&arguments.next().unwrap_or_default()) {
            Ok(never) => match never {},
            Err(error) => error,
        };
        return fail(&error, false);
    }
    let implied = std::env::args_os().len() == 1 && is_handler();
    let cli =
        if implied { Cli { command: Command::Handler, server: None, json: false } } else { Cli::parse() };
    let json = cli.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), json),
    };
    let result = runtime.block_on(execute(cli));
    // Work that waits for the disk or for a key press must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, json),
    }
}

fn fail(error: &anyhow::Error, json: bool) -> ExitCode {
    ExitCode::from(failure::tell(error, json, &mut std::io::stderr()))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "every command that is not named here talks to a server")]
async fn execute(cli: Cli) -> anyhow::Result<u8> {
    let Setup { settings, values, warnings, unknown } = setup(&cli.command).await?;
    for warning in warnings {
        writeln!(std::io::stderr(), "warning: {warning}")?;
    }
    let mut stdout = std::io::stdout();
    let mut out = Output { to: &mut stdout, json: cli.json };
    match cli.command {
        Command::Up { deploy, service } => {
            return serving::up(&settings, cli.server, deploy, &service, cli.json).await;
        }
        Command::Serve { .. } => return serving::serve(&settings, cli.json).await,
        Command::Handler => return serving::handler(&settings).await,
        Command::Bench { command } => crate::bench::run(&command, &settings, &mut out).await?,
        Command::Config { command: ConfigCommand::Explain, .. } => explain_settings(&values, &mut out)?,
        Command::Config { command: ConfigCommand::Host, .. } => {
            writeln!(out.to, "{:#}", generated(settings.host.queue))?;
        }
        Command::Config { command: ConfigCommand::Schema, .. } => write!(out.to, "{SCHEMA}")?,
        Command::Init => init::write(Path::new(""), &mut out)?,
        Command::Version => out
            .put(&serde_json::json!({ "name": "windlass", "version": env!("CARGO_PKG_VERSION") }), |to| {
                writeln!(to, "windlass {}", env!("CARGO_PKG_VERSION"))
            })?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "windlass", &mut out.to);
        }
        Command::Package { verify: Some(path), .. } => return verify_package(&path, &mut out),
        Command::Package { output, binary, auth_level, verify: None } => {
            let binary = binary.map_or_else(std::env::current_exe, Ok)?;
            let order = package::Order { output, binary, auth: auth_level };
            let bytes = package::package(&order, &settings)?;
            let made = serde_json::json!({ "package": order.output, "bytes": bytes });
            out.put(&made, |to| writeln!(to, "{} ({bytes} bytes)", order.output.display()))?;
        }
        Command::Doctor { .. } => return examine(&settings, &unknown, &mut out).await,
        command => return remote(command, &settings, cli.server, cli.json).await,
    }
    Ok(exit::OK)
}

/// Commands that talk to a server.
async fn remote(
    command: Command,
    settings: &Settings,
    server: Option<String>,
    json: bool,
) -> anyhow::Result<u8> {
    telemetry::start(Level::WARN, Format::People);
    let client = Client::new(&address(settings, server))?;
    let mut stdout = std::io::stdout();
    let mut out = Output { to: &mut stdout, json };
    match command {
        Command::Deploy { deploy, detach } => {
            return deploy_to(&client, settings, deploy, detach, json).await;
        }
        Command::Status { id, watch } => {
            return show::status(&client, id.as_deref(), watch, &SystemClock, &mut out).await;
        }
        Command::Logs { app: Some(project), environment, organization, .. } => {
            logs::app_output(&client, &project, &organization, &environment, &mut out).await?;
        }
        Command::Logs { id, follow, step, .. } => {
            let (id, step) = (id.unwrap_or_default(), step.as_deref());
            if follow {
                return logs::follow(&client, &id, step, &SystemClock, &mut out).await;
            }
            logs::lines(&client, &id, step, &mut out).await?;
        }
        Command::Cancel { id } => say(&client.post(&format!("/deploy/{id}/cancel"), &()).await?, &mut out)?,
        Command::Retry { id } => say(&client.post(&format!("/deploy/{id}/retry"), &()).await?, &mut out)?,
        Command::List { project } => show::list(&client, project.as_deref(), &mut out).await?,
        Command::Explain { id } => explain::explain(&client, &id, &mut out).await?,
        Command::Dlq { command } => letters::run(&client, &command, &mut out).await?,
        Command::Sbom { id } => {
            let bill: serde_json::Value = client.get(&format!("/deploy/{id}/sbom")).await?;
            writeln!(out.to, "{bill:#}")?;
        }
        Command::Smoke { url, app } => {
            let client = url.map_or(Ok(client), |url| Client::new(&url))?;
            return smoke::check(&client, app.as_deref(), &mut out).await;
        }
        Command::Cleanup { dry_run } => {
            say(&client.post("/status/cleanup", &serde_json::json!({ "dryRun": dry_run })).await?, &mut out)?;
        }
        Command::Up { .. }
        | Command::Serve { .. }
        | Command::Handler
        | Command::Bench { .. }
        | Command::Config { .. }
        | Command::Init
        | Command::Version
        | Command::Completions { .. }
        | Command::Package { .. }
        | Command::Doctor { .. } => anyhow::bail!("this command needs no server"),
    }
    Ok(exit::OK)
}

fn address(settings: &Settings, server: Option<String>) -> String {
    server.or_else(|| settings.server.clone()).unwrap_or_else(|| HERE.to_owned())
}

fn say(answer: &serde_json::Value, out: &mut Output<'_>) -> anyhow::Result<()> {
    out.put(answer, |to| match answer.get("message").and_then(serde_json::Value::as_str) {
        Some(message) => writeln!(to, "{message}"),
        None => writeln!(to, "{answer}"),
    })
}

fn order(flags: DeployFlags) -> Order {
    Order {
        dir: flags.dir,
        identity: Identity { organization: flags.organization, user: flags.user },
        project: flags.project,
        environment: flags.environment,
        domain: flags.domain,
        variables: flags.variables,
    }
}

fn mode(json: bool) -> Mode {
    if json { Mode::Json } else { Mode::Lines { terminal: std::io::stdout().is_terminal() } }
}

pub(crate) async fn deploy_to(
    client: &Client,
    settings: &Settings,
    flags: DeployFlags,
    detach: bool,
    json: bool,
) -> anyhow::Result<u8> {
    let mut stdout = std::io::stdout();
    let mut screen = Screen::new(&mut stdout, mode(json));
    let id = submit(client, &order(flags), &settings.cache_dir, &SystemClock, &mut screen).await?;
    if detach {
        screen.close();
        let mut out = Output { to: &mut std::io::stdout(), json };
        out.put(&serde_json::json!({ "deploymentId": id }), |to| writeln!(to, "{id}"))?;
        return Ok(exit::OK);
    }
    let ending = tokio::select! {
        ending = follow(client, &id, &SystemClock, &mut screen) => ending?,
        _ = tokio::signal::ctrl_c() => {
            screen.close();
            return interrupted(client, &id).await;
        }
    };
    screen.close();
    tell(&ending, json)
}

/// How it ended, in words and as the exit code.
fn tell(ending: &Ending, json: bool) -> anyhow::Result<u8> {
    let mut out = Output { to: &mut std::io::stdout(), json };
    match out.put(&ending.status, |to| ending.write(to)) {
        // The words are nobody's loss, and the exit code still counts.
        Err(error) if failure::is_closed(&error) => {}
        told => told?,
    }
    Ok(ending.exit_code())
}

/// Ctrl-C while a deployment is followed: it goes on unless the person says otherwise.
async fn interrupted(client: &Client, id: &str) -> anyhow::Result<u8> {
    let mut stderr = std::io::stderr();
    if !std::io::stdin().is_terminal() {
        writeln!(stderr, "\n{id} goes on. Watch it: windlass status {id} --watch")?;
        return Ok(exit::DETACHED);
    }
    write!(stderr, "\n{id} is under way. [d]etach and let it go on, or [c]ancel it? [d] ")?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let answer = tokio::select! { answer = answer => answer??, _ = tokio::signal::ctrl_c() => String::new() };
    if answer.trim().eq_ignore_ascii_case("c") {
        client.post::<serde_json::Value>(&format!("/deploy/{id}/cancel"), &()).await?;
        writeln!(stderr, "{id} is being cancelled")?;
        return Ok(exit::CANCELLED);
    }
    writeln!(stderr, "{id} goes on. Watch it: windlass status {id} --watch")?;
    Ok(exit::DETACHED)
}

/// Deploys to the service of this process and tells how it ended.
pub(crate) async fn deploy_here(
    client: &Client,
    settings: &Settings,
    flags: DeployFlags,
    json: bool,
) -> anyhow::Result<u8> {
    let mut stdout = std::io::stdout();
    let mut screen = Screen::new(&mut stdout, mode(json));
    let id = submit(client, &order(flags), &settings.cache_dir, &SystemClock, &mut screen).await?;
    let ending = follow(client, &id, &SystemClock, &mut screen).await?;
    screen.close();
    tell(&ending, json)
}

fn explain_settings(values: &BTreeMap<String, String>, out: &mut Output<'_>) -> anyhow::Result<()> {
    for (variable, value) in config::explain(values) {
        let source = if value.is_some() { "set" } else { "default" };
        let value = value.unwrap_or_else(|| variable.default.to_owned());
        let row = serde_json::json!({ "name": variable.name, "value": value, "source": source, "meaning": variable.meaning });
        out.put(&row, |to| writeln!(to, "{:32} {value:12} {source:8} {}", variable.name, variable.meaning))?;
    }
    Ok(())
}

/// Says what the Functions host would not run.
fn verify_package(path: &Path, out: &mut Output<'_>) -> anyhow::Result<u8> {
    let findings = package::verify(path)?;
    for finding in &findings {
        out.put(finding, |to| writeln!(to, "{finding}"))?;
    }
    if findings.is_empty() {
        let fine = serde_json::json!({ "package": path, "findings": 0 });
        out.put(&fine, |to| writeln!(to, "{} is fine", path.display()))?;
    }
    Ok(if findings.is_empty() { exit::OK } else { exit::FAILED })
}

/// With `--azure` the installation there, otherwise this machine.
async fn examine(settings: &Settings, unknown: &Unknown, out: &mut Output<'_>) -> anyhow::Result<u8> {
    let findings = match settings.azure.as_deref() {
        Some(azure) => {
            telemetry::start(settings.log_level, Format::People);
            crate::azure::doctor::examine(azure, unknown, &SystemClock).await
        }
        None => doctor::look(settings),
    };
    doctor::tell(&findings, out)
}

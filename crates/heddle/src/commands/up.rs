//! `heddle up`: a whole mesh and its services on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use control::admin::model::{ObjectDetail, ObjectSummary, ServiceEntry};

use super::{OutputArgs, own_name};
use crate::client::Client;
use crate::console;
use crate::signals::Signals;
use crate::supervisor::mode::ModeArgs;
use crate::supervisor::output::Sink;
use crate::supervisor::report::Reporter;
use crate::supervisor::status::Status;
use crate::supervisor::{Options, Supervisor, reach};

/// Run a mesh and its services on this machine from Kubernetes manifests
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Files and folders of manifests
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Name of the mesh [default: that of the first path]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where its sockets and its state are
    #[arg(long, value_name = "DIR")]
    runtime: Option<PathBuf>,
    /// End by itself after this time, such as 30s or 5m
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    duration: Option<Duration>,
    /// Leave the runtime directory behind, with the mesh's authority
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: UpArgs) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    if !super::validate::check_for_up(&args.paths)? {
        return Ok(ExitCode::FAILURE);
    }
    crate::block_on(Box::pin(async move {
        let mut signals = Signals::catch()?;
        let json = args.output.json();
        let sink = if json { Sink::Error } else { Sink::Output };
        let options = Options {
            suggestion: suggestion(&args.paths[0]),
            name: args.name,
            runtime: args.runtime.clone(),
            paths: args.paths,
            files: Vec::new(),
            keep: args.keep,
            mode: args.mode.mode,
            reporter: Reporter::printed(sink),
        };
        let mut supervisor = tokio::select! {
            supervisor = Supervisor::start(options) => supervisor?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        let reporter = supervisor.mesh().reporter.clone();
        let chosen = args.runtime;
        let mut status = supervisor.status();
        let client = supervisor.mesh().client.clone();
        let announce = tokio::spawn(async move {
            reach(&mut status, |s| s.up).await;
            let took = began.elapsed();
            let status = status.borrow().clone();
            if json {
                console::line(serde_json::to_string(&status).unwrap_or_default());
            } else {
                let example = example(&client).await;
                reporter.note(summary(&status, chosen.as_deref(), took, example.as_deref()));
            }
        });
        let stop = async {
            tokio::select! {
                _ = signals.next() => {}
                () = tokio::time::sleep(args.duration.unwrap_or_default()), if args.duration.is_some() => {}
            }
        };
        supervisor.run(stop).await;
        announce.abort();
        supervisor.mesh().reporter.note("ending; again to kill");
        tokio::select! {
            () = supervisor.end() => {}
            _ = signals.next() => {}
        }
        Ok(ExitCode::SUCCESS)
    }))
}

/// A mesh's name from the name of a file or a folder.
fn suggestion(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let stem = full.file_stem().map(|s| s.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(24).collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() { "mesh".to_owned() } else { name }
}

/// What to type when everything is up.
fn summary(status: &Status, runtime: Option<&Path>, took: Duration, example: Option<&str>) -> String {
    let mut lines = vec![format!(
        "{} is up after {:.1} s: {} instances, {} gateways",
        status.mesh,
        took.as_secs_f64(),
        status.instances.len(),
        status.gateways.len()
    )];
    for gateway in &status.gateways {
        for bound in &gateway.listeners {
            lines.push(format!(
                "  gateway   {}   ({}/{}, port {})",
                bound.url(),
                gateway.namespace,
                gateway.name,
                bound.declared
            ));
        }
    }
    let mesh = match runtime {
        Some(dir) => format!("--runtime {}", dir.display()),
        None => format!("--mesh {}", status.mesh),
    };
    let heddle = own_name();
    if let Some(example) = example {
        lines.push(format!("  inside    {heddle} exec {mesh} {example}"));
    }
    if let Some(instance) = status.instances.first() {
        lines.push(format!("  metrics   {} and others (`{heddle} get instances {mesh}` lists them)", instance.metrics));
    }
    lines.push(format!("  numbers   {heddle} stat {mesh}"));
    lines.push("  stop      Ctrl-C".to_owned());
    lines.join("\n")
}

/// What to give `exec` so that it shows something: as a gateway, ask what the gateway leads to; policies allow that, or the
/// gateway would be of no use. Without a gateway, as a service ask the service itself.
async fn example(client: &Client) -> Option<String> {
    let desired = super::exec::current(client).await.ok()?;
    let objects: Vec<ObjectSummary> = client.get("/v1/objects").await.ok()?;
    for route in objects.iter().filter(|o| o.kind == api::Kind::HttpRoute) {
        let path = format!("/v1/objects/HTTPRoute/{}/{}", route.namespace, route.name);
        let detail: ObjectDetail = client.get(&path).await.ok()?;
        let api::Spec::HttpRoute(route) = &detail.object.spec else { continue };
        let gateway = route.parents.iter().find(|p| p.kind == api::ParentKind::Gateway);
        let backend = route.rules.iter().flat_map(|r| &r.backends).next();
        if let (Some(gateway), Some(backend)) = (gateway, backend) {
            let url = url(&backend.name, &backend.namespace, backend.port);
            return Some(format!("-n {} {} -- curl -s {url}", gateway.namespace, gateway.name));
        }
    }
    let http =
        |s: &&ServiceEntry| s.ports.first().is_some_and(|p| p.name.starts_with("http") || [80, 8080].contains(&p.port));
    let service = desired.services.iter().find(http)?;
    let url = url(&service.name, &service.namespace, service.ports.first()?.port);
    Some(format!("-n {} {} -- curl -s {url}", service.namespace, service.name))
}

fn url(name: &str, namespace: &str, port: u16) -> String {
    if port == 80 { format!("http://{name}.{namespace}/") } else { format!("http://{name}.{namespace}:{port}/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_a_path() {
        assert_eq!(suggestion(Path::new("/x/Shop_1.yaml")), "shop-1");
        assert_eq!(suggestion(Path::new("/x/shop/")), "shop");
        assert_eq!(suggestion(Path::new("/")), "mesh");
        assert_eq!(suggestion(Path::new("/x/--.yaml")), "mesh");
    }
}

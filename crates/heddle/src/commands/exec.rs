//! `heddle exec`: a command with a service's identity and way out, never an endpoint of it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use api::{Object, PodTemplate, Spec};
use clap::Args;
use control::admin::model::{Desired, ObjectDetail, ServiceEntry};

use crate::client::Client;
use crate::console;
use crate::guest::{self, Guest, GuestAddress};
use crate::runtime::{Folder, MeshArgs, find, read};
use crate::sidecar::settings::{Registration, SidecarSettings};
use crate::signals::{Interrupted, Signals};
use crate::supervisor::environment::Pod;
use crate::supervisor::inside::Inside;
use crate::supervisor::mode::ModeArgs;
use crate::supervisor::report::Reporter;
use crate::supervisor::{self, Mesh};
use crate::witness::Witness;

/// Run a command with a service's identity and way out, without becoming an endpoint of it
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The service, or the Deployment, StatefulSet or Gateway, whose identity to take: web, web.shop or shop/web
    service: String,
    /// Its namespace, where the name alone is not enough
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    mesh: MeshArgs,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: ExecArgs) -> anyhow::Result<ExitCode> {
    Interrupted::exit(crate::block_on(Box::pin(exec(args))))
}

async fn exec(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let Prepared { mesh, pod, services, settings, inside, _address } = signals.or(prepare(&args)).await?;
    let _folder = Folder(settings.directory.clone());
    let program = guest::program(&mesh, &pod, &services, args.command, inside.clone())?;
    let mut witness = signals.or(Witness::start()).await?;
    let guest = Guest::start(&settings, mesh.tokens(), inside, &mesh.reporter, &mut signals).await?;
    let code = match program.start() {
        Ok(mut child) => guest::wait(&mut child, &mut signals, &mut witness, None).await?,
        Err(error) => {
            console::error(format_args!("{error:#}"));
            guest::not_started(&error)
        }
    };
    guest.end(&mut signals).await;
    Ok(code)
}

/// What a command is run with.
struct Prepared {
    mesh: Mesh,
    pod: Pod,
    services: Vec<ServiceEntry>,
    settings: SidecarSettings,
    inside: Option<Arc<Inside>>,
    _address: GuestAddress,
}

async fn prepare(args: &ExecArgs) -> anyhow::Result<Prepared> {
    let dir = find(&args.mesh)?;
    let name = read(&dir).map_or_else(|| "mesh".to_owned(), |m| m.name);
    let reporter = Reporter::quiet();
    let mode = args.mode.mode.decide(&reporter).await?;
    let mesh = Mesh::new(&name, &dir, reporter, mode);
    let desired = current(&mesh.client).await?;
    let (given, name) = split(&args.service);
    let target = target(&mesh.client, &desired, args.namespace.as_deref().or(given), name).await?;
    let address = GuestAddress::choose(guest::block(&dir)?)?;
    let pod = Pod {
        namespace: target.namespace.clone(),
        name: format!("exec-{}", guest::unique()),
        ip: address.ip,
        service_account: target.service_account.clone(),
        node: mesh.node.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    };
    let inside = mesh.inside(&pod.name, address.ip, &pod.namespace).await?;
    let services = guest::listeners(address.ip, &pod.namespace, &desired.services);
    let workload = format!("{}/{}", pod.namespace, pod.name);
    let data = supervisor::settings::data(workload, address.ip, &mesh, services, inside.as_deref())?;
    // Without labels and services it is never an endpoint.
    let registration =
        Registration { service_account: target.service_account, node: mesh.node.clone(), ..Registration::default() };
    // The terminal is the command's; what was refused stands in its answer and in the server's log.
    let settings = SidecarSettings { access_log: false, ..mesh.settings(data, None, registration) };
    Ok(Prepared { mesh, pod, services: desired.services, settings, inside, _address: address })
}

/// What the control plane wants run now.
pub(crate) async fn current(client: &Client) -> anyhow::Result<Desired> {
    client.watch().await?.next().await?.context("the control plane ended the connection")
}

/// `web`, `web.shop`, `web.shop.svc.cluster.local` or `shop/web`.
fn split(text: &str) -> (Option<&str>, &str) {
    if let Some((namespace, name)) = text.split_once('/') {
        return (Some(namespace), name);
    }
    match text.split_once('.') {
        Some((name, rest)) => (rest.split('.').next(), name),
        None => (None, text),
    }
}

/// Whose identity to take.
struct Target {
    namespace: String,
    service_account: String,
}

async fn target(client: &Client, desired: &Desired, namespace: Option<&str>, name: &str) -> anyhow::Result<Target> {
    let fits = |ns: &str, n: &str| n == name && namespace.is_none_or(|wanted| wanted == ns);
    let services: Vec<&str> =
        desired.services.iter().filter(|s| fits(&s.namespace, &s.name)).map(|s| s.namespace.as_str()).collect();
    match services.as_slice() {
        [] => {}
        [namespace] => return of_service(client, desired, namespace, name).await,
        several => bail!("service {name} is in more than one namespace; choose with -n: {}", several.join(", ")),
    }
    let objects: Vec<&Object> = desired
        .deployments
        .iter()
        .chain(&desired.stateful_sets)
        .chain(&desired.jobs)
        .chain(&desired.gateways)
        .filter(|o| fits(&o.meta.namespace, &o.meta.name))
        .collect();
    match objects.as_slice() {
        [] => bail!("{}", unknown(desired, name)),
        [object] => {
            let service_account = match template(object) {
                Some(template) => template.service_account.clone(),
                None => object.meta.name.to_string(),
            };
            Ok(Target { namespace: object.meta.namespace.to_string(), service_account })
        }
        _ => bail!("more than one thing is named {name}; say which namespace with -n"),
    }
}

/// The identity of the instances that a service selects.
async fn of_service(client: &Client, desired: &Desired, namespace: &str, name: &str) -> anyhow::Result<Target> {
    let service: ObjectDetail = client.get(&format!("/v1/objects/Service/{namespace}/{name}")).await?;
    let Spec::Service(service) = &service.object.spec else {
        bail!("the control plane answers with another kind than asked")
    };
    let mut accounts: Vec<&str> = desired
        .deployments
        .iter()
        .chain(&desired.stateful_sets)
        .chain(&desired.jobs)
        .filter(|o| &*o.meta.namespace == namespace)
        .filter_map(template)
        .filter(|t| !service.selector.is_empty() && service.selector.iter().all(|(k, v)| t.labels.get(k) == Some(v)))
        .map(|t| t.service_account.as_str())
        .collect();
    accounts.sort_unstable();
    accounts.dedup();
    // A service whose instances run elsewhere, or none: the account that is named like it, which is what people do.
    let service_account = match accounts.as_slice() {
        [] => name.to_owned(),
        [first, ..] => (*first).to_owned(),
    };
    Ok(Target { namespace: namespace.to_owned(), service_account })
}

fn template(object: &Object) -> Option<&PodTemplate> {
    match &object.spec {
        Spec::Deployment(d) => Some(&d.template),
        Spec::StatefulSet(s) => Some(&s.template),
        Spec::Job(j) => Some(&j.template),
        _ => None,
    }
}

fn unknown(desired: &Desired, name: &str) -> String {
    let names: Vec<&str> = desired.services.iter().map(|s| s.name.as_str()).collect();
    let near =
        names.iter().map(|n| (strsim::damerau_levenshtein(n, name), *n)).filter(|(distance, _)| *distance <= 2).min();
    match near {
        Some((_, near)) => format!("there is no service {name}; did you mean {near}?"),
        None if names.is_empty() => format!("there is no service {name}; this mesh has none"),
        None => format!("there is no service {name}; there are: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_in_several_ways() {
        assert_eq!(split("web"), (None, "web"));
        assert_eq!(split("web.shop"), (Some("shop"), "web"));
        assert_eq!(split("web.shop.svc.cluster.local"), (Some("shop"), "web"));
        assert_eq!(split("shop/web"), (Some("shop"), "web"));
    }
}

//! `heddle get`: what the control plane holds, with status.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use control::admin::model::{Instance, InstanceState, ObjectDetail, ObjectSummary};

use super::OutputArgs;
use crate::client::Client;
use crate::console;
use crate::runtime::{MeshArgs, find};

/// List what the control plane holds, with status
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// A kind such as service, httproute or instances [default: every object]
    kind: Option<String>,
    /// One object of that kind, in full
    name: Option<String>,
    /// Only of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    mesh: MeshArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What people call the kinds, besides their names in singular and plural: Kubernetes' own abbreviations.
const SHORT: [(&str, &str); 6] = [
    ("svc", "service"),
    ("deploy", "deployment"),
    ("sts", "statefulset"),
    ("gw", "gateway"),
    ("refgrant", "referencegrant"),
    ("po", "instance"),
];

pub(super) fn run(args: GetArgs) -> anyhow::Result<ExitCode> {
    crate::block_on(async {
        let client = Client::new(&find(&args.mesh)?);
        let wanted = args.kind.as_deref().map(singular);
        if let Some("instance" | "pod" | "workloadinstance") = wanted.as_deref() {
            return instances(&client, &args).await;
        }
        let objects: Vec<ObjectSummary> = client.get("/v1/objects").await?;
        if let Some(wanted) = &wanted
            && api::Kind::ALL.iter().all(|k| k.name().to_ascii_lowercase() != *wanted)
        {
            bail!("there is no kind {:?}; there are: {}, Instance", args.kind.as_deref().unwrap_or_default(), kinds());
        }
        let objects: Vec<ObjectSummary> = objects
            .into_iter()
            .filter(|o| wanted.as_deref().is_none_or(|k| o.kind.name().to_ascii_lowercase() == k))
            .filter(|o| args.namespace.as_deref().is_none_or(|n| o.namespace == n))
            .filter(|o| args.name.as_deref().is_none_or(|n| o.name == n))
            .collect();
        if let (Some(name), [one]) = (&args.name, objects.as_slice()) {
            let namespace = if one.namespace.is_empty() { "-" } else { &one.namespace };
            let detail: ObjectDetail = client.get(&format!("/v1/objects/{}/{namespace}/{name}", one.kind)).await?;
            return show(&detail, args.output);
        }
        if objects.is_empty() && args.name.is_some() {
            bail!("there is no such object; `heddle get` lists what there is");
        }
        if args.output.json() {
            console::line(serde_json::to_string_pretty(&objects)?);
        } else {
            list(&objects);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn kinds() -> String {
    api::Kind::ALL.iter().map(|k| k.name()).collect::<Vec<_>>().join(", ")
}

/// The kind that a word means, in small letters and without plural.
fn singular(word: &str) -> String {
    let word = word.to_ascii_lowercase();
    if let Some((_, kind)) = SHORT.iter().find(|(short, _)| *short == word) {
        return (*kind).to_owned();
    }
    let known = |w: &str| api::Kind::ALL.iter().any(|k| k.name().to_ascii_lowercase() == w);
    for (plural, end) in [("ies", "y"), ("shes", "sh"), ("s", "")] {
        if let Some(stem) = word.strip_suffix(plural) {
            let one = format!("{stem}{end}");
            if known(&one) || !known(&word) && plural == "s" {
                return one;
            }
        }
    }
    word
}

fn list(objects: &[ObjectSummary]) {
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|o| {
            let place = o.location.as_ref().map_or_else(String::new, |l| format!("{}:{}", l.file, l.line));
            vec![o.kind.name().to_owned(), o.namespace.clone(), o.name.clone(), status(o), o.summary.clone(), place]
        })
        .collect();
    console::raw(&console::table(&["KIND", "NAMESPACE", "NAME", "STATUS", "WHAT", "FROM"], &rows));
}

/// The first condition that does not hold, or that all is well.
fn status(object: &ObjectSummary) -> String {
    let bad = object.conditions.iter().find(|c| c.status == api::ConditionStatus::False);
    bad.map_or_else(|| "ok".to_owned(), |c| c.reason.clone())
}

fn show(detail: &ObjectDetail, output: OutputArgs) -> anyhow::Result<ExitCode> {
    if output.json() {
        console::line(serde_json::to_string_pretty(detail)?);
        return Ok(ExitCode::SUCCESS);
    }
    list(std::slice::from_ref(&detail.head));
    for condition in &detail.head.conditions {
        console::line(format_args!(
            "{:?}: {:?}  {}  {}",
            condition.kind, condition.status, condition.reason, condition.message
        ));
    }
    for resource in &detail.resources {
        console::line(format_args!("\n{} {} (version {})", resource.kind, resource.name, resource.version));
        for line in resource.text.lines() {
            console::line(format_args!("  {line}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn instances(client: &Client, args: &GetArgs) -> anyhow::Result<ExitCode> {
    let all: Vec<Instance> = client.get("/v1/instances").await?;
    let instances: Vec<Instance> = all
        .into_iter()
        .filter(|i| args.namespace.as_deref().is_none_or(|n| i.namespace == n))
        .filter(|i| args.name.as_deref().is_none_or(|n| i.name == n))
        .collect();
    if args.output.json() {
        console::line(serde_json::to_string_pretty(&instances)?);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = instances
        .iter()
        .map(|i| {
            let metrics = format!("http://{}:{}/metrics", i.address, crate::sidecar::settings::ADMIN_PORT);
            vec![i.namespace.clone(), i.name.clone(), state(i), i.services.join(","), i.identity.clone(), metrics]
        })
        .collect();
    console::raw(&console::table(&["NAMESPACE", "NAME", "STATE", "SERVICES", "IDENTITY", "METRICS"], &rows));
    Ok(ExitCode::SUCCESS)
}

fn state(instance: &Instance) -> String {
    let word = match instance.state {
        InstanceState::Starting => "starting",
        InstanceState::Ready => "ready",
        InstanceState::NotReady => "not ready",
        InstanceState::Draining => "draining",
    };
    if instance.connected { word.to_owned() } else { format!("{word}, not connected") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_many_names() {
        for (word, kind) in [
            ("svc", "service"),
            ("Services", "service"),
            ("httproutes", "httproute"),
            ("HTTPRoute", "httproute"),
            ("trafficpolicies", "trafficpolicy"),
            ("mesh", "mesh"),
            ("meshes", "mesh"),
            ("instances", "instance"),
            ("gateways", "gateway"),
        ] {
            assert_eq!(singular(word), kind, "{word}");
        }
    }
}

//! What runs: `apps/v1` Deployment and StatefulSet, `batch/v1` Job, and the pod template that they share.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::service::{self, AppProtocol};
use crate::read::{At, Map, PortRef};
use crate::text;

/// `apps/v1/Deployment`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// How many instances; 1 when not written.
    pub replicas: u32,
    /// What each instance is.
    pub template: PodTemplate,
}

/// `apps/v1/StatefulSet`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSet {
    /// How many instances; 1 when not written.
    pub replicas: u32,
    /// `serviceName`, the headless service that names its instances; empty when not written.
    pub service_name: String,
    /// What each instance is.
    pub template: PodTemplate,
}

/// `batch/v1/Job`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// How many runs must succeed; 1 when not written.
    pub completions: u32,
    /// How many may run at once; 1 when not written.
    pub parallelism: u32,
    /// How often failed runs are tried again; 6 when not written.
    pub backoff_limit: u32,
    /// What each run is.
    pub template: PodTemplate,
}

/// What the mesh reads of a pod template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Services select by these.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// `serviceAccountName`; `default` when not written.
    pub service_account: String,
    /// The first container; the others are not run on one machine.
    pub container: Container,
    /// `terminationGracePeriodSeconds`; 30 s when not written.
    pub termination_grace: Duration,
    /// When an instance that ended is started again; `Always` when not written, a Job must say another.
    pub restart_policy: RestartPolicy,
    /// The command that the annotation `heddle.dev/command` asks for on one machine, instead of the container's command and
    /// arguments: a YAML list as it is, other text through `/bin/sh -c`.
    pub local_command: Option<Vec<String>>,
}

/// When an instance that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whatever its exit status.
    Always,
    /// When its exit status is not 0.
    OnFailure,
    /// Not; a Job makes a new instance instead.
    Never,
}

/// What the mesh reads of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// `command`, `$(VAR)` not yet expanded; empty when the image decides.
    pub command: Vec<String>,
    /// `args`, `$(VAR)` not yet expanded.
    pub args: Vec<String>,
    /// In the order written; later ones may use earlier ones as `$(VAR)`.
    pub env: Vec<EnvVar>,
    /// `workingDir`.
    pub working_dir: Option<String>,
    /// Its TCP ports.
    pub ports: Vec<ContainerPort>,
    /// Whether it may get requests.
    pub readiness: Option<Probe>,
    /// Whether it must be started again.
    pub liveness: Option<Probe>,
    /// Whether it has started; the other two wait for it.
    pub startup: Option<Probe>,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where an environment variable's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// As written; `$(VAR)` is to be expanded.
    Text(String),
    /// From the instance itself (the downward API).
    Field(FieldRef),
}

/// What of an instance the downward API gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FieldRef {
    /// `metadata.name`
    Name,
    /// `metadata.namespace`
    Namespace,
    /// `metadata.uid`
    Uid,
    /// `metadata.labels['KEY']`
    Label(String),
    /// `metadata.annotations['KEY']`
    Annotation(String),
    /// `spec.serviceAccountName`
    ServiceAccount,
    /// `spec.nodeName`
    NodeName,
    /// `status.podIP` and `status.podIPs`
    PodIp,
    /// `status.hostIP` and `status.hostIPs`
    HostIp,
}

/// One port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its number.
    pub port: u16,
    /// What its name says that it speaks.
    pub protocol: AppProtocol,
}

/// How the health of an instance is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// What is done.
    pub action: ProbeAction,
    /// Before the first; 0 s when not written.
    pub initial_delay: Duration,
    /// Between two; 10 s when not written.
    pub period: Duration,
    /// The longest that one may take; 1 s when not written.
    pub timeout: Duration,
    /// Successes in a row that make a success; 1 when not written.
    pub success_threshold: u32,
    /// Failures in a row that make a failure; 3 when not written.
    pub failure_threshold: u32,
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeAction {
    /// A GET that must be answered with a status from 200 to 399.
    HttpGet {
        /// Path and query; `/` when not written.
        path: String,
        /// The instance's port.
        port: PortRef,
        /// Instead of the instance's address.
        host: Option<String>,
        /// Over TLS, whose certificate is not verified (Kubernetes' rule).
        https: bool,
        /// `httpHeaders`, names as written.
        headers: Vec<(String, String)>,
    },
    /// A connection that must succeed.
    Tcp {
        /// The instance's port.
        port: PortRef,
        /// Instead of the instance's address.
        host: Option<String>,
    },
    /// A command whose exit status must be 0.
    Exec {
        /// Program and arguments; no shell.
        command: Vec<String>,
    },
    /// `grpc.health.v1.Health/Check` that must answer SERVING.
    Grpc {
        /// The instance's port.
        port: u16,
        /// The service that is asked about; empty: the whole server.
        service: String,
    },
}

/// Most replicas of one object; each is a process or more.
const MAX_REPLICAS: u32 = 10_000;

/// The annotation that replaces the command on one machine.
const LOCAL_COMMAND: &str = "heddle.dev/command";

/// Reads `spec` of a Deployment.
pub(crate) fn read_deployment(spec: &mut Map<'_>, _namespace: &str) -> Option<Deployment> {
    let replicas = read_replicas(spec);
    let template = read_template(spec, RestartPolicy::Always);
    Some(Deployment { replicas, template: template? })
}

/// Reads `spec` of a StatefulSet.
pub(crate) fn read_stateful_set(spec: &mut Map<'_>, _namespace: &str) -> Option<StatefulSet> {
    let replicas = read_replicas(spec);
    let service_name = spec.get("serviceName").and_then(|at| at.parse(text::label)).unwrap_or_default();
    let template = read_template(spec, RestartPolicy::Always);
    Some(StatefulSet { replicas, service_name, template: template? })
}

/// Reads `spec` of a Job.
pub(crate) fn read_job(spec: &mut Map<'_>, _namespace: &str) -> Option<Job> {
    let mut number = |name, default| spec.get(name).and_then(|at| at.integer(0..=MAX_REPLICAS)).unwrap_or(default);
    let (completions, parallelism) = (number("completions", 1), number("parallelism", 1));
    let backoff_limit = number("backoffLimit", 6);
    let template = read_template(spec, RestartPolicy::Never);
    Some(Job { completions, parallelism, backoff_limit, template: template? })
}

fn read_replicas(spec: &mut Map<'_>) -> u32 {
    spec.get("replicas").and_then(|at| at.integer(0..=MAX_REPLICAS)).unwrap_or(1)
}

/// Reads `template`, and whether `selector` fits it. A Job (`default` Never) has no selector of its own to write.
fn read_template(spec: &mut Map<'_>, default: RestartPolicy) -> Option<PodTemplate> {
    let selector = if default == RestartPolicy::Always { spec.require("selector") } else { spec.get("selector") };
    let template_at = spec.require("template")?;
    let mut map = template_at.map()?;
    let (mut labels, mut annotations) = (BTreeMap::new(), BTreeMap::new());
    let mut local_command = None;
    if let Some(mut meta) = map.get("metadata").and_then(|at| at.map()) {
        labels = meta.get("labels").map(|at| at.labels()).unwrap_or_default();
        if let Some(at) = meta.get("annotations") {
            annotations = at.texts();
            local_command = read_local_command(&at);
        }
        meta.finish();
    }
    let spec_at = map.require("spec");
    map.finish();
    if let Some(mut selector) = selector.and_then(|at| at.map()) {
        if let Some(at) = selector.get("matchLabels") {
            for (key, value) in at.labels() {
                if labels.get(&key) != Some(&value) {
                    at.error_help(
                        format!("the template has no label {key}: {value}"),
                        "give template.metadata.labels every label of the selector",
                    );
                }
            }
        }
        selector.finish();
    }
    let mut pod = spec_at?.map()?;
    let service_account = pod.get("serviceAccountName").and_then(|at| at.parse(text::subdomain));
    let grace = pod.get("terminationGracePeriodSeconds").and_then(|at| at.integer(0..=86_400)).unwrap_or(30);
    let restart_policy = read_restart_policy(&mut pod, default);
    if let Some(init) = pod.get("initContainers") {
        init.notice("init containers are not run on one machine", "");
    }
    let containers = pod.require("containers");
    pod.ignore(&["serviceAccount"]);
    pod.finish();
    let containers = containers?;
    let errors = containers.errors();
    let list = containers.list(64);
    match list.get(1) {
        Some(second) => second.notice("only the first container is run on one machine", ""),
        None if list.is_empty() && containers.errors() == errors => containers.error("needs a container"),
        None => {}
    }
    Some(PodTemplate {
        labels,
        annotations,
        service_account: service_account.unwrap_or_else(|| "default".to_owned()),
        container: read_container(list.first()?)?,
        termination_grace: Duration::from_secs(u64::from(grace)),
        restart_policy: restart_policy?,
        local_command,
    })
}

fn read_restart_policy(pod: &mut Map<'_>, default: RestartPolicy) -> Option<RestartPolicy> {
    use RestartPolicy::{Always, Never, OnFailure};
    let Some(at) = pod.get("restartPolicy") else {
        if default == Never {
            pod.at().error_help("the field restartPolicy is missing", "a Job must say OnFailure or Never");
        }
        return Some(default);
    };
    let policy = at.choice(&[("Always", Always), ("OnFailure", OnFailure), ("Never", Never)])?;
    match (default, policy) {
        (Always, OnFailure | Never) => at.error("must be Always; a Job can be OnFailure or Never"),
        (_, Always) if default != Always => at.error("a Job cannot restart Always; OnFailure or Never is allowed"),
        _ => {}
    }
    Some(policy)
}

/// A list is the command itself; other text is for the shell.
fn read_local_command(annotations: &At<'_>) -> Option<Vec<String>> {
    let (_, at) = annotations.map()?.items().find(|(key, _)| *key == LOCAL_COMMAND)?;
    let written = at.string()?.trim();
    if written.is_empty() {
        at.error("is empty");
        return None;
    }
    if !written.starts_with('[') {
        return Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), written.to_owned()]);
    }
    let list = crate::node::parse(0, written).into_iter().next()?;
    let list = list.root.and_then(|node| words(&node)).filter(|words| !words.is_empty());
    if list.is_none() {
        at.error_help("is not a list of texts", "write [program, \"argument\"], or a line for the shell");
    }
    list
}

fn words(node: &crate::node::Node) -> Option<Vec<String>> {
    use crate::node::Value;
    let Value::List(items) = &node.value else {
        return None;
    };
    let word = |node: &crate::node::Node| match &node.value {
        Value::Scalar(scalar) => Some(scalar.text.clone()),
        _ => None,
    };
    items.iter().map(word).collect()
}

fn read_container(at: &At<'_>) -> Option<Container> {
    let mut map = at.map()?;
    let name = map.require("name").and_then(|at| at.parse(text::label));
    let mut strings =
        |name| map.get(name).map(|at| at.each(4096, |at| at.string().map(str::to_owned))).unwrap_or_default();
    let (command, args): (Vec<String>, Vec<String>) = (strings("command"), strings("args"));
    let env = map.get("env").map(|at| at.each(4096, read_env)).unwrap_or_default();
    if let Some(at) = map.get("envFrom") {
        at.warn("not read on one machine: the variables from there are missing", "write them under env");
    }
    let working_dir = map.get("workingDir").and_then(|at| at.string().map(str::to_owned));
    let ports = map.get("ports").map(|at| at.each(256, read_port)).unwrap_or_default();
    let mut probe = |name, strict| map.get(name).and_then(|at| read_probe(&at, strict));
    let (readiness, liveness) = (probe("readinessProbe", false), probe("livenessProbe", true));
    let startup = probe("startupProbe", true);
    map.finish();
    Some(Container { name: name?, command, args, env, working_dir, ports, readiness, liveness, startup })
}

fn read_env(at: &At<'_>) -> Option<EnvVar> {
    let mut map = at.map()?;
    let name = map.require("name").and_then(|at| at.parse(text::printable));
    let value = map.get("value").map(|at| at.string().map(str::to_owned));
    let from = map.get("valueFrom");
    map.finish();
    if let (Some(at), Some(_)) = (&from, &value) {
        at.error("stands beside value; write one of the two");
    }
    let value = match from {
        Some(at) => EnvValue::Field(read_field_ref(&at)?),
        None => EnvValue::Text(value.unwrap_or(Some(String::new()))?),
    };
    Some(EnvVar { name: name?, value })
}

/// `fieldRef` of `valueFrom`; other sources exist on a cluster alone.
fn read_field_ref(at: &At<'_>) -> Option<FieldRef> {
    let mut map = at.map()?;
    for name in ["secretKeyRef", "configMapKeyRef", "resourceFieldRef", "fileKeyRef"] {
        if let Some(at) = map.get(name) {
            at.warn("not read on one machine: the variable is missing there", "");
            return None;
        }
    }
    let field = map.require("fieldRef");
    map.finish();
    let mut map = field?.map()?;
    let path = map.require("fieldPath");
    map.finish();
    path?.parse(|text| {
        let keyed = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
        Ok(match text {
            "metadata.name" => FieldRef::Name,
            "metadata.namespace" => FieldRef::Namespace,
            "metadata.uid" => FieldRef::Uid,
            "spec.serviceAccountName" => FieldRef::ServiceAccount,
            "spec.nodeName" => FieldRef::NodeName,
            "status.podIP" | "status.podIPs" => FieldRef::PodIp,
            "status.hostIP" | "status.hostIPs" => FieldRef::HostIp,
            _ => match (keyed("metadata.labels"), keyed("metadata.annotations")) {
                (Some(key), _) => FieldRef::Label(key),
                (_, Some(key)) => FieldRef::Annotation(key),
                _ => {
                    return Err("is not a field that the downward API gives, such as status.podIP".to_owned());
                }
            },
        })
    })
}

fn read_port(at: &At<'_>) -> Option<ContainerPort> {
    let mut map = at.map()?;
    map.ignore(&["hostPort", "hostIP"]);
    let tcp = service::transport(&mut map);
    let name = map.get("name").and_then(|at| at.parse(text::port_name));
    let port = map.require("containerPort").and_then(|at| at.port());
    map.finish();
    let protocol = AppProtocol::named(name.as_deref().unwrap_or_default());
    let port = port?;
    tcp.then_some(ContainerPort { name, port, protocol })
}

/// Reads a probe; `once` for those whose success threshold must be 1 (liveness and startup).
fn read_probe(at: &At<'_>, once: bool) -> Option<Probe> {
    let mut map = at.map()?;
    let mut seconds = |name, least, default| {
        let seconds = map.get(name).and_then(|at| at.integer(least..=86_400)).unwrap_or(default);
        Duration::from_secs(u64::from(seconds))
    };
    let initial_delay = seconds("initialDelaySeconds", 0, 0);
    let (period, timeout) = (seconds("periodSeconds", 1, 10), seconds("timeoutSeconds", 1, 1));
    let failure_threshold = map.get("failureThreshold").and_then(|at| at.integer(1..=10_000)).unwrap_or(3);
    let most = if once { 1 } else { 10_000 };
    let success_threshold = map.get("successThreshold").and_then(|at| at.integer(1..=most)).unwrap_or(1);
    let actions: Vec<(&str, At<'_>)> = ["httpGet", "tcpSocket", "exec", "grpc"]
        .into_iter()
        .filter_map(|name| map.get(name).map(|at| (name, at)))
        .collect();
    map.finish();
    let [(name, action)] = actions.as_slice() else {
        at.error("needs one of: httpGet, tcpSocket, exec, grpc");
        return None;
    };
    let mut body = action.map()?;
    let action = match *name {
        "httpGet" => read_http_get(&mut body),
        "tcpSocket" => {
            let host = body.get("host").and_then(|at| at.parse(text::printable));
            body.require("port").and_then(|at| at.port_ref()).map(|port| ProbeAction::Tcp { port, host })
        }
        "exec" => body
            .require("command")
            .map(|at| ProbeAction::Exec { command: at.each(4096, |at| at.string().map(str::to_owned)) }),
        _ => {
            let service = body.get("service").and_then(|at| at.string().map(str::to_owned)).unwrap_or_default();
            body.require("port").and_then(|at| at.port()).map(|port| ProbeAction::Grpc { port, service })
        }
    };
    body.finish();
    Some(Probe { action: action?, initial_delay, period, timeout, success_threshold, failure_threshold })
}

fn read_http_get(map: &mut Map<'_>) -> Option<ProbeAction> {
    let path = map.get("path").and_then(|at| at.string().map(str::to_owned)).unwrap_or_else(|| "/".to_owned());
    let port = map.require("port").and_then(|at| at.port_ref());
    let host = map.get("host").and_then(|at| at.parse(text::printable));
    let https = map.get("scheme").and_then(|at| at.choice(&[("HTTP", false), ("HTTPS", true)])).unwrap_or(false);
    let headers = map
        .get("httpHeaders")
        .map(|at| {
            at.each(64, |at| {
                let mut map = at.map()?;
                let name = map
                    .require("name")
                    .and_then(|at| at.parse(|text| text::header_name(text).map(|_| text.to_owned())));
                let value = map.require("value").and_then(|at| at.parse(text::header_value));
                map.finish();
                Some((name?, value?))
            })
        })
        .unwrap_or_default();
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    Some(ProbeAction::HttpGet { path, port: port?, host, https, headers })
}

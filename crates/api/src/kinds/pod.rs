//! What runs: `apps/v1` Deployment and StatefulSet, `batch/v1` Job, and the pod template that they share.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::service::{AppProtocol, PortRef};

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

//! The environment of an application, as Kubernetes defines it, and the proxy variables of explicit mode.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::{EnvValue, EnvVar, FieldRef};
use control::admin::model::ServiceEntry;

use super::leftover;
use super::mode::Mode;
use crate::sidecar::settings::FORWARD_PROXY_PORT;

/// The first of the ports that stand for services on an instance's address.
pub(crate) const FIRST_SERVICE_PORT: u16 = 16_000;

/// Destinations that are never proxied: this machine. curl and Go read the network, others the names.
const NO_PROXY: &str = "localhost,localhost.localdomain,ip6-localhost,.localhost,127.0.0.1,127.0.0.0/8,::1";

/// What the downward API can say of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) service_account: String,
    pub(crate) node: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Pod {
    /// The value of a `fieldRef`; a label or an annotation that is not there is empty.
    pub(crate) fn field(&self, field: &FieldRef) -> String {
        match field {
            FieldRef::Name => self.name.clone(),
            FieldRef::Namespace => self.namespace.clone(),
            FieldRef::Uid => format!("{}.{}", self.namespace, self.name),
            FieldRef::Label(key) => self.labels.get(key).cloned().unwrap_or_default(),
            FieldRef::Annotation(key) => self.annotations.get(key).cloned().unwrap_or_default(),
            FieldRef::ServiceAccount => self.service_account.clone(),
            FieldRef::NodeName => self.node.clone(),
            FieldRef::PodIp => self.ip.to_string(),
            FieldRef::HostIp => "127.0.0.1".to_owned(),
        }
    }
}

/// Where each port of the services that an instance may call by variables is heard.
pub(crate) fn service_ports(services: &[ServiceEntry], namespace: &str) -> Vec<(ServiceEntry, Vec<u16>)> {
    let mut next = FIRST_SERVICE_PORT;
    let mut all = Vec::new();
    for service in services.iter().filter(|s| s.namespace == namespace && !s.ports.is_empty()) {
        let Some(end) = u16::try_from(service.ports.len()).ok().and_then(|n| next.checked_add(n)) else { break };
        all.push((service.clone(), (next..end).collect()));
        next = end;
    }
    all
}

/// `NAME_SERVICE_HOST` and `NAME_SERVICE_PORT`, and `NAME_SERVICE_PORT_<PORT NAME>` for named ports: where the sidecar listens
/// for them on the instance's address `own`, or the service's own address, if it has one, where all addresses are redirected.
fn service_variables(mode: Mode, own: IpAddr, services: &[(ServiceEntry, Vec<u16>)]) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (service, listens) in services {
        let (ip, listens) = match (mode, service.address) {
            (Mode::Explicit, _) => (own, listens.clone()),
            (Mode::Namespace, Some(ip)) => (ip, service.ports.iter().map(|p| p.port).collect()),
            (Mode::Namespace, None) => continue,
        };
        let stem = variable_name(&service.name);
        variables.insert(format!("{stem}_SERVICE_HOST"), ip.to_string());
        for (i, (port, listen)) in service.ports.iter().zip(&listens).enumerate() {
            if i == 0 {
                variables.insert(format!("{stem}_SERVICE_PORT"), listen.to_string());
            }
            if !port.name.is_empty() {
                variables.insert(format!("{stem}_SERVICE_PORT_{}", variable_name(&port.name)), listen.to_string());
            }
        }
    }
    variables
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace(['-', '.'], "_")
}

/// The forward-proxy variables that programs read, in both cases.
pub(crate) fn proxy_variables(ip: IpAddr) -> BTreeMap<String, String> {
    let proxy = format!("http://{}", std::net::SocketAddr::new(ip, FORWARD_PROXY_PORT));
    let mut variables = BTreeMap::new();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy"] {
        variables.insert(name.to_owned(), proxy.clone());
    }
    for name in ["no_proxy", "NO_PROXY"] {
        variables.insert(name.to_owned(), NO_PROXY.to_owned());
    }
    variables
}

/// Variables of the caller that must not reach an application: its own way out would pass the mesh by.
pub(crate) const REMOVED: [&str; 6] =
    ["all_proxy", "ALL_PROXY", "no_grpc_proxy", "ftp_proxy", "FTP_PROXY", "HEDDLE_JOIN_TOKEN"];

/// And these where everything is redirected: a caller's forward proxy is the sidecar's business then.
pub(crate) const REMOVED_INSIDE: [&str; 7] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "no_proxy", "NO_PROXY"];

/// The environment of an instance: the mesh's variables, then the declared ones, each of which may refer to those before it.
pub(crate) fn environment(
    pod: &Pod,
    mode: Mode,
    services: &[(ServiceEntry, Vec<u16>)],
    declared: &[EnvVar],
) -> BTreeMap<String, String> {
    let mut variables = service_variables(mode, pod.ip, services);
    if mode == Mode::Explicit {
        variables.extend(proxy_variables(pod.ip));
    }
    // The running binary, for manifests that use it itself.
    variables.insert("HEDDLE".to_owned(), net::process::executable().to_string_lossy().into_owned());
    variables.insert("POD_IP".to_owned(), pod.ip.to_string());
    variables.insert("POD_NAME".to_owned(), pod.name.clone());
    variables.insert("POD_NAMESPACE".to_owned(), pod.namespace.clone());
    for variable in declared {
        let value = match &variable.value {
            EnvValue::Text(text) => expand(text, &variables),
            EnvValue::Field(field) => pod.field(field),
        };
        variables.insert(variable.name.clone(), value);
    }
    variables.insert(leftover::VARIABLE.to_owned(), leftover::value(pod.ip));
    variables
}

/// Replaces `$(NAME)` by its value. As Kubernetes has it: `$$` stands for `$`, a name that is not known stays as it is
/// written, and so does everything else.
pub(crate) fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|a| a.split_once(')')) {
            match variables.get(name) {
                Some(value) => expanded.push_str(value),
                None => expanded.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

/// The caller's own forward proxy as `host:port`, so that the sidecars reach the outside through it. `Err` says why one that
/// is set cannot be used.
pub(crate) fn upstream_proxy(get: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    let names = ["https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"];
    let Some((name, value)) = names.iter().find_map(|n| Some((*n, get(n).filter(|v| !v.trim().is_empty())?))) else {
        return Ok(None);
    };
    let unusable = |why: &str| Err(format!("the proxy that {name} names is not used for calls to the outside: {why}"));
    let address = match value.split_once("://") {
        None => value.as_str(),
        Some(("http", address)) => address,
        Some((scheme, _)) => return unusable(&format!("the scheme {scheme} is not supported, only http")),
    };
    let address = address.split(['/', '?', '#']).next().unwrap_or_default();
    if address.contains('@') {
        return unusable("it asks for a user name and a password, which are not supported");
    }
    let has_port = address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match (address.is_empty(), has_port) {
        (true, _) => unusable("it names no host"),
        (false, true) => Ok(Some(address.to_owned())),
        (false, false) => Ok(Some(format!("{address}:80"))),
    }
}

#[cfg(test)]
mod tests;

//! From the text of one file to its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::diagnostic::{Diagnostic, Severity};
use crate::kinds::authorization_policy::{self, Action, AuthorizationPolicy};
use crate::kinds::{gateway, http_route, mesh, pod, reference_grant, route, service, traffic_policy, workload};
use crate::node::{self, Node, Position, Value, shorten};
use crate::object::{Kind, Location, Meta, Object, ObjectKey, SourceText, Spec};
use crate::read::{At, Map, Problems, Unknown};
use crate::text;

/// Largest file, bytes. A ConfigMap of etcd's largest size fits twice.
pub const MAX_FILE: usize = 4 * 1024 * 1024;
/// Most documents in one file; the items of a List count as documents.
pub const MAX_DOCUMENTS: usize = 10_000;

/// Most diagnostics of one file; nobody reads more.
const MAX_DIAGNOSTICS: usize = 1000;

/// What a file says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects that can be used, in the order written.
    pub objects: Vec<Object>,
    /// Objects that were recognised but cannot be used.
    pub failed: Vec<Failed>,
    /// Some document could not even be recognised, so an object that is missing here may be one of those.
    pub incomplete: bool,
    /// Everything there is to say about it, in the order of the lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// An object that cannot be used.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which one.
    pub key: ObjectKey,
    /// What stands for it where no earlier good version is held: an authorization policy that denies its targets (fail
    /// closed). `None` for other kinds.
    pub fallback: Option<Object>,
}

/// Reads every document of a YAML or JSON file. `file` is the name that diagnostics show.
pub fn parse(file: &str, bytes: &[u8]) -> Parsed {
    let mut reader = FileReader { file: file.into(), text: Arc::default(), parsed: Parsed::default(), documents: 0 };
    if bytes.len() > MAX_FILE {
        reader.fault(Position::default(), format!("the file is larger than {} MiB", MAX_FILE >> 20), "split it");
        return reader.finish();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            reader.text = Arc::new(SourceText::new(text.strip_prefix('\u{feff}').unwrap_or(text)));
            reader.read();
        }
        Err(error) => {
            let good = &bytes[..error.valid_up_to()];
            let line = good.split(|b| *b == b'\n').count();
            let column = good.rsplit(|b| *b == b'\n').next().map_or(0, |l| String::from_utf8_lossy(l).chars().count());
            let at = Position { line: line as u32, column: column as u32 + 1 };
            reader.fault(at, "the file is not UTF-8 text".to_owned(), "save it as UTF-8");
        }
    }
    reader.finish()
}

/// Reads one file.
struct FileReader {
    file: Arc<str>,
    text: Arc<SourceText>,
    parsed: Parsed,
    /// How many documents were read.
    documents: usize,
}

impl FileReader {
    fn finish(mut self) -> Parsed {
        self.parsed.diagnostics.sort_by_key(|d| (d.line, d.column));
        self.parsed
    }

    /// Something that hides which objects there are.
    fn fault(&mut self, at: Position, message: String, help: &str) {
        self.parsed.incomplete = true;
        let diagnostic = Diagnostic::new(Severity::Error, message).with_help(help);
        self.push(at, diagnostic);
    }

    fn push(&mut self, at: Position, mut diagnostic: Diagnostic) {
        match self.parsed.diagnostics.len() {
            MAX_DIAGNOSTICS => diagnostic = Diagnostic::new(Severity::Error, "there is more to say about this file"),
            more if more > MAX_DIAGNOSTICS => return,
            _ => {}
        }
        diagnostic.file = Some(Arc::clone(&self.file));
        diagnostic.line = at.line;
        diagnostic.column = at.column;
        diagnostic.source_line = self.text.line(at.line);
        self.parsed.diagnostics.push(diagnostic);
    }

    fn read(&mut self) {
        let text = Arc::clone(&self.text);
        for (lines, part) in node::split(text.text()) {
            for document in node::parse(lines, part) {
                let faulty = !document.faults.is_empty();
                self.parsed.incomplete |= faulty && document.root.is_none();
                for fault in document.faults {
                    self.push(fault.at, Diagnostic::new(Severity::Error, fault.message).with_help(fault.help));
                }
                let Some(root) = document.root.filter(|root| !root.is_null()) else {
                    continue;
                };
                for object in list_items(&root).unwrap_or(std::slice::from_ref(&root)) {
                    if self.documents == MAX_DOCUMENTS {
                        let message = format!("the file has more than {MAX_DOCUMENTS} documents");
                        self.fault(object.at, message, "split it");
                        return;
                    }
                    self.documents += 1;
                    self.object(object, faulty);
                }
            }
        }
    }

    fn object(&mut self, root: &Node, faulty: bool) {
        let problems = Problems::default();
        let outcome = read_object(&problems, root);
        let failed = faulty || problems.errors() > 0;
        let key = outcome.as_ref().map(Draft::key);
        let mut reason = None;
        for (at, mut diagnostic) in problems.into_found() {
            if diagnostic.is_error() && reason.is_none() {
                reason = Some(format!("{}: {}", diagnostic.field, diagnostic.message));
            }
            diagnostic.object.clone_from(&key);
            self.push(at, diagnostic);
        }
        let (Some(Draft { kind, meta, spec }), Some(key)) = (outcome, key) else {
            self.parsed.incomplete |= failed;
            return;
        };
        let location = Some(self.location(root));
        match spec {
            Some(spec) if !failed => self.parsed.objects.push(Object { meta, spec, location }),
            spec => {
                let reason = reason.unwrap_or_else(|| "its document has errors".to_owned());
                let fallback = unusable(kind, &meta, spec, reason).map(|spec| Object { meta, spec, location });
                self.parsed.failed.push(Failed { key, fallback });
            }
        }
    }

    fn location(&self, root: &Node) -> Location {
        let mut fields = BTreeMap::new();
        index(root, String::new(), &mut fields);
        Location {
            file: Arc::clone(&self.file),
            line: root.at.line,
            column: root.at.column,
            text: Some(Arc::clone(&self.text)),
            fields: Arc::new(fields),
        }
    }
}

/// The items of a `kind: List`, as `kubectl get -o yaml` prints it.
fn list_items(root: &Node) -> Option<&[Node]> {
    let Value::Map(entries) = &root.value else {
        return None;
    };
    let field = |name: &str| entries.iter().find(|e| e.key == name).map(|e| &e.value.value);
    match (field("kind"), field("items")) {
        (Some(Value::Scalar(kind)), Some(Value::List(items))) if kind.text == "List" => Some(items),
        _ => None,
    }
}

/// Notes where every field of a tree stands: a key where its value is a list or a mapping, else the value itself.
fn index(node: &Node, path: String, fields: &mut BTreeMap<String, (u32, u32)>) {
    match &node.value {
        Value::Scalar(_) => {}
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}[{i}]");
                fields.insert(path.clone(), (item.at.line, item.at.column));
                index(item, path, fields);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                let at = if matches!(entry.value.value, Value::Scalar(_)) { entry.value.at } else { entry.at };
                fields.insert(path.clone(), (at.line, at.column));
                index(&entry.value, path, fields);
            }
        }
    }
}

/// An object that was recognised, whether or not it can be used.
struct Draft {
    kind: Kind,
    meta: Meta,
    spec: Option<Spec>,
}

impl Draft {
    fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind, namespace: Arc::clone(&self.meta.namespace), name: Arc::clone(&self.meta.name) }
    }
}

/// What stands for an object that cannot be used: of an authorization policy one that denies the same targets.
fn unusable(kind: Kind, meta: &Meta, spec: Option<Spec>, reason: String) -> Option<Spec> {
    if kind != Kind::AuthorizationPolicy {
        return None;
    }
    let targets = match spec {
        Some(Spec::AuthorizationPolicy(policy)) => policy.targets,
        _ => vec![authorization_policy::whole_namespace(&meta.namespace)],
    };
    Some(Spec::AuthorizationPolicy(AuthorizationPolicy {
        targets,
        action: Action::Deny,
        rules: Vec::new(),
        unusable: Some(reason),
    }))
}

/// Reads one object. `None` when it is not one of ours (a notice was given), or cannot be recognised (an error was).
fn read_object(problems: &Problems, root: &Node) -> Option<Draft> {
    let at = At::root(problems, root, Unknown::Ignored);
    let mut map = at.map()?;
    let api_version = map.require("apiVersion");
    let kind = map.require("kind");
    let (api_version, kind_at) = (api_version?, kind?);
    let kind = recognise(&api_version, &kind_at)?;
    let core = matches!(kind.group(), "" | "apps" | "batch");
    let unknown = if core { Unknown::Ignored } else { Unknown::Refused };
    let meta = map.require("metadata").and_then(|at| read_meta(&at, kind))?;
    map.ignore(&["status"]);
    let spec_at = if kind == Kind::Mesh { map.get("spec") } else { map.require("spec") };
    let spec = match spec_at {
        Some(at) => at.taking(unknown).map().and_then(|mut spec| {
            let read = read_spec(kind, &mut spec, &meta.namespace);
            spec.finish();
            read
        }),
        None if kind == Kind::Mesh => Some(Spec::Mesh(mesh::Mesh::default())),
        None => None,
    };
    map.finish();
    Some(Draft { kind, meta, spec })
}

fn read_spec(kind: Kind, spec: &mut Map<'_>, namespace: &str) -> Option<Spec> {
    match kind {
        Kind::Mesh => Some(Spec::Mesh(mesh::read(spec, namespace))),
        Kind::Service => Some(Spec::Service(service::read(spec, namespace))),
        Kind::Deployment => pod::read_deployment(spec, namespace).map(Spec::Deployment),
        Kind::StatefulSet => pod::read_stateful_set(spec, namespace).map(Spec::StatefulSet),
        Kind::Job => pod::read_job(spec, namespace).map(Spec::Job),
        Kind::Workload => workload::read(spec, namespace).map(Spec::Workload),
        Kind::Gateway => Some(Spec::Gateway(gateway::read(spec, namespace))),
        Kind::HttpRoute => Some(Spec::HttpRoute(http_route::read(spec, namespace))),
        Kind::GrpcRoute => Some(Spec::GrpcRoute(http_route::read_grpc(spec, namespace))),
        Kind::TcpRoute => Some(Spec::TcpRoute(route::read_tcp(spec, namespace))),
        Kind::ReferenceGrant => Some(Spec::ReferenceGrant(reference_grant::read(spec, namespace))),
        Kind::TrafficPolicy => Some(Spec::TrafficPolicy(traffic_policy::read(spec, namespace))),
        Kind::AuthorizationPolicy => Some(Spec::AuthorizationPolicy(authorization_policy::read(spec, namespace))),
    }
}

/// The versions of a kind that the mesh reads.
fn versions(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Service | Kind::Deployment | Kind::StatefulSet | Kind::Job => &["v1"],
        Kind::Gateway | Kind::HttpRoute => &["v1", "v1beta1"],
        Kind::GrpcRoute => &["v1"],
        Kind::TcpRoute => &["v1", "v1alpha2"],
        Kind::ReferenceGrant => &["v1", "v1beta1"],
        Kind::Mesh | Kind::Workload | Kind::TrafficPolicy | Kind::AuthorizationPolicy => &["v1alpha1"],
    }
}

/// Kinds that are no misspelt ones of ours.
const LATER: [&str; 6] = ["TLSRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet", "ExternalService", "GatewayClass"];

/// Which of our kinds this is.
fn recognise(api_version: &At<'_>, kind_at: &At<'_>) -> Option<Kind> {
    let (group_version, name) = (api_version.string()?, kind_at.string()?);
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    if let Some(kind) = Kind::ALL.iter().copied().find(|k| k.name() == name && k.group() == group) {
        if !versions(kind).contains(&version) {
            api_version.error_help(
                format!("{kind} has no version \"{}\" that is read here", shorten(version)),
                format!("write {}", written(kind)),
            );
            return None;
        }
        return Some(kind);
    }
    if let Some(kind) = Kind::ALL.iter().copied().find(|k| k.name() == name)
        && (kind.group() != "" && !group.contains('.') || text::closest(group, [kind.group()]).is_some())
    {
        api_version.error_help(
            format!("there is no {kind} in \"{}\"", shorten(group_version)),
            format!("write apiVersion: {}", written(kind)),
        );
        return None;
    }
    let siblings = Kind::ALL.iter().filter(|k| k.group() == group).map(|k| k.name());
    let ours = group == Kind::Mesh.group() || group == Kind::Gateway.group();
    let close = text::closest(name, siblings.clone()).filter(|_| !LATER.contains(&name));
    if let Some(close) = close {
        kind_at
            .error_help(format!("there is no kind \"{}\" here", shorten(name)), format!("did you mean \"{close}\"?"));
    } else if ours && name != "GatewayClass" {
        let names: Vec<&str> = siblings.collect();
        let message = format!("the kind {} is not implemented yet", shorten(name));
        kind_at.error_help(message, format!("the kinds of this group are: {}", names.join(", ")));
    } else {
        kind_at.notice(format!("{} does not concern the mesh and is skipped", shorten(name)), "");
    }
    None
}

/// `apiVersion` of a kind as it should be written.
fn written(kind: Kind) -> String {
    let version = versions(kind)[0];
    if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) }
}

/// Reads `metadata`; `None` when the object has no usable name.
fn read_meta(at: &At<'_>, kind: Kind) -> Option<Meta> {
    let mut map = at.map()?;
    map.ignore(&["generateName", "managedFields", "selfLink", "uid"]);
    // These name instances or stand in host names, where a dot would mean something else.
    let dotless = matches!(kind, Kind::Service | Kind::Deployment | Kind::StatefulSet | Kind::Job | Kind::Workload);
    let name_at = map.require("name");
    let name = name_at.as_ref().and_then(|at| at.parse(if dotless { text::label } else { text::subdomain }));
    let namespace = map.get("namespace").map_or(Some("default".to_owned()), |at| at.parse(text::label));
    let meta = Meta {
        labels: map.get("labels").map(|at| at.labels()).unwrap_or_default(),
        annotations: map.get("annotations").map(|at| at.texts()).unwrap_or_default(),
        created_unix_ms: map.get("creationTimestamp").and_then(|at| at.parse(timestamp)).unwrap_or(0),
        namespace: Arc::from(""),
        name: Arc::from(name.as_deref().unwrap_or_default()),
    };
    map.finish();
    if kind == Kind::Mesh && name.as_deref().is_some_and(|n| n != "default") {
        name_at?.error_help("there is one Mesh, and its name is \"default\"", "write name: default");
    }
    name?;
    if kind.namespaced() { Some(Meta { namespace: namespace?.into(), ..meta }) } else { Some(meta) }
}

/// RFC 3339 to Unix milliseconds.
fn timestamp(text: &str) -> Result<i64, String> {
    let time =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|_| "is not a time such as 2026-01-31T12:00:00Z".to_owned())?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| "is out of range".to_owned())
}

#[cfg(test)]
pub(crate) mod tests;

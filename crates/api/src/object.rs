//! An object: what it is called, what it says, and where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Severity};
use crate::kinds::authorization_policy::AuthorizationPolicy;
use crate::kinds::gateway::Gateway;
use crate::kinds::http_route::{GrpcRoute, HttpRoute};
use crate::kinds::mesh::Mesh;
use crate::kinds::pod::{Deployment, Job, StatefulSet};
use crate::kinds::reference_grant::ReferenceGrant;
use crate::kinds::route::TcpRoute;
use crate::kinds::service::Service;
use crate::kinds::traffic_policy::TrafficPolicy;
use crate::kinds::workload::Workload;

macro_rules! kinds {
    ($($variant:ident($spec:ty) = $name:literal, $group:literal;)*) => {
        /// A kind that the mesh reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind { $(#[doc = $name] #[serde(rename = $name)] $variant,)* }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// As it is written in `kind:`.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$variant => $name,)* }
            }

            /// Its API group; empty for the core group.
            pub const fn group(self) -> &'static str {
                match self { $(Kind::$variant => $group,)* }
            }
        }

        /// What an object says, defaulted and validated.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", content = "spec")]
        pub enum Spec { $(#[doc = $name] #[serde(rename = $name)] $variant($spec),)* }

        impl Spec {
            /// Which kind this is.
            pub const fn kind(&self) -> Kind {
                match self { $(Spec::$variant(_) => Kind::$variant,)* }
            }
        }
    };
}

kinds! {
    Mesh(Mesh) = "Mesh", "heddle.dev";
    Service(Service) = "Service", "";
    Deployment(Deployment) = "Deployment", "apps";
    StatefulSet(StatefulSet) = "StatefulSet", "apps";
    Job(Job) = "Job", "batch";
    Workload(Workload) = "Workload", "heddle.dev";
    Gateway(Gateway) = "Gateway", "gateway.networking.k8s.io";
    HttpRoute(HttpRoute) = "HTTPRoute", "gateway.networking.k8s.io";
    GrpcRoute(GrpcRoute) = "GRPCRoute", "gateway.networking.k8s.io";
    TcpRoute(TcpRoute) = "TCPRoute", "gateway.networking.k8s.io";
    ReferenceGrant(ReferenceGrant) = "ReferenceGrant", "gateway.networking.k8s.io";
    TrafficPolicy(TrafficPolicy) = "TrafficPolicy", "heddle.dev";
    AuthorizationPolicy(AuthorizationPolicy) = "AuthorizationPolicy", "heddle.dev";
}

impl Kind {
    /// Whether its objects live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Kind::Mesh)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What identifies an object. Ordered by kind, namespace, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for kinds without one.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// A key of these parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    /// `Kind namespace/name`, or `Kind name` for kinds without a namespace.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its namespace; `default` where none was written, empty for kinds without one.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, Unix milliseconds (`metadata.creationTimestamp`); 0 where unknown.
    pub created_unix_ms: i64,
}

/// The text of a file with the places of its lines, for the source lines of diagnostics.
#[derive(Debug, Default)]
pub(crate) struct SourceText {
    text: String,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl SourceText {
    pub(crate) fn new(text: &str) -> SourceText {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        SourceText { text: text.to_owned(), starts }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The line of this number, from 1. Long lines are cut: minified JSON is one line of megabytes.
    pub(crate) fn line(&self, number: u32) -> Option<String> {
        const LONGEST: usize = 4096;
        let start = *self.starts.get((number as usize).checked_sub(1)?)?;
        let line = self.text[start..].lines().next()?;
        Some(line.chars().take(LONGEST).collect())
    }
}

/// Where an object was written, and where each of its fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Location {
    /// The file as it was named to the parser.
    pub file: Arc<str>,
    /// First line of the object, from 1.
    pub line: u32,
    /// Its column, from 1, in characters.
    pub column: u32,
    /// The file's text, for the source line of a diagnostic.
    #[serde(skip)]
    pub(crate) text: Option<Arc<SourceText>>,
    /// Line and column of every field, by its path (`spec.rules[0].matches`).
    #[serde(skip)]
    pub(crate) fields: Arc<BTreeMap<String, (u32, u32)>>,
}

/// One object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Name, labels and the like.
    pub meta: Meta,
    /// What it says.
    #[serde(flatten)]
    pub spec: Spec,
    /// Where it was written; `None` when it did not come from text.
    #[serde(default)]
    pub location: Option<Location>,
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        self.spec.kind()
    }

    /// What identifies it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { kind: self.kind(), namespace: Arc::clone(&self.meta.namespace), name: Arc::clone(&self.meta.name) }
    }

    /// Whether both say the same, wherever they were written.
    pub fn same(&self, other: &Object) -> bool {
        self.meta == other.meta && self.spec == other.spec
    }

    /// A diagnostic at `field` of this object (`spec.rules[0].backendRefs[1]`), or at the nearest field around it that was
    /// written.
    pub fn diagnostic(&self, severity: Severity, field: &str, message: impl Into<String>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(severity, message);
        diagnostic.object = Some(self.key());
        diagnostic.field = field.to_owned();
        if let Some(location) = &self.location {
            location.place(&mut diagnostic);
        }
        diagnostic
    }
}

impl Location {
    /// Fills in file, line, column and source line of `diagnostic` from its field.
    pub(crate) fn place(&self, diagnostic: &mut Diagnostic) {
        let (line, column) = self.position(&diagnostic.field);
        diagnostic.file = Some(Arc::clone(&self.file));
        diagnostic.line = line;
        diagnostic.column = column;
        diagnostic.source_line = self.text.as_deref().and_then(|t| t.line(line));
    }

    /// Line and column of `field`, or of the nearest field around it that was written, or of the object.
    pub fn position(&self, field: &str) -> (u32, u32) {
        let mut path = field;
        loop {
            if let Some(&position) = self.fields.get(path) {
                return position;
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return (self.line, self.column),
            }
        }
    }
}

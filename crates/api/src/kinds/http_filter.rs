//! `filters` of HTTPRoute and GRPCRoute.

use serde::{Deserialize, Serialize};

use crate::read::{At, Map};
use crate::text;

/// Header edits. Names are valid and in lower case, values valid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderEdits {
    /// Replace every value of the name, or add it.
    pub set: Vec<(String, String)>,
    /// Add one more value.
    pub add: Vec<(String, String)>,
    /// Remove every value of the name.
    pub remove: Vec<String>,
}

/// A redirect instead of forwarding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// `http` or `https`; `None`: as the request came.
    pub scheme: Option<String>,
    /// `None`: the request's own host.
    pub hostname: Option<String>,
    /// `None`: the well-known port of `scheme` if that is given, else the port the request came to.
    pub port: Option<u16>,
    /// `None`: the request's own path.
    pub path: Option<PathEdit>,
    /// 301, 302 (when not written), 303, 307 or 308.
    pub status: u16,
}

/// A URL rewrite before forwarding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<String>,
    /// The new path.
    pub path: Option<PathEdit>,
}

/// A change of path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathEdit {
    /// Replace the whole path.
    Full(String),
    /// Replace the matched prefix.
    Prefix(String),
}

/// What the filters of a rule ask for.
#[derive(Default)]
pub(crate) struct Filters {
    pub(crate) request_headers: HeaderEdits,
    pub(crate) response_headers: HeaderEdits,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) rewrite: Option<Rewrite>,
}

impl Filters {
    /// Whether the matched prefix is to be replaced.
    pub(crate) fn edits_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|r| r.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|r| r.path.as_ref());
        redirect.into_iter().chain(rewrite).any(|path| matches!(path, PathEdit::Prefix(_)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    RequestHeaders,
    ResponseHeaders,
    Redirect,
    Rewrite,
    Later,
}

/// Every type of filter, with the field that holds it.
const TYPES: [(&str, &str, Type); 9] = [
    ("RequestHeaderModifier", "requestHeaderModifier", Type::RequestHeaders),
    ("ResponseHeaderModifier", "responseHeaderModifier", Type::ResponseHeaders),
    ("RequestRedirect", "requestRedirect", Type::Redirect),
    ("URLRewrite", "urlRewrite", Type::Rewrite),
    ("RequestMirror", "requestMirror", Type::Later),
    ("CORS", "cors", Type::Later),
    ("ExternalAuth", "externalAuth", Type::Later),
    ("ExtensionRef", "extensionRef", Type::Later),
    ("DirectResponse", "directResponse", Type::Later),
];

/// Reads a list of filters.
pub(crate) fn read(at: &At<'_>) -> Filters {
    let mut filters = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    for at in at.list(16) {
        let Some(mut map) = at.map() else { continue };
        let Some(type_at) = map.require("type") else {
            continue;
        };
        let Some(chosen) = type_at.choice(&TYPES.map(|t| (t.0, t))) else {
            continue;
        };
        let (name, field, kind) = chosen;
        if kind == Type::Later {
            type_at.error_help("not implemented yet", "remove the filter");
            continue;
        }
        if seen.contains(&name) {
            type_at.error(format!("a rule can have one {name} alone"));
        }
        seen.push(name);
        for other in TYPES.iter().map(|t| t.1).filter(|f| *f != field) {
            if let Some(at) = map.get(other) {
                at.error(format!("stands in a filter of type {name}"));
            }
        }
        if let Some(body) = map.require(field) {
            read_body(&body, kind, &mut filters);
        }
        map.finish();
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        at.error("RequestRedirect and URLRewrite cannot stand in one rule");
    }
    filters
}

/// Filters of a backend: RequestHeaderModifier alone.
pub(crate) fn read_of_backend(at: &At<'_>) -> HeaderEdits {
    let filters = read(at);
    if filters.redirect.is_some() || filters.rewrite.is_some() || filters.response_headers != HeaderEdits::default() {
        at.error_help("only RequestHeaderModifier is implemented here yet", "move the other filters to the rule");
    }
    filters.request_headers
}

fn read_body(at: &At<'_>, kind: Type, filters: &mut Filters) {
    let Some(mut map) = at.map() else { return };
    match kind {
        Type::RequestHeaders => filters.request_headers = read_edits(&mut map),
        Type::ResponseHeaders => filters.response_headers = read_edits(&mut map),
        Type::Redirect => filters.redirect = Some(read_redirect(&mut map)),
        Type::Rewrite => {
            let hostname = map.get("hostname").and_then(|at| at.parse(text::host));
            let path = map.get("path").and_then(|at| read_path(&at));
            filters.rewrite = Some(Rewrite { hostname, path });
        }
        Type::Later => {}
    }
    map.finish();
}

fn read_edits(map: &mut Map<'_>) -> HeaderEdits {
    let mut pairs = |field| {
        map.get(field)
            .map(|at| {
                at.each(16, |at| {
                    let mut map = at.map()?;
                    let name = map.require("name").and_then(|at| at.parse(editable));
                    let value = map.require("value").and_then(|at| at.parse(text::header_value));
                    map.finish();
                    Some((name?, value?))
                })
            })
            .unwrap_or_default()
    };
    let (set, add): (Vec<_>, Vec<_>) = (pairs("set"), pairs("add"));
    let remove: Vec<String> = map.get("remove").map(|at| at.each(16, |at| at.parse(editable))).unwrap_or_default();
    let names: Vec<&String> = set.iter().chain(&add).map(|(name, _)| name).chain(&remove).collect();
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            map.at().error(format!("edits the header {name} twice"));
        }
    }
    HeaderEdits { set, add, remove }
}

/// The name of a header that a route may edit. The others frame the message or belong to the mesh: editing them would let a
/// route smuggle requests or forge what the mesh says.
fn editable(text: &str) -> Result<String, String> {
    const FRAMING: [&str; 9] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = text::header_name(text)?;
    if name == "host" {
        Err("cannot be edited; use a URLRewrite filter's hostname".to_owned())
    } else if FRAMING.contains(&name.as_str()) || name.starts_with("heddle-") {
        Err("cannot be edited by a route: it belongs to the connection or to the mesh".to_owned())
    } else {
        Ok(name)
    }
}

fn read_redirect(map: &mut Map<'_>) -> Redirect {
    let scheme = map.get("scheme").and_then(|at| at.choice(&[("http", "http"), ("https", "https")]));
    let hostname = map.get("hostname").and_then(|at| at.parse(text::host));
    let port = map.get("port").and_then(|at| at.port());
    let path = map.get("path").and_then(|at| read_path(&at));
    let status = map.get("statusCode").and_then(|at| {
        let code = at.integer(300..=399)?;
        let known = [301_u16, 302, 303, 307, 308].into_iter().find(|c| u32::from(*c) == code);
        if known.is_none() {
            at.error(format!("{code} is not one of: 301, 302, 303, 307, 308"));
        }
        known
    });
    Redirect { scheme: scheme.map(str::to_owned), hostname, port, path, status: status.unwrap_or(302) }
}

fn read_path(at: &At<'_>) -> Option<PathEdit> {
    let mut map = at.map()?;
    let full =
        map.require("type").and_then(|at| at.choice(&[("ReplaceFullPath", true), ("ReplacePrefixMatch", false)]));
    let (full_at, prefix_at) = (map.get("replaceFullPath"), map.get("replacePrefixMatch"));
    map.finish();
    match (full?, full_at, prefix_at) {
        (true, Some(at), None) => at.parse(text::path).map(PathEdit::Full),
        (false, None, Some(at)) => at.parse(prefix).map(PathEdit::Prefix),
        (full, ..) => {
            let field = if full { "replaceFullPath" } else { "replacePrefixMatch" };
            at.error(format!("needs the field {field}, and not the other one"));
            None
        }
    }
}

/// What a prefix is replaced with; nothing at all is allowed.
fn prefix(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { text::path(text) }
}

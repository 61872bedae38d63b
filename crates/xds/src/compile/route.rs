//! Routes: what of them can be compiled before it is known who uses them.

use engine::Nanos;
use engine::edit::{HeaderEdits, PathEdit, Redirect, Rewrite};
use engine::route::{HostMatch, Match, PathMatch, ValueMatch, ValueRule};
use proto::mesh;

use super::problem::{self, Problem, Result, Within};

/// The largest weight of Gateway API.
const WEIGHT_LIMIT: u32 = 1_000_000;

/// A route that can be used.
#[derive(Debug)]
pub(crate) struct Route {
    /// `Kind/namespace/name`.
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) object: String,
    pub(crate) parents: Vec<mesh::RouteParent>,
    pub(crate) hosts: Vec<HostMatch>,
    pub(crate) created: i64,
    pub(crate) http: Vec<HttpRule>,
    pub(crate) tcp: Vec<TcpRule>,
}

#[derive(Debug)]
pub(crate) struct HttpRule {
    /// The rule's own name, or its number.
    pub(crate) name: String,
    pub(crate) matches: Vec<Match>,
    pub(crate) backends: Vec<Share>,
    pub(crate) request_headers: HeaderEdits,
    pub(crate) response_headers: HeaderEdits,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) rewrite: Option<Rewrite>,
    /// What the route itself says; `Some(None)` is "no limit".
    pub(crate) request_timeout: Option<Option<Nanos>>,
    pub(crate) attempt_timeout: Option<Option<Nanos>>,
}

#[derive(Debug)]
pub(crate) struct TcpRule {
    pub(crate) name: String,
    pub(crate) backends: Vec<Share>,
}

/// A weighted backend as it was written.
#[derive(Debug)]
pub(crate) struct Share {
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    /// Why it cannot be served.
    pub(crate) invalid: Option<Box<str>>,
    pub(crate) request_headers: HeaderEdits,
}

impl Route {
    /// The services that its rules send to.
    pub(crate) fn services(&self) -> impl Iterator<Item = &str> {
        let shares = self.http.iter().flat_map(|r| &r.backends).chain(self.tcp.iter().flat_map(|r| &r.backends));
        shares.filter(|share| share.invalid.is_none()).map(|share| share.service.as_str())
    }
}

pub(crate) fn parse(name: &str, route: mesh::Route) -> Result<Route> {
    let parts: Vec<&str> = name.split('/').collect();
    let [kind, namespace, object] = parts[..] else {
        return Problem::new("", format!("the resource's name `{name}` is not `Kind/namespace/name`"));
    };
    let mut hosts = Vec::new();
    for (i, host) in route.hostnames.iter().enumerate() {
        hosts.push(hostname(host).within(|| format!("hostnames[{i}]"))?);
    }
    let mut http = Vec::new();
    for (i, rule) in route.http.into_iter().enumerate() {
        http.push(http_rule(i, rule, route.grpc).within(|| format!("http[{i}]"))?);
    }
    let mut tcp = Vec::new();
    for (i, rule) in route.tcp.into_iter().enumerate() {
        let name = if rule.name.is_empty() { i.to_string() } else { rule.name };
        tcp.push(TcpRule { name, backends: shares(rule.backends).within(|| format!("tcp[{i}]"))? });
    }
    for (i, parent) in route.parents.iter().enumerate() {
        if parent.port > u32::from(u16::MAX) {
            return Problem::new(format!("parents[{i}].port"), format!("{} is not a port", parent.port));
        }
    }
    Ok(Route {
        name: name.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        object: object.to_owned(),
        parents: route.parents,
        hosts,
        created: route.created_unix_ms,
        http,
        tcp,
    })
}

/// An exact name, `*.suffix`, or nothing for every host.
pub(crate) fn hostname(text: &str) -> Result<HostMatch> {
    if text.is_empty() {
        return Ok(HostMatch::Any);
    }
    match text.strip_prefix("*.") {
        Some(suffix) => Ok(HostMatch::Suffix(format!(".{}", problem::host("", suffix)?).into())),
        None => Ok(HostMatch::Exact(problem::host("", text)?)),
    }
}

fn http_rule(number: usize, rule: mesh::HttpRule, grpc: bool) -> Result<HttpRule> {
    let mut matches = Vec::new();
    for (i, one) in rule.matches.iter().enumerate() {
        matches.push(http_match(one, grpc).within(|| format!("matches[{i}]"))?);
    }
    if matches.is_empty() && grpc {
        matches.push(http_match(&mesh::HttpMatch::default(), true)?);
    }
    let timeout = |ms: Option<u64>| ms.map(|ms| (ms > 0).then(|| Nanos::from_millis(ms)));
    Ok(HttpRule {
        name: if rule.name.is_empty() { number.to_string() } else { rule.name },
        matches,
        backends: shares(rule.backends)?,
        request_headers: edits(rule.request_headers).within(|| "request_headers".into())?,
        response_headers: edits(rule.response_headers).within(|| "response_headers".into())?,
        redirect: rule.redirect.map(redirect).transpose().within(|| "redirect".into())?,
        rewrite: rule.rewrite.map(rewrite).transpose().within(|| "rewrite".into())?,
        request_timeout: timeout(rule.request_timeout_ms),
        attempt_timeout: timeout(rule.attempt_timeout_ms),
    })
}

fn http_match(one: &mesh::HttpMatch, grpc: bool) -> Result<Match> {
    use mesh::path_match::Kind;
    let kind = one.path.as_ref().map(|path| path.kind.as_ref());
    let path = match kind {
        None => PathMatch::Prefix("".into()),
        Some(Some(Kind::Exact(path))) => PathMatch::Exact(absolute("path.exact", path)?.into()),
        Some(Some(Kind::Prefix(path))) => {
            PathMatch::Prefix(absolute("path.prefix", path)?.trim_end_matches('/').into())
        }
        Some(Some(Kind::Regex(pattern))) => PathMatch::Regex(problem::regex("path.regex", pattern)?),
        Some(None) => {
            return Problem::new("path", "says none of exact, prefix and regex that this version knows");
        }
    };
    let method = match one.method.as_str() {
        "" => None,
        method => Some(problem::token("method", method).map(|()| method.into())?),
    };
    Ok(Match {
        path,
        method,
        headers: values(&one.headers, true).within(|| "headers".into())?,
        query: values(&one.query, false).within(|| "query".into())?,
        grpc,
    })
}

fn absolute<'a>(field: &str, path: &'a str) -> Result<&'a str> {
    match path.starts_with('/') {
        true => Ok(path),
        false => Problem::new(field, format!("`{}` does not begin with a slash", path.escape_debug())),
    }
}

/// Header or query matches.
pub(crate) fn values(list: &[mesh::ValueMatch], headers: bool) -> Result<Vec<ValueMatch>> {
    use mesh::value_match::Kind;
    let one = |one: &mesh::ValueMatch| {
        let name = match headers {
            true => problem::header_name("name", &one.name)?,
            false if one.name.is_empty() => return Problem::new("name", "is empty"),
            false => one.name.as_str().into(),
        };
        let value = match &one.kind {
            Some(Kind::Exact(text)) => ValueRule::Exact(text.as_str().into()),
            Some(Kind::Regex(pattern)) => ValueRule::Regex(problem::regex("regex", pattern)?),
            None => return Problem::new("", "says neither exact nor regex"),
        };
        Ok(ValueMatch { name, value })
    };
    list.iter().enumerate().map(|(i, value)| one(value).within(|| format!("[{i}]"))).collect()
}

fn shares(list: Vec<mesh::WeightedBackend>) -> Result<Vec<Share>> {
    list.into_iter().enumerate().map(|(i, share)| one_share(share).within(|| format!("backends[{i}]"))).collect()
}

fn one_share(share: mesh::WeightedBackend) -> Result<Share> {
    if share.weight > WEIGHT_LIMIT {
        return Problem::new("weight", format!("{} is more than {WEIGHT_LIMIT}", share.weight));
    }
    let invalid = (!share.invalid.is_empty()).then(|| share.invalid.into_boxed_str());
    let port = match invalid {
        // Nothing will be sent, so the rest need not make sense.
        Some(_) => 0,
        None => {
            problem::pair("service", &share.service)?;
            problem::port("port", share.port)?
        }
    };
    let request_headers = edits(share.request_headers).within(|| "request_headers".into())?;
    Ok(Share { service: share.service, port, weight: share.weight, invalid, request_headers })
}

fn edits(edits: Option<mesh::HeaderEdits>) -> Result<HeaderEdits> {
    let edits = edits.unwrap_or_default();
    let pairs = |field: &str, list: Vec<mesh::Header>| {
        let pair = |header: mesh::Header| {
            Ok((problem::header_name("name", &header.name)?, problem::header_value("value", &header.value)?))
        };
        list.into_iter()
            .enumerate()
            .map(|(i, h)| pair(h).within(|| format!("{field}[{i}]")))
            .collect::<Result<Vec<_>>>()
    };
    let remove = edits.remove.iter().enumerate();
    Ok(HeaderEdits {
        set: pairs("set", edits.set)?,
        add: pairs("add", edits.add)?,
        remove: remove
            .map(|(i, name)| problem::header_name("", name).within(|| format!("remove[{i}]")))
            .collect::<Result<_>>()?,
    })
}

fn path_edit(edit: Option<mesh::PathEdit>) -> Result<Option<PathEdit>> {
    use mesh::path_edit::Kind;
    let Some(edit) = edit else { return Ok(None) };
    // What goes into a request line must not be able to end it.
    let clean = |field: &str, path: String| match path.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(path.into_boxed_str()),
        false => Problem::new(field, format!("`{}` holds characters that a path cannot", path.escape_debug())),
    };
    match edit.kind {
        Some(Kind::Full(path)) => Ok(Some(PathEdit::Full(clean("full", absolute("full", &path)?.to_owned())?))),
        Some(Kind::Prefix(path)) => Ok(Some(PathEdit::Prefix(clean("prefix", path)?))),
        None => Problem::new("", "says neither full nor prefix"),
    }
}

fn redirect(redirect: mesh::Redirect) -> Result<Redirect> {
    let status = match redirect.status {
        0 => 302,
        status @ (301 | 302 | 303 | 307 | 308) => status as u16,
        other => {
            return Problem::new("status", format!("{other} is not one of 301, 302, 303, 307 and 308"));
        }
    };
    let scheme = match redirect.scheme.as_str() {
        "" => None,
        scheme @ ("http" | "https") => Some(scheme.into()),
        other => {
            return Problem::new("scheme", format!("`{}` is neither http nor https", other.escape_debug()));
        }
    };
    Ok(Redirect {
        scheme,
        hostname: optional_host("hostname", &redirect.hostname)?,
        port: if redirect.port == 0 { None } else { Some(problem::port("port", redirect.port)?) },
        path: path_edit(redirect.path).within(|| "path".into())?,
        status,
    })
}

fn rewrite(rewrite: mesh::Rewrite) -> Result<Rewrite> {
    Ok(Rewrite {
        hostname: optional_host("hostname", &rewrite.hostname)?,
        path: path_edit(rewrite.path).within(|| "path".into())?,
    })
}

fn optional_host(field: &str, name: &str) -> Result<Option<Box<str>>> {
    if name.is_empty() { Ok(None) } else { problem::host(field, name).map(Some) }
}

/// The hosts that both a listener and a route answer to; `None`: there is none, so the route is not attached here. An empty
/// list stands for every host.
pub(crate) fn intersect(listener: &HostMatch, route: &[HostMatch]) -> Option<Vec<HostMatch>> {
    if route.is_empty() {
        return Some(if *listener == HostMatch::Any { Vec::new() } else { vec![listener.clone()] });
    }
    let both = |host: &HostMatch| match (listener, host) {
        (HostMatch::Any, host) => Some(host.clone()),
        (listener, HostMatch::Any) => Some(listener.clone()),
        (HostMatch::Exact(a), HostMatch::Exact(b)) => (a == b).then(|| host.clone()),
        (HostMatch::Suffix(suffix), HostMatch::Exact(name)) => name.ends_with(&**suffix).then(|| host.clone()),
        (HostMatch::Exact(name), HostMatch::Suffix(suffix)) => name.ends_with(&**suffix).then(|| listener.clone()),
        (HostMatch::Suffix(a), HostMatch::Suffix(b)) if b.ends_with(&**a) => Some(host.clone()),
        (HostMatch::Suffix(a), HostMatch::Suffix(b)) => a.ends_with(&**b).then(|| listener.clone()),
    };
    let hosts: Vec<HostMatch> = route.iter().filter_map(both).collect();
    (!hosts.is_empty()).then_some(hosts)
}

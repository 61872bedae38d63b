//! A second reading of RFC 9112, slow and plain, to compare the codec with.

use crate::h1::{Asked, Fields, Framing};

type Read = Result<Option<(usize, Framing)>, &'static str>;

struct Head<'a> {
    length: usize,
    start: &'a [u8],
    fields: Vec<(String, &'a [u8])>,
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn head(data: &[u8]) -> Result<Option<Head<'_>>, &'static str> {
    let Some(end) = data.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = Vec::new();
    let mut rest = &data[..end + 2];
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    if lines.iter().any(|line| line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f)) {
        return Err("a control character");
    }
    let mut fields = Vec::new();
    for line in &lines[1..] {
        let colon = line.iter().position(|b| *b == b':').ok_or("no colon")?;
        if !is_token(&line[..colon]) {
            return Err("a bad name");
        }
        let is_space = |b: &u8| matches!(b, b' ' | b'\t');
        let value = &line[colon + 1..];
        let first = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
        let last = value.iter().rposition(|b| !is_space(b)).map_or(first, |at| at + 1);
        fields.push((String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase(), &value[first..last]));
    }
    Ok(Some(Head { length: end + 4, start: lines[0], fields }))
}

impl Head<'_> {
    fn all(&self, name: &str) -> Vec<&[u8]> {
        self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect()
    }

    fn declared(&self, old: bool) -> Result<Option<Framing>, &'static str> {
        match (self.all("transfer-encoding").as_slice(), self.all("content-length").as_slice()) {
            ([], []) => Ok(None),
            ([coding], []) if coding.eq_ignore_ascii_case(b"chunked") && !old => Ok(Some(Framing::Chunked)),
            ([], [length]) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
                let length = std::str::from_utf8(length).unwrap().parse().map_err(|_| "too long")?;
                Ok(Some(Framing::Length(length)))
            }
            _ => Err("bad framing"),
        }
    }
}

fn is_host(value: &str) -> bool {
    let (host, port) = value.rsplit_once(':').unwrap_or((value, ""));
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c));
    let is_port =
        port.is_empty() || (port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    let is_address = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    let whole = value
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    whole || ((is_name || is_address) && is_port && !(host.is_empty() && value.contains(':')))
}

/// Length and framing of a request's head.
pub(super) fn request(data: &[u8]) -> Read {
    let skipped = if data.starts_with(b"\r\n") { 2 } else { 0 };
    let data = &data[skipped..];
    if data.starts_with(b"\r\n") {
        return Err("empty lines");
    }
    let Some(head) = head(data)? else { return Ok(None) };
    let start = std::str::from_utf8(head.start).map_err(|_| "not text")?;
    let [method, target, version] = start.split(' ').collect::<Vec<_>>()[..] else { return Err("not three parts") };
    let old = match version {
        "HTTP/1.1" => false,
        "HTTP/1.0" => true,
        _ => return Err("version"),
    };
    if !is_token(method.as_bytes()) || method.len() > 32 || target.contains(['#', '\t']) {
        return Err("bad request line");
    }
    let lower = target.to_ascii_lowercase();
    let absolute = ["http://", "https://"].iter().find_map(|scheme| lower.strip_prefix(scheme));
    let port = |value: &str| value.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let valid = match method {
        "CONNECT" => is_host(target) && port(target).is_some_and(|port| port > 0),
        "OPTIONS" if target == "*" => true,
        _ if target.starts_with('/') => true,
        _ => absolute
            .map(|rest| rest.split(['/', '?']).next().unwrap())
            .is_some_and(|host| !host.is_empty() && is_host(host)),
    };
    if !valid {
        return Err("bad target");
    }
    match head.all("host").as_slice() {
        [] if old => {}
        [host] if std::str::from_utf8(host).is_ok_and(is_host) => {}
        _ => return Err("bad host"),
    }
    let framing = head.declared(old)?.unwrap_or(Framing::None);
    if method == "CONNECT" && !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err("a body in CONNECT");
    }
    Ok(Some((skipped + head.length, framing)))
}

/// Length and framing of a response's head.
pub(super) fn response(data: &[u8], asked: Asked) -> Read {
    if data.first().is_some_and(|b| *b != b'H') {
        return Err("not a response");
    }
    let Some(head) = head(data)? else { return Ok(None) };
    let line = head.start;
    let old = match line.get(..9) {
        Some(b"HTTP/1.1 ") => false,
        Some(b"HTTP/1.0 ") => true,
        _ => return Err("version"),
    };
    let digits = line.get(9..12).filter(|d| d.iter().all(u8::is_ascii_digit)).ok_or("status")?;
    let status: u16 = std::str::from_utf8(digits).unwrap().parse().unwrap();
    if status < 100 || !matches!(line.get(12), None | Some(b' ')) {
        return Err("status");
    }
    if status == 101 && !asked.upgrade {
        return Err("unasked");
    }
    if status == 101 || (asked.connect && (200..300).contains(&status)) {
        return Ok(Some((head.length, Framing::Tunnel)));
    }
    let declared = head.declared(old)?;
    if status < 200 || status == 204 {
        if declared == Some(Framing::Chunked) || (status < 200 && !matches!(declared, None | Some(Framing::Length(0))))
        {
            return Err("a body where there is none");
        }
        return Ok(Some((head.length, Framing::None)));
    }
    if asked.head || status == 304 {
        return Ok(Some((head.length, Framing::None)));
    }
    Ok(Some((head.length, declared.unwrap_or(Framing::UntilClose))))
}

/// The fields that a proxy passes on, names and values as they are.
pub(super) fn end_to_end(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let all: Vec<_> = fields.iter().map(|(name, value)| (text(name), text(value))).collect();
    let hop =
        ["host", "connection", "keep-alive", "te", "upgrade", "proxy-authorization", "trailer", "expect", "x-hop"];
    let is_hop = |name: &str| hop.contains(&name.to_ascii_lowercase().as_str());
    all.iter().filter(|(name, _)| !is_hop(name)).cloned().collect()
}

//! Texts with a grammar of their own: names, hosts, durations, expressions. Every reader returns what is wrong in a few
//! words that fit behind the field's name.

use std::net::IpAddr;
use std::time::Duration;

use regex::Regex;

type Checked<T> = Result<T, String>;

/// A label as DNS has it (RFC 1123): what namespaces, services and workloads are called.
pub(crate) fn label(text: &str) -> Checked<String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > 63 {
        Err("must have 1 to 63 characters".to_owned())
    } else if !text.chars().all(good) || text.starts_with('-') || text.ends_with('-') {
        Err("must be lower-case letters, digits and `-`, with a letter or digit at both ends".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// Labels joined by dots (RFC 1123): what every other object is called, and hosts.
pub(crate) fn subdomain(text: &str) -> Checked<String> {
    if text.is_empty() || text.len() > 253 {
        return Err("must have 1 to 253 characters".to_owned());
    }
    for part in text.split('.') {
        label(part).map_err(|why| format!("each part between dots {why}"))?;
    }
    Ok(text.to_owned())
}

/// A host name that is not an IP address, in lower case.
pub(crate) fn host(text: &str) -> Checked<String> {
    if text.parse::<IpAddr>().is_ok() {
        return Err("must be a host name, not an IP address".to_owned());
    }
    subdomain(text)
}

/// A host name, or `*.` and a host name.
pub(crate) fn host_pattern(text: &str) -> Checked<String> {
    match text.strip_prefix("*.") {
        Some(suffix) => host(suffix).map(|_| text.to_owned()),
        None if text.contains('*') => Err("may have `*` only as the whole first part: `*.example.com`".to_owned()),
        None => host(text),
    }
}

/// A port name (RFC 6335): at most 15 lower-case letters, digits and `-`, with at least one letter.
pub(crate) fn port_name(text: &str) -> Checked<String> {
    if text.len() > 15 {
        return Err("must have at most 15 characters".to_owned());
    }
    label(text)?;
    if !text.contains(|c: char| c.is_ascii_lowercase()) || text.contains("--") {
        return Err("must have a letter, and no two `-` together".to_owned());
    }
    Ok(text.to_owned())
}

/// A label's or annotation's key: an optional host name and `/`, then a name.
pub(crate) fn label_key(text: &str) -> Checked<()> {
    let name = match text.split_once('/') {
        Some((prefix, name)) => {
            subdomain(prefix)?;
            name
        }
        None => text,
    };
    if name.is_empty() { Err("must not be empty".to_owned()) } else { label_value(name) }
}

/// A label's value: empty, or up to 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
pub(crate) fn label_value(text: &str) -> Checked<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    if text.len() > 63 {
        Err("must have at most 63 characters".to_owned())
    } else if !text.chars().all(good) || !edge(text.chars().next()) || !edge(text.chars().last()) {
        Err("must be letters, digits, `-`, `_` and `.`, with a letter or digit at both ends".to_owned())
    } else {
        Ok(())
    }
}

/// Where an instance runs.
pub(crate) const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// Where an instance runs.
pub(crate) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// An instance's share of requests against others.
pub(crate) const WEIGHT_LABEL: &str = "heddle.dev/weight";
/// An instance's group: those of 0 are used first.
pub(crate) const PRIORITY_LABEL: &str = "heddle.dev/priority";

/// Whether the label `name`, if it is one that the mesh reads as a number, may be `value`.
pub(crate) fn number_label(name: &str, value: u32) -> Checked<()> {
    let (low, high) = match name {
        WEIGHT_LABEL => (1, 1_000_000),
        PRIORITY_LABEL => (0, 127),
        _ => return Ok(()),
    };
    match (low..=high).contains(&value) {
        true => Ok(()),
        false => Err(format!("is out of range: {low} to {high} is allowed")),
    }
}

/// The same for a value as it is written.
pub(crate) fn mesh_label(name: &str, value: &str) -> Checked<()> {
    if !matches!(name, WEIGHT_LABEL | PRIORITY_LABEL) {
        return Ok(());
    }
    value.parse().map_err(|_| "is not a whole number".to_owned()).and_then(|n| number_label(name, n))
}

/// A name with an upper bound and no odd characters, as identities and the like have.
pub(crate) fn printable(text: &str) -> Checked<String> {
    if text.is_empty() || text.len() > 1024 {
        Err("must have 1 to 1024 characters".to_owned())
    } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Err("must not have blanks or control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// A length of time as Gateway API writes it (GEP-2257): one to four numbers of up to five digits with a unit each: `h`,
/// `m`, `s` or `ms`.
pub(crate) fn duration(text: &str) -> Checked<Duration> {
    const FORM: &str = "must be a length of time such as `1h`, `1m30s` or `250ms` (whole numbers; h, m, s, ms)";
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("needs a unit: `{text}s` or `{text}ms`"));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(FORM)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        parts += 1;
        if number.len() > 5 || parts > 4 {
            return Err(FORM.to_owned());
        }
        let number: u64 = number.parse().map_err(|_| FORM)?;
        let millis = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(FORM.to_owned()),
        };
        total += Duration::from_millis(number * millis);
        rest = tail;
    }
    if parts == 0 { Err(FORM.to_owned()) } else { Ok(total) }
}

/// A regular expression that compiles when anchored (`^(?:…)$`) within the `regex` crate's own size limit (10 MiB).
pub(crate) fn regex(text: &str) -> Checked<String> {
    if text.len() > 1024 {
        return Err("must have at most 1024 characters".to_owned());
    }
    // Alone first: `a)|(b` is an expression only within the anchors, out of which it would break.
    match Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$"))) {
        Ok(_) => Ok(text.to_owned()),
        Err(regex::Error::CompiledTooBig(_)) => Err("compiles to more than 10 MiB; repeat less".to_owned()),
        Err(error) => {
            // The crate's message draws several lines; its last says what is wrong.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default();
            Err(format!("is not a regular expression: {}", why.strip_prefix("error: ").unwrap_or(why)))
        }
    }
}

/// Whether `c` may stand in a token (RFC 9110, 5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A header's name in lower case.
pub(crate) fn header_name(text: &str) -> Checked<String> {
    if text.is_empty() || text.len() > 256 {
        Err("must have 1 to 256 characters".to_owned())
    } else if text.chars().all(is_token) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is not a header name: letters, digits and !#$%&'*+-.^_`|~ are allowed".to_owned())
    }
}

/// A header's value: no control characters, no blanks around it.
pub(crate) fn header_value(text: &str) -> Checked<String> {
    if text.len() > 4096 {
        Err("must have at most 4096 characters".to_owned())
    } else if text.chars().any(|c| c.is_control() && c != '\t') {
        Err("must not have control characters".to_owned())
    } else if text.trim() != text {
        Err("must not begin or end with a blank".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

/// An HTTP method: a token, upper case as all registered ones are.
pub(crate) fn method(text: &str) -> Checked<String> {
    if text.is_empty() || text.len() > 64 || !text.chars().all(is_token) {
        Err("is not an HTTP method".to_owned())
    } else if text.chars().any(|c| c.is_ascii_lowercase()) {
        Err(format!("must be in upper case: {}", text.to_ascii_uppercase()))
    } else {
        Ok(text.to_owned())
    }
}

/// A path as Gateway API allows it in matches and edits: normal, absolute, without query and fragment.
pub(crate) fn path(text: &str) -> Checked<String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c);
    if text.len() > 1024 {
        return Err("must have at most 1024 characters".to_owned());
    }
    if !text.starts_with('/') {
        return Err("must begin with `/`".to_owned());
    }
    if let Some(c) = text.chars().find(|c| !good(*c)) {
        return Err(format!("must not have `{}`; percent-encode it", c.escape_debug()));
    }
    let lower = text.to_ascii_lowercase();
    for part in ["//", "/./", "/../", "%2f"] {
        if lower.contains(part) {
            return Err(format!("must not have `{part}`"));
        }
    }
    if text.ends_with("/..") || text.ends_with("/.") {
        return Err("must not end with `/.` or `/..`".to_owned());
    }
    Ok(text.to_owned())
}

/// A text with `*` nowhere but alone, at its start or at its end.
pub(crate) fn star_pattern(text: &str) -> Checked<String> {
    let inner = text.strip_suffix('*').or(text.strip_prefix('*')).unwrap_or(text);
    if inner.contains('*') { Err("may have one `*`, at its start or its end".to_owned()) } else { printable(text) }
}

/// An IP network: `10.0.0.0/8`, or an address alone.
pub(crate) fn network(text: &str) -> Checked<String> {
    const FORM: &str = "must be an IP network such as `10.0.0.0/8` or `fd00::/8`, or one address";
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| FORM)?;
    let width: u32 = if address.is_ipv4() { 32 } else { 128 };
    let bits: u32 = match bits {
        None => width,
        Some(bits) => bits.parse().ok().filter(|b| *b <= width).ok_or(FORM)?,
    };
    let all = match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    };
    if bits < width && all.trailing_zeros() < width - bits {
        return Err(format!("has bits set behind its first {bits}"));
    }
    Ok(format!("{address}/{bits}"))
}

/// The one of `known` that was probably meant by `text`.
pub(crate) fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// No more than these letters may be wrong, nor more than a third of them.
    const MISTAKES: usize = 3;
    known
        .into_iter()
        .filter(|k| k.len().abs_diff(text.len()) <= MISTAKES)
        .map(|k| (strsim::damerau_levenshtein(&text.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= (k.len() / 3).min(MISTAKES))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests;

//! What the engine sees of a request.

/// A request's head. Implemented by the HTTP/1 codec's head and by `http::request::Parts`, so that no decision needs a copy.
pub trait RequestHead {
    /// The method, as sent.
    fn method(&self) -> &str;
    /// The path without query, as sent (percent-encoding kept); `*` for an asterisk-form target.
    fn path(&self) -> &str;
    /// What follows `?`, if anything does.
    fn query(&self) -> Option<&str>;
    /// Host and optional port: the `:authority`, the absolute-form authority or the `Host` header.
    fn authority(&self) -> &str;
    /// The first value of the header `name` (lower case), trimmed.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// Shows `see` every value of the header `name`, trimmed, in order. As provided it is for heads that repeat none.
    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.header(name).into_iter().for_each(see);
    }
}

/// The host of an authority: without port, without the dot that ends a fully qualified name; an IPv6 address keeps its
/// brackets.
pub fn host(authority: &str) -> &str {
    let end = match authority.rfind(':') {
        // A colon before the closing bracket belongs to an IPv6 address.
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    };
    let host = &authority[..end];
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
pub(crate) mod tests;

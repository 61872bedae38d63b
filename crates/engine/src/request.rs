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
}

//! Heads, from HTTP/1 and HTTP/2 alike.

use engine::RequestHead;

use crate::h1;

/// A request's head.
#[derive(Clone, Copy)]
pub(crate) enum Head<'a> {
    /// Over HTTP/1.
    H1(&'a h1::Request),
    /// Over HTTP/2.
    H2(&'a http::request::Parts),
}

impl Head<'_> {
    /// Whether it is a gRPC request.
    pub(crate) fn is_grpc(&self) -> bool {
        self.header("content-type").is_some_and(is_grpc)
    }
}

/// Whether a content type says gRPC (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
pub(crate) fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

impl RequestHead for Head<'_> {
    fn method(&self) -> &str {
        match self {
            Head::H1(request) => request.method(),
            Head::H2(parts) => parts.method.as_str(),
        }
    }

    fn path(&self) -> &str {
        match self {
            Head::H1(request) => request.path(),
            Head::H2(parts) => parts.uri.path(),
        }
    }

    fn query(&self) -> Option<&str> {
        match self {
            Head::H1(request) => request.query(),
            Head::H2(parts) => parts.uri.query(),
        }
    }

    fn authority(&self) -> &str {
        match self {
            Head::H1(request) => request.authority(),
            Head::H2(parts) => match parts.uri.authority() {
                Some(authority) => authority.as_str(),
                None => parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
            },
        }
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        match self {
            Head::H1(request) => request.header(name),
            Head::H2(parts) => parts.headers.get(name).map(|value| value.as_bytes().trim_ascii()),
        }
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        match self {
            Head::H1(request) => request.each_value(name, see),
            Head::H2(parts) => {
                parts.headers.get_all(name).iter().for_each(|value| see(value.as_bytes().trim_ascii()));
            }
        }
    }
}

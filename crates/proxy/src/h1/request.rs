//! A request's head.

use super::{Fields, Framing, Problem, Version};
use crate::settings::Limits;

/// The form of a request target (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/path?query`
    #[default]
    Origin,
    /// `http://authority/path?query`
    Absolute,
    /// `host:port`, of CONNECT alone.
    Authority,
    /// `*`, of OPTIONS alone.
    Asterisk,
}

/// A request's head. Reuse one per connection: parsing keeps its buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    fields: Fields,
}

impl Request {
    /// Parses a head from the start of `input`, copying it. `Ok(Some(n))`: the head took `n` bytes. `Ok(None)`: more is needed;
    /// call again with the same bytes and those that follow (what was seen is not looked at again). After an error or to
    /// give up a half-read head, call [`Request::reset`].
    pub(crate) fn parse(
        &mut self,
        _input: &[u8],
        _limits: &Limits,
    ) -> Result<Option<usize>, Problem> {
        todo!()
    }

    /// Forgets everything but the memory.
    pub(crate) fn reset(&mut self) {
        todo!()
    }

    /// The version of the sender.
    pub(crate) fn version(&self) -> Version {
        todo!()
    }

    /// The form of the target.
    pub(crate) fn form(&self) -> Form {
        todo!()
    }

    /// The target as sent.
    pub(crate) fn target(&self) -> &str {
        todo!()
    }

    /// How the body that follows ends: `None`, `Length` or `Chunked`.
    pub(crate) fn framing(&self) -> Framing {
        todo!()
    }

    /// Whether the client wants to use the connection again.
    pub(crate) fn keep_alive(&self) -> bool {
        todo!()
    }

    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(crate) fn expects_continue(&self) -> bool {
        todo!()
    }

    /// The protocol that the client wants to switch to (`Connection: upgrade` and one `Upgrade` field), such as `websocket`.
    pub(crate) fn upgrade(&self) -> Option<&str> {
        todo!()
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }
}

impl engine::RequestHead for Request {
    fn method(&self) -> &str {
        todo!()
    }

    fn path(&self) -> &str {
        todo!()
    }

    fn query(&self) -> Option<&str> {
        todo!()
    }

    fn authority(&self) -> &str {
        todo!()
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }
}

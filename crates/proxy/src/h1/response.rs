//! A response's head.

use super::{Fields, Framing, Problem, Version};
use crate::settings::Limits;

/// A response's head. Reuse one per connection: parsing keeps its buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Response {
    fields: Fields,
}

impl Response {
    /// Parses a head from the start of `input`, as [`super::Request::parse`] does. `method` is the method of the request that
    /// it answers: the framing depends on it.
    pub(crate) fn parse(
        &mut self,
        _input: &[u8],
        _method: &str,
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

    /// The status code, 100 to 999.
    pub(crate) fn status(&self) -> u16 {
        todo!()
    }

    /// An interim response (1xx other than 101): forward it if the client is not HTTP/1.0, then parse the next head.
    pub(crate) fn is_interim(&self) -> bool {
        todo!()
    }

    /// How the body that follows ends.
    pub(crate) fn framing(&self) -> Framing {
        todo!()
    }

    /// Whether the connection may be used again once the body has ended.
    pub(crate) fn keep_alive(&self) -> bool {
        todo!()
    }

    /// The header fields.
    pub(crate) fn fields(&self) -> &Fields {
        &self.fields
    }
}

//! The control plane's end of delta xDS.
//!
//! A [`Publisher`] holds what there is to know; [`service`] serves it. A change costs work in proportion to the streams that
//! subscribe to what changed. A stream remembers names, not messages, for a peer that is slow, so the latest version wins.

pub(crate) mod publisher;
mod service;
pub(crate) mod stream;

use std::time::Duration;

use proto::discovery::Node;
use proto::mesh::Refusal;
use sha2::{Digest, Sha256};
use tonic::Status;

pub use publisher::Publisher;
pub(crate) use service::RESPONSE_LIMIT;
pub use service::{Server, service};

use crate::Kind;

/// Another name by which a resource may be asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alias {
    /// `cart`, `cart.shop.svc` or `10.0.0.1:80`.
    pub name: String,
    /// Only askers of this namespace may use it; `None`: everybody.
    pub namespace: Option<String>,
}

/// One version of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What it is.
    pub kind: Kind,
    /// Its canonical name.
    pub name: String,
    /// Hash of `body`.
    pub version: String,
    /// The encoded message.
    pub body: Vec<u8>,
    /// Its other names.
    pub aliases: Vec<Alias>,
}

impl Published {
    /// Encodes `message` and names its version after the bytes: the first 16 bytes of their SHA-256, in hexadecimal.
    pub fn new(kind: Kind, name: impl Into<String>, message: &impl prost::Message, aliases: Vec<Alias>) -> Published {
        let body = message.encode_to_vec();
        Published { kind, name: name.into(), version: version(&body), body, aliases }
    }
}

/// The version of a resource whose encoded message is `body`: half a SHA-256, which is as collision-resistant as anything
/// that an honest control plane could run into.
pub fn version(body: &[u8]) -> String {
    let digest = Sha256::digest(body);
    digest[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
        text
    })
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// One difference between what was published and what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This is now so.
    Upsert(Published),
    /// This is no more.
    Remove {
        /// What it was.
        kind: Kind,
        /// Its canonical name.
        name: String,
    },
}

/// Decides who may open a stream.
pub trait Admit: Send + Sync + 'static {
    /// The namespace of the asker's proved identity. `extensions` are the request's; whoever accepts connections puts the
    /// peer's identity there. The server itself then refuses a `node` of another namespace.
    ///
    /// # Errors
    ///
    /// The status that ends the stream.
    fn admit(&self, extensions: &tonic::Extensions, node: &Node) -> Result<String, Status>;
}

impl<F> Admit for F
where
    F: Fn(&tonic::Extensions, &Node) -> Result<String, Status> + Send + Sync + 'static,
{
    fn admit(&self, extensions: &tonic::Extensions, node: &Node) -> Result<String, Status> {
        self(extensions, node)
    }
}

/// What a proxy says of a resource that it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// It refuses this one.
    Refused {
        /// `namespace/name` of the proxy's workload.
        node: String,
        /// What was refused.
        kind: Kind,
        /// Which one and why.
        refusal: Refusal,
    },
    /// An earlier refusal is over: a later version was accepted, the resource was removed, or the proxy went away.
    Cleared {
        /// `namespace/name` of the proxy's workload.
        node: String,
        /// What was refused.
        kind: Kind,
        /// Its name.
        name: String,
    },
}

/// Limits of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// A stream is ended at this age, give or take a fifth, which bounds any divergence between the two ends.
    pub stream_age: Duration,
    /// Names one stream may subscribe to, over all kinds; beyond, it is ended with RESOURCE_EXHAUSTED.
    pub names_per_stream: usize,
    /// How long a new stream may take to say who it is.
    pub hello_timeout: Duration,
    /// A stream is told of changes once in so long where they come all the time, so that they go together. What a peer asks for is
    /// told at once.
    pub gather: Duration,
    /// So many times more often for a while: what changes now and then, and a mesh that starts, is told at once.
    pub burst: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            stream_age: Duration::from_secs(30 * 60),
            names_per_stream: 100_000,
            hello_timeout: Duration::from_secs(10),
            gather: Duration::from_millis(100),
            burst: 30,
        }
    }
}

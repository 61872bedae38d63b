//! Where objects come from: the [`Store`] that merges all sources, the [`Source`] trait, and the sources themselves.

mod files;
mod store;

pub use files::Files;
pub use store::{Change, Sink, Snapshot, Store, Subscription};

use std::future::Future;

/// Something that objects come from. It hands what it holds to its [`Sink`], then follows changes until it is dropped.
pub trait Source: Send + 'static {
    /// Runs until the source ends, normally never.
    fn run(self, sink: Sink) -> impl Future<Output = ()> + Send;
}

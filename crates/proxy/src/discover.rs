//! How the proxy learns what a destination is. Wired to the xDS client by the `heddle` binary.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use engine::balance::Backend;
use engine::snapshot::Slot;

/// Looks destinations up. Names are a host in lower case without port (`cart`, `cart.shop.svc.cluster.local`) or
/// `address:port`.
pub trait Discover: Send + Sync {
    /// The slot where `name` is published, starting a subscription if there is none. Single-flight: every caller of one name
    /// gets one slot. Bounded: `None` when too many names are held and none is idle (503 `overloaded`).
    fn slot(&self, name: &str) -> Option<Arc<Slot>>;

    /// Resolves when `slot` is no longer pending. The caller bounds the wait. A slot that nobody has read for long becomes
    /// pending again; whoever kept it calls this to have it kept up to date once more.
    fn resolved(&self, name: &str, slot: Arc<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// Whether nobody is there to say what a name means that is not known. Then what is not the mesh's by its looks is called without
    /// a word, as the mesh's settings allow: while these are not known either, it is false.
    fn alone(&self) -> bool;

    /// The backends that rules and connections hold now: those whose instances are checked, where a policy says so.
    fn backends(&self) -> Vec<Arc<Backend>>;
}

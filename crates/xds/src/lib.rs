//! Delta xDS, both ends, the session stream's client, and compile: resources → `engine::snapshot`.
//!
//! [`server`] hands resources to proxies, [`client`] keeps a proxy's copy of them, [`compile`] turns them into what the data
//! plane runs. `docs/architecture.md` lists what must hold between them.

pub mod client;
pub mod compile;
pub mod kind;
pub mod server;
pub mod session;

pub use kind::Kind;

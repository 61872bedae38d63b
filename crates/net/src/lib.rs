//! Sockets and identity: everything that the mesh does below HTTP.
//!
//! | module | what |
//! |---|---|
//! | [`spiffe`] | names of workloads |
//! | [`identity`] | a key, its certificate and the roots, swapped while in use |
//! | [`tls`] | handshakes between sidecars and with the control plane |
//! | [`ahead`] | reading in large pieces beneath TLS |
//! | [`listen`] | listeners per worker, the lock that keeps one address to one proxy, and who else has an address |
//! | [`original`] | where a redirected connection was meant to go |
//! | [`redirect`] | kernel rules that lead connections through a sidecar |
//! | [`dial`] | connections that notice when their peer is gone |
//! | [`block`] | the loopback addresses of a mesh on one machine |
//! | [`worker`] | one current-thread runtime per worker |
//! | [`schedule`] | how a worker asks the kernel for a processor |
//! | [`drain`] | ending without cutting work off |
//! | [`copy`] | bytes both ways between two connections |
//! | [`inside`] | namespaces in which everything is redirected to a sidecar outside |
//! | [`handoff`] | descriptors handed from one process to another |
//! | [`process`] | children that do not outlive their parent, and how many files a process may open |
//! | [`files`] | files that only their owner may read, replaced in one step |
//!
//! This is the only crate of the workspace in which `unsafe` may appear.

pub mod ahead;
pub mod block;
pub mod copy;
pub mod dial;
pub mod drain;
pub mod files;
pub mod grant;
pub mod handoff;
pub mod identity;
pub mod inside;
pub mod listen;
mod netlink;
pub mod original;
pub mod process;
pub mod redirect;
pub mod schedule;
pub mod spiffe;
pub mod tls;
pub mod worker;

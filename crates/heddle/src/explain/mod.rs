//! `heddle explain`: how one sidecar would send a request, and why.
//!
//! A sidecar answers ([`answer`]) with what it runs with at that moment: the same route table, the same policies and the same
//! endpoints that the next request would meet. The command shows it ([`table`]). In between it is JSON ([`model`]).

pub(crate) mod answer;
pub(crate) mod model;
mod policy;
pub(crate) mod table;

//! One module a kind, or a few kinds that share their parts: the struct, and how it is read.

pub(crate) mod authorization_policy;
pub(crate) mod gateway;
pub(crate) mod http_filter;
pub(crate) mod http_route;
pub(crate) mod mesh;
pub(crate) mod pod;
pub(crate) mod reference_grant;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod target;
pub(crate) mod traffic_policy;
pub(crate) mod workload;

#[cfg(test)]
mod tests;

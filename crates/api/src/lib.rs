//! The user's resources: kinds, parsing with source positions, defaulting, validation, status conditions.
//!
//! Pure: text in, objects and [`Diagnostic`]s out. [`parse`] reads one file, [`check`] looks at all objects together.
//! The shape of every kind as people write it is documented in `docs/resources.md`; the structs here are what is left after
//! defaulting and validation, so nobody downstream decides a default again.

mod check;
mod diagnostic;
mod kinds;
mod node;
mod object;
mod parse;
mod read;
mod status;
mod text;

pub use check::check;
pub use diagnostic::{Diagnostic, Severity};
pub use kinds::authorization_policy::{Action, AuthorizationPolicy, AuthorizationRule, Caller, Operation};
pub use kinds::gateway::{AllowedNamespaces, Gateway, Listener, ListenerProtocol};
pub use kinds::http_filter::{HeaderEdits, PathEdit, Redirect, Rewrite};
pub use kinds::http_route::{GrpcRoute, HttpMatch, HttpRoute, HttpRule, PathMatch, ValueMatch, ValueRule};
pub use kinds::mesh::{AccessLog, Mesh, MtlsMode, OutboundMode};
pub use kinds::pod::{
    Container, ContainerPort, Deployment, EnvValue, EnvVar, FieldRef, Job, PodTemplate, Probe, ProbeAction,
    RestartPolicy, StatefulSet,
};
pub use kinds::reference_grant::{GrantFrom, GrantTo, ReferenceGrant};
pub use kinds::route::{BackendRef, ParentKind, ParentRef, TcpRoute, TcpRule};
pub use kinds::service::{AppProtocol, Service, ServicePort};
pub use kinds::target::{TargetKind, TargetRef};
pub use kinds::traffic_policy::{
    Algorithm, Backoff, Budget, HealthCheck, HealthProbe, LoadBalancing, OutlierDetection, RequestKey, Retries,
    RetryCondition, SessionAffinity, Timeouts, TrafficPolicy,
};
pub use kinds::workload::{Locality, Standing, Workload, WorkloadPort};
pub use object::{Kind, Location, Meta, Object, ObjectKey, Spec};
pub use parse::{Failed, MAX_DOCUMENTS, MAX_FILE, Parsed, parse};
pub use read::PortRef;
pub use status::{Condition, ConditionStatus};

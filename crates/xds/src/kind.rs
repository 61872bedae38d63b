//! The kinds of resources that travel, in the order in which they may be sent.

use proto::type_url;

/// A kind of resource. The order is that of additions on a stream: what is depended upon comes first. Removals go the
/// other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum Kind {
    /// Mesh-wide settings.
    Trust,
    /// Traffic and authorization policies.
    Policy,
    /// HTTP, gRPC and TCP routes.
    Route,
    /// Instances of services.
    Endpoint,
    /// A proxy's own instance.
    Workload,
    /// Destinations.
    Service,
    /// Ways in.
    Gateway,
}

impl Kind {
    /// How many kinds there are.
    pub const COUNT: usize = 7;

    /// Every kind, in the order of additions.
    pub const ALL: [Kind; Kind::COUNT] =
        [Kind::Trust, Kind::Policy, Kind::Route, Kind::Endpoint, Kind::Workload, Kind::Service, Kind::Gateway];

    /// Its type URL.
    pub const fn url(self) -> &'static str {
        match self {
            Kind::Trust => type_url::TRUST,
            Kind::Policy => type_url::POLICY,
            Kind::Route => type_url::ROUTE,
            Kind::Endpoint => type_url::ENDPOINT,
            Kind::Workload => type_url::WORKLOAD,
            Kind::Service => type_url::SERVICE,
            Kind::Gateway => type_url::GATEWAY,
        }
    }

    /// The kind with this type URL, if it is one of ours.
    pub fn from_url(url: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

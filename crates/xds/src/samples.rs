//! Small resources for tests.

use proto::mesh;

use crate::Kind;
use crate::server::{Alias, Change, Published};

/// A service with port 80, known by its names as a control plane would publish them.
pub(crate) fn service(name: &str, routes: &[&str], policies: &[&str]) -> Published {
    let (namespace, object) = name.split_once('/').expect("a pair");
    let message = mesh::Service {
        namespace: namespace.into(),
        name: object.into(),
        ports: vec![mesh::ServicePort { port: 80, name: "http".into(), protocol: mesh::Protocol::Http1.into() }],
        routes: routes.iter().map(ToString::to_string).collect(),
        policies: policies.iter().map(ToString::to_string).collect(),
        ..mesh::Service::default()
    };
    let aliases = vec![
        Alias { name: object.into(), namespace: Some(namespace.into()) },
        Alias { name: format!("{object}.{namespace}"), namespace: None },
    ];
    Published::new(Kind::Service, name, &message, aliases)
}

/// An instance of `service` whose sidecar listens at `dial`.
pub(crate) fn endpoint(service: &str, workload: &str, dial: &str) -> Published {
    let namespace = service.split_once('/').expect("a pair").0;
    let message = mesh::Endpoint {
        service: service.into(),
        workload: format!("{namespace}/{workload}"),
        address: "127.7.0.1".into(),
        dial: dial.into(),
        identity: "spiffe://test/ns/shop/sa/default".into(),
        ports: vec![mesh::EndpointPort { service_port: 80, target_port: 8080 }],
        weight: 1,
        ..mesh::Endpoint::default()
    };
    Published::new(Kind::Endpoint, format!("{service}/{workload}"), &message, Vec::new())
}

/// A route of `parent` with one rule that sends everything to `backends`.
pub(crate) fn route(name: &str, parent: &str, backends: &[&str]) -> Published {
    let (namespace, object) = parent.split_once('/').expect("a pair");
    let share = |service: &&str| mesh::WeightedBackend {
        service: service.to_string(),
        port: 80,
        weight: 1,
        ..mesh::WeightedBackend::default()
    };
    let message = mesh::Route {
        parents: vec![mesh::RouteParent {
            kind: "Service".into(),
            namespace: namespace.into(),
            name: object.into(),
            ..mesh::RouteParent::default()
        }],
        http: vec![mesh::HttpRule { backends: backends.iter().map(share).collect(), ..mesh::HttpRule::default() }],
        ..mesh::Route::default()
    };
    Published::new(Kind::Route, name, &message, Vec::new())
}

/// A route whose expression does not compile.
pub(crate) fn bad_route(name: &str, parent: &str) -> Published {
    let mut message: mesh::Route = decode(&route(name, parent, &[parent]));
    message.origin = Some(mesh::Origin { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "bad".into() });
    message.http[0].matches = vec![mesh::HttpMatch {
        path: Some(mesh::PathMatch { kind: Some(mesh::path_match::Kind::Regex("/a)(b".into())) }),
        ..mesh::HttpMatch::default()
    }];
    Published::new(Kind::Route, name, &message, Vec::new())
}

/// A traffic policy on a service.
pub(crate) fn timeout(name: &str, service: &str, ms: u64) -> Published {
    let (namespace, object) = service.split_once('/').expect("a pair");
    let message = mesh::Policy {
        targets: vec![mesh::PolicyTarget {
            kind: "Service".into(),
            namespace: namespace.into(),
            name: object.into(),
            section: String::new(),
        }],
        kind: Some(mesh::policy::Kind::Traffic(mesh::TrafficRules {
            request_timeout_ms: Some(ms),
            ..mesh::TrafficRules::default()
        })),
        ..mesh::Policy::default()
    };
    Published::new(Kind::Policy, name, &message, Vec::new())
}

/// A workload that no policy concerns.
pub(crate) fn workload(name: &str) -> Published {
    let (namespace, object) = name.split_once('/').expect("a pair");
    let message = mesh::Workload { namespace: namespace.into(), name: object.into(), ..mesh::Workload::default() };
    Published::new(Kind::Workload, name, &message, Vec::new())
}

/// The mesh's settings.
pub(crate) fn trust(strict: bool) -> Published {
    let message = mesh::Trust { trust_domain: "test".into(), strict, ..mesh::Trust::default() };
    Published::new(Kind::Trust, proto::TRUST_NAME, &message, Vec::new())
}

/// The message inside.
pub(crate) fn decode<M: prost::Message + Default>(published: &Published) -> M {
    M::decode(published.body.as_slice()).expect("it was encoded as this")
}

/// That it is gone.
pub(crate) fn remove(kind: Kind, name: &str) -> Change {
    Change::Remove { kind, name: name.into() }
}

//! A real control plane, real files, real TLS over its Unix socket, the real session and xDS clients.

#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use common::{Plane, Proxy, ROUTE, SHOP, cart, connect, until, web};
use control::admin::model;
use engine::SeriesId;
use engine::snapshot::{Destination, Resolution};
use proto::mesh;
use proto::mesh::session_client::SessionClient;
use xds::session::Event;

/// An xDS client with the identity of `proxy`.
fn discovery(plane: &Plane, proxy: &Proxy, workload: &str) -> xds::client::Client {
    let settings = xds::client::Settings::new(workload);
    xds::client::Client::start(settings, plane.connector(&proxy.identity), Arc::new(|_| SeriesId(0)))
}

async fn destination(client: &xds::client::Client, name: &str) -> Option<Arc<Destination>> {
    let slot = client.slot(name).unwrap();
    tokio::time::timeout(common::PATIENCE, client.resolved(name, Arc::clone(&slot))).await.expect("an answer in time");
    match &**slot.get(engine::Nanos::default()) {
        Resolution::Found(destination) => Some(Arc::clone(destination)),
        _ => None,
    }
}

fn found(client: &xds::client::Client, name: &str) -> Option<Arc<Destination>> {
    match &**client.slot(name)?.get(engine::Nanos::default()) {
        Resolution::Found(destination) => Some(Arc::clone(destination)),
        _ => None,
    }
}

fn endpoints(destination: &Destination) -> Vec<String> {
    let set = destination.ports[0].backend.endpoints.load();
    set.endpoints().iter().map(|e| e.workload.to_string()).collect()
}

async fn instances(plane: &Plane) -> Vec<model::Instance> {
    plane.get("/v1/instances").await
}

/// Says `messages` on a stream of its own and returns what comes back until it ends.
async fn say(
    plane: &Plane,
    identity: &net::identity::Identity,
    messages: Vec<mesh::proxy_message::Kind>,
) -> Vec<mesh::control_message::Kind> {
    let channel = connect(plane.run_dir().join("control.sock"), identity.clone()).await.unwrap();
    let messages = messages.into_iter().map(|kind| mesh::ProxyMessage { kind: Some(kind) });
    let opened = SessionClient::new(channel).open(tokio_stream::iter(messages.collect::<Vec<_>>())).await;
    let mut answers = Vec::new();
    let mut stream = opened.unwrap().into_inner();
    while let Ok(Some(message)) = stream.message().await {
        answers.extend(message.kind);
    }
    answers
}

fn hello(workload: &str) -> mesh::proxy_message::Kind {
    mesh::proxy_message::Kind::Hello(mesh::Hello { workload: workload.into(), version: "test".into() })
}

fn request(csr: Vec<u8>, service_account: &str, token: &str) -> mesh::proxy_message::Kind {
    let service_account = service_account.into();
    mesh::proxy_message::Kind::CertificateRequest(mesh::CertificateRequest {
        csr,
        service_account,
        token: token.into(),
    })
}

#[track_caller]
fn refused(answers: &[mesh::control_message::Kind], code: &str) {
    match answers {
        [mesh::control_message::Kind::Problem(problem)] => {
            assert_eq!(problem.code, code, "{}", problem.message);
            assert!(problem.permanent && !problem.message.is_empty());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_instance_is_certified_registered_and_found_by_others() {
    // The grace after a start, in which no endpoint is removed, is over soon.
    let plane = Plane::start_with(SHOP, |c| c.grace = Duration::from_millis(300)).await;
    let mut one = plane.proxy(cart(1)).await;
    assert_eq!(one.event().await, Event::Certified);
    assert_eq!(one.event().await, Event::Registered);
    assert_eq!(one.identity.id().unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/cart");

    let mut web = plane.proxy(web()).await;
    web.registered().await;
    let client = discovery(&plane, &web, "shop/web-0");
    for name in ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local", "127.77.0.1:8080"] {
        let found = destination(&client, name).await.unwrap_or_else(|| panic!("{name} is not found"));
        until(name, async || endpoints(&found) == ["shop/cart-1"]).await;
    }
    assert!(destination(&client, "nothing.shop").await.is_none());

    let mut two = plane.proxy(cart(2)).await;
    two.registered().await;
    let cart = destination(&client, "cart").await.unwrap();
    until("the second instance arrives", async || endpoints(&cart) == ["shop/cart-1", "shop/cart-2"]).await;

    two.session.state(mesh::State::Draining, "going");
    two.session.close().await;
    until("a drained instance leaves", async || endpoints(&cart) == ["shop/cart-1"]).await;
    let listed = instances(&plane).await;
    let names: Vec<_> = listed.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["cart-1", "web-0"]);
    assert_eq!(listed[0].services, ["shop/cart"]);
    assert!(listed[0].connected && listed[0].state == model::InstanceState::Ready);
}

#[tokio::test]
async fn an_instance_that_is_lost_stays_for_its_grace() {
    let plane = Plane::start_with(SHOP, |c| c.grace = Duration::from_millis(700)).await;
    let mut one = plane.proxy(cart(1)).await;
    one.registered().await;
    drop(one.session);
    until("the loss is noticed", async || instances(&plane).await.iter().any(|i| !i.connected)).await;
    let took = until("the grace ends", async || instances(&plane).await.is_empty()).await;
    assert!(took >= Duration::from_millis(500), "{took:?}");
}

#[tokio::test]
async fn a_token_is_good_once_and_for_what_it_was_made() {
    let plane = Plane::start(SHOP).await;
    let identity = plane.identity();
    let csr = identity.csr().unwrap();
    let token = plane.token("shop/cart-1", "cart").await;

    let other = say(&plane, &identity, vec![hello("shop/cart-2"), request(csr.clone(), "cart", &token)]).await;
    refused(&other, "attestation_failed");
    let good = say(&plane, &identity, vec![hello("shop/cart-1"), request(csr.clone(), "cart", &token)]).await;
    assert!(matches!(good[..], [mesh::control_message::Kind::Certificate(_)]), "{good:?}");
    let again = say(&plane, &identity, vec![hello("shop/cart-1"), request(csr.clone(), "cart", &token)]).await;
    refused(&again, "attestation_failed");

    let token = plane.token("shop/cart-1", "cart").await;
    let wrong = say(&plane, &identity, vec![hello("shop/cart-1"), request(csr.clone(), "admin", &token)]).await;
    refused(&wrong, "attestation_failed");
    refused(&say(&plane, &identity, vec![hello("shop/cart-1"), request(csr, "cart", "")]).await, "attestation_failed");
}

#[tokio::test]
async fn a_proxy_whose_token_is_refused_takes_a_new_one() {
    let plane = Plane::start(SHOP).await;
    let nothing = || Box::new(mesh::Statistics::default);
    let mut proxy = plane.proxy_with(plane.identity(), cart(1), Some("stale".into()), nothing());
    let Event::Problem { code, permanent, .. } = proxy.event().await else { panic!("the token was taken") };
    assert_eq!((code.as_str(), permanent), ("attestation_failed", true));
    proxy.session.token(plane.token("shop/cart-1", "cart").await);
    proxy.registered().await;
}

#[tokio::test]
async fn nobody_is_served_without_a_certificate() {
    let plane = Plane::start(SHOP).await;
    let identity = plane.identity();
    let register = mesh::proxy_message::Kind::Registration(cart(1));
    refused(&say(&plane, &identity, vec![hello("shop/cart-1"), register.clone()]).await, "not_allowed");
    refused(&say(&plane, &identity, vec![register]).await, "bad_request");
    refused(&say(&plane, &identity, vec![hello("Not/A/Name")]).await, "bad_request");

    let channel = connect(plane.run_dir().join("control.sock"), identity).await.unwrap();
    let mut client =
        proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient::new(channel);
    let ask = proto::discovery::DeltaDiscoveryRequest { type_url: proto::type_url::TRUST.into(), ..Default::default() };
    let status = match client.delta_aggregated_resources(tokio_stream::once(ask)).await {
        Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn messages_and_streams_of_a_connection_are_bounded() {
    let plane = Plane::start(SHOP).await;
    let channel = connect(plane.run_dir().join("control.sock"), plane.identity()).await.unwrap();
    // A stream that lasts until its sender is dropped.
    let open = |first: Vec<mesh::ProxyMessage>| {
        let mut client = SessionClient::new(channel.clone());
        let (sender, messages) = tokio::sync::mpsc::channel(2);
        first.into_iter().for_each(|message| sender.try_send(message).unwrap());
        async move {
            let opened = client.open(tokio_stream::wrappers::ReceiverStream::new(messages)).await.unwrap();
            (sender, opened.into_inner())
        }
    };
    let message = |kind| mesh::ProxyMessage { kind: Some(kind) };
    let large = message(request(vec![0; 1024 * 1024], "cart", "x"));
    let (_sender, mut stream) = open(vec![message(hello("shop/cart-1")), large]).await;
    assert_eq!(stream.message().await.unwrap_err().code(), tonic::Code::OutOfRange);

    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(open(Vec::new()).await);
    }
    let more = open(Vec::new());
    tokio::pin!(more);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut more).await.is_err(), "16 are open");
    held.pop();
    // Sooner than those that say nothing are sent away.
    tokio::time::timeout(Duration::from_secs(5), more).await.expect("there is room again");
}

#[tokio::test]
async fn an_identity_may_only_register_its_own() {
    let plane = Plane::start(SHOP).await;
    let mut one = plane.proxy(cart(1)).await;
    one.registered().await;
    let register = mesh::proxy_message::Kind::Registration;
    let others = mesh::Registration { service_account: "admin".into(), ..cart(9) };
    refused(&say(&plane, &one.identity, vec![hello("shop/cart-9"), register(others)]).await, "not_allowed");
    let csr = one.identity.csr().unwrap();
    refused(&say(&plane, &one.identity, vec![hello("bank/cart-9")]).await, "not_allowed");
    refused(&say(&plane, &one.identity, vec![hello("shop/cart-1"), request(csr, "admin", "")]).await, "not_allowed");
    let foreign = mesh::Registration { services: vec!["bank/vault".into()], ..cart(9) };
    refused(&say(&plane, &one.identity, vec![hello("shop/cart-9"), register(foreign)]).await, "not_allowed");
}

/// Whatever the control plane forgets: the certificate says it.
#[tokio::test]
async fn a_certificate_is_of_one_workload_and_of_the_claims_of_its_token() {
    let mut plane = Plane::start(SHOP).await;
    let claims = control::claims::digest([("app", "cart")], []);
    let token = |claims: &str| format!(r#"{{"workload":"shop/cart-1","serviceAccount":"cart","claims":"{claims}"}}"#);
    assert_eq!(plane.post("/v1/tokens", &token("app=cart")).await.0, 400);
    let token = plane.token_for(&token(&claims)).await;
    let mut one = plane.proxy_with(plane.identity(), cart(1), Some(token), Box::new(mesh::Statistics::default));
    one.registered().await;
    let granted = net::grant::Grant { workload: "shop/cart-1".into(), claims: Some(claims) };
    assert_eq!(one.identity.grant().as_ref(), Some(&granted));

    let register = mesh::proxy_message::Kind::Registration;
    let label = mesh::Label { name: "app".into(), value: "vault".into() };
    let labelled = mesh::Registration { labels: vec![label], ..cart(1) };
    let joining = mesh::Registration { services: vec!["shop/vault".into()], ..cart(1) };
    let plain = mesh::Registration { labels: Vec::new(), ..cart(1) };
    for _ in 0..2 {
        for wrong in [labelled.clone(), joining.clone()] {
            refused(&say(&plane, &one.identity, vec![hello("shop/cart-1"), register(wrong)]).await, "not_allowed");
        }
        refused(&say(&plane, &one.identity, vec![hello("shop/cart-9"), register(cart(9))]).await, "not_allowed");
        for right in [plain.clone(), cart(1)] {
            let answers = say(&plane, &one.identity, vec![hello("shop/cart-1"), register(right)]).await;
            assert!(matches!(answers[..], [mesh::control_message::Kind::Registered(_)]), "{answers:?}");
        }
        plane.stop();
        plane.again().await;
    }
    let renewal = request(one.identity.csr().unwrap(), "cart", "");
    let answers = say(&plane, &one.identity, vec![hello("shop/cart-1"), renewal]).await;
    let [mesh::control_message::Kind::Certificate(certificate)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(net::grant::Grant::of(&certificate.chain[0]), Some(granted), "it is handed on");
}

#[tokio::test]
async fn certificates_are_renewed_and_expired_ones_refused() {
    let plane = Plane::start_with(SHOP, |c| c.certificate_life = Duration::from_secs(6)).await;
    let mut one = plane.proxy(cart(1)).await;
    one.registered().await;
    let first = one.identity.validity().unwrap().not_after;
    // The same certificate, held by somebody who does not renew it.
    let kept = tempfile::tempdir().unwrap();
    one.identity.save(kept.path()).unwrap();
    let old = net::identity::Identity::load(kept.path()).unwrap();
    while one.event().await != Event::Certified {}
    assert!(one.identity.validity().unwrap().not_after > first, "it was renewed before it ended");
    one.registered().await;
    assert_eq!(instances(&plane).await.len(), 1, "and it never left");
    until("the old one is refused", async || {
        let Ok(channel) = connect(plane.run_dir().join("control.sock"), old.clone()).await else { return true };
        SessionClient::new(channel).open(tokio_stream::empty()).await.is_err()
    })
    .await;
    assert!(std::time::SystemTime::now() >= first);
}

#[tokio::test]
async fn an_edit_reaches_proxies_fast_and_a_bad_one_changes_nothing() {
    let plane = Plane::start(SHOP).await;
    let mut watch = plane.watch().await;
    let start = watch.next().await;
    assert!(start.complete && start.problems.is_empty(), "{:?}", start.problems);
    assert_eq!((start.services.len(), start.deployments.len()), (1, 1));
    let mut web = plane.proxy(web()).await;
    web.registered().await;
    let client = discovery(&plane, &web, "shop/web-0");
    assert!(destination(&client, "cart").await.unwrap().ports[0].http.is_none());

    plane.edit(&format!("{SHOP}{ROUTE}"));
    let routed = || found(&client, "cart").is_some_and(|d| d.ports[0].http.is_some());
    let took = until("the route arrives", async || routed()).await;
    assert!(took < Duration::from_secs(1), "{took:?}");

    let bad = ROUTE.replace("port: 80", "prot: 80");
    plane.edit(&format!("{SHOP}{bad}"));
    let problem = loop {
        let now = watch.next().await;
        if let Some(problem) = now.problems.into_iter().find(|p| p.severity == api::Severity::Error) {
            break problem;
        }
    };
    assert!(problem.file.unwrap().ends_with("shop.yaml"));
    assert_eq!((problem.line, problem.column), (26, 32), "{}", problem.message);
    assert!(routed(), "the last good version stays");

    plane.edit(&format!("{SHOP}{ROUTE}"));
    until("it is mended", async || plane.get::<Vec<api::Diagnostic>>("/v1/problems").await.is_empty()).await;
    plane.edit(SHOP);
    until("the route goes", async || found(&client, "cart").is_some_and(|d| d.ports[0].http.is_none())).await;
}

#[tokio::test]
async fn a_restart_keeps_roots_and_loses_no_endpoint() {
    let mut plane = Plane::start(SHOP).await;
    let mut one = plane.proxy(cart(1)).await;
    one.registered().await;
    let mut web = plane.proxy(web()).await;
    web.registered().await;
    let client = discovery(&plane, &web, "shop/web-0");
    let cart = destination(&client, "cart").await.unwrap();
    until("the endpoint arrives", async || endpoints(&cart) == ["shop/cart-1"]).await;
    let roots = std::fs::read(plane.run_dir().join("roots.pem")).unwrap();

    plane.stop();
    assert!(!plane.run_dir().join("control.sock").exists(), "its sockets are gone");
    let mut connected = client.connected();
    tokio::time::timeout(common::PATIENCE, connected.wait_for(|c| !c)).await.unwrap().unwrap();
    plane.again().await;
    assert_eq!(std::fs::read(plane.run_dir().join("roots.pem")).unwrap(), roots);
    let mut lost = false;
    until("everybody is back", async || {
        lost |= endpoints(&cart) != ["shop/cart-1"];
        let back = instances(&plane).await.iter().filter(|i| i.connected).count();
        back == 2 && *client.connected().borrow()
    })
    .await;
    assert!(!lost, "no endpoint was removed");
    assert_eq!(found(&client, "cart").map(|d| endpoints(&d)), Some(vec!["shop/cart-1".to_owned()]));

    // The grace is for those who have not come back; who says goodbye is gone at once.
    one.session.state(mesh::State::Draining, "");
    one.session.close().await;
    until("the endpoint goes", async || endpoints(&cart).is_empty()).await;
}

#[tokio::test]
async fn a_first_state_with_errors_is_not_served_and_a_later_one_changes_nothing() {
    let mut plane = Plane::start(SHOP).await;
    let mut one = plane.proxy(cart(1)).await;
    one.registered().await;
    let mut web = plane.proxy(web()).await;
    web.registered().await;
    let client = discovery(&plane, &web, "shop/web-0");
    let cart = destination(&client, "cart").await.unwrap();
    until("the endpoint arrives", async || endpoints(&cart) == ["shop/cart-1"]).await;

    // Whatever the broken document was, a Mesh or a policy, a control plane that never saw it must not act as if it were not
    // there.
    plane.stop();
    plane.edit(&format!("{SHOP}---\nkind: Mesh\nspec: [\n"));
    plane.launch();
    until("it says what is wrong", async || {
        let problems: Option<Vec<api::Diagnostic>> = plane.try_get("/v1/problems").await;
        problems.is_some_and(|list| list.iter().any(api::Diagnostic::is_error))
    })
    .await;
    let health: model::Health = plane.get("/v1/health").await;
    assert!(!health.ready);
    assert!(!plane.run_dir().join("control.sock").exists(), "nobody is served");
    assert!(!plane.watch().await.next().await.complete, "a supervisor starts and stops nothing");
    assert_eq!(endpoints(&cart), ["shop/cart-1"], "what a proxy holds stays");

    plane.edit(SHOP);
    plane.ready().await;
    let back = async || instances(&plane).await.iter().filter(|i| i.connected).count() == 2;
    until("everybody is back", back).await;
    plane.edit("kind: [");
    until("the error is seen", async || plane.get_raw("/v1/problems").await.1.contains("not valid YAML")).await;
    let health: model::Health = plane.get("/v1/health").await;
    assert!(health.ready && destination(&client, "cart").await.is_some(), "the good state stays");
}

#[tokio::test]
async fn statistics_are_added_up() {
    let plane = Plane::start(SHOP).await;
    let report = || mesh::Statistics {
        routes: vec![mesh::RouteStatistics {
            direction: "outbound".into(),
            service: "shop/cart".into(),
            requests: 10,
            failures: 1,
            latency: vec![mesh::LatencyBucket { bucket: 50, count: 10 }],
            ..Default::default()
        }],
        endpoints: vec![mesh::EndpointStatistics {
            service: "shop/cart".into(),
            workload: "shop/cart-1".into(),
            requests: 10,
            score: 123.0,
            ..Default::default()
        }],
        ..Default::default()
    };
    let token = plane.token("shop/web-0", "web").await;
    let mut web = plane.proxy_with(plane.identity(), web(), Some(token), Box::new(report));
    web.registered().await;
    let mut seen = model::Stats::default();
    until("a second of it is in the window", async || {
        seen = plane.get("/v1/stats").await;
        seen.routes.first().is_some_and(|r| r.rps > 1.0) && seen.instances[0].certificate_age_seconds.is_some()
    })
    .await;
    assert_eq!(seen.routes[0].requests % 10, 0);
    assert!(seen.routes[0].p50_us.is_some());
    assert_eq!(seen.endpoints[0].score_us, Some(123.0));
    assert!((seen.endpoints[0].share - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn statistics_of_any_size_arrive_whole() {
    let plane = Plane::start(SHOP).await;
    let mut left = 2500;
    let report = move || {
        let rows = std::mem::take(&mut left);
        let row = |n| mesh::RouteStatistics {
            direction: "outbound".into(),
            service: "shop/cart".into(),
            route: format!("HTTPRoute/shop/cart/{n}"),
            requests: 1,
            ..Default::default()
        };
        mesh::Statistics { routes: (0..rows).map(row).collect(), ..Default::default() }
    };
    let token = plane.token("shop/web-0", "web").await;
    let mut web = plane.proxy_with(plane.identity(), web(), Some(token), Box::new(report));
    web.registered().await;
    until("every row is there", async || plane.get::<model::Stats>("/v1/stats").await.routes.len() == 2500).await;
}

#[tokio::test]
async fn proxies_may_come_over_tcp_and_the_mesh_names_its_trust_domain() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let taken = control::Config { listen: Some(address), ..control::Config::new(dir.path().join("run"), vec![]) };
    let error = control::run(taken, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains(&address.to_string()) && error.contains("choose another"), "{error}");
    drop(free);

    let mesh = "
---
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {trustDomain: shop.example}
";
    let plane = Plane::start_with(&format!("{SHOP}{mesh}"), |c| c.listen = Some(address)).await;
    let identity = plane.identity();
    let connector = {
        let identity = identity.clone();
        move || -> xds::client::Connecting {
            let identity = identity.clone();
            Box::pin(async move { common::over(tokio::net::TcpStream::connect(address).await?, identity).await })
        }
    };
    let options = xds::session::Options {
        identity: identity.clone(),
        registration: cart(1),
        version: "test".into(),
        token: Some(plane.token("shop/cart-1", "cart").await),
        explainer: None,
    };
    let (session, events) = xds::session::start(options, Arc::new(connector), Box::new(mesh::Statistics::default));
    let mut proxy = Proxy { session, events, identity };
    proxy.registered().await;
    assert_eq!(proxy.identity.id().unwrap().as_str(), "spiffe://shop.example/ns/shop/sa/cart");
}

#[tokio::test]
async fn the_admin_socket_answers() {
    let plane = Plane::start(&format!("{SHOP}{ROUTE}")).await;
    let mode = |path: &str| std::fs::metadata(plane.run_dir().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("admin.sock"), mode("ca"), mode("ca/key.pem")), (0o700, 0o600, 0o700, 0o600));

    let all: Vec<model::ObjectSummary> = plane.get("/v1/objects").await;
    assert_eq!(all.len(), 3);
    let routes: Vec<model::ObjectSummary> = plane.get("/v1/objects?kind=httproute&namespace=shop").await;
    assert_eq!(routes[0].conditions.len(), 3);
    let route: model::ObjectDetail = plane.get("/v1/objects/HTTPRoute/shop/cart").await;
    assert_eq!(route.resources[0].name, "HTTPRoute/shop/cart");
    assert_eq!(plane.get_raw("/v1/objects/HTTPRoute/shop/none").await.0, 404);
    assert_eq!(plane.get_raw("/v1/objects?kind=Pudding").await.0, 400);
    assert_eq!(plane.get_raw("/v2").await.0, 404);
    for body in ["", "{}", r#"{"workload":"cart","serviceAccount":"a"}"#, r#"{"workload":"s/c","serviceAccount":"A"}"#]
    {
        assert_eq!(plane.post("/v1/tokens", body).await.0, 400, "{body}");
    }
    let own = r#"{"workload":"heddle-system/control","serviceAccount":"control"}"#;
    assert_eq!(plane.post("/v1/tokens", own).await.0, 400, "nobody gets the control plane's identity");
    assert_eq!(plane.post("/v1/tokens", &"x".repeat(20_000)).await.0, 413);
    for (headers, status) in [(64, 404), (65, 400)] {
        let headers = vec![r#"["x", "y"]"#; headers].join(", ");
        let question = format!(r#"{{"service": "shop/none", "headers": [{headers}]}}"#);
        assert_eq!(plane.post("/v1/explain", &question).await.0, status);
    }
}

#[tokio::test]
async fn a_second_control_plane_and_open_permissions_are_refused() {
    let mut plane = Plane::start(SHOP).await;
    let second = control::run(plane.config.clone(), std::future::pending()).await.unwrap_err().to_string();
    assert!(second.contains("another control plane") && second.contains(&std::process::id().to_string()), "{second}");
    plane.stop();

    let key = plane.run_dir().join("ca/key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = control::run(plane.config.clone(), std::future::pending()).await.unwrap_err().to_string();
    assert!(open.contains("chmod 600"), "{open}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(plane.run_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = control::run(plane.config.clone(), std::future::pending()).await.unwrap_err().to_string();
    assert!(open.contains("chmod 700"), "{open}");
}

//! Client and server over real HTTP/2 connections.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::snapshot::{Resolution, Slot};
use engine::{Nanos, SeriesId};
use proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use proto::mesh;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status, Streaming};

use crate::Kind;
use crate::client::{Client, ConnectError, Connecting, Settings};
use crate::samples::{bad_route, endpoint, remove, route, service, trust, workload};
use crate::server::Change::Upsert;
use crate::server::{Alias, Options, Published, Publisher, Report};

/// A control plane that can be stopped and started again, elsewhere.
#[derive(Clone, Default)]
struct Control {
    address: Arc<Mutex<Option<String>>>,
}

struct Running {
    publisher: Publisher,
    reports: mpsc::Receiver<Report>,
    /// Its tasks run apart, so that all of its connections end with it.
    runtime: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Control {
    fn start(&self, publisher: Publisher, options: Options) -> Running {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        *self.address.lock().unwrap() = Some(format!("http://{}", listener.local_addr().unwrap()));
        let (sender, reports) = mpsc::channel(16);
        let admit = |_: &tonic::Extensions, _: &Node| Ok::<_, Status>("shop".to_owned());
        let service = crate::server::service(publisher.clone(), admit, sender, options);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        Running { publisher, reports, runtime: Some(runtime) }
    }

    fn kill(&self, running: Running) {
        *self.address.lock().unwrap() = None;
        drop(running);
    }

    fn connect(&self) -> Connecting {
        let address = self.address.lock().unwrap().clone();
        Box::pin(async move {
            let address = address.ok_or_else(|| ConnectError::from("nobody is there"))?;
            Ok(Endpoint::from_shared(address)?.connect().await?)
        })
    }

    fn client(&self, settings: Settings) -> Client {
        let control = self.clone();
        Client::start(settings, move || control.connect(), Arc::new(|_| SeriesId(0)))
    }
}

fn settings() -> Settings {
    Settings { backoff_base: Duration::from_millis(5), ..Settings::new("shop/front-1") }
}

/// Waits until `condition` holds; a test that waits in vain fails.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.is_ok(), "never: {what}");
}

async fn resolved(client: &Client, name: &str) -> Arc<Slot> {
    let slot = client.slot(name).expect("there is room");
    let resolved = client.resolved(name, slot.clone());
    assert!(tokio::time::timeout(Duration::from_secs(20), resolved).await.is_ok(), "{name} is never resolved");
    slot
}

fn get(slot: &Slot) -> Resolution {
    Resolution::clone(&slot.get(Nanos(0)))
}

fn instances(slot: &Slot) -> usize {
    match get(slot) {
        Resolution::Found(destination) => destination.ports[0].backend.endpoints.load().endpoints().len(),
        _ => 0,
    }
}

fn publish(publisher: &Publisher, list: impl IntoIterator<Item = Published>) {
    publisher.apply(list.into_iter().map(Upsert).collect());
}

fn shop() -> Vec<Published> {
    vec![
        trust(true),
        workload("shop/front-1"),
        service("shop/cart", &["HTTPRoute/shop/r"], &[]),
        route("HTTPRoute/shop/r", "shop/cart", &["shop/cart"]),
        endpoint("shop/cart", "cart-1", "127.7.0.2:15006"),
    ]
}

#[tokio::test]
async fn the_control_plane_dies_and_comes_back_and_nothing_changes() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(settings());
    let slot = resolved(&client, "cart").await;
    let unknown = resolved(&client, "nothing").await;
    assert!(matches!(get(&unknown), Resolution::NotFound));
    let Resolution::Found(before) = get(&slot) else { panic!("not found") };
    until("inbound", || client.live().inbound.load().is_some()).await;
    assert!(client.live().mesh.load().strict);
    control.kill(running);
    let mut connected = client.connected();
    connected.wait_for(|connected| !connected).await.unwrap();
    assert_eq!(instances(&slot), 1);
    // The new one has another instance, and does not know yet that the old one is there.
    let running = control.start(Publisher::new(Duration::from_secs(600)), Options::default());
    publish(&running.publisher, shop().into_iter().filter(|p| p.kind != Kind::Endpoint));
    publish(&running.publisher, [endpoint("shop/cart", "cart-2", "127.7.0.3:15006")]);
    until("the new instance", || instances(&slot) == 2).await;
    assert!(matches!(get(&slot), Resolution::Found(now) if Arc::ptr_eq(&now, &before)));
    running.publisher.settled();
    until("the old instance is removed", || instances(&slot) == 1).await;
}

#[tokio::test]
async fn an_endpoint_that_is_known_to_be_gone_is_removed_within_the_grace() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    publish(&running.publisher, [endpoint("shop/cart", "cart-2", "127.7.0.3:15006")]);
    let client = control.client(settings());
    let slot = resolved(&client, "cart").await;
    until("both", || instances(&slot) == 2).await;
    control.kill(running);
    let mut connected = client.connected();
    connected.wait_for(|connected| !connected).await.unwrap();

    let running = control.start(Publisher::new(Duration::from_secs(600)), Options::default());
    publish(&running.publisher, shop());
    connected.wait_for(|connected| *connected).await.unwrap();
    running.publisher.apply(vec![remove(Kind::Endpoint, "shop/cart/cart-1")]);
    until("the first goes, the second is not known yet", || instances(&slot) == 1).await;
    publish(&running.publisher, [endpoint("shop/cart", "cart-1", "127.7.0.2:15006")]);
    until("it comes back", || instances(&slot) == 2).await;
    running.publisher.apply(vec![remove(Kind::Endpoint, "shop/cart/cart-1")]);
    until("and goes again", || instances(&slot) == 1).await;
}

#[tokio::test]
async fn a_name_that_appears_later_is_found() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, [trust(true)]);
    let client = control.client(settings());
    let slot = resolved(&client, "cart.shop").await;
    assert!(matches!(get(&slot), Resolution::NotFound));
    publish(&running.publisher, shop());
    until("found", || instances(&slot) == 1).await;
    running.publisher.apply(vec![remove(Kind::Service, "shop/cart")]);
    until("gone", || matches!(get(&slot), Resolution::NotFound)).await;
}

#[tokio::test]
async fn the_series_of_what_is_published_are_in_use() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let made = Arc::new(Mutex::new(Vec::new()));
    let series = {
        let made = made.clone();
        Arc::new(move |key: &crate::compile::SeriesKey| {
            let mut made = made.lock().unwrap();
            let known = made.iter().position(|known| known == key);
            SeriesId(known.unwrap_or_else(|| (made.len(), made.push(key.clone())).0) as u32)
        })
    };
    let client = Client::start(
        settings(),
        {
            let control = control.clone();
            move || control.connect()
        },
        series,
    );
    resolved(&client, "cart").await;
    until("inbound", || client.live().inbound.load().is_some()).await;
    let used = || {
        let made = made.lock().unwrap();
        let mut used: Vec<_> = client
            .series_in_use()
            .iter()
            .map(|id| &made[id.0 as usize])
            .map(|k| (k.direction, k.route.clone()))
            .collect();
        used.sort_by_key(|(direction, route)| (*direction as u8, route.clone()));
        used
    };
    let inbound = (crate::compile::Direction::Inbound, String::new());
    let outbound = |route: &str| (crate::compile::Direction::Outbound, route.to_owned());
    assert_eq!(used(), [inbound.clone(), outbound(""), outbound("HTTPRoute/shop/r/0")]);
    running.publisher.apply(vec![remove(Kind::Service, "shop/cart")]);
    until("only the inbound side is left", || used() == [inbound.clone()]).await;
}

#[tokio::test]
async fn refusals_reach_the_control_plane_and_end() {
    let control = Control::default();
    let mut running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(settings());
    resolved(&client, "cart").await;
    publish(&running.publisher, [bad_route("HTTPRoute/shop/r", "shop/cart")]);
    let Some(Report::Refused { node, refusal, .. }) = running.reports.recv().await else { panic!("not refused") };
    assert_eq!((node.as_str(), refusal.name.as_str()), ("shop/front-1", "HTTPRoute/shop/r"));
    drop(client);
    let Some(Report::Cleared { name, .. }) = running.reports.recv().await else { panic!("not cleared") };
    assert_eq!(name, "HTTPRoute/shop/r");
    until("the stream is closed", || running.publisher.streams() == 0).await;
}

#[tokio::test]
async fn an_old_stream_is_ended_and_opened_again() {
    let control = Control::default();
    let options = Options { stream_age: Duration::from_millis(20), ..Options::default() };
    let running = control.start(Publisher::new(Duration::ZERO), options);
    publish(&running.publisher, shop());
    let client = control.client(settings());
    let slot = resolved(&client, "cart").await;
    let mut connected = client.connected();
    for n in 2..6 {
        connected.wait_for(|connected| !connected).await.unwrap();
        publish(&running.publisher, [endpoint("shop/cart", &format!("cart-{n}"), "127.7.0.3:15006")]);
        until("the change", || instances(&slot) == n).await;
    }
}

fn kept(directory: &Path) -> Settings {
    Settings { store: Some(directory.join("resources.bin")), store_every: Duration::from_millis(5), ..settings() }
}

#[tokio::test]
async fn it_starts_without_a_control_plane_from_what_it_kept() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resources.bin");
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(kept(directory.path()));
    resolved(&client, "cart").await;
    until("inbound", || client.live().inbound.load().is_some()).await;
    control.kill(running);
    let mut connected = client.connected();
    drop(client);
    // The task saves before it ends, and its end closes the channel.
    while connected.changed().await.is_ok() {}
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let client = control.client(kept(directory.path()));
    assert_eq!(instances(&client.slot("cart").unwrap()), 1, "at once");
    assert!(client.live().inbound.load().is_some());
    assert_eq!(&*client.live().mesh.load().trust_domain, "test");
    // And goes on from there.
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    publish(&running.publisher, [endpoint("shop/cart", "cart-2", "127.7.0.3:15006")]);
    let slot = client.slot("cart").unwrap();
    until("the change", || instances(&slot) == 2).await;
    control.kill(running);
    let mut connected = client.connected();
    drop(client);
    while connected.changed().await.is_ok() {}

    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for bytes in [&whole[..whole.len() - 1], &whole[..20], b"", b"something else", &damaged] {
        std::fs::write(&file, bytes).unwrap();
        let client = control.client(kept(directory.path()));
        assert!(matches!(get(&client.slot("cart").unwrap()), Resolution::Pending));
        assert!(client.live().inbound.load().is_none());
    }
    std::fs::write(&file, &whole).unwrap();
    let other = control.client(Settings { workload: "shop/other".into(), ..kept(directory.path()) });
    assert!(matches!(get(&other.slot("cart").unwrap()), Resolution::Pending), "another workload's");
}

#[tokio::test]
async fn what_a_successor_keeps_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(kept(directory.path()));
    client.leave_store();
    resolved(&client, "cart").await;
    let mut connected = client.connected();
    drop(client);
    // Otherwise it saves before it ends, and its end closes the channel.
    while connected.changed().await.is_ok() {}
    assert!(!directory.path().join("resources.bin").exists());
}

#[tokio::test]
async fn what_it_keeps_is_what_it_serves_even_where_the_control_plane_forgot_the_instance() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(kept(directory.path()));
    let slot = resolved(&client, "cart").await;
    until("inbound", || client.live().inbound.load().is_some()).await;
    // A control plane that was started again knows the instance only once it has registered again.
    running.publisher.apply(vec![remove(Kind::Workload, "shop/front-1")]);
    publish(&running.publisher, [endpoint("shop/cart", "cart-2", "127.7.0.3:15006")]);
    until("the change", || instances(&slot) == 2).await;
    control.kill(running);
    let mut connected = client.connected();
    drop(client);
    while connected.changed().await.is_ok() {}

    let client = control.client(kept(directory.path()));
    assert!(client.live().inbound.load().is_some());
}

#[tokio::test]
async fn what_is_not_complete_is_not_kept_in_the_place_of_what_was() {
    let directory = tempfile::tempdir().unwrap();
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(kept(directory.path()));
    resolved(&client, "cart").await;
    until("inbound", || client.live().inbound.load().is_some()).await;
    let mut connected = client.connected();
    drop(client);
    while connected.changed().await.is_ok() {}
    let client = control.client(kept(directory.path()));
    let slot = client.slot("cart").unwrap();
    // A service that names a route which is not there yet; what was published before it goes on.
    publish(&running.publisher, [service("shop/cart", &["HTTPRoute/shop/later"], &[])]);
    publish(&running.publisher, [endpoint("shop/cart", "cart-2", "127.7.0.3:15006")]);
    until("the change", || instances(&slot) == 2).await;
    control.kill(running);
    let mut connected = client.connected();
    drop(client);
    while connected.changed().await.is_ok() {}
    let client = control.client(kept(directory.path()));
    assert!(matches!(get(&client.slot("cart").unwrap()), Resolution::Found(_)));
}

#[tokio::test]
async fn names_are_bounded_and_idle_ones_make_room() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let idle = Duration::from_millis(100);
    let client = control.client(Settings { names: 2, idle, ..settings() });
    let cart = resolved(&client, "cart").await;
    let alias = resolved(&client, "cart.shop").await;
    assert!(client.slot("third").is_none());
    assert!(Arc::ptr_eq(&client.slot("cart").unwrap(), &cart), "one slot a name");
    // Whoever holds a dropped slot sees it pending, and asks again through the very same one.
    until("cart is dropped", || matches!(get(&cart), Resolution::Pending)).await;
    until("its other name is dropped", || matches!(get(&alias), Resolution::Pending)).await;
    let again = client.resolved("cart", cart.clone());
    assert!(Arc::ptr_eq(&client.slot("cart").unwrap(), &cart));
    again.await;
    assert_eq!(instances(&cart), 1);
    // One that is read stays.
    let read = std::cell::Cell::new(10_000_000_000_u64);
    let until_read = Instant::now() + idle * 4;
    until("it was read for long enough", || {
        read.set(read.get() + 2_000_000_000);
        assert!(matches!(**cart.get(Nanos(read.get())), Resolution::Found(_)));
        Instant::now() > until_read
    })
    .await;
    assert!(client.slot("third").is_some());
}

#[tokio::test]
async fn what_nobody_could_say_again_is_kept() {
    let idle = Duration::from_millis(100);
    let client = |control: &Control| control.client(Settings { idle, ..settings() });
    let (gone, there) = (Control::default(), Control::default());
    let running = gone.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let alone = client(&gone);
    let kept = resolved(&alone, "cart").await;
    gone.kill(running);
    let mut connected = alone.connected();
    connected.wait_for(|connected| !connected).await.unwrap();
    // Another client forgets the same several times meanwhile.
    let running = there.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let served = client(&there);
    for _ in 0..3 {
        let slot = resolved(&served, "cart").await;
        until("it is dropped", || matches!(get(&slot), Resolution::Pending)).await;
    }
    assert_eq!(instances(&kept), 1);
    // As soon as somebody is there again, what is not read is dropped.
    let running = gone.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    until("it is dropped here too", || matches!(get(&kept), Resolution::Pending)).await;
}

#[tokio::test]
async fn names_that_are_not_the_meshs_give_way_to_others() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let client = control.client(Settings { names: 8, ..settings() });
    let cart = resolved(&client, "cart").await;
    let often = resolved(&client, "192.0.2.1:443").await;
    for port in 1..=20_u32 {
        let now = Nanos(u64::from(port) * 2_000_000_000);
        let outside = resolved(&client, &format!("192.0.2.9:{port}")).await;
        assert!(matches!(**outside.get(now), Resolution::NotFound));
        // Whoever holds one that gave way sees it pending, and asks again; one that is read stays.
        assert!(matches!(**often.get(now), Resolution::NotFound), "{port}");
        assert!(matches!(get(&cart), Resolution::Found(_)), "{port}");
    }
    let alias = resolved(&client, "cart.shop").await;
    assert_eq!(instances(&alias), 1);
    assert!(matches!(get(&cart), Resolution::Found(_)));
}

#[tokio::test]
async fn a_name_is_asked_for_once_whoever_asks() {
    let control = Control::default();
    let client = control.client(settings());
    let slot = client.slot("cart").unwrap();
    let waiting: Vec<_> = (0..50).map(|_| client.resolved("cart", client.slot("cart").unwrap())).collect();
    assert!(matches!(get(&slot), Resolution::Pending), "no answer is not `not found`");
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    for waiting in waiting {
        tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap();
    }
    assert_eq!(instances(&slot), 1);
}

/// A peer that speaks the protocol by itself.
async fn peer(control: &Control) -> (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>) {
    let channel: Channel = control.connect().await.unwrap();
    let (requests, outgoing) = mpsc::channel(8);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await.unwrap();
    (requests, responses.into_inner())
}

fn request(node: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: node.into(), cluster: String::new() }),
        type_url: Kind::Service.url().into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[tokio::test]
async fn a_peer_must_say_who_it_is_and_stay_within_limits() {
    let control = Control::default();
    let options = Options { names_per_stream: 3, ..Options::default() };
    let running = control.start(Publisher::new(Duration::ZERO), options);
    let long = "x".repeat(2000);
    let cases: [(&str, &[&str], Code); 6] = [
        ("other/front-1", &[], Code::PermissionDenied),
        ("shop/", &[], Code::InvalidArgument),
        ("", &[], Code::InvalidArgument),
        ("shop/front-1", &["a", "b", "c", "d"], Code::ResourceExhausted),
        ("shop/front-1", &[""], Code::InvalidArgument),
        ("shop/front-1", &[&long], Code::InvalidArgument),
    ];
    for (node, names, code) in cases {
        let (requests, mut responses) = peer(&control).await;
        requests.send(request(node, names)).await.unwrap();
        assert_eq!(responses.message().await.unwrap_err().code(), code, "{node} {}", names.len());
    }
    until("no stream is left", || running.publisher.streams() == 0).await;
}

#[tokio::test]
async fn messages_are_bounded_both_ways() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let (requests, mut responses) = peer(&control).await;
    requests.send(request("shop/front-1", &["cart.shop"])).await.unwrap();
    assert!(responses.message().await.unwrap().is_some());
    let name = "x".repeat(1000);
    let names: Vec<&str> = std::iter::repeat_n(name.as_str(), (16 << 20) / name.len()).collect();
    requests.send(request("shop/front-1", &names)).await.unwrap();
    assert_eq!(responses.message().await.unwrap_err().code(), Code::OutOfRange);

    // What no proxy would take is not sent.
    let huge = mesh::Service { namespace: "shop".into(), name: "x".repeat(64 << 20), ..mesh::Service::default() };
    let alias = Alias { name: "huge".into(), namespace: None };
    publish(&running.publisher, [Published::new(Kind::Service, "shop/huge", &huge, vec![alias])]);
    let (requests, mut responses) = peer(&control).await;
    requests.send(request("shop/front-1", &["huge"])).await.unwrap();
    assert_eq!(responses.message().await.unwrap_err().code(), Code::OutOfRange);
    until("no stream is left", || running.publisher.streams() == 0).await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_sent_away() {
    let control = Control::default();
    let options = Options { hello_timeout: Duration::from_millis(20), ..Options::default() };
    let _running = control.start(Publisher::new(Duration::ZERO), options);
    let (_silent, mut responses) = peer(&control).await;
    assert_eq!(responses.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn everything_can_be_subscribed_to_and_nonces_are_kept_apart() {
    let control = Control::default();
    let running = control.start(Publisher::new(Duration::ZERO), Options::default());
    publish(&running.publisher, shop());
    let (requests, mut responses) = peer(&control).await;
    requests.send(request("shop/front-1", &["*"])).await.unwrap();
    let first = responses.message().await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 1);
    // Without acknowledgement nothing more of the kind comes; one with another nonce is none.
    publish(&running.publisher, [service("shop/v2", &[], &[])]);
    let ack = |nonce: &str| DeltaDiscoveryRequest {
        type_url: Kind::Service.url().into(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(ack("another")).await.unwrap();
    // A kind that nobody knows does no harm, and another kind is not held up.
    requests
        .send(DeltaDiscoveryRequest { type_url: "unknown".into(), ..DeltaDiscoveryRequest::default() })
        .await
        .unwrap();
    requests.send(question()).await.unwrap();
    let second = responses.message().await.unwrap().unwrap();
    assert_eq!(second.type_url, Kind::Trust.url());
    requests.send(ack(&first.nonce)).await.unwrap();
    let third = responses.message().await.unwrap().unwrap();
    assert_eq!(third.resources[0].name, "shop/v2");
    assert_ne!(third.nonce, first.nonce);
}

fn acknowledgement(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// A question about the resource that every peer may know.
fn question() -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: Kind::Trust.url().into(), ..request("", &[proto::TRUST_NAME]) }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| &*resource.name).collect()
}

#[tokio::test]
async fn changes_that_follow_soon_are_told_together_and_questions_answered_at_once() {
    let control = Control::default();
    for (gather, asks) in [(Duration::from_secs(2), false), (Duration::from_secs(3600), true)] {
        let running = control.start(Publisher::new(Duration::ZERO), Options { gather, burst: 1, ..Options::default() });
        publish(&running.publisher, shop());
        let (requests, mut responses) = peer(&control).await;
        requests.send(request("shop/front-1", &["*"])).await.unwrap();
        let begun = Instant::now();
        let first = responses.message().await.unwrap().unwrap();
        requests.send(acknowledgement(&first)).await.unwrap();
        for name in ["shop/v2", "shop/v3"] {
            publish(&running.publisher, [service(name, &[], &[])]);
            // Meanwhile another peer is served, so there was time to tell this one.
            let (requests, mut responses) = peer(&control).await;
            requests.send(request("shop/front-2", &["*"])).await.unwrap();
            responses.message().await.unwrap().unwrap();
        }
        if asks {
            requests.send(question()).await.unwrap();
        }
        let mut told = responses.message().await.unwrap().unwrap();
        if asks {
            assert_eq!(told.type_url, Kind::Trust.url());
            told = responses.message().await.unwrap().unwrap();
        } else {
            assert!(begun.elapsed() >= gather, "{:?}", begun.elapsed());
        }
        assert_eq!(names(&told), ["shop/v2", "shop/v3"]);
        control.kill(running);
    }
}

#[tokio::test]
async fn after_a_quiet_time_so_many_changes_are_told_at_once() {
    const BURST: u32 = 5;
    let control = Control::default();
    let options = Options { gather: Duration::from_secs(3600), burst: BURST, ..Options::default() };
    let running = control.start(Publisher::new(Duration::ZERO), options);
    publish(&running.publisher, shop());
    let (requests, mut responses) = peer(&control).await;
    requests.send(request("shop/front-1", &["*"])).await.unwrap();
    let first = responses.message().await.unwrap().unwrap();
    requests.send(acknowledgement(&first)).await.unwrap();
    // The answer counted too.
    for number in 1..BURST {
        let name = format!("shop/at-once-{number}");
        publish(&running.publisher, [service(&name, &[], &[])]);
        let told = responses.message().await.unwrap().unwrap();
        assert_eq!(names(&told), [name]);
        requests.send(acknowledgement(&told)).await.unwrap();
    }
    for name in ["shop/v2", "shop/v3"] {
        publish(&running.publisher, [service(name, &[], &[])]);
    }
    requests.send(question()).await.unwrap();
    assert_eq!(responses.message().await.unwrap().unwrap().type_url, Kind::Trust.url());
    assert_eq!(names(&responses.message().await.unwrap().unwrap()), ["shop/v2", "shop/v3"]);
    control.kill(running);
}

#[tokio::test]
async fn questions_do_not_hold_changes_up() {
    let control = Control::default();
    let gather = Duration::from_millis(200);
    let running = control.start(Publisher::new(Duration::ZERO), Options { gather, burst: 1, ..Options::default() });
    publish(&running.publisher, shop());
    let (requests, mut responses) = peer(&control).await;
    for number in 0..300 {
        requests.send(request("shop/front-1", &[&format!("shop/none-{number}")])).await.unwrap();
        let answer = responses.message().await.unwrap().unwrap();
        requests.send(acknowledgement(&answer)).await.unwrap();
    }
    requests.send(request("shop/front-1", &["shop/v2"])).await.unwrap();
    let answer = responses.message().await.unwrap().unwrap();
    requests.send(acknowledgement(&answer)).await.unwrap();
    publish(&running.publisher, [service("shop/v2", &[], &[])]);
    let published = Instant::now();
    let told = responses.message().await.unwrap().unwrap();
    assert_eq!(names(&told), ["shop/v2"]);
    // The questions alone would have filled a minute.
    assert!(published.elapsed() < Duration::from_secs(20), "{:?}", published.elapsed());
    control.kill(running);
}

//! A small mesh in one process: sidecars with real sockets and certificates, and destinations that the test publishes itself.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::authorize::Authorizer;
use engine::balance::{Backend, Dial, Endpoint, EndpointSet, Health, Load, Locality};
use engine::edit::HeaderEdits;
use engine::policy::{BalancePolicy, TrafficPolicy};
use engine::retry::RetryBudget;
use engine::route::{Backends, RouteInput, RouteTable, Rule, WeightedBackend};
use engine::snapshot::{Destination, DestinationPort, Inbound, InboundPort, Live, Mesh, Resolution, Slot, TcpRule};
use engine::{Protocol, SeriesId};
use net::identity::Identity;
use proxy::settings::{Limits, ServiceListener};
use proxy::{Clock, Discover, Parts, Running, Settings};
use telemetry::metrics::{Direction, Registry, SeriesKey};
use testkit::address;
use testkit::ca::{Ca, Leaf};
use testkit::raw::Raw;
use tokio::sync::watch;

/// Destinations by name. A name that nobody published is answered with "there is none", unless it is to stay open.
#[derive(Default)]
pub(crate) struct Names {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    /// Names that nobody answers.
    pub(crate) silent: Mutex<Vec<String>>,
    /// There is no control plane.
    pub(crate) alone: AtomicBool,
    /// Backends whose instances are checked.
    backends: Mutex<Vec<Arc<Backend>>>,
}

impl Names {
    pub(crate) fn publish(&self, name: &str, destination: Destination) {
        self.entry(name).set(Resolution::Found(Arc::new(destination)));
    }

    fn entry(&self, name: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(name.to_owned()).or_insert_with(|| {
            let slot = Arc::new(Slot::default());
            if !self.silent.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|silent| silent == name) {
                slot.set(Resolution::NotFound);
            }
            slot
        }))
    }
}

impl Discover for Names {
    fn slot(&self, name: &str) -> Option<Arc<Slot>> {
        Some(self.entry(name))
    }

    fn resolved(&self, _name: &str, slot: Arc<Slot>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            while matches!(**slot.get(engine::Nanos(0)), Resolution::Pending) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        self.backends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes the routes of a service from its own instances.
pub(crate) type Routes<'a> = &'a dyn Fn(&Arc<Backend>) -> Vec<RouteInput>;

/// What every sidecar of a test shares.
pub(crate) struct World {
    pub(crate) ca: Ca,
    pub(crate) names: Arc<Names>,
    pub(crate) clock: Clock,
    pub(crate) registry: Arc<Registry>,
}

impl World {
    pub(crate) fn new() -> World {
        World { ca: Ca::new(), names: Arc::default(), clock: Clock::start(), registry: Registry::new() }
    }

    /// The identity of a service account in namespace `shop`.
    pub(crate) fn identity(&self, account: &str) -> Identity {
        self.ca.issue(&Leaf::of("shop", account))
    }

    /// Starts a sidecar.
    pub(crate) fn start(&self, settings: Settings, identity: Identity, live: Arc<Live>) -> Sidecar {
        self.start_with(settings, identity, live, Vec::new(), watch::channel(true).1)
    }

    /// Starts a sidecar that was given these listeners and takes connections once `open` is true.
    pub(crate) fn start_with(
        &self,
        settings: Settings,
        identity: Identity,
        live: Arc<Live>,
        listeners: Vec<TcpListener>,
        open: watch::Receiver<bool>,
    ) -> Sidecar {
        let (drain, watch) = net::drain::channel();
        let running = proxy::start(Parts {
            settings: settings.clone(),
            discover: Arc::clone(&self.names) as Arc<dyn Discover>,
            live: Arc::clone(&live),
            identity,
            clock: self.clock,
            registry: Arc::clone(&self.registry),
            access_log: None,
            drain: watch.clone(),
            drain_out: watch,
            open,
            listeners,
            inside: None,
        })
        .expect("the addresses are our own");
        Sidecar { settings, live, drain, running: Some(running) }
    }

    /// A sidecar that sends: a forward proxy, without an application.
    pub(crate) fn client(&self, change: impl FnOnce(&mut Settings)) -> Sidecar {
        let mut settings = settings("shop/client-0");
        settings.outbound = Some(address::free());
        change(&mut settings);
        self.start(settings, self.identity("client"), live(None))
    }

    /// A sidecar that receives for an application at `application`, as `shop/cart-0`.
    pub(crate) fn server(&self, application: SocketAddr, protocol: Protocol, authorizer: Authorizer) -> Sidecar {
        self.server_named("cart-0", application, protocol, authorizer)
    }

    /// [`World::server`] with this identity, which lets everybody in.
    pub(crate) fn server_as(&self, identity: Identity, application: SocketAddr, protocol: Protocol) -> Sidecar {
        self.serving("cart-0", identity, application, protocol, Authorizer::default())
    }

    pub(crate) fn server_named(
        &self,
        workload: &str,
        application: SocketAddr,
        protocol: Protocol,
        authorizer: Authorizer,
    ) -> Sidecar {
        self.serving(workload, self.identity("cart"), application, protocol, authorizer)
    }

    fn serving(
        &self,
        workload: &str,
        identity: Identity,
        application: SocketAddr,
        protocol: Protocol,
        authorizer: Authorizer,
    ) -> Sidecar {
        let mut settings = settings(&format!("shop/{workload}"));
        settings.application = application.ip();
        settings.inbound = Some(address::free());
        let key = SeriesKey { direction: Direction::Inbound, service: "shop/cart".into(), route: "".into() };
        let series = self.registry.series(&key);
        let inbound = Inbound {
            workload: settings.workload.as_str().into(),
            ports: vec![InboundPort { port: application.port(), protocol, series }],
            authorizer,
            series,
        };
        self.start(settings, identity, live(Some(inbound)))
    }

    /// Publishes `cart` port 80 with these endpoints.
    pub(crate) fn publish(&self, protocol: Protocol, endpoints: Vec<Endpoint>) -> Arc<Backend> {
        self.publish_with(protocol, endpoints, TrafficPolicy::default(), None)
    }

    pub(crate) fn publish_with(
        &self,
        protocol: Protocol,
        endpoints: Vec<Endpoint>,
        policy: TrafficPolicy,
        routes: Option<Routes<'_>>,
    ) -> Arc<Backend> {
        let backend = backend("shop/cart", 80, protocol, endpoints);
        self.names.backends.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&backend));
        let key = SeriesKey { direction: Direction::Outbound, service: "shop/cart".into(), route: "".into() };
        let series = self.registry.series(&key);
        let table = routes.map(|routes| RouteTable::new(routes(&backend)));
        self.names.publish("cart", destination("shop/cart", 80, protocol, table, &backend, policy, series));
        backend
    }

    /// One client's sidecar and one server's, in front of `application`.
    pub(crate) fn pair(&self, application: SocketAddr, protocol: Protocol) -> (Sidecar, Sidecar) {
        let server = self.server(application, protocol, Authorizer::default());
        self.publish(protocol, vec![server.endpoint(application.port())]);
        (self.client(|_| {}), server)
    }
}

/// A running sidecar; ends with its value.
pub(crate) struct Sidecar {
    pub(crate) settings: Settings,
    pub(crate) live: Arc<Live>,
    drain: net::drain::Drain,
    running: Option<Running>,
}

impl Sidecar {
    /// Where applications send to.
    pub(crate) fn outbound(&self) -> SocketAddr {
        self.settings.outbound.expect("it sends")
    }

    /// Where sidecars send to.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.settings.inbound.expect("it receives")
    }

    /// This sidecar as an endpoint for the application's `port`.
    pub(crate) fn endpoint(&self, port: u16) -> Endpoint {
        let (namespace, workload) = self.settings.workload.split_once('/').expect("it is qualified");
        let dial = Dial::Mesh {
            address: self.inbound(),
            sni: format!("p{port}.{workload}.{namespace}.heddle").into(),
            identity: "spiffe://mesh.test/ns/shop/sa/cart".into(),
        };
        endpoint(workload, dial)
    }

    /// A connection to the forward proxy.
    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(self.outbound())
    }

    /// Begins to drain.
    pub(crate) fn drain(&self, grace: Duration) {
        self.drain.begin(grace);
    }

    /// Waits until it takes nothing more.
    pub(crate) fn shut(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(self.drain.shut());
    }

    /// Waits until it has ended, and says how many connections were cut off.
    pub(crate) fn ended(mut self) -> usize {
        self.end()
    }

    fn end(&mut self) -> usize {
        let Some(running) = self.running.take() else { return 0 };
        let drain = &self.drain;
        let end = async move {
            let cut_off = drain.drained().await;
            running.join().await.expect("no worker panics");
            cut_off
        };
        // On a thread of its own, since a test may be asynchronous itself.
        std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            scope.spawn(move || runtime.block_on(end)).join().expect("it ends")
        })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.drain.begin(Duration::ZERO);
        if !std::thread::panicking() {
            self.end();
        }
    }
}

pub(crate) fn settings(workload: &str) -> Settings {
    Settings {
        workload: workload.to_owned(),
        application: IpAddr::from([127, 0, 0, 1]),
        inbound: None,
        outbound: None,
        redirected: Vec::new(),
        redirected_inbound: Vec::new(),
        keep_source: false,
        reserved: Vec::new(),
        services: Vec::new(),
        gateway: Vec::new(),
        upstream_proxy: None,
        workers: 1,
        limits: Limits::default(),
    }
}

/// A local address that stands for `cart` port 80.
pub(crate) fn listener(settings: &mut Settings) -> SocketAddr {
    let listen = address::free();
    settings.services.push(ServiceListener { listen, service: "cart".to_owned(), port: 80 });
    listen
}

pub(crate) fn live(inbound: Option<Inbound>) -> Arc<Live> {
    let live = Live::default();
    live.inbound.store(inbound.map(Arc::new));
    live.mesh.store(Arc::new(Mesh { trust_domain: "mesh.test".into(), ..Mesh::default() }));
    Arc::new(live)
}

pub(crate) fn endpoint(workload: &str, dial: Dial) -> Endpoint {
    Endpoint {
        workload: format!("shop/{workload}").into(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        dial,
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        health: Health::Ready,
        load: Load::new(),
    }
}

/// An endpoint without a sidecar.
pub(crate) fn plain(address: SocketAddr) -> Endpoint {
    endpoint(&format!("plain-{}", address.port()), Dial::Plain(address))
}

pub(crate) fn backend(service: &str, port: u16, protocol: Protocol, endpoints: Vec<Endpoint>) -> Arc<Backend> {
    let endpoints = endpoints.into_iter().map(Arc::new).collect();
    let set = EndpointSet::new(endpoints, BalancePolicy::default(), &Locality::default());
    Arc::new(Backend::new(service, port, protocol, set))
}

pub(crate) fn to(backend: &Arc<Backend>) -> Backends {
    Backends::new([WeightedBackend {
        weight: 1,
        target: Ok(Arc::clone(backend)),
        request_headers: HeaderEdits::default(),
    }])
}

pub(crate) fn rule(name: &str, backends: Backends, policy: TrafficPolicy, series: SeriesId) -> Rule {
    Rule {
        name: name.into(),
        redirect: None,
        rewrite: None,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        backends,
        budget: Arc::new(RetryBudget::new(&policy.retry)),
        policy: Arc::new(policy),
        series,
    }
}

pub(crate) fn destination(
    name: &str,
    port: u16,
    protocol: Protocol,
    http: Option<RouteTable>,
    backend: &Arc<Backend>,
    policy: TrafficPolicy,
    series: SeriesId,
) -> Destination {
    let tcp = TcpRule { name: "".into(), backends: to(backend), policy: Arc::new(policy.clone()), series };
    let port = DestinationPort {
        port,
        protocol,
        http,
        tcp: Arc::new(tcp),
        implicit: Arc::new(rule("", to(backend), policy, series)),
        backend: Arc::clone(backend),
    };
    Destination { name: name.into(), addresses: Vec::new(), ports: vec![port] }
}

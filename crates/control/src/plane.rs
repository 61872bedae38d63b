//! Puts a control plane together and runs it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::{Kind, Spec};
use net::identity::Identity;
use net::spiffe;
use proto::discovery::Node;
use proto::mesh::session_server::SessionServer;
use rustls::pki_types::CertificateDer;
use sources::{Snapshot, Source as _, Store, Subscription};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Server;
use xds::server::{Publisher, Report};

use crate::admin::{self, Admin};
use crate::ca::Authority;
use crate::runtime::Runtime;
use crate::serve::{Acceptor, Peer};
use crate::session::{Service, Sessions};
use crate::tokens::Tokens;
use crate::world::World;
use crate::{Config, Error, report};

/// Largest message of a session stream: a second of statistics of 1,000 rows is about 200 KiB.
const SESSION_MESSAGE: usize = 1024 * 1024;
/// Largest request of an xDS stream. A proxy that reconnects names everything that it holds.
const DISCOVERY_MESSAGE: usize = 16 * 1024 * 1024;
/// Streams on one connection; a proxy opens one.
const STREAMS: u32 = 16;
/// A peer that has sent nothing for so long is asked whether it lives, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What proxies refuse and has not been noted yet.
const REPORTS: usize = 256;
/// How often the control plane looks whether its own certificate is to be renewed, at most.
const RENEWAL_CHECK: Duration = Duration::from_secs(60);

/// Runs a control plane until `shutdown` resolves, then takes its sockets away. Connections of proxies end with the runtime
/// that this was called in.
///
/// # Errors
/// At once, with cause and way out, when the runtime directory is held by another control plane or has permissions that are
/// too wide, when the authority in it cannot be used, or an address is taken.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    let mesh_name = config.mesh.clone();
    let mut runtime = Runtime::take(&config.runtime_dir)?;
    let text = |e: &dyn std::fmt::Display| Error(e.to_string());
    let authority = Authority::open(&config.runtime_dir.join("ca"), SystemTime::now()).map_err(|e| text(&e))?;
    let authority = Arc::new(authority);
    let roots = config.runtime_dir.join("roots.pem");
    net::files::write_private(&roots, authority.roots_pem().as_bytes()).map_err(|e| text(&e))?;

    let tcp = match config.listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|e| {
            Error(format!("cannot listen at {address}: {e}; end what holds it, or choose another address"))
        })?),
        None => None,
    };

    let mut tasks = JoinSet::new();
    let store = Store::new();
    tasks.spawn(sources::Files::new(config.paths.clone()).run(store.sink()));
    let world = Arc::new(World::new(&config, authority.roots()));
    let mut subscription = store.subscribe();
    world.objects(store.snapshot());
    let tokens = Arc::new(Tokens::new(config.token_life));
    let admin = Admin {
        world: Arc::clone(&world),
        tokens: Arc::clone(&tokens),
        mesh: config.mesh.clone(),
        started: SystemTime::now(),
    };
    let admin_socket = runtime.listen("admin.sock")?;
    tasks.spawn(admin::serve(admin_socket, admin::router(admin)));
    tasks.spawn(report::run(Arc::clone(&world)));
    tokio::pin!(shutdown);
    tokio::select! {
        () = good(&mut subscription, &world) => {}
        () = &mut shutdown => {
            tasks.shutdown().await;
            return Ok(());
        }
    }
    let trust_domain = trust_domain(&world.state().snapshot);
    let identity = own_identity(&authority, &trust_domain, &config)?;
    // The grace begins when proxies can come back.
    let publisher = Publisher::new(config.grace);
    world.begin(publisher.clone(), &trust_domain);

    let control = runtime.listen("control.sock")?;
    let (reports, mut reported) = mpsc::channel::<Report>(REPORTS);
    let sessions = Arc::new(Sessions {
        world: Arc::clone(&world),
        authority: Arc::clone(&authority),
        tokens,
        trust_domain: trust_domain.clone(),
        certificate_life: config.certificate_life,
    });
    let discovery = xds::server::service(publisher, admit, reports, xds::server::Options::default());
    let (acceptor, connections) = Acceptor::new(identity.clone());
    let server = Server::builder()
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(discovery.max_decoding_message_size(DISCOVERY_MESSAGE))
        .add_service(SessionServer::new(Service(sessions)).max_decoding_message_size(SESSION_MESSAGE))
        .serve_with_incoming(ReceiverStream::new(connections));
    tasks.spawn(acceptor.run(control, tcp));
    tasks.spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the gRPC server has ended");
        }
    });
    tasks.spawn({
        let world = Arc::clone(&world);
        async move {
            while let Some(change) = subscription.changed().await {
                world.objects(change.snapshot);
            }
        }
    });
    tasks.spawn({
        let world = Arc::clone(&world);
        async move {
            while let Some(report) = reported.recv().await {
                world.proxy_said(report);
            }
        }
    });
    tasks.spawn(expire(world));
    tasks.spawn(renew(authority, identity, trust_domain, config));
    tracing::info!(mesh = %mesh_name, "the control plane serves");

    shutdown.await;
    tasks.shutdown().await;
    drop(runtime);
    Ok(())
}

/// Takes snapshots until one was read whole and without errors. What could not be read may have been the Mesh, or a policy
/// that keeps somebody out, so nothing is served without it: proxies keep the configuration that they hold. Later errors are
/// another matter, for there is a good state to keep then.
async fn good(subscription: &mut Subscription, world: &World) {
    let mut told = false;
    loop {
        let snapshot = world.state().snapshot.clone();
        let errors = snapshot.problems.values().flatten().filter(|problem| problem.is_error()).count();
        if snapshot.loaded && errors == 0 {
            return;
        }
        if snapshot.loaded && !told {
            told = true;
            tracing::error!(
                errors,
                "proxies are not served before the manifests are read without errors; until then they keep what they hold"
            );
        }
        match subscription.changed().await {
            Some(change) => world.objects(change.snapshot),
            None => std::future::pending().await,
        }
    }
}

/// The trust domain of the Mesh object, or the default.
pub(crate) fn trust_domain(snapshot: &Snapshot) -> String {
    let written = snapshot.of_kind(Kind::Mesh).find_map(|(key, object)| match &object.spec {
        Spec::Mesh(mesh) if &*key.name == "default" => Some(mesh.trust_domain.clone()),
        _ => None,
    });
    written.unwrap_or_else(|| api::Mesh::default().trust_domain)
}

/// Only a proxy that has proved who it is is told anything.
fn admit(extensions: &tonic::Extensions, _node: &Node) -> Result<String, Status> {
    match extensions.get::<Peer>() {
        Some(Peer { identity: Some(identity), .. }) => Ok(identity.namespace().to_owned()),
        _ => Err(Status::unauthenticated("a client certificate of the mesh is needed")),
    }
}

/// Makes the control plane's own key and certificate. They live in memory: a restart makes others.
fn own_identity(authority: &Authority, trust_domain: &str, config: &Config) -> Result<Identity, Error> {
    let identity = Identity::generate().map_err(|e| Error(e.to_string()))?;
    certify(&identity, authority, trust_domain, config)?;
    Ok(identity)
}

fn certify(identity: &Identity, authority: &Authority, trust_domain: &str, config: &Config) -> Result<(), Error> {
    let (namespace, service_account) = net::tls::CONTROL;
    let signed = || -> Result<(), Box<dyn std::error::Error>> {
        let id = spiffe::Id::new(trust_domain, namespace, service_account)?;
        let issued = authority.sign(&identity.csr()?, &id, None, SystemTime::now(), config.certificate_life)?;
        let der = |list: Vec<Vec<u8>>| list.into_iter().map(CertificateDer::from).collect();
        identity.install(der(issued.chain), der(authority.roots()))?;
        Ok(())
    };
    signed().map_err(|e| Error(format!("the control plane cannot certify itself: {e}")))
}

/// Renews the control plane's own certificate at two thirds of its life.
async fn renew(authority: Arc<Authority>, identity: Identity, trust_domain: String, config: Config) {
    loop {
        sleep((config.certificate_life / 6).min(RENEWAL_CHECK)).await;
        let left = identity.validity().and_then(|v| v.not_after.duration_since(SystemTime::now()).ok());
        if left.unwrap_or_default() <= config.certificate_life / 3
            && let Err(error) = certify(&identity, &authority, &trust_domain, &config)
        {
            tracing::error!(%error, "trying again");
        }
    }
}

/// Ends registrations whose grace is over.
async fn expire(world: Arc<World>) {
    loop {
        let next = world.expire();
        // A stream that ends later has a grace that ends later, so looking once a second misses none by more than that.
        let soon = Instant::now() + Duration::from_secs(1);
        sleep_until(next.map_or(soon, |at| at.min(soon)).max(Instant::now() + Duration::from_millis(10))).await;
    }
}

//! `heddle run`: one instance with its sidecar, against a control plane anywhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use api::AppProtocol;
use clap::{Args, ValueEnum};
use control::admin::model::ServiceEntry;
use tokio::sync::watch;

use super::exec::current;
use super::proxy::read_token;
use crate::console;
use crate::guest::{self, Guest, GuestAddress, unique};
use crate::runtime::{Folder, MeshArgs, base, find, private_dir, read};
use crate::sidecar::settings::{ControlAddress, INBOUND_PORT, Port, Registration, SidecarSettings, explicit};
use crate::signals::{Interrupted, Signals};
use crate::supervisor::environment::Pod;
use crate::supervisor::mode::{Mode, ModeArgs};
use crate::supervisor::port;
use crate::supervisor::probe::{Probes, Verdict};
use crate::supervisor::report::Reporter;
use crate::supervisor::sidecar::Tokens;
use crate::supervisor::{self, Mesh};
use crate::witness::Witness;

/// Run one instance of a service with its sidecar, against a control plane anywhere
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The service that it is an instance of
    #[arg(long, value_name = "NAME")]
    service: String,
    /// The port on which the command listens, on the address in POD_IP
    #[arg(long)]
    port: u16,
    /// The namespace of the service
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Whose identity it has [default: the service's name]
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Name of the instance; a token that was made elsewhere is bound to it [default: the service's name and something unique]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A label, such as topology.kubernetes.io/zone=eu-1 or heddle.dev/weight=5; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// What it speaks; detected where that is not said
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// The control plane: HOST:PORT, or the path of its Unix socket [default: the mesh on this machine]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "runtime")]
    control: Option<String>,
    /// File with a join token (or HEDDLE_JOIN_TOKEN); one is made where the mesh is on this machine
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file of the roots that vouch for the control plane [default: beside its Unix socket]
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
    /// The address at which sidecars elsewhere reach this one [default: that of the way to the control plane]
    #[arg(long, value_name = "IP", requires = "control")]
    address: Option<IpAddr>,
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    mesh: MeshArgs,
    /// What to run
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What an application may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Http,
    Http2,
    Tcp,
}

/// Where an instance is and who answers for it.
struct Place {
    mesh: Mesh,
    control: ControlAddress,
    roots: PathBuf,
    directory: Folder,
    tokens: Tokens,
    /// Of the application, the forward proxy and the metrics.
    ip: IpAddr,
    /// Of the inbound side.
    inbound: SocketAddr,
    /// What is registered as its address, where that is not `ip`.
    address: Option<IpAddr>,
    /// The services that the application is told of; `None`: to be asked of the control plane.
    services: Option<Vec<ServiceEntry>>,
    _held: Held,
}

/// What keeps the addresses ours.
enum Held {
    Guest { _address: GuestAddress },
    Block { _block: net::block::Block },
}

pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    Interrupted::exit(crate::block_on(Box::pin(instance(args))))
}

async fn instance(args: RunArgs) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::catch()?;
    let name = args.name.clone().unwrap_or_else(|| format!("{}-{}", args.service, unique()));
    let mode = signals.or(args.mode.mode.decide(&Reporter::quiet())).await?;
    let place = match &args.control {
        Some(address) if !address.contains('/') => remote(&args, address, &name, mode)?,
        Some(path) => {
            let dir = Path::new(path).parent().unwrap_or(Path::new("."));
            signals.or(local(&args, dir, &name, mode)).await?
        }
        None => signals.or(local(&args, &find(&args.mesh)?, &name, mode)).await?,
    };
    let service_account = args.service_account.clone().unwrap_or_else(|| args.service.clone());
    let pod = Pod {
        namespace: args.namespace.clone(),
        name: name.clone(),
        ip: place.ip,
        service_account: service_account.clone(),
        node: place.mesh.node.clone(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    };
    let inside = signals.or(place.mesh.inside(&name, place.ip, &args.namespace)).await?;
    if inside.is_none() {
        port::free(place.ip, [args.port]).await.map_err(|why| anyhow!("{name} cannot run: {why}"))?;
    }
    let workload = format!("{}/{name}", args.namespace);
    let (services, tokens) = match &place.services {
        Some(services) => (services.clone(), place.tokens.clone()),
        // A token is good once; what it gave is kept.
        None => (learn(&place, &workload, &service_account, &mut signals).await?, Tokens::Given(String::new())),
    };
    let listeners = guest::listeners(place.ip, &args.namespace, &services);
    let mut data = supervisor::settings::data(workload, place.ip, &place.mesh, listeners, inside.as_deref())?;
    data.inbound = Some(place.inbound);
    let protocol = match args.protocol {
        None => AppProtocol::Auto,
        Some(Protocol::Http) => AppProtocol::Http,
        Some(Protocol::Http2) => AppProtocol::Http2,
        Some(Protocol::Tcp) => AppProtocol::Tcp,
    };
    let labels = args.label.iter().cloned().collect();
    let standing = api::Standing::of_labels(&labels);
    let registration = Registration {
        service_account,
        address: place.address,
        services: vec![format!("{}/{}", args.namespace, args.service)],
        ports: vec![Port { name: String::new(), port: args.port, protocol }],
        labels,
        region: standing.region,
        zone: standing.zone,
        node: place.mesh.node.clone(),
        ..Registration::default()
    };
    let settings = place.settings(data, registration);
    if inside.is_none() {
        port::not_the_sidecars(&settings, [args.port]).map_err(|why| anyhow!("{name} cannot run: {why}"))?;
    }
    let program = guest::program(&place.mesh, &pod, &services, args.command, inside.clone())?;
    let mut witness = signals.or(Witness::start()).await?;
    let guest = Guest::start(&settings, tokens, inside, &place.mesh.reporter, &mut signals).await?;
    let code = match program.start() {
        Ok(mut child) => {
            let probes = Probes::accepting(SocketAddr::new(place.ip, args.port));
            let (verdict, mut said) = watch::channel(Verdict::NotReady(String::new()));
            let tell = async {
                while said.changed().await.is_ok() {
                    guest.sidecar().ready(*said.borrow_and_update() == Verdict::Ready);
                }
            };
            tokio::select! {
                code = guest::wait(&mut child, &mut signals, &mut witness, Some(guest.sidecar())) => code?,
                () = probes.watch(&program, &verdict) => ExitCode::FAILURE,
                () = tell => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            console::error(format_args!("{error:#}"));
            guest::not_started(&error)
        }
    };
    guest.end(&mut signals).await;
    Ok(code)
}

impl Place {
    fn settings(&self, data: proxy::Settings, registration: Registration) -> SidecarSettings {
        SidecarSettings {
            control: self.control.clone(),
            roots: self.roots.clone(),
            directory: self.directory.0.clone(),
            ..self.mesh.settings(data, None, registration)
        }
    }
}

/// Which services there are, asked of a control plane elsewhere as the instance itself.
async fn learn(
    place: &Place,
    workload: &str,
    service_account: &str,
    signals: &mut Signals,
) -> anyhow::Result<Vec<ServiceEntry>> {
    let registration = Registration {
        service_account: service_account.to_owned(),
        node: place.mesh.node.clone(),
        list_services: true,
        ..Registration::default()
    };
    let settings = place.settings(explicit(workload.to_owned(), place.ip, None), registration);
    guest::learn(&settings, place.tokens.clone(), &place.mesh.reporter, signals).await
}

/// Beside a control plane on this machine.
async fn local(args: &RunArgs, dir: &Path, name: &str, mode: Mode) -> anyhow::Result<Place> {
    let known = read(dir);
    let mesh = Mesh::new(known.as_ref().map_or("mesh", |m| m.name.as_str()), dir, Reporter::quiet(), mode);
    let (ip, held) = match known {
        Some(known) => {
            let address = GuestAddress::choose(known.block)?;
            (address.ip, Held::Guest { _address: address })
        }
        // A control plane without supervisor has no addresses of its own.
        None => {
            let block = net::block::claim(name)?;
            (IpAddr::V4(block.address(1)), Held::Block { _block: block })
        }
    };
    let tokens = match token(args)? {
        Some(token) => Tokens::Given(token),
        None => mesh.tokens(),
    };
    let services = Some(current(&mesh.client).await?.services);
    Ok(Place {
        control: ControlAddress::Unix(dir.join("control.sock")),
        roots: args.roots.clone().unwrap_or_else(|| dir.join("roots.pem")),
        directory: Folder(dir.join("instances").join(format!("{}.{name}", args.namespace))),
        tokens,
        ip,
        inbound: SocketAddr::new(ip, INBOUND_PORT),
        address: None,
        services,
        mesh,
        _held: held,
    })
}

/// Against a control plane elsewhere: applications and forward proxy stay on a loopback address of their own, and only the
/// inbound side listens where others can reach it.
fn remote(args: &RunArgs, control: &str, name: &str, mode: Mode) -> anyhow::Result<Place> {
    let Some(token) = token(args)? else {
        bail!(
            "a control plane elsewhere wants a join token: make one there with `heddle token --workload {}/NAME`, and give it in a file with --token-file or in HEDDLE_JOIN_TOKEN",
            args.namespace
        )
    };
    let roots = args
        .roots
        .clone()
        .context("--roots is missing: the file roots.pem of the control plane's runtime directory")?;
    let target = control
        .to_socket_addrs()
        .with_context(|| format!("{control:?} is not HOST:PORT or cannot be resolved"))?
        .next()
        .with_context(|| format!("{control:?} has no address"))?;
    let address = match args.address {
        Some(address) => address,
        None => {
            way_to(target).with_context(|| format!("no way to {target}; say which address is ours with --address"))?
        }
    };
    let inbound = free_port(address)?;
    let block = net::block::claim(name)?;
    let guests = base();
    private_dir(&guests)?;
    let directory = Folder(guests.join(format!("run-{name}")));
    private_dir(&directory.0)?;
    Ok(Place {
        mesh: Mesh::new("remote", &directory.0, Reporter::quiet(), mode),
        control: ControlAddress::Tcp(control.to_owned()),
        roots,
        directory,
        tokens: Tokens::Given(token),
        ip: IpAddr::V4(block.address(1)),
        inbound,
        address: Some(address),
        services: None,
        _held: Held::Block { _block: block },
    })
}

fn token(args: &RunArgs) -> anyhow::Result<Option<String>> {
    match &args.token_file {
        Some(path) => read_token(path).map(Some),
        None => Ok(std::env::var("HEDDLE_JOIN_TOKEN").ok().filter(|t| !t.is_empty())),
    }
}

/// Our address on the way to `target`. Nothing is sent: connecting a datagram socket only looks the way up.
fn way_to(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// The usual inbound port, or a free one where another instance has it.
fn free_port(ip: IpAddr) -> anyhow::Result<SocketAddr> {
    let usual = SocketAddr::new(ip, INBOUND_PORT);
    if TcpListener::bind(usual).is_ok() {
        return Ok(usual);
    }
    let found = TcpListener::bind((ip, 0)).and_then(|l| l.local_addr());
    found.with_context(|| format!("cannot listen on {ip}"))
}

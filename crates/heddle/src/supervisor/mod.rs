//! Runs a mesh on one machine: asks the control plane what is to be run, and keeps a process for each part of it. It holds no
//! state of the mesh itself.

pub(crate) mod application;
mod backoff;
mod control;
pub(crate) mod environment;
mod gateway;
mod gateways;
pub(crate) mod inside;
pub(crate) mod instance;
mod leftover;
pub(crate) mod mode;
pub(crate) mod output;
pub(crate) mod port;
pub(crate) mod probe;
pub(crate) mod reconcile;
pub(crate) mod report;
pub(crate) mod settings;
pub(crate) mod sidecar;
pub(crate) mod status;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::control::admin::model::{Desired, ServiceEntry};
use anyhow::{Context, bail};
use api::{Object, PodTemplate, Spec};
use tokio::sync::{mpsc, watch};

use self::control::Control;
use self::gateway::GatewayProxy;
use self::inside::Inside;
use self::instance::{Instance, Plan, Stop};
use self::mode::{Choice, Mode};
use self::reconcile::{Action, Actual, Kind, Phase, Wanted, plan};
use self::report::Reporter;
use self::sidecar::Tokens;
use self::status::{GatewayProblem, Status};
use crate::client::Client;
use crate::runtime::{Claim, MeshFile, Refused};
use crate::sidecar::replace::FINISH;
use crate::sidecar::settings::{ADMIN_PORT, ControlAddress, Registration, SidecarSettings};

/// The longest wait for a control plane's first answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Hosts of a block from here on belong to `heddle exec` and `heddle run`, which choose one themselves.
pub(crate) const FIRST_GUEST: u16 = 0xf000;

/// Folder of [`Options::files`] in the runtime directory.
const MANIFESTS: &str = "manifests";

/// What every part of a mesh is told.
#[derive(Clone, Debug)]
pub(crate) struct Mesh {
    pub(crate) name: String,
    pub(crate) runtime: PathBuf,
    pub(crate) client: Client,
    pub(crate) reporter: Reporter,
    /// This machine's name.
    pub(crate) node: String,
    /// The caller's own forward proxy.
    pub(crate) upstream_proxy: Option<String>,
    /// How the connections of new instances come to their sidecars.
    pub(crate) mode: Mode,
}

impl Mesh {
    /// The mesh in `runtime`.
    pub(crate) fn new(name: &str, runtime: &Path, reporter: Reporter, mode: Mode) -> Mesh {
        let upstream_proxy = environment::upstream_proxy(|n| std::env::var(n).ok()).unwrap_or_else(|why| {
            reporter.note(why);
            None
        });
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        Mesh {
            name: name.to_owned(),
            runtime: runtime.to_owned(),
            client: Client::new(runtime),
            reporter,
            node,
            upstream_proxy,
            mode,
        }
    }

    /// Namespaces for the instance called `name` with address `ip`, where instances have some.
    pub(crate) async fn inside(&self, name: &str, ip: IpAddr, namespace: &str) -> anyhow::Result<Option<Arc<Inside>>> {
        match self.mode {
            Mode::Explicit => Ok(None),
            Mode::Namespace => {
                let inside = Inside::make(name, mode::plan(ip, namespace), &self.reporter).await;
                Ok(Some(Arc::new(inside.context("its namespaces cannot be made")?)))
            }
        }
    }

    /// Where its sidecars get their tokens.
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens::Admin(self.client.clone())
    }

    /// The folder of the sidecar of `workload` (`namespace/name`).
    pub(crate) fn directory(&self, workload: &str) -> PathBuf {
        self.runtime.join("instances").join(workload.replace('/', "."))
    }

    /// The settings of a proxy of this mesh on its Unix socket.
    pub(crate) fn settings(
        &self,
        data: proxy::Settings,
        gateway: Option<String>,
        registration: Registration,
    ) -> SidecarSettings {
        SidecarSettings {
            mesh: self.name.clone(),
            control: ControlAddress::Unix(self.runtime.join("control.sock")),
            roots: self.runtime.join("roots.pem"),
            directory: self.directory(&data.workload),
            admin: Some(SocketAddr::new(data.application, ADMIN_PORT)),
            names: Vec::new(),
            finish_seconds: FINISH,
            proxy: data,
            gateway,
            access_log: true,
            registration,
        }
    }

    /// Where gateway `name` listens for the port that it declares; a move is said.
    fn choose(&self, name: &str, declared: SocketAddr) -> anyhow::Result<gateway::Chosen> {
        let chosen = gateway::choose(declared).with_context(|| {
            format!("gateway {name} cannot listen on {}; is that an address of this machine?", declared.ip())
        })?;
        if let Some(why) = &chosen.moved {
            self.reporter.problem(format_args!("gateway {name}: {why}, so it listens on {}", chosen.address));
        }
        Ok(chosen)
    }
}

/// What a supervisor is started with.
#[derive(Debug)]
pub(crate) struct Options {
    /// Name of the mesh; without one, `suggestion` or the next free name like it.
    pub(crate) name: Option<String>,
    /// A name to begin with.
    pub(crate) suggestion: String,
    /// The runtime directory, where it is not the usual one.
    pub(crate) runtime: Option<PathBuf>,
    /// Manifests.
    pub(crate) paths: Vec<PathBuf>,
    /// Manifests that are written into the runtime directory first.
    pub(crate) files: Vec<(&'static str, &'static str)>,
    /// Leave the runtime directory behind.
    pub(crate) keep: bool,
    /// How connections are to come to sidecars.
    pub(crate) mode: Choice,
    pub(crate) reporter: Reporter,
}

/// What a Deployment, StatefulSet or Job runs.
#[derive(Debug)]
struct Set {
    kind: Kind,
    namespace: String,
    name: String,
    wanted: Option<Wanted>,
    template: PodTemplate,
    backoff_limit: u32,
    folder: PathBuf,
    /// Each with the hash of its template.
    instances: Vec<(u32, u64, Instance)>,
}

/// Keeps the processes of one mesh.
#[derive(Debug)]
pub(crate) struct Supervisor {
    mesh: Mesh,
    control: Control,
    desired: mpsc::Receiver<Desired>,
    first: Option<Desired>,
    sets: BTreeMap<(Kind, String, String), Set>,
    gateways: BTreeMap<gateways::Key, GatewayProxy>,
    /// Gateways that could not be started.
    waiting: BTreeMap<gateways::Key, gateways::Waiting>,
    services: Vec<ServiceEntry>,
    problems: Vec<String>,
    next_host: u16,
    changed: (mpsc::UnboundedSender<()>, mpsc::UnboundedReceiver<()>),
    status: watch::Sender<Status>,
    /// It has been up.
    announced: bool,
    block: net::block::Block,
    claim: Claim,
}

impl Supervisor {
    /// Claims name, directory and addresses, and starts the control plane. Returns when that has read the manifests.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Supervisor> {
        // In namespace mode each instance takes some fifty descriptors.
        if let Err(error) = net::process::raise_open_files() {
            options.reporter.note(format_args!("the limit of open files stays as it is: {error}"));
        }
        let mode = options.mode.decide(&options.reporter).await?;
        let (name, claim) = claim(&options)?;
        let block = net::block::claim(&name)?;
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        claim.describe(&MeshFile {
            name: name.clone(),
            pid: std::process::id(),
            block: block.second_octet(),
            started_unix_ms: u64::try_from(started.as_millis()).unwrap_or(u64::MAX),
        })?;
        let mesh = Mesh::new(&name, claim.dir(), options.reporter, mode);
        let mut paths = options.paths;
        if !options.files.is_empty() {
            let folder = claim.dir().join(MANIFESTS);
            crate::runtime::private_dir(&folder)?;
            for (name, text) in options.files {
                std::fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
            }
            paths.push(folder);
        }
        let (mut control, mut desired) = Control::start(&mesh, paths);
        let first = first_answer(&mut desired, control.died()).await?;
        Ok(Supervisor {
            mesh,
            control,
            desired,
            first: Some(first),
            sets: BTreeMap::new(),
            gateways: BTreeMap::new(),
            waiting: BTreeMap::new(),
            services: Vec::new(),
            problems: Vec::new(),
            next_host: 1,
            changed: mpsc::unbounded_channel(),
            status: watch::channel(Status::default()).0,
            announced: false,
            block,
            claim,
        })
    }

    /// The mesh.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Where [`Options::files`] were written.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.mesh.runtime.join(MANIFESTS)
    }

    /// What runs, kept up to date.
    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Runs what is wanted until `stop` resolves.
    pub(crate) async fn run(&mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        if let Some(first) = self.first.take() {
            self.take(first).await;
        }
        loop {
            self.reconcile();
            self.publish();
            let next_try = self.next_try();
            tokio::select! {
                () = &mut stop => return,
                Some(desired) = self.desired.recv() => self.take(desired).await,
                () = next_try => self.try_again(),
                Some(()) = self.changed.1.recv() => while self.changed.1.try_recv().is_ok() {},
            }
        }
    }

    /// Takes up what the control plane says now.
    async fn take(&mut self, desired: Desired) {
        self.tell_problems(&desired);
        self.services = desired.services;
        let mut seen = HashSet::new();
        for object in desired.deployments.iter().chain(&desired.stateful_sets).chain(&desired.jobs) {
            if let Some(key) = self.want(object) {
                seen.insert(key);
            }
        }
        for (key, set) in &mut self.sets {
            if !seen.contains(key) {
                set.wanted = None;
            }
        }
        self.take_gateways(&desired.gateways).await;
    }

    /// Notes what `object` wants.
    fn want(&mut self, object: &Object) -> Option<(Kind, String, String)> {
        let (kind, replicas, completions, backoff_limit, template) = match &object.spec {
            Spec::Deployment(d) => (Kind::Deployment, d.replicas, 0, 0, &d.template),
            Spec::StatefulSet(s) => (Kind::StatefulSet, s.replicas, 0, 0, &s.template),
            Spec::Job(j) => (Kind::Job, j.parallelism, j.completions, j.backoff_limit, &j.template),
            _ => return None,
        };
        let key = (kind, object.meta.namespace.to_string(), object.meta.name.to_string());
        let folder = folder(object);
        let wanted = Some(Wanted { kind, replicas, template: fingerprint(template, &folder), completions });
        let set = self.sets.entry(key.clone()).or_insert_with(|| Set {
            kind,
            namespace: key.1.clone(),
            name: key.2.clone(),
            wanted,
            template: template.clone(),
            backoff_limit,
            folder: folder.clone(),
            instances: Vec::new(),
        });
        set.wanted = wanted;
        set.template = template.clone();
        set.backoff_limit = backoff_limit;
        set.folder = folder;
        Some(key)
    }

    /// The next address of the block that no instance has.
    fn address(&mut self) -> IpAddr {
        let used: HashSet<IpAddr> = self
            .sets
            .values()
            .flat_map(|s| s.instances.iter().map(|(_, _, i)| i.ip))
            .chain(self.gateways.values().map(|g| g.ip))
            .collect();
        loop {
            let ip = IpAddr::V4(self.block.address(self.next_host));
            self.next_host = if self.next_host + 1 >= FIRST_GUEST { 1 } else { self.next_host + 1 };
            if !used.contains(&ip) {
                return ip;
            }
        }
    }

    /// Takes the next steps of every set.
    fn reconcile(&mut self) {
        let keys: Vec<_> = self.sets.keys().cloned().collect();
        for key in keys {
            let Some(set) = self.sets.get_mut(&key) else { continue };
            // What ended because it was told to leaves no trace; a Job's runs are remembered.
            set.instances.retain(|(_, _, i)| i.phase() != Phase::Gone);
            if set.wanted.is_none() && set.instances.iter().all(|(_, _, i)| ended(i.phase())) {
                self.sets.remove(&key);
                continue;
            }
            let actual: Vec<Actual> = set
                .instances
                .iter()
                .map(|(ordinal, template, i)| Actual { ordinal: *ordinal, template: *template, phase: i.phase() })
                .collect();
            for action in plan(set.wanted.as_ref(), &actual) {
                self.act(&key, action);
            }
        }
    }

    fn act(&mut self, key: &(Kind, String, String), action: Action) {
        let ip = match action {
            Action::Start(_) => Some(self.address()),
            Action::Drain(_) => None,
        };
        let Some(set) = self.sets.get_mut(key) else { return };
        match (action, ip, set.wanted) {
            (Action::Start(ordinal), Some(ip), Some(wanted)) => {
                let plan = Plan {
                    kind: set.kind,
                    set: set.name.clone(),
                    namespace: set.namespace.clone(),
                    ordinal,
                    template: set.template.clone(),
                    backoff_limit: set.backoff_limit,
                    folder: set.folder.clone(),
                    ip,
                    services: environment::service_ports(&self.services, &set.namespace),
                };
                let instance = Instance::start(&self.mesh, plan, self.changed.0.clone());
                set.instances.push((ordinal, wanted.template, instance));
            }
            (Action::Drain(ordinal), ..) => {
                for (_, _, instance) in set.instances.iter().filter(|(o, _, _)| *o == ordinal) {
                    instance.stop(Stop::Drain);
                }
            }
            (Action::Start(_), ..) => {}
        }
    }

    /// Says what has become wrong, and what is right again.
    fn tell_problems(&mut self, desired: &Desired) {
        let colour = self.mesh.reporter.colours();
        let now: Vec<String> = desired.problems.iter().map(|p| p.render(colour)).collect();
        for problem in now.iter().filter(|p| !self.problems.contains(p)) {
            self.mesh.reporter.problem(problem);
        }
        if now.is_empty() && !self.problems.is_empty() {
            self.mesh.reporter.note("all manifests are good again");
        }
        self.problems = now;
    }

    fn publish(&mut self) {
        let status = Status::of(
            &self.mesh.name,
            self.sets.values().flat_map(|s| s.instances.iter().map(|(_, _, i)| (s.name.as_str(), i))),
            self.gateways.values(),
            self.waiting.iter().map(|((namespace, name), waiting)| GatewayProblem {
                namespace: namespace.clone(),
                name: name.clone(),
                problem: waiting.why.clone(),
            }),
            self.sets.values().all(settled),
            self.problems.len(),
        );
        self.announced |= status.up;
        self.status.send_if_modified(|s| {
            let differs = *s != status;
            *s = status;
            differs
        });
    }

    /// Ends everything at once and takes the runtime directory away.
    pub(crate) async fn end(mut self) {
        self.mesh.reporter.end();
        let mut instances: Vec<Instance> =
            std::mem::take(&mut self.sets).into_values().flat_map(|s| s.instances).map(|(_, _, i)| i).collect();
        for instance in &instances {
            instance.stop(Stop::Now);
        }
        let gateways = std::mem::take(&mut self.gateways);
        let gateways = async {
            let mut ends: Vec<_> = gateways.into_values().map(|g| tokio::spawn(g.end(Duration::ZERO))).collect();
            for end in &mut ends {
                let _ = end.await;
            }
        };
        let instances = async {
            for instance in &mut instances {
                instance.ended().await;
            }
        };
        tokio::join!(gateways, instances);
        self.control.end().await;
        drop(self.claim);
    }
}

/// What the control plane wants run at first, unless it dies before it says so.
async fn first_answer(
    desired: &mut mpsc::Receiver<Desired>,
    died: impl Future<Output = ()>,
) -> anyhow::Result<Desired> {
    let first = tokio::select! {
        first = desired.recv() => first,
        () = died => None,
        () = tokio::time::sleep(START_TIMEOUT) => {
            bail!("the control plane did not answer within {START_TIMEOUT:?}; is this machine overloaded? See its messages, or set HEDDLE_LOG=debug")
        }
    };
    first.context("the control plane could not start")
}

/// Resolves when `receiver` holds what is wanted, or nobody can tell any more.
pub(crate) async fn reach<T>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    let _ = receiver.wait_for(wanted).await;
}

fn ended(phase: Phase) -> bool {
    matches!(phase, Phase::Gone | Phase::Succeeded | Phase::Failed)
}

/// Whether everything that is wanted runs and is ready, and nothing else does.
fn settled(set: &Set) -> bool {
    let actual: Vec<Actual> = set
        .instances
        .iter()
        .map(|(ordinal, template, i)| Actual { ordinal: *ordinal, template: *template, phase: i.phase() })
        .collect();
    let running = actual.iter().all(|a| a.phase == Phase::Ready || set.kind == Kind::Job);
    running && plan(set.wanted.as_ref(), &actual).is_empty()
}

/// The folder of the manifest that `object` was read from.
fn folder(object: &Object) -> PathBuf {
    let file = object.location.as_ref().map_or("", |l| &l.file);
    match Path::new(file).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Tells templates apart.
fn fingerprint(template: &PodTemplate, folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(template).unwrap_or_default().hash(&mut hasher);
    folder.hash(&mut hasher);
    hasher.finish()
}

/// The runtime directory and the name that goes with it.
fn claim(options: &Options) -> anyhow::Result<(String, Claim)> {
    let base = crate::runtime::base();
    let place = |name: &str| options.runtime.clone().unwrap_or_else(|| base.join(name));
    let held = |name: &str| {
        anyhow::anyhow!("a mesh runs in {} already; end it, or choose another with --name", place(name).display())
    };
    if let Some(name) = &options.name {
        crate::runtime::check_name(name)?;
    }
    let fixed = options.name.is_some() || options.runtime.is_some();
    let first = options.name.as_ref().unwrap_or(&options.suggestion);
    if options.runtime.is_none() {
        crate::runtime::private_dir(&base)?;
    }
    for attempt in 1.. {
        let name = if attempt == 1 { first.clone() } else { format!("{first}-{attempt}") };
        match Claim::take(&place(&name), options.keep) {
            Ok(claim) => return Ok((name, claim)),
            Err(Refused::Failed(error)) => return Err(error),
            Err(Refused::Held) if fixed || attempt >= 100 => return Err(held(&name)),
            Err(Refused::Held) => {}
        }
    }
    Err(held(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_says_nothing_is_given_up() {
        let (sender, mut desired) = mpsc::channel(1);
        let began = tokio::time::Instant::now();
        let error = first_answer(&mut desired, std::future::pending()).await.expect_err("nobody answers");
        assert_eq!(began.elapsed(), START_TIMEOUT);
        assert!(error.to_string().contains("did not answer within 30s"), "{error}");
        let error = first_answer(&mut desired, async {}).await.expect_err("it died");
        assert!(error.to_string().contains("could not start"), "{error}");
        sender.send(Desired::default()).await.expect("there is room");
        assert!(first_answer(&mut desired, std::future::pending()).await.is_ok());
    }
}

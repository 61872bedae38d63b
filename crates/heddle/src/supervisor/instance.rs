//! One instance: its sidecar, then its application, for as long as it is wanted.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use api::PodTemplate;
use control::admin::model::ServiceEntry;
use net::inside::Refused;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::application::{Ended, Program, describe};
use super::backoff::Backoff;
use super::environment::{Pod, environment, expand};
use super::mode::Mode;
use super::port;
use super::probe::{Probes, Verdict};
use super::reconcile::{Kind, Phase};
use super::settings;
use super::sidecar::{ProxyState, Sidecar};
use super::{Mesh, reach};
use crate::runtime::Folder;

/// What an application that is told to end at once is given before it is killed.
const HURRY: Duration = Duration::from_secs(2);

/// When an application has ended that was told to, after a drain, what it has said last may take this long to arrive.
const REST: Duration = Duration::from_secs(1);

/// What an instance is made of.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// Name of the Deployment, StatefulSet or Job.
    pub(crate) set: String,
    pub(crate) namespace: String,
    pub(crate) ordinal: u32,
    pub(crate) template: PodTemplate,
    /// Failed runs of a Job that are tried again.
    pub(crate) backoff_limit: u32,
    /// Where the manifest is.
    pub(crate) folder: PathBuf,
    pub(crate) ip: IpAddr,
    /// Services that are announced by variables, and where each of their ports is heard.
    pub(crate) services: Vec<(ServiceEntry, Vec<u16>)>,
}

/// How an instance is told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// It is wanted.
    Not,
    /// Requests under way are finished first.
    Drain,
    /// At once.
    Now,
}

/// A running instance.
#[derive(Debug)]
pub(crate) struct Instance {
    /// `cart-0`.
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) ip: IpAddr,
    stop: watch::Sender<Stop>,
    phase: watch::Receiver<Phase>,
    task: JoinHandle<()>,
}

impl Instance {
    /// Starts it. `changed` is told whenever its phase changes.
    pub(crate) fn start(mesh: &Mesh, plan: Plan, changed: mpsc::UnboundedSender<()>) -> Instance {
        let name = format!("{}-{}", plan.set, plan.ordinal);
        let (stop, stopping) = watch::channel(Stop::Not);
        let (sender, phase) = watch::channel(Phase::Starting);
        let (namespace, ip) = (plan.namespace.clone(), plan.ip);
        let life = Life { mesh: mesh.clone(), name: name.clone(), plan, stopping, phase: sender, changed };
        Instance { name, namespace, ip, stop, phase, task: tokio::spawn(life.run()) }
    }

    /// How far it is.
    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Tells it to end; what was told before can only be hurried.
    pub(crate) fn stop(&self, stop: Stop) {
        self.stop.send_if_modified(|s| {
            let more = stop > *s;
            *s = stop.max(*s);
            more
        });
    }

    /// Resolves when everything of it has ended.
    pub(crate) async fn ended(&mut self) {
        let _ = (&mut self.task).await;
    }
}

struct Life {
    mesh: Mesh,
    name: String,
    plan: Plan,
    stopping: watch::Receiver<Stop>,
    phase: watch::Sender<Phase>,
    changed: mpsc::UnboundedSender<()>,
}

impl Life {
    fn phase(&self, phase: Phase) {
        let changed = self.phase.send_if_modified(|p| {
            let differs = *p != phase;
            *p = phase;
            differs
        });
        if changed {
            let _ = self.changed.send(());
        }
    }

    async fn run(mut self) {
        // Its key is of no use to anybody, least of all to the next instance of that name.
        let folder = Folder(self.mesh.directory(&format!("{}/{}", self.plan.namespace, self.name)));
        let end = match self.described() {
            Ok((mut program, probes)) => {
                let mut stopping = self.stopping.clone();
                let sidecar = tokio::select! {
                    sidecar = self.begin(&mut program) => Some(sidecar),
                    () = reach(&mut stopping, |s| *s != Stop::Not) => None,
                };
                match sidecar {
                    Some(sidecar) => self.live(sidecar, &program, &probes).await,
                    None => Phase::Gone,
                }
            }
            Err(error) => {
                self.mesh.reporter.problem(format_args!("{} cannot run: {error:#}", self.name));
                // Nothing of it changes until its manifest does, which ends this instance.
                reach(&mut self.stopping, |s| *s != Stop::Not).await;
                Phase::Gone
            }
        };
        drop(folder);
        self.phase(end);
    }

    /// What its manifest makes of it, before it has anything. What fails here fails for good.
    fn described(&self) -> anyhow::Result<(Program, Probes)> {
        let plan = &self.plan;
        let container = &plan.template.container;
        let pod = Pod {
            namespace: plan.namespace.clone(),
            name: self.name.clone(),
            ip: plan.ip,
            service_account: plan.template.service_account.clone(),
            node: self.mesh.node.clone(),
            labels: plan.template.labels.clone(),
            annotations: plan.template.annotations.clone(),
        };
        let environment = environment(&pod, self.mesh.mode, &plan.services, &container.env);
        let written: Vec<&String> = match &plan.template.local_command {
            Some(command) => command.iter().collect(),
            None => container.command.iter().chain(&container.args).collect(),
        };
        let argv: Vec<String> = written.into_iter().map(|word| expand(word, &environment)).collect();
        if argv.is_empty() || container.command.is_empty() && plan.template.local_command.is_none() {
            anyhow::bail!(
                "its container has no command (images are not run here); write `command`, or the annotation heddle.dev/command"
            );
        }
        let folder = match &container.working_dir {
            // A container's absolute folder exists in its image, not here.
            Some(dir) if plan.template.local_command.is_none() && std::path::Path::new(dir).is_relative() => {
                plan.folder.join(dir)
            }
            Some(_) | None => plan.folder.clone(),
        };
        let probes = Probes::new(container, plan.ip).map_err(anyhow::Error::msg)?;
        let label = self.mesh.reporter.label(&self.name, &plan.set);
        if self.mesh.mode == Mode::Explicit {
            let settings = settings::instance(&self.mesh, &self.name, plan, None)?;
            port::not_the_sidecars(&settings, self.ports()).map_err(anyhow::Error::msg)?;
        }
        Ok((Program { argv, environment, folder, label: Some(label), inside: None }, probes))
    }

    /// Its namespaces, if it is to have some, which `program` is told of, and its sidecar. What this machine refuses now it may
    /// have later, so this is tried until it succeeds.
    async fn begin(&self, program: &mut Program) -> Sidecar {
        let mut backoff = Backoff::new();
        loop {
            backoff.started();
            let error = match self.try_begin(program).await {
                Ok(sidecar) => return sidecar,
                Err(error) => error,
            };
            let wait = backoff.died();
            let way_out = match error.downcast_ref::<Refused>() {
                Some(_) => "; `--mode explicit` does without namespaces",
                None => "",
            };
            self.mesh
                .reporter
                .problem(format_args!("{} cannot be started: {error:#}{way_out}; tried again in {wait:?}", self.name));
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_begin(&self, program: &mut Program) -> anyhow::Result<Sidecar> {
        let inside = self.mesh.inside(&self.name, self.plan.ip, &self.plan.namespace).await?;
        let settings = settings::instance(&self.mesh, &self.name, &self.plan, inside.as_deref())?;
        program.inside.clone_from(&inside);
        Sidecar::start(&self.name, &settings, self.mesh.tokens(), inside, &self.mesh.reporter)
            .context("its sidecar cannot be started")
    }

    /// The ports on which the application is to listen.
    fn ports(&self) -> impl Iterator<Item = u16> {
        self.plan.template.container.ports.iter().map(|p| p.port)
    }

    /// Waits until the application can have its ports. In namespaces of its own it can.
    async fn ports_free(&self, program: &Program) -> Result<(), String> {
        match program.inside {
            Some(_) => Ok(()),
            None => port::free(self.plan.ip, self.ports()).await,
        }
    }

    async fn live(&mut self, mut sidecar: Sidecar, program: &Program, probes: &Probes) -> Phase {
        let mut proxy = sidecar.state();
        tokio::select! {
            () = reach(&mut proxy, |s| *s == ProxyState::Ready) => {}
            () = reach(&mut self.stopping, |s| *s != Stop::Not) => {
                sidecar.end(Duration::ZERO);
                sidecar.ended().await;
                return Phase::Gone;
            }
        }
        let (stop_application, stop) = watch::channel(Stop::Not);
        let end = {
            let application = self.application(&sidecar, program, probes, stop);
            tokio::pin!(application);
            let mut stopping = self.stopping.clone();
            let end = tokio::select! {
                end = &mut application => Some(end),
                () = reach(&mut stopping, |s| *s != Stop::Not) => None,
            };
            if end.is_none() {
                self.phase(Phase::Draining);
                tokio::select! {
                    _ = &mut application => {}
                    () = self.finish(&sidecar, &mut stopping, &stop_application) => {}
                }
            }
            end
        };
        sidecar.end(match *self.stopping.borrow() {
            // What a Job has written is delivered.
            Stop::Not => self.plan.template.termination_grace,
            Stop::Drain => REST,
            Stop::Now => Duration::ZERO,
        });
        tokio::select! {
            () = sidecar.ended() => {}
            () = reach(&mut self.stopping, |s| *s == Stop::Now) => {
                sidecar.end(Duration::ZERO);
                sidecar.ended().await;
            }
        }
        end.unwrap_or(Phase::Gone)
    }

    /// Lets the sidecar finish what others have under way while the application still serves, then tells the application to end.
    /// The sidecar stays for the calls that it makes while it does. Resolves never.
    async fn finish(&self, sidecar: &Sidecar, stopping: &mut watch::Receiver<Stop>, application: &watch::Sender<Stop>) {
        if *stopping.borrow() == Stop::Drain {
            sidecar.drain(self.plan.template.termination_grace);
            tokio::select! {
                () = sidecar.drained() => {}
                () = reach(stopping, |s| *s == Stop::Now) => {}
            }
        }
        application.send_replace(*stopping.borrow());
        reach(stopping, |s| *s == Stop::Now).await;
        sidecar.drain(Duration::ZERO);
        application.send_replace(Stop::Now);
        std::future::pending().await
    }

    /// The application's lives, one after the other, until it is told to end or a Job's run is over.
    async fn application(
        &self,
        sidecar: &Sidecar,
        program: &Program,
        probes: &Probes,
        mut stop: watch::Receiver<Stop>,
    ) -> Phase {
        let mut backoff = Backoff::new();
        let mut failures = 0;
        loop {
            let (verdict, mut said) = watch::channel(Verdict::NotReady("it starts".to_owned()));
            said.mark_unchanged();
            backoff.started();
            let grace = self.plan.template.termination_grace;
            let ended = {
                let life = async {
                    tokio::select! {
                        free = self.ports_free(program) => free.map_err(anyhow::Error::msg)?,
                        () = reach(&mut stop, |s| *s != Stop::Not) => return Ok(Ended::Stopped),
                    }
                    program.live(probes, &verdict, &mut stop, grace, HURRY).await
                };
                tokio::pin!(life);
                loop {
                    tokio::select! {
                        ended = &mut life => break ended,
                        Ok(()) = said.changed() => self.told(sidecar, &said.borrow_and_update().clone()),
                    }
                }
            };
            sidecar.ready(false);
            let why = match ended {
                Ok(Ended::Stopped) => return Phase::Gone,
                Ok(Ended::Exited(status)) if self.plan.kind == Kind::Job && status.success() => {
                    return Phase::Succeeded;
                }
                Ok(Ended::Exited(status)) => describe(status),
                Ok(Ended::Dead(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            failures += 1;
            if self.plan.kind == Kind::Job && failures > self.plan.backoff_limit {
                self.mesh.reporter.problem(format_args!("{}: {why}; given up after {failures} runs", self.name));
                return Phase::Failed;
            }
            let wait = backoff.died();
            self.mesh.reporter.problem(format_args!("{}: {why}; started again in {wait:?}", self.name));
            // A first start that fails has not been ready, and a rollout must not take it for a success.
            let phase = if *self.phase.borrow() == Phase::Starting { Phase::Starting } else { Phase::NotReady };
            self.phase(phase);
            tokio::select! {
                () = tokio::time::sleep_until(Instant::now() + wait) => {}
                () = reach(&mut stop, |s| *s != Stop::Not) => return Phase::Gone,
            }
        }
    }

    fn told(&self, sidecar: &Sidecar, verdict: &Verdict) {
        match verdict {
            Verdict::Ready => {
                sidecar.ready(true);
                self.phase(Phase::Ready);
            }
            Verdict::NotReady(why) => {
                sidecar.ready(false);
                if *self.phase.borrow() == Phase::Ready {
                    self.phase(Phase::NotReady);
                }
                self.mesh.reporter.problem(format_args!("{} is not ready: {why}", self.name));
            }
            Verdict::Dead(_) => {}
        }
    }
}

//! The control plane's process: kept alive, and asked what is to be run.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use control::admin::model::Desired;
use net::process::{die_with_parent, executable, own_group, terminate};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::application::describe;
use super::backoff::Backoff;
use super::output::copy_lines;
use super::{Mesh, reach};
use crate::client::Client;

/// Between attempts to reach the admin socket.
const RETRY: Duration = Duration::from_millis(20);

/// How long a control plane that is told to end may take.
const GRACE: Duration = Duration::from_secs(2);

/// A control plane that is kept alive.
#[derive(Debug)]
pub(crate) struct Control {
    stop: watch::Sender<bool>,
    deaths: watch::Receiver<u32>,
    keeper: JoinHandle<()>,
    follower: JoinHandle<()>,
}

impl Control {
    /// Starts the process and follows what it wants run.
    pub(crate) fn start(mesh: &Mesh, paths: Vec<PathBuf>) -> (Control, mpsc::Receiver<Desired>) {
        let (stop, stopping) = watch::channel(false);
        let (dead, deaths) = watch::channel(0);
        let keeper = tokio::spawn(keep(mesh.clone(), paths, stopping, dead));
        let (sender, desired) = mpsc::channel(1);
        let follower = tokio::spawn(follow(mesh.client.clone(), sender));
        (Control { stop, deaths, keeper, follower }, desired)
    }

    /// Resolves when the process has died.
    pub(crate) async fn died(&mut self) {
        let _ = self.deaths.changed().await;
    }

    /// Ends it.
    pub(crate) async fn end(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.keeper).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.keeper.abort();
        self.follower.abort();
    }
}

async fn keep(mesh: Mesh, paths: Vec<PathBuf>, mut stop: watch::Receiver<bool>, deaths: watch::Sender<u32>) {
    let mut backoff = Backoff::new();
    loop {
        backoff.started();
        let why = match spawn(&mesh, &paths) {
            Ok(mut child) => tokio::select! {
                status = child.wait() => status.map_or_else(|e| e.to_string(), describe),
                () = reach(&mut stop, |s| *s) => {
                    let _ = terminate(&mut child, GRACE).await;
                    return;
                }
            },
            Err(error) => format!("it cannot be started: {error}"),
        };
        deaths.send_modify(|n| *n += 1);
        let wait = backoff.died();
        mesh.reporter
            .problem(format_args!("the control plane: {why}; started again in {wait:?} (traffic goes on meanwhile)"));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = reach(&mut stop, |s| *s) => return,
        }
    }
}

fn spawn(mesh: &Mesh, paths: &[PathBuf]) -> std::io::Result<Child> {
    let mut command = Command::new(executable());
    command.arg("control").arg("--runtime").arg(&mesh.runtime).arg("--name").arg(&mesh.name).arg("--").args(paths);
    if std::env::var_os("HEDDLE_LOG").is_none() {
        // What is wrong with manifests is told by the supervisor, from the watch.
        command.env("HEDDLE_LOG", "warn,control::report=off");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    own_group(&mut command);
    die_with_parent(&mut command);
    let mut child = command.spawn()?;
    let label = mesh.reporter.label("control", "control");
    if let Some(out) = child.stdout.take() {
        let label = label.clone();
        tokio::spawn(async move { copy_lines(out, |line| label.print(line)).await });
    }
    if let Some(err) = child.stderr.take() {
        tokio::spawn(async move { copy_lines(err, |line| label.print(line)).await });
    }
    Ok(child)
}

/// Hands over what the control plane wants run, over its restarts. What is not known completely yet is passed over.
async fn follow(client: Client, desired: mpsc::Sender<Desired>) {
    loop {
        if let Ok(mut watch) = client.watch().await {
            while let Ok(Some(next)) = watch.next().await {
                if next.complete && desired.send(next).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

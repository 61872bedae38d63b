//! A proxy's place is taken by a new process: the new one asks the old one for its listening sockets, and when it serves, the
//! old one takes no new work, finishes what it has, and ends. Nobody is refused meanwhile, because a listening socket is one
//! queue, however many processes hold it.
//!
//! Over the old one's door ([`net::handoff::Door`], in its directory) the new one says `more` until it has heard `all`, and then
//! `serving`. If it ends before that, nothing has changed for the old one.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use net::handoff::{self, Channel, DESCRIPTORS};
use net::listen::Sorted;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What an old process is given to finish what it has, where its settings do not say, in seconds; what takes longer is cut off.
pub(crate) const FINISH: u64 = 600;

/// Between two messages of the old process.
const ANSWER: Duration = Duration::from_secs(5);

/// From the new process to the old one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Ask {
    More,
    Serving,
}

/// From the old process to the new one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    /// Sockets come with it, and more can be had.
    Some,
    /// That was all.
    All {
        /// Whether the application may be sent requests, if that is known.
        application: Option<bool>,
    },
}

/// What the new process was given.
#[derive(Debug)]
pub(super) struct Taken {
    /// Sockets that listen already.
    pub(super) listeners: Vec<TcpListener>,
    /// Sockets that questions for names come to.
    pub(super) datagrams: Vec<UdpSocket>,
    /// Locks of the listeners' addresses, to be held.
    pub(super) locks: Vec<OwnedFd>,
    /// Whether the application may be sent requests, if that is known.
    pub(super) application: Option<bool>,
    old: Channel,
}

impl Taken {
    /// Asks the process whose directory is `directory`.
    pub(super) async fn ask(directory: &Path) -> anyhow::Result<Taken> {
        let nobody =
            || format!("no proxy that could be replaced runs in {}; start without --replace", directory.display());
        let old = handoff::knock(directory).with_context(nobody)?;
        let mut sockets = Vec::new();
        loop {
            old.send(&serde_json::to_vec(&Ask::More)?, &[]).context("the old proxy is gone")?;
            let message = tokio::time::timeout(ANSWER, old.receive()).await.context("the old proxy says nothing")??;
            sockets.extend(message.descriptors);
            match serde_json::from_slice(&message.bytes)
                .context("the old proxy is gone, or says what is not understood")?
            {
                Answer::Some => {}
                Answer::All { application } => {
                    let Sorted { listeners, datagrams, locks } = net::listen::sort(sockets)?;
                    return Ok(Taken { listeners, datagrams, locks, application, old });
                }
            }
        }
    }

    /// Tells the old process that it is no longer needed.
    pub(super) fn serving(&self) {
        // If it is gone already, that is as well.
        if let Ok(text) = serde_json::to_vec(&Ask::Serving)
            && let Err(error) = self.old.send(&text, &[])
        {
            tracing::info!(%error, "the old proxy is gone already");
        }
    }
}

/// Answers a new process; tells `taken` when that one serves.
pub(super) async fn offer(channel: Channel, sockets: Vec<OwnedFd>, application: Option<bool>, taken: mpsc::Sender<()>) {
    match answer(&channel, &sockets, application).await {
        // The receiver lives as long as the proxy does.
        Ok(()) => drop(taken.send(()).await),
        Err(error) => tracing::warn!(error = format!("{error:#}"), "this proxy was not replaced"),
    }
}

async fn answer(channel: &Channel, sockets: &[OwnedFd], application: Option<bool>) -> anyhow::Result<()> {
    let mut parts = sockets.chunks(DESCRIPTORS);
    loop {
        // The new process ends when it cannot start, so this needs no limit.
        let message = channel.receive().await?;
        if message.bytes.is_empty() {
            bail!("the new one ended before it served");
        }
        match serde_json::from_slice(&message.bytes)? {
            Ask::Serving => return Ok(()),
            Ask::More => {
                let part = parts.next();
                let answer = if part.is_some() { Answer::Some } else { Answer::All { application } };
                let descriptors: Vec<_> = part.unwrap_or_default().iter().map(AsFd::as_fd).collect();
                channel.send(&serde_json::to_vec(&answer)?, &descriptors)?;
            }
        }
    }
}

/// Whether this is the first process of its container: all others there end with it (pid_namespaces(7)), so none can take its place.
pub(super) fn ends_its_container() -> bool {
    std::process::id() == 1
}

/// Starts a new process in this one's place, from the file that this one was started from, which may be another version by
/// now. It is nobody's child to wait for but ours.
pub(super) fn start_successor(settings: &Path) -> anyhow::Result<tokio::process::Child> {
    if ends_its_container() {
        bail!("it is the first process of its container, which would end with it; replace the container");
    }
    let own = net::process::executable();
    let mut command = tokio::process::Command::new(&own);
    command.args(["proxy", "--standalone", "--replace", "--settings"]).arg(settings);
    command.spawn().with_context(|| format!("{} cannot be started", own.display()))
}

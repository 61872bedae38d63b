//! The client's task: connects, reads, answers, tidies up and saves.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::snapshot::Resolution;
use engine::{Nanos, Rng};
use prost::Message;
use proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use proto::mesh::Refusal;
use proto::{rpc, type_url};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::names::{Ask, Names};
use super::state::State;
use super::{Connect, ConnectError, Settings, persist};
use crate::server::RESPONSE_LIMIT;
use crate::{jitter, seed};

/// From the start of a connection to the open stream; a control plane that accepts and then says nothing is given up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// gRPC's INVALID_ARGUMENT, which xDS uses for a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// How long what was kept last stays in place while the successor of something published is not complete. After that the
/// control plane has lost the rest, and what is new and whole is worth more.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// When every name that is held is the mesh's, it is looked again for some that could give way after so long.
const CROWDED: Duration = Duration::from_secs(1);

/// Requests that wait for the connection. The server reads whatever comes, so this only smooths.
const REQUESTS: usize = 64;

pub(super) struct Task {
    pub(super) settings: Settings,
    pub(super) connect: Arc<dyn Connect>,
    pub(super) state: State,
    pub(super) names: Arc<Names>,
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) changes: watch::Sender<u64>,
    pub(super) connected: watch::Sender<bool>,
    pub(super) timers: Timers,
    /// Somebody else writes the store.
    pub(super) store_left: Arc<AtomicBool>,
}

/// What happens by the clock.
pub(super) struct Timers {
    rng: Rng,
    sweep_at: Instant,
    /// Something is not saved yet.
    save_at: Option<Instant>,
    /// A save has been put off since then.
    unsettled: Option<Instant>,
    /// Until then no name can give way to another.
    crowded_until: Instant,
    /// When a name's slot was last seen to have been read, and what the slot said then.
    seen: HashMap<String, (Nanos, Instant)>,
}

impl Timers {
    pub(super) fn new(idle: Duration) -> Timers {
        Timers {
            rng: Rng::seeded(seed()),
            sweep_at: Instant::now() + idle / 4,
            save_at: None,
            unsettled: None,
            crowded_until: Instant::now(),
            seen: HashMap::new(),
        }
    }
}

/// The last [`super::Client`] is gone.
struct Stopped;

type Requests = mpsc::Sender<DeltaDiscoveryRequest>;

impl Task {
    pub(super) async fn run(mut self) {
        let Stopped = self.reconnect().await;
        self.save().await;
    }

    async fn reconnect(&mut self) -> Stopped {
        let mut backoff = self.settings.backoff_base;
        let mut told = false;
        loop {
            let opening = open(self.connect.clone());
            match self.meanwhile(opening).await {
                Err(stopped) => return stopped,
                Ok(Ok((requests, responses))) => {
                    self.connected.send_replace(true);
                    let heard = self.serve(requests, responses).await;
                    self.connected.send_replace(false);
                    match heard {
                        Err(stopped) => return stopped,
                        Ok(true) => (backoff, told) = (self.settings.backoff_base, false),
                        Ok(false) => {}
                    }
                }
                Ok(Err(error)) if !told => {
                    told = true; // Once an outage, not once an attempt.
                    tracing::warn!(%error, "no control plane; the last good configuration stays, and it is tried again");
                }
                Ok(Err(error)) => tracing::debug!(%error, "no control plane yet"),
            }
            let wait = jitter(&mut self.timers.rng, backoff);
            backoff = (backoff * 2).min(self.settings.backoff_max);
            if let Err(stopped) = self.meanwhile(tokio::time::sleep(wait)).await {
                return stopped;
            }
        }
    }

    /// Waits for `future` and does everything else that comes up.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Result<F::Output, Stopped> {
        let mut future = pin!(future);
        loop {
            let due = self.due();
            tokio::select! {
                output = &mut future => return Ok(output),
                ask = self.asks.recv() => {
                    self.ask(ask.ok_or(Stopped)?);
                    self.sync();
                }
                () = tokio::time::sleep_until(due) => {
                    self.tick().await;
                    self.sync();
                }
            }
        }
    }

    /// Runs one stream to its end. True if anything was heard.
    async fn serve(
        &mut self,
        requests: Requests,
        mut responses: Streaming<DeltaDiscoveryResponse>,
    ) -> Result<bool, Stopped> {
        self.sync();
        let mut first = self.state.begin();
        if let Some(first) = first.first_mut() {
            first.node = Some(Node { id: self.settings.workload.clone(), cluster: self.settings.mesh.clone() });
        }
        let mut heard = false;
        let mut unsent = first;
        loop {
            for request in unsent.drain(..) {
                if requests.send(request).await.is_err() {
                    return Ok(heard);
                }
            }
            let due = self.due();
            tokio::select! {
                response = responses.message() => match response {
                    Ok(Some(response)) => {
                        heard = true;
                        unsent = self.response(response);
                    }
                    Ok(None) => return Ok(heard),
                    Err(status) => {
                        tracing::info!(code = ?status.code(), reason = status.message(), "the control plane's stream ended");
                        return Ok(heard);
                    }
                },
                ask = self.asks.recv() => {
                    self.ask(ask.ok_or(Stopped)?);
                    unsent = self.sync();
                }
                () = tokio::time::sleep_until(due) => {
                    self.tick().await;
                    unsent = self.sync();
                }
            }
        }
    }

    /// Applies a response; returns its acknowledgement, and what is to be asked for because of it.
    fn response(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let mut acknowledgement = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        };
        let refusals = self.state.apply(response);
        if !refusals.is_empty() {
            acknowledgement.error_detail = Some(refused(&refusals));
        }
        let mut requests = vec![acknowledgement];
        requests.extend(self.sync());
        requests
    }

    fn ask(&mut self, ask: Ask) {
        self.state.ask(ask.name, ask.slot, ask.notify);
        // Whatever else has been asked for by now goes into the same request.
        while let Ok(ask) = self.asks.try_recv() {
            self.state.ask(ask.name, ask.slot, ask.notify);
        }
    }

    fn sync(&mut self) -> Vec<DeltaDiscoveryRequest> {
        // Without a control plane nobody could say again what they are.
        if *self.connected.borrow() {
            self.make_room();
        }
        let synced = self.state.sync();
        if synced.live {
            self.changes.send_modify(|count| *count += 1);
        }
        if synced.changed && self.settings.store.is_some() && self.timers.save_at.is_none() {
            self.timers.save_at = Some(Instant::now() + self.settings.store_every);
        }
        synced.requests
    }

    fn due(&self) -> Instant {
        self.timers.save_at.map_or(self.timers.sweep_at, |save| save.min(self.timers.sweep_at))
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        if self.timers.save_at.is_some_and(|at| at <= now) {
            self.save().await;
        }
        if self.timers.sweep_at <= now {
            self.sweep(now);
        }
    }

    /// Drops what nobody has read for long. What has not been answered yet is being waited for; and as long as nobody could say it
    /// again, everything is kept, unless there is much of it.
    fn sweep(&mut self, now: Instant) {
        self.timers.sweep_at = now + self.settings.idle / 4;
        let kept = !*self.connected.borrow() && self.state.slots().count() <= self.settings.names / 2;
        let mut idle = Vec::new();
        for (name, slot) in self.state.slots() {
            let used = slot.last_used();
            match self.timers.seen.get_mut(name) {
                Some((last, _)) if *last == used => {}
                Some(seen) => *seen = (used, now),
                None => _ = self.timers.seen.insert(name.to_owned(), (used, now)),
            }
            let since = self.timers.seen.get(name).map_or(now, |(_, since)| *since);
            if !kept && now - since >= self.settings.idle && self.state.answered(name) {
                idle.push(name.to_owned());
            }
        }
        for name in &idle {
            self.state.forget(name);
            self.names.release(name);
        }
        let state = &self.state;
        self.timers.seen.retain(|name, _| state.asks(name));
        self.names.sweep();
    }

    /// Drops names that are not the mesh's, those first that were not read for longest, when there is little room for others. Where
    /// all connections are intercepted, each address outside takes a place.
    fn make_room(&mut self) {
        let excess = self.names.excess();
        let now = Instant::now();
        if excess == 0 || now < self.timers.crowded_until {
            return;
        }
        let unknown = self.state.slots().filter(|(_, slot)| matches!(*slot.peek(), Resolution::NotFound));
        let mut unknown: Vec<(Nanos, String)> =
            unknown.map(|(name, slot)| (slot.last_used(), name.to_owned())).collect();
        if unknown.is_empty() {
            self.timers.crowded_until = now + CROWDED;
        }
        unknown.sort_unstable();
        for (_, name) in unknown.into_iter().take(excess) {
            self.state.forget(&name);
            self.names.release(&name);
        }
    }

    async fn save(&mut self) {
        if self.timers.save_at.take().is_none() || self.store_left.load(Ordering::Relaxed) {
            return;
        }
        let Some(path) = self.settings.store.clone() else {
            return;
        };
        if self.state.settled() {
            self.timers.unsettled = None;
        } else if self.timers.unsettled.get_or_insert_with(Instant::now).elapsed() < SETTLE_LIMIT {
            self.timers.save_at = Some(Instant::now() + self.settings.store_every);
            return;
        }
        let contents = persist::encode(&self.settings.workload, &self.state);
        let shown = path.display().to_string();
        match tokio::task::spawn_blocking(move || persist::write(&path, &contents)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(path = %shown, %error, "the configuration held cannot be kept for a start without control plane");
            }
            Err(error) => tracing::error!(%error, "saving the configuration held panicked"),
        }
    }
}

async fn open(connect: Arc<dyn Connect>) -> Result<(Requests, Streaming<DeltaDiscoveryResponse>), ConnectError> {
    let opening = async {
        let channel = connect.connect().await?;
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_LIMIT);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?;
        Ok((requests, responses.into_inner()))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening).await?
}

/// The error of a NACK: each refused resource is a detail.
pub(super) fn refused(refusals: &[Refusal]) -> rpc::Status {
    let detail =
        |refusal: &Refusal| prost_types::Any { type_url: type_url::REFUSAL.to_owned(), value: refusal.encode_to_vec() };
    let message =
        refusals.iter().map(|r| format!("{}: {}: {}", r.name, r.field, r.reason)).collect::<Vec<_>>().join("; ");
    tracing::warn!(reason = %message, "refused configuration; the last good version stays");
    rpc::Status { code: INVALID_ARGUMENT, message, details: refusals.iter().map(detail).collect() }
}

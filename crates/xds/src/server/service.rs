//! The gRPC side of a stream: who it is, reading, writing, and its end.

use std::sync::Arc;

use engine::Rng;
use proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::stream::Stream;
use super::{Admit, Options, Publisher, Report};
use crate::{Kind, jitter};

/// A peer says at most this much at once: a gateway that holds 50,000 endpoints lists them in some 5 MB.
const REQUEST_LIMIT: usize = 16 << 20;

/// The first answer of a collection is one message: 100,000 endpoints.
pub(crate) const RESPONSE_LIMIT: usize = 64 << 20;

/// Serves a [`Publisher`].
pub struct Server {
    publisher: Publisher,
    admit: Arc<dyn Admit>,
    reports: mpsc::Sender<Report>,
    options: Options,
}

/// The gRPC service that serves `publisher`. What proxies refuse goes to `reports`; a full channel holds up the reading of
/// the stream that reports, and a closed one drops reports.
pub fn service(
    publisher: Publisher,
    admit: impl Admit,
    reports: mpsc::Sender<Report>,
    options: Options,
) -> AggregatedDiscoveryServiceServer<Server> {
    AggregatedDiscoveryServiceServer::new(Server { publisher, admit: Arc::new(admit), reports, options })
        .max_decoding_message_size(REQUEST_LIMIT)
        .max_encoding_message_size(RESPONSE_LIMIT)
}

type Outgoing = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        // One response a kind is under way at most, so the channel never fills.
        let (outgoing, responses) = mpsc::channel(Kind::COUNT + 1);
        let (_, extensions, incoming) = request.into_parts();
        let session = Session {
            publisher: self.publisher.clone(),
            reports: self.reports.clone(),
            options: self.options.clone(),
            admit: self.admit.clone(),
        };
        tokio::spawn(async move {
            if let Err(status) = session.run(extensions, incoming, &outgoing).await {
                // The peer may be gone; then nobody wants to know.
                let _ = outgoing.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

struct Session {
    publisher: Publisher,
    reports: mpsc::Sender<Report>,
    options: Options,
    admit: Arc<dyn Admit>,
}

impl Session {
    async fn run(
        &self,
        extensions: Extensions,
        mut incoming: Streaming<DeltaDiscoveryRequest>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(self.options.hello_timeout, incoming.message());
        let first = first.await.map_err(|_| Status::deadline_exceeded("no first request came in time"))??;
        let Some(first) = first else { return Ok(()) };
        let node = first.node.clone().unwrap_or_default();
        let namespace = self.admit.admit(&extensions, &node)?;
        check_node(&node, &namespace)?;
        let (id, wake) = self.publisher.lock().open();
        let mut stream = Stream::new(self.publisher.clone(), id, node.id, namespace, self.options.names_per_stream);
        let ended = self.serve(&mut stream, &wake, first, incoming, outgoing).await;
        self.report(stream.close()).await;
        ended
    }

    async fn serve(
        &self,
        stream: &mut Stream,
        wake: &Notify,
        first: DeltaDiscoveryRequest,
        mut incoming: Streaming<DeltaDiscoveryRequest>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let age = tokio::time::sleep(jitter(&mut Rng::seeded(crate::seed()), self.options.stream_age));
        tokio::pin!(age);
        let grace = self.publisher.grace_over();
        tokio::pin!(grace);
        let mut in_grace = true;
        let mut request = Some(first);
        let mut changed = false;
        // Changes are gathered until then (a leaky bucket: each time that the peer is told moves it on, and it may lag behind). What
        // is told before that answers a question and moves nothing, or many questions would hold changes up without end.
        let lag = self.options.gather * self.options.burst.saturating_sub(1);
        let mut quiet = Instant::now() - lag;
        loop {
            let gathered = Instant::now() >= quiet;
            let mut due = gathered;
            if let Some(request) = request.take() {
                due |= stream.is_urgent(&request);
                let mut reports = Vec::new();
                let taken = stream.request(request, &mut reports);
                self.report(reports).await;
                taken?;
                // What it may have left to be said is said when it may be.
                changed |= !due;
            }
            if due {
                changed = false;
                let responses = stream.flush();
                if gathered && !responses.is_empty() {
                    quiet = quiet.max(Instant::now() - lag) + self.options.gather;
                }
                for response in responses {
                    if outgoing.send(Ok(response)).await.is_err() {
                        return Ok(()); // The peer is gone.
                    }
                }
            }
            tokio::select! {
                message = incoming.message() => match message {
                    Ok(Some(message)) => request = Some(message),
                    Err(status) if status.code() == Code::OutOfRange => return Err(status),
                    // A peer that goes away is nobody's error.
                    Ok(None) | Err(_) => return Ok(()),
                },
                () = wake.notified(), if !changed => changed = true,
                () = tokio::time::sleep_until(quiet), if changed => {}
                () = &mut grace, if in_grace => (in_grace, changed) = (false, true),
                () = &mut age => return Ok(()),
                () = outgoing.closed() => return Ok(()),
            }
        }
    }

    async fn report(&self, reports: Vec<Report>) {
        for report in reports {
            // Nobody listens any more: the control plane is ending.
            let _ = self.reports.send(report).await;
        }
    }
}

fn check_node(node: &Node, namespace: &str) -> Result<(), Status> {
    match node.id.split_once('/') {
        Some((own, name)) if own == namespace && !name.is_empty() => Ok(()),
        Some((own, _)) if own != namespace => Err(Status::permission_denied(format!(
            "node `{}` lies in namespace `{own}`, but the certificate is of namespace `{namespace}`",
            node.id
        ))),
        _ => Err(Status::invalid_argument(format!("node id `{}` is not `namespace/name`", node.id))),
    }
}

//! Probes: a caller's sidecar asks that of an idle instance how busy it is, which answers by itself. The application hears
//! nothing of it, no authorization applies (the caller proved to be of the mesh, and learns a load alone), nothing is counted
//! as a request. The engine says whom to ask and how often (`loadBalancing.probesPerSecond`).

use std::rc::Rc;
use std::sync::Arc;

use engine::balance::Endpoint;
use engine::{Nanos, RequestHead};

use crate::ask::{self, Question};
use crate::end::End;
use crate::h1::{self, Framing};
use crate::load::{LOAD, Report};
use crate::pool::Peer;
use crate::relay::After;
use crate::route::{Door, Way};
use crate::send::Call;
use crate::upstream::{Route, Wire};
use crate::worker::Worker;

/// A sidecar's `OPTIONS` for this path with the field [`PROBE`] is not for the application. No application's request has
/// that field when it comes here: it is one of those that its own sidecar takes off.
const PATH: &str = "/.well-known/heddle/load";

/// Marks a probe.
const PROBE: &str = "heddle-probe";

/// A probe takes no longer; its answer would be old.
const LIMIT: Nanos = Nanos::from_millis(1_000);

/// Asks `endpoint`, over a connection that there is; where there is none a probe is not worth one.
pub(crate) async fn ask(worker: Rc<Worker>, endpoint: Arc<Endpoint>) {
    let peer = Peer::Endpoint(endpoint.load.id);
    let wire = match worker.pool.borrow().is_warm_for(peer) {
        (true, _) => Wire::Http1,
        (false, true) => Wire::Http2,
        (false, false) => return,
    };
    let question = Question { method: "OPTIONS", path: PATH, host: "heddle", mark: Some(PROBE), grpc: None };
    let asked = ask::ask(&worker, peer, Route::Endpoint(&endpoint.dial), wire, &question, LIMIT);
    // Silence teaches nothing here: requests that wait too long do.
    let Ok(Some(reply)) = tokio::time::timeout(LIMIT.duration(), asked).await else { return };
    if let Some(report) = reply.load.as_deref().and_then(Report::parse) {
        endpoint.load.reported(report.in_flight, report.latency, worker.now());
    }
}

/// Whether a request is a probe from another sidecar, which has proved who it is.
pub(crate) fn is_probe(door: &Door, head: &h1::Request) -> bool {
    matches!(&door.way, Way::Inbound(caller) if caller.id.is_some())
        && head.method() == "OPTIONS"
        && head.path() == PATH
        && head.header(PROBE).is_some()
}

/// Answers one.
pub(crate) async fn answer(call: &mut Call<'_>) -> After {
    let value = call.worker.shared.load.report(call.record.started).value();
    let bodiless = matches!(call.framing, Framing::None | Framing::Length(0));
    let keep = bodiless && call.head.keep_alive() && !call.door.is_leaving(call.worker);
    let written = match &mut *call.down {
        End::H1(conn) => {
            let close: &[u8] = if keep { b"" } else { b"connection: close\r\n" };
            for part in [b"HTTP/1.1 204 No Content\r\n", LOAD.as_bytes(), b": ", value.bytes(), b"\r\n", close, b"\r\n"]
            {
                conn.output.extend_from_slice(part);
            }
            Ok(())
        }
        End::H2(stream) => stream.send_answer(true, |encoder, out| {
            encoder.begin(out);
            encoder.status(204, out);
            encoder.field(LOAD.as_bytes(), value.bytes(), true, out);
        }),
    };
    call.deadline.set(Some(call.worker.now().after(LIMIT)));
    if written.is_err() || crate::reply::flush(call.down, call.deadline).await.is_err() {
        return After::Abort;
    }
    if keep { After::Continue } else { After::Close }
}

//! CONNECT to the forward proxy: a tunnel, whose bytes are identified again.

use std::rc::Rc;

use engine::Reason;
use engine::snapshot::Resolution;

use crate::conn::Conn;
use crate::deadline::Deadline;
use crate::end::End;
use crate::http1::Tunnel;
use crate::observe::About;
use crate::reply::{self, Refusal};
use crate::route::{self, Door, Way};
use crate::target::Target;
use crate::worker::Worker;
use crate::{outside, tcp};

const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Opens a tunnel to `target`. One to a destination of the mesh is handed back, to be identified; one to a host outside is
/// carried here, after the host has been reached, so that the client is told when it cannot be.
pub(crate) async fn open(
    worker: &Rc<Worker>,
    door: &Door,
    mut down: End,
    target: Target,
    deadline: &mut Deadline,
) -> Option<Tunnel> {
    let up = match prepare(worker, &target).await {
        Ok(up) => up,
        Err(refusal) => {
            refuse(worker, door, &mut down, deadline, &refusal).await;
            return None;
        }
    };
    let End::H1(mut conn) = down else { return None };
    conn.output.extend_from_slice(ESTABLISHED);
    let Some(mut up) = up else {
        let mut down = End::H1(conn);
        reply::flush(&mut down, deadline).await.ok()?;
        let End::H1(conn) = down else { return None };
        return Some(Tunnel { conn: *conn, target });
    };
    let inside = Door::new(Way::Fixed(target), door.peer);
    let record = worker.observer.begin(inside.direction(), worker.now());
    Box::pin(tcp::carry_between(worker, &inside, record, &mut conn, &mut up, worker.defaults.idle_timeout, None)).await;
    None
}

/// The other side, where it is a host outside.
async fn prepare(worker: &Rc<Worker>, target: &Target) -> Result<Option<Conn>, Refusal> {
    match &**route::resolve(worker, target).await? {
        Resolution::Found(destination) if destination.port(target.port).is_some() => return Ok(None),
        Resolution::Found(destination) => {
            return Err(Refusal::new(Reason::NoSuchPort, format!("{} has no port {}", destination.name, target.port)));
        }
        Resolution::NotFound | Resolution::Pending => {}
    }
    Box::pin(outside::open(worker, target)).await.map(Some)
}

async fn refuse(worker: &Worker, door: &Door, down: &mut End, deadline: &mut Deadline, refusal: &Refusal) {
    let now = worker.now();
    let mut record = worker.observer.begin(door.direction(), now);
    record.status = refusal.status();
    record.reason = Some(refusal.reason);
    worker.observer.finish(&record, About::Unknown, door.identity(), worker.access_log(), now);
    if reply::answer(down, None, refusal, true).is_ok() {
        // The connection is closed either way.
        let _ = reply::flush(down, deadline).await;
    }
}

//! Serving one HTTP/2 client connection: a task for the connection, and one for each stream.

use std::rc::Rc;

use engine::{Reason, RequestHead as _};

use crate::conn::Conn;
use crate::crew::{self, Hand};
use crate::deadline::Deadline;
use crate::end::End;
use crate::forward::forward;
use crate::h1::{self, Form};
use crate::h2::{self, Connection, Role, Stream};
use crate::observe::About;
use crate::reply::{self, Refusal};
use crate::route::{Door, Way};
use crate::send::Call;
use crate::target::Target;
use crate::worker::{Heads, Worker};

/// Serves streams until the connection ends.
pub(crate) async fn serve(worker: &Rc<Worker>, door: Door, conn: Conn) {
    let (term, side) = (door.term(), door.side());
    let door = Rc::new(door);
    let mut accept = |stream| crew::serve(worker, Job { door: Rc::clone(&door), stream });
    let connection = Connection::server(worker.limits(), &worker.streams);
    h2::drive(worker, connection, conn.io, conn.input, Role::Server(side, &mut accept), term).await;
}

/// A stream to serve.
pub(crate) struct Job {
    door: Rc<Door>,
    stream: Stream,
}

/// Serves one stream after another, as long as there is one or the crew wants to keep the task.
///
/// One function, since what serves a stream is some kilobytes that would be moved twice when it were awaited as a future of its
/// own. The timer is the task's, for the same reason.
pub(crate) async fn streams(worker: &Rc<Worker>, hand: &Rc<Hand>) {
    let mut deadline = Deadline::new(worker.shared.clock);
    while let Some(Job { door, stream }) = hand.next().await {
        let door = &*door;
        let mut heads = worker.lend_heads();
        let Heads { request, response } = &mut *heads;
        let refused = stream.take_request(request);
        let mut down = End::H2(stream);
        let named = match refused {
            Some(problem) => Err(problem.into()),
            None => destination(worker, door, request),
        };
        match named {
            Err(refusal) => refuse(worker, door, &mut down, request, &refusal),
            Ok(target) => {
                deadline.set(None);
                let mut call = Call {
                    worker,
                    door,
                    down: &mut down,
                    head: request,
                    framing: request.framing(),
                    asked: h1::Asked::default(),
                    response,
                    deadline: &mut deadline,
                    record: worker.observer.begin(door.direction(), worker.now()),
                    due: None,
                    interims: 0,
                    binding: None,
                };
                forward(&mut call, target.as_ref()).await;
            }
        }
        worker.give_back_heads(heads);
        // Before it waits: a stream that is over must not hold its slot.
        drop(down);
        if !worker.crew.keep(hand) {
            return;
        }
    }
}

/// What a request to the forward proxy names; `None` for the other ways in.
fn destination(worker: &Worker, door: &Door, request: &h1::Request) -> Result<Option<Target>, Refusal> {
    if request.form() == Form::Authority {
        return Err(Refusal::new(Reason::BadRequest, "CONNECT is served over HTTP/1 alone"));
    }
    if !matches!(door.way, Way::Forward) {
        return Ok(None);
    }
    let target = Target::parse(request.authority(), 80)
        .ok_or(Refusal::new(Reason::NoDestination, "the request names no host"))?;
    Ok(Some(worker.shared.settings.service_at(target)))
}

fn refuse(worker: &Worker, door: &Door, down: &mut End, request: &h1::Request, refusal: &Refusal) {
    let now = worker.now();
    let mut record = worker.observer.begin(door.direction(), now);
    record.status = refusal.status();
    record.reason = Some(refusal.reason);
    worker.observer.finish(&record, About::Request(request, None), door.identity(), worker.access_log(), now);
    // An error means that the stream is gone, with whoever would have read the answer.
    let _ = reply::answer(down, Some(request), refusal, false);
}

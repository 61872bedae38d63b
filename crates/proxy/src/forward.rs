//! The walk of one request through its phases: match → choose and send → relay → observe. The same for HTTP/1 and HTTP/2.

use engine::reason::Source;
use engine::{Nanos, Reason};

use crate::observe::About;
use crate::probe;
use crate::relay::{self, After};
use crate::reply::{self, Refusal};
use crate::request;
use crate::route::{self, Plan};
use crate::send::{self, Call, earlier};
use crate::target::Target;

/// Serves one request whose head was read. `target` is what a request to the forward proxy names. Everything that was to
/// be written is written, or handed to the HTTP/2 connection.
pub(crate) async fn forward(call: &mut Call<'_>, target: Option<&Target>) -> After {
    if probe::is_probe(call.door, call.head) {
        return probe::answer(call).await;
    }
    let level = call.worker.access_log();
    let matched = route::request(call.worker, call.door, target, call.head).await;
    if let Some(series) = matched.series {
        call.record.series = series;
    }
    let after = match &matched.plan {
        Err(refusal) => refuse(call, refusal).await,
        Ok(plan) => match attempt(call, plan).await {
            Ok(after) => after,
            Err(refusal) => refuse(call, &refusal).await,
        },
    };
    // Every phase that had to wait has looked at the clock since.
    let now = call.worker.recently();
    let rule = matched.rule.as_ref().or_else(|| matched.plan.as_ref().ok().and_then(Plan::rule));
    let about = About::Request(call.head, rule.map(|rule| &**rule));
    call.worker.observer.finish(&call.record, about, call.door.identity(), level, now);
    after
}

async fn attempt(call: &mut Call<'_>, plan: &Plan) -> Result<After, Refusal> {
    let policy = plan.policy();
    call.due = policy.and_then(|policy| policy.request_timeout).map(|length| call.record.started.after(length));
    if let Some(term) = call.door.term() {
        if term.is_over(call.record.started) {
            return Err(Reason::CertificateExpired.into());
        }
        call.due = earlier(call.due, Some(term.ends));
    }
    let worker = call.worker;
    let _serving = matches!(plan, Plan::Application { .. }).then(|| worker.serve());
    let wire = send::wire(call, plan.protocol());
    let mut upload = request::upload(call, wire);
    let answer = send::send(call, plan, wire, &mut upload).await?;
    Ok(relay::relay(call, plan, answer).await)
}

/// Answers a request that is not served.
async fn refuse(call: &mut Call<'_>, refusal: &Refusal) -> After {
    call.record.status = refusal.status();
    call.record.reason = Some(refusal.reason);
    call.record.failure = matches!(refusal.reason.source(), Source::Upstream | Source::Mesh);
    let keep = reply::keeps(call, refusal);
    if reply::answer(call.down, Some(call.head), refusal, !keep).is_err() {
        return After::Abort;
    }
    let idle = call.worker.defaults.idle_timeout.unwrap_or(Nanos::from_millis(60_000));
    call.deadline.set(Some(call.worker.now().after(idle)));
    let flushed = reply::flush(call.down, call.deadline).await;
    call.worker.now();
    match flushed {
        Ok(()) => relay::after_refusal(refusal, keep),
        Err(_) => After::Abort,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's task holds this for as long as the connection lives, so it is memory per connection, and it is moved
    /// when the task is spawned. What is large and rare (dialling, tunnels) is boxed where it is awaited.
    #[test]
    fn the_walk_of_a_request_is_small() {
        const fn size<F>(_: fn(&'static mut Call<'static>, Option<&'static Target>) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(forward);
        assert!(size <= 3_500, "{size} bytes");
    }
}

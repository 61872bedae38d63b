//! Opaque bytes both ways.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{Nanos, Outcome, Reason};
use net::copy::{self, Counters};

use crate::conn::Conn;
use crate::io::Io;

/// What went through a tunnel.
pub(crate) struct Carried {
    /// Bytes from the client.
    pub(crate) received: u64,
    /// Bytes to the client.
    pub(crate) sent: u64,
    /// Why it ended, if not by the will of both sides; and whether the client's side was it.
    pub(crate) fault: Option<(Reason, bool)>,
}

impl Carried {
    /// What it says of the other side. One that was cut off without a byte has failed, however well it was connected: a sidecar was
    /// there, not its application. That nothing came until time was up is how some protocols are: their servers only listen.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.fault {
            Some((Reason::UpstreamReset, _)) if self.sent == 0 => Outcome::Reset,
            _ => Outcome::Success,
        }
    }
}

/// Carries bytes between a client and the other side until both have ended, or until `over`. What either read before goes first.
pub(crate) async fn join(
    down: &mut Conn,
    up: &mut Conn,
    idle: Option<Nanos>,
    over: impl Future<Output = ()>,
) -> Carried {
    let counters = Counters::default();
    let before = (down.input.len() as u64, up.input.len() as u64);
    // The end of one side by an error must not look like an orderly end to the other, nor must the end of this task or process.
    down.io.abort_unless_whole();
    up.io.abort_unless_whole();
    let result = match begin(down, up).await {
        Err(fault) => Some(fault),
        Ok(()) => {
            let idle = idle.map_or(Duration::ZERO, Nanos::duration);
            let copied = async {
                match (&mut down.io, &mut up.io) {
                    (Io::Tcp(down), Io::Tcp(up)) => copy::tcp(down, up, idle, &counters).await,
                    (down, up) => copy::bidirectional(down, up, idle, &counters).await,
                }
            };
            tokio::select! {
                biased;
                copied = copied => copied.err().map(|error| match error {
                    copy::Error::Idle(_) => (Reason::IdleTimeout, false),
                    copy::Error::Failed { side: copy::Side::A, .. } => (Reason::ClientGone, true),
                    copy::Error::Failed { side: copy::Side::B, .. } => (Reason::UpstreamReset, false),
                }),
                // Neither side is to blame.
                () = over => Some((Reason::CertificateExpired, true)),
            }
        }
    };
    for conn in [down, up] {
        match result {
            None => conn.io.is_whole(),
            Some(_) => conn.io.abort_on_close(),
        }
    }
    Carried {
        received: before.0 + counters.a_to_b.load(Ordering::Relaxed),
        sent: before.1 + counters.b_to_a.load(Ordering::Relaxed),
        fault: result,
    }
}

/// Writes what was read before.
async fn begin(down: &mut Conn, up: &mut Conn) -> Result<(), (Reason, bool)> {
    up.output.extend_from_slice(down.input.bytes());
    down.input = Default::default();
    down.output.extend_from_slice(up.input.bytes());
    up.input = Default::default();
    poll_fn(|cx| up.poll_flush(cx)).await.map_err(|_| (Reason::UpstreamReset, false))?;
    poll_fn(|cx| down.poll_flush(cx)).await.map_err(|_| (Reason::ClientGone, true))?;
    up.output = Vec::new();
    down.output = Vec::new();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_only_listens_has_not_failed_when_time_is_up() {
        let outcome = |sent, fault| Carried { received: 10, sent, fault }.outcome();
        assert_eq!(outcome(0, Some((Reason::IdleTimeout, false))), Outcome::Success);
        assert_eq!(outcome(0, Some((Reason::ClientGone, true))), Outcome::Success);
        assert_eq!(outcome(0, Some((Reason::UpstreamReset, false))), Outcome::Reset);
        assert_eq!(outcome(1, Some((Reason::UpstreamReset, false))), Outcome::Success, "it did answer");
        assert_eq!(outcome(0, None), Outcome::Success);
    }
}

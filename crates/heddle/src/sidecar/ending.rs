//! How a proxy ends: the way in first, so that the application can still call others while it ends, then the way out.

use std::time::Duration;

use net::drain::{Drain, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::link::ToProxy;

/// What is under way when the process is told to end by a signal is given this long.
const LAST_DRAIN: Duration = Duration::from_secs(5);

/// Why a proxy ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It is told to.
    Told(Order),
    /// Another process serves in its place.
    Replaced,
}

/// What a proxy is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A token that it may show the control plane.
    Token(String),
    /// Whether the application may be sent requests.
    Ready(bool),
    /// To end the way in; what is under way may take so long.
    Drain(Duration),
    /// To end; what is under way may take so long.
    End(Duration),
}

impl Order {
    /// How long what is under way may take.
    pub(super) fn limit(&self) -> Duration {
        match self {
            Order::Drain(limit) | Order::End(limit) => *limit,
            Order::Token(_) | Order::Ready(_) => Duration::ZERO,
        }
    }

    /// The same order when `passed` of its time is over.
    pub(super) fn sooner(self, passed: Duration) -> Order {
        match self {
            Order::Drain(limit) => Order::Drain(limit.saturating_sub(passed)),
            Order::End(limit) => Order::End(limit.saturating_sub(passed)),
            other => other,
        }
    }
}

impl From<ToProxy> for Order {
    fn from(message: ToProxy) -> Order {
        match message {
            ToProxy::Token(token) => Order::Token(token),
            ToProxy::Ready(ready) => Order::Ready(ready),
            ToProxy::Drain { seconds } => Order::Drain(Duration::from_secs(seconds)),
            ToProxy::End { seconds } => Order::End(Duration::from_secs(seconds)),
        }
    }
}

/// Whoever may give orders, from its first moment to its last.
pub(super) struct Orders {
    /// The supervisor, if there is one.
    inbox: Option<mpsc::Receiver<ToProxy>>,
    /// The page that is asked to drain.
    page: mpsc::Receiver<Duration>,
    terminate: Signal,
    interrupt: Signal,
}

impl Orders {
    /// Catches the signals from now on.
    pub(super) fn new(
        inbox: Option<mpsc::Receiver<ToProxy>>,
        page: mpsc::Receiver<Duration>,
    ) -> std::io::Result<Orders> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Orders { inbox, page, terminate, interrupt })
    }

    /// The next order. Cancel safe.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            message = receive(&mut self.inbox) => match message {
                Some(message) => message.into(),
                None => {
                    // The supervisor is gone.
                    self.inbox = None;
                    Order::End(Duration::ZERO)
                }
            },
            Some(limit) = self.page.recv() => Order::End(limit),
            _ = self.terminate.recv() => Order::End(LAST_DRAIN),
            _ = self.interrupt.recv() => Order::End(LAST_DRAIN),
        }
    }
}

/// The next message of the supervisor; never without one.
async fn receive(inbox: &mut Option<mpsc::Receiver<ToProxy>>) -> Option<ToProxy> {
    match inbox {
        Some(inbox) => inbox.recv().await,
        None => std::future::pending().await,
    }
}

/// The ends of both ways.
pub(super) struct Drains {
    inward: Drain,
    outward: Drain,
}

impl Drains {
    /// With what learns of the end of the way in, and of the way out.
    pub(super) fn new() -> (Drains, Watch, Watch) {
        let ((inward, drain), (outward, drain_out)) = (net::drain::channel(), net::drain::channel());
        (Drains { inward, outward }, drain, drain_out)
    }

    /// Does what it is told.
    pub(super) fn obey(&self, order: Order) {
        match order {
            Order::Drain(limit) => self.inward.begin(limit),
            Order::End(limit) => {
                self.inward.begin(limit);
                self.outward.begin(limit);
            }
            // Nobody is told anything more.
            Order::Token(_) | Order::Ready(_) => {}
        }
    }

    /// Another process is there for both.
    pub(super) fn leave(&self, limit: Duration) {
        self.inward.leave(limit);
        self.outward.leave(limit);
    }

    /// Waits until both have ended, which orders may hasten; calls `emptied` when the first of them has nothing left to do.
    pub(super) async fn ended(&self, orders: &mut Orders, emptied: impl FnOnce()) {
        let end = async {
            self.inward.emptied().await;
            emptied();
            self.outward.emptied().await;
            let (inward, outward) = tokio::join!(self.inward.drained(), self.outward.drained());
            inward + outward
        };
        tokio::pin!(end);
        let mut at_once = false;
        let cut_off = loop {
            tokio::select! {
                cut_off = &mut end => break cut_off,
                order = orders.next() => {
                    at_once |= order == Order::End(Duration::ZERO);
                    self.obey(order);
                }
            }
        };
        if cut_off > 0 && !at_once {
            tracing::warn!(cut_off, "connections were cut off at the end of the drain");
        }
    }
}

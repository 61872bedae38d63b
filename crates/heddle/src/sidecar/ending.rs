//! How a proxy ends: the way in first, so that the application can still call others while it ends, then the way out.

use std::time::Duration;

use net::drain::{Drain, Watch};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

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
    /// To end the way in and then the way out; what is under way may take so long.
    Finish(Duration),
    /// To end both at once, since the application has ended; what is under way may take so long.
    End(Duration),
}

impl Order {
    /// How long what is under way may take.
    pub(super) fn limit(&self) -> Duration {
        match self {
            Order::Drain(limit) | Order::Finish(limit) | Order::End(limit) => *limit,
            Order::Token(_) | Order::Ready(_) => Duration::ZERO,
        }
    }

    /// The same order when `passed` of its time is over.
    pub(super) fn sooner(self, passed: Duration) -> Order {
        match self {
            Order::Drain(limit) => Order::Drain(limit.saturating_sub(passed)),
            Order::Finish(limit) => Order::Finish(limit.saturating_sub(passed)),
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
    /// Whether a supervisor alone says when this process ends. A signal that its whole control group gets tells it nothing.
    supervised: bool,
    /// The page that is asked to drain.
    page: mpsc::Receiver<Order>,
    terminate: Signal,
    interrupt: Signal,
}

impl Orders {
    /// Catches the signals from now on.
    pub(super) fn new(inbox: Option<mpsc::Receiver<ToProxy>>, page: mpsc::Receiver<Order>) -> std::io::Result<Orders> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Orders { supervised: inbox.is_some(), inbox, page, terminate, interrupt })
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
            Some(order) = self.page.recv() => order,
            _ = self.terminate.recv(), if !self.supervised => Order::Finish(LAST_DRAIN),
            _ = self.interrupt.recv(), if !self.supervised => Order::Finish(LAST_DRAIN),
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

    /// Another process is there for both.
    pub(super) fn leave(&self, limit: Duration) {
        self.inward.leave(limit);
        self.outward.leave(limit);
    }

    /// Does what it is told, first `order` and then what comes, and waits until both ways have ended; calls `emptied` when the way in
    /// has nothing left to do.
    pub(super) async fn ended(&self, order: Option<Order>, orders: &mut Orders, emptied: impl FnOnce()) {
        let mut told = Told::default();
        // Without an application behind it nobody need be served who has not heard of the end.
        let dead = matches!(order, Some(Order::End(_)));
        if let Some(order) = order {
            self.obey(order, &mut told);
        }
        let inward = async {
            if !dead {
                self.inward.shut().await;
            }
            self.inward.emptied().await;
        };
        self.during(inward, orders, &mut told).await;
        emptied();
        told.inward_has_ended = true;
        if let Some(by) = told.finish_by {
            self.outward.begin(by.saturating_duration_since(Instant::now()));
        }
        let outward = async {
            self.outward.emptied().await;
        };
        self.during(outward, orders, &mut told).await;
        let (inward, outward) = tokio::join!(self.inward.drained(), self.outward.drained());
        let cut_off = inward + outward;
        if cut_off > 0 {
            tracing::warn!(cut_off, "connections were cut off at the end of the drain");
        }
    }

    /// Does what it is told until `work` is done.
    async fn during(&self, work: impl Future<Output = ()>, orders: &mut Orders, told: &mut Told) {
        tokio::pin!(work);
        loop {
            tokio::select! {
                () = &mut work => return,
                order = orders.next() => self.obey(order, told),
            }
        }
    }

    fn obey(&self, order: Order, told: &mut Told) {
        match order {
            Order::Drain(limit) => self.inward.begin(limit),
            Order::Finish(limit) => {
                self.inward.begin(limit);
                if told.inward_has_ended {
                    self.outward.begin(limit);
                } else {
                    let by = Instant::now().checked_add(limit);
                    told.finish_by = [told.finish_by, by].into_iter().flatten().min();
                }
            }
            Order::End(limit) => {
                self.inward.begin(limit);
                self.outward.begin(limit);
            }
            // Nobody is told anything more.
            Order::Token(_) | Order::Ready(_) => {}
        }
    }
}

/// What an ending proxy was told.
#[derive(Default)]
struct Told {
    /// When the way out is over that ends after the way in.
    finish_by: Option<Instant>,
    inward_has_ended: bool,
}

#[cfg(test)]
mod tests;

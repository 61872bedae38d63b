//! Questions to live sidecars: how would one send a certain request?
//!
//! A question goes down the Session stream of one proxy, its answer comes up. The control plane knows nothing of what is
//! asked; it only sees to it that an answer comes from whom it was asked of, in time, or not at all.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::mesh;
use proto::mesh::control_message::Kind as Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::instances::StreamId;

/// How long a proxy may take. It may have to ask for the destination first, which it gives five seconds.
const PATIENCE: Duration = Duration::from_secs(8);

/// Questions that wait for their answers at once.
const WAITING: usize = 64;

type Outgoing = mpsc::Sender<Result<mesh::ControlMessage, tonic::Status>>;

/// Open streams, and questions on their way.
#[derive(Default)]
pub(crate) struct Explains(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    streams: BTreeMap<String, (StreamId, Outgoing)>,
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
}

struct Waiting {
    /// Who was asked, over which stream.
    stream: StreamId,
    answer: oneshot::Sender<mesh::ExplainAnswer>,
}

/// Why there is no explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} has no open stream to this control plane; `heddle get instances` lists those that have")]
    NotConnected(String),
    #[error("{WAITING} questions wait for their answers already; try again in a moment")]
    Busy,
    #[error("{0} does not answer; is its heddle of an older version?")]
    Silent(String),
    #[error("{0}")]
    Refused(String),
}

impl Explains {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing here is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on questions to `workload` go to this stream.
    pub(crate) fn opened(&self, workload: &str, stream: StreamId, outgoing: Outgoing) {
        self.inner().streams.insert(workload.to_owned(), (stream, outgoing));
    }

    /// The stream is over, and nobody answers over it any more.
    pub(crate) fn closed(&self, workload: &str, stream: StreamId) {
        let mut inner = self.inner();
        if inner.streams.get(workload).is_some_and(|(held, _)| *held == stream) {
            inner.streams.remove(workload);
        }
        inner.waiting.retain(|_, waiting| waiting.stream != stream);
    }

    /// Takes an answer. One that nobody waits for, or that comes from somebody else than was asked, is dropped.
    pub(crate) fn answered(&self, stream: StreamId, answer: mesh::ExplainAnswer) {
        let mut inner = self.inner();
        if inner.waiting.get(&answer.id).is_some_and(|waiting| waiting.stream == stream)
            && let Some(waiting) = inner.waiting.remove(&answer.id)
        {
            // Whoever asked may have given up.
            let _ = waiting.answer.send(answer);
        }
    }

    /// Asks the proxy of `workload`, and waits for its answer: JSON.
    pub(crate) async fn ask(&self, workload: &str, mut request: mesh::ExplainRequest) -> Result<String, Error> {
        let (sender, answer) = oneshot::channel();
        let (id, outgoing) = {
            let mut inner = self.inner();
            let Some((stream, outgoing)) = inner.streams.get(workload).map(|(s, o)| (*s, o.clone())) else {
                return Err(Error::NotConnected(workload.to_owned()));
            };
            if inner.waiting.len() >= WAITING {
                return Err(Error::Busy);
            }
            inner.next += 1;
            let id = inner.next;
            inner.waiting.insert(id, Waiting { stream, answer: sender });
            (id, outgoing)
        };
        request.id = id;
        let exchange = async {
            let message = mesh::ControlMessage { kind: Some(Message::Explain(request)) };
            outgoing.send(Ok(message)).await.ok()?;
            answer.await.ok()
        };
        let answer = timeout(PATIENCE, exchange).await;
        self.inner().waiting.remove(&id);
        match answer {
            Ok(Some(answer)) if answer.error.is_empty() => Ok(answer.explanation),
            Ok(Some(answer)) => Err(Error::Refused(answer.error)),
            Ok(None) => Err(Error::NotConnected(workload.to_owned())),
            Err(_) => Err(Error::Silent(workload.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn answer(id: u64, text: &str) -> mesh::ExplainAnswer {
        mesh::ExplainAnswer { id, explanation: text.to_owned(), error: String::new() }
    }

    async fn asked(receiver: &mut mpsc::Receiver<Result<mesh::ControlMessage, tonic::Status>>) -> u64 {
        match receiver.recv().await.unwrap().unwrap().kind.unwrap() {
            Message::Explain(request) => request.id,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_whom_was_asked_answers() {
        let explains = Arc::new(Explains::default());
        let (mine, other) = (StreamId::for_test(1), StreamId::for_test(2));
        let (sender, mut receiver) = mpsc::channel(4);
        explains.opened("shop/web-0", mine, sender);
        let ask = tokio::spawn({
            let explains = explains.clone();
            async move { explains.ask("shop/web-0", mesh::ExplainRequest::default()).await }
        });
        let id = asked(&mut receiver).await;
        explains.answered(other, answer(id, "a lie"));
        explains.answered(mine, answer(id + 1, "of something else"));
        explains.answered(mine, answer(id, "{}"));
        explains.answered(mine, answer(id, "twice"));
        assert_eq!(ask.await.unwrap(), Ok("{}".to_owned()));
        assert!(explains.inner().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_and_so_does_a_stream() {
        let explains = Arc::new(Explains::default());
        let missing = explains.ask("shop/web-0", mesh::ExplainRequest::default()).await;
        assert_eq!(missing, Err(Error::NotConnected("shop/web-0".to_owned())));
        let (sender, mut receiver) = mpsc::channel(4);
        let stream = StreamId::for_test(1);
        explains.opened("shop/web-0", stream, sender);
        let silent = explains.ask("shop/web-0", mesh::ExplainRequest::default()).await;
        assert_eq!(silent, Err(Error::Silent("shop/web-0".to_owned())));
        asked(&mut receiver).await;
        let ask = tokio::spawn({
            let explains = explains.clone();
            async move { explains.ask("shop/web-0", mesh::ExplainRequest::default()).await }
        });
        asked(&mut receiver).await;
        explains.closed("shop/web-0", stream);
        assert_eq!(ask.await.unwrap(), Err(Error::NotConnected("shop/web-0".to_owned())));
        assert!(explains.inner().streams.is_empty() && explains.inner().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn questions_beyond_the_limit_are_refused() {
        let explains = Arc::new(Explains::default());
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let stream = StreamId::for_test(1);
        explains.opened("shop/web-0", stream, sender);
        let ask = || {
            let explains = Arc::clone(&explains);
            async move { explains.ask("shop/web-0", mesh::ExplainRequest::default()).await }
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| tokio::spawn(ask())).collect();
        let mut first = asked(&mut receiver).await;
        for _ in 1..WAITING {
            first = first.min(asked(&mut receiver).await);
        }
        assert_eq!(ask().await, Err(Error::Busy));
        explains.answered(stream, answer(first, "{}"));
        let more = tokio::spawn(ask());
        let last = asked(&mut receiver).await;
        explains.answered(stream, answer(last, "[]"));
        assert_eq!(more.await.unwrap(), Ok("[]".to_owned()), "an answer makes room");
        explains.closed("shop/web-0", stream);
        let mut answered = 0;
        for one in waiting {
            match one.await.unwrap() {
                Ok(_) => answered += 1,
                Err(error) => assert!(matches!(error, Error::NotConnected(_)), "{error}"),
            }
        }
        assert_eq!(answered, 1);
    }
}

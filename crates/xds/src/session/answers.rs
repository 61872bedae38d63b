//! Answers to a person's questions how a proxy would send a request, which come down its session's stream.

use std::sync::Arc;

use proto::mesh;
use tokio::sync::{Semaphore, mpsc};

use super::{Explainer, Explaining};

/// Longest explanation, bytes: half of what the control plane takes in one message.
const EXPLANATION: usize = 512 * 1024;

/// Questions that are answered at once; more are refused.
const EXPLAINING: usize = 4;

/// Whoever answers, and how many questions it has.
pub(super) struct Answers {
    explainer: Option<Explainer>,
    slots: Arc<Semaphore>,
}

impl Answers {
    /// Without an `explainer` every question is refused.
    pub(super) fn new(explainer: Option<Explainer>) -> Answers {
        Answers { explainer, slots: Arc::new(Semaphore::new(EXPLAINING)) }
    }

    /// Answers into `send`, in a task of its own, for the answer may take a while.
    pub(super) fn answer(&self, request: mesh::ExplainRequest, send: mpsc::Sender<mesh::ProxyMessage>) {
        let id = request.id;
        let refuse = |error: &str| mesh::ExplainAnswer { id, error: error.to_owned(), ..Default::default() };
        let answer: Explaining = match (&self.explainer, Arc::clone(&self.slots).try_acquire_owned()) {
            (None, _) => Box::pin(std::future::ready(refuse("this proxy explains nothing"))),
            (_, Err(_)) => Box::pin(std::future::ready(refuse("too many questions at once; ask again"))),
            (Some(explainer), Ok(permit)) => {
                let answer = explainer(request);
                Box::pin(async move {
                    let answer = answer.await;
                    drop(permit);
                    answer
                })
            }
        };
        tokio::spawn(async move {
            let mut answer = mesh::ExplainAnswer { id, ..answer.await };
            if answer.explanation.len() > EXPLANATION {
                answer.explanation.clear();
                answer.error = format!("the explanation is longer than {EXPLANATION} bytes");
            }
            let kind = Some(mesh::proxy_message::Kind::ExplainAnswer(answer));
            // A stream that has ended meanwhile wants no answer.
            let _ = send.send(mesh::ProxyMessage { kind }).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(receiver: &mut mpsc::Receiver<mesh::ProxyMessage>) -> mesh::ExplainAnswer {
        match receiver.recv().await.unwrap().kind.unwrap() {
            mesh::proxy_message::Kind::ExplainAnswer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn question(id: u64) -> mesh::ExplainRequest {
        mesh::ExplainRequest { id, ..Default::default() }
    }

    #[tokio::test]
    async fn questions_beyond_those_at_work_are_refused() {
        let may_end = Arc::new(Semaphore::new(0));
        let waits = Arc::clone(&may_end);
        let explainer: Explainer = Arc::new(move |_| {
            let waits = Arc::clone(&waits);
            Box::pin(async move {
                waits.acquire_owned().await.unwrap().forget();
                mesh::ExplainAnswer { explanation: "{}".to_owned(), ..Default::default() }
            })
        });
        let answers = Answers::new(Some(explainer));
        let (send, mut receiver) = mpsc::channel(16);
        for id in 0..=EXPLAINING as u64 {
            answers.answer(question(id), send.clone());
        }
        let refused = said(&mut receiver).await;
        assert_eq!(refused.id, EXPLAINING as u64);
        assert!(refused.error.contains("ask again"), "{}", refused.error);
        may_end.add_permits(1);
        let first = said(&mut receiver).await;
        assert_eq!((first.explanation.as_str(), first.error.as_str()), ("{}", ""));
        answers.answer(question(99), send);
        may_end.add_permits(EXPLAINING);
        let mut rest = Vec::new();
        for _ in 0..EXPLAINING {
            rest.push(said(&mut receiver).await);
        }
        assert!(rest.iter().all(|answer| answer.error.is_empty()) && rest.iter().any(|answer| answer.id == 99));
    }

    #[tokio::test]
    async fn an_explanation_that_is_too_long_is_an_error() {
        let explainer: Explainer = Arc::new(|request| {
            let explanation = "x".repeat(EXPLANATION + usize::try_from(request.id).unwrap());
            Box::pin(std::future::ready(mesh::ExplainAnswer { explanation, ..Default::default() }))
        });
        let answers = Answers::new(Some(explainer));
        let (send, mut receiver) = mpsc::channel(1);
        answers.answer(question(0), send.clone());
        assert_eq!(said(&mut receiver).await.explanation.len(), EXPLANATION);
        answers.answer(question(1), send);
        let long = said(&mut receiver).await;
        assert!(long.explanation.is_empty() && long.error.contains("longer than"), "{}", long.error);
    }
}

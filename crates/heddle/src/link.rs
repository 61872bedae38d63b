//! What a supervisor and a proxy process say to each other over the proxy's standard input and output: one JSON message a
//! line. End of input means that the supervisor is gone.

use control::admin::model::ServiceEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line that either side reads; longer ones end the link. A token has some hundred bytes, the services of a
/// namespace (1,000 ports) have less than 200 KiB.
pub(crate) const MAX_LINE: usize = 256 * 1024;

/// From the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ToProxy {
    /// Attestation for a first certificate; the answer to `needToken`. Never logged.
    Token(String),
    /// Whether the application may be sent requests.
    Ready(bool),
    /// Tell everyone and take nothing new from others; what they have under way may take so long. The application's own calls go on.
    Drain {
        /// The limit.
        seconds: u64,
    },
    /// Tell everyone, finish what is under way for at most so long, then exit.
    End {
        /// The limit.
        seconds: u64,
    },
}

/// From the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum FromProxy {
    /// Its sockets are bound.
    Listening(bool),
    /// It holds no certificate that it could use and asks for a token.
    NeedToken(bool),
    /// It holds a certificate and its inbound configuration, and is registered.
    Ready(bool),
    /// After `drain`: nothing that others have begun is under way any more, or the time for it is over.
    Drained(bool),
    /// The services of its namespace, where it was to ask for them.
    Services(Vec<ServiceEntry>),
    /// Something that a person should read.
    Problem(String),
}

/// Reads messages, one a line.
#[derive(Debug)]
pub(crate) struct Messages<R> {
    stream: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    /// Reads from `stream`.
    pub(crate) fn new(stream: R) -> Messages<R> {
        Messages { stream, buffer: Vec::new() }
    }

    /// The next message; lines that are none are passed over. `None` at the end, or when a line is too long. Cancel safe.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if let Ok(message) = serde_json::from_slice(&line) {
                    return Some(message);
                }
            }
            if self.buffer.len() > MAX_LINE {
                return None;
            }
            let mut chunk = [0; 1024];
            match self.stream.read(&mut chunk).await {
                Ok(n) if n > 0 => self.buffer.extend_from_slice(&chunk[..n]),
                Ok(_) | Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_that_are_no_messages_are_passed_over() {
        let text = b"noise\n{\"ready\":true}\n{\"listening\":1}\n{\"drain\":{\"seconds\":1}}\n";
        let mut messages = Messages::new(&text[..]);
        assert_eq!(messages.next().await, Some(ToProxy::Ready(true)));
        assert_eq!(messages.next().await, Some(ToProxy::Drain { seconds: 1 }));
        assert_eq!(messages.next::<ToProxy>().await, None);
    }

    #[tokio::test]
    async fn a_line_without_end_ends_the_link() {
        let endless = tokio::io::repeat(b'x');
        assert_eq!(Messages::new(endless).next::<ToProxy>().await, None);
    }

    #[test]
    fn messages_look_as_documented() {
        let text = |m: &ToProxy| serde_json::to_string(m).expect("messages are JSON");
        assert_eq!(text(&ToProxy::Token("t".into())), r#"{"token":"t"}"#);
        assert_eq!(text(&ToProxy::Ready(true)), r#"{"ready":true}"#);
        assert_eq!(text(&ToProxy::Drain { seconds: 5 }), r#"{"drain":{"seconds":5}}"#);
        assert_eq!(text(&ToProxy::End { seconds: 5 }), r#"{"end":{"seconds":5}}"#);
        let from: FromProxy = serde_json::from_str(r#"{"needToken":true}"#).expect("documented form");
        assert_eq!(from, FromProxy::NeedToken(true));
        assert!(serde_json::from_str::<FromProxy>(r#"{"listening":"yes"}"#).is_err());
    }
}

//! The name that a TLS client asks for (SNI, RFC 6066, 3), read without ending its TLS.

use std::future::poll_fn;
use std::task::Poll;

use tokio_rustls::rustls::server::Acceptor;

use crate::conn::Conn;
use crate::deadline::Deadline;
use crate::listen::PARTIAL;
use crate::worker::Worker;

/// The longest ClientHello that is looked at, bytes; browsers' with post-quantum keys have 2 KiB. Of a longer one no name is
/// known.
const HELLO: usize = 16 * 1024;

/// What is known of a ClientHello.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Known(Box<str>),
    /// It has none, or is none.
    None,
    /// It is not whole yet.
    More,
}

/// Reads the rest of the ClientHello of which `conn` holds the beginning. All of it stays in `conn`. Waits for a slow client for
/// as long as detection does where the other side may be waiting.
pub(crate) async fn server_name(worker: &Worker, conn: &mut Conn) -> Option<Box<str>> {
    let mut deadline = Deadline::new(worker.shared.clock);
    deadline.set(Some(worker.now().after(PARTIAL)));
    poll_fn(|cx| {
        loop {
            match read(conn.input.bytes()) {
                Name::Known(name) => return Poll::Ready(Some(name)),
                Name::None => return Poll::Ready(None),
                Name::More => {}
            }
            match conn.poll_fill(cx, worker, HELLO) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(None),
                Poll::Pending => return deadline.poll(cx).map(|()| None),
            }
        }
    })
    .await
}

fn read(bytes: &[u8]) -> Name {
    let mut acceptor = Acceptor::default();
    let mut left = bytes;
    // It takes what fits its buffer; a reader that is a slice fails never.
    while !left.is_empty() {
        match acceptor.read_tls(&mut left) {
            Ok(n) if n > 0 => {}
            Ok(_) | Err(_) => return Name::None,
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
                return name.map_or(Name::None, Name::Known);
            }
            Err(_) => return Name::None,
        }
    }
    if bytes.len() < HELLO { Name::More } else { Name::None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_name_is_known_when_all_of_the_hello_is_there_and_not_before() {
        let hello = hello("API.example.test");
        assert_eq!(read(&hello), Name::Known("api.example.test".into()));
        for end in 0..hello.len() {
            assert_eq!(read(&hello[..end]), Name::More, "{end} of {} bytes", hello.len());
        }
        let mut followed = hello.clone();
        followed.extend_from_slice(b"early data");
        assert_eq!(read(&followed), Name::Known("api.example.test".into()));
    }

    #[test]
    fn what_has_no_name_or_is_no_hello_has_none() {
        assert_eq!(read(&hello("192.0.2.1")), Name::None);
        assert_eq!(read(b"\x16\x03\x01\x00\x05\x01garbage and more of it"), Name::None);
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n"), Name::None);
        // A hello that promises more than anybody sends.
        let mut endless = b"\x16\x03\x01\x40\x00\x01\x00\xff\xff".to_vec();
        endless.resize(HELLO, 0);
        assert_eq!(read(&endless), Name::None);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_hostile(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let mut record = vec![0x16, 3, 1];
            record.extend_from_slice(&bytes);
            let _ = (read(&bytes), read(&record));
        }
    }
}

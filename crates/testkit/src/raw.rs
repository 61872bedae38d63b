//! A TCP connection told byte by byte what to say and what to expect.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::wait;

/// One end of a connection. Every read ends after [`wait::LONG`].
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// Read, but asked for by nobody yet.
    ahead: Vec<u8>,
}

impl Raw {
    /// Connects.
    ///
    /// # Panics
    /// Nobody listens there.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect_timeout(&address, wait::LONG);
        Raw::new(stream.unwrap_or_else(|error| panic!("connecting to {address}: {error}")))
    }

    /// Takes a connection over.
    pub fn new(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(wait::LONG)).expect("the limit is not zero");
        stream.set_nodelay(true).expect("a new connection takes options");
        Raw { stream, ahead: Vec::new() }
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends all of `bytes`.
    ///
    /// # Panics
    /// The connection broke.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        if let Err(error) = self.stream.write_all(bytes.as_ref()) {
            panic!("sending {:?}: {error}", bytes.as_ref().escape_ascii().to_string());
        }
        self
    }

    /// Sends `bytes` as far as the peer lets us; for what it may answer by closing the connection.
    pub fn offer(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        // Reading tells whether the peer is there.
        let _ = self.stream.write_all(bytes.as_ref());
        self
    }

    /// The next `count` bytes, or `None` when the peer ends before them.
    ///
    /// # Panics
    /// They do not come, nor the end.
    #[track_caller]
    pub fn next_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.len() < count {
            if !self.read_more(b"more bytes") {
                return None;
            }
        }
        Some(self.ahead.drain(..count).collect())
    }

    /// Expects exactly these bytes next.
    ///
    /// # Panics
    /// Something else came, or nothing.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        let wanted = bytes.as_ref();
        while self.ahead.len() < wanted.len() {
            if !wanted.starts_with(&self.ahead) || !self.read_more(wanted) {
                break;
            }
        }
        let got = &self.ahead[..self.ahead.len().min(wanted.len())];
        assert!(
            got == wanted,
            "wanted {:?}, got {:?}",
            wanted.escape_ascii().to_string(),
            self.ahead.escape_ascii().to_string()
        );
        self.ahead.drain(..wanted.len());
        self
    }

    /// Reads through the first `mark`, and returns everything up to its end.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn read_through(&mut self, mark: impl AsRef<[u8]>) -> Vec<u8> {
        let mark = mark.as_ref();
        loop {
            if let Some(at) = self.ahead.windows(mark.len()).position(|window| window == mark) {
                return self.ahead.drain(..at + mark.len()).collect();
            }
            let more = self.read_more(mark);
            assert!(
                more,
                "the end came before {:?}: {:?}",
                mark.escape_ascii().to_string(),
                self.ahead.escape_ascii().to_string()
            );
        }
    }

    /// An HTTP/1 head through its empty line, as text.
    ///
    /// # Panics
    /// It does not come, or is not UTF-8.
    #[track_caller]
    pub fn read_head(&mut self) -> String {
        String::from_utf8(self.read_through("\r\n\r\n")).expect("tests speak UTF-8")
    }

    /// The same, or `None` when the peer has ended before it.
    ///
    /// # Panics
    /// The end comes in the middle of it.
    #[track_caller]
    pub fn next_head(&mut self) -> Option<String> {
        (!self.ahead.is_empty() || self.read_more(b"a head")).then(|| self.read_head())
    }

    /// Everything until the peer ends.
    ///
    /// # Panics
    /// It does not end.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.read_more(b"the end") {}
        std::mem::take(&mut self.ahead)
    }

    /// Expects the peer to end, or to reset the connection, without another byte.
    ///
    /// # Panics
    /// A byte came, or the connection stays open.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "wanted the end, got {:?}", rest.escape_ascii().to_string());
    }

    /// Ends our direction; the other stays open.
    pub fn finish(&mut self) -> &mut Raw {
        // The peer may be gone already, which ends it as well.
        let _ = self.stream.shutdown(Shutdown::Write);
        self
    }

    /// Breaks the connection with a reset.
    pub fn reset(self) {
        // With a linger time of zero, closing sends RST.
        let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// `false` at the end; a reset counts as one.
    #[track_caller]
    fn read_more(&mut self, waiting_for: &[u8]) -> bool {
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(read) => {
                self.ahead.extend_from_slice(&space[..read]);
                read > 0
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!(
                "waiting for {:?}: {error}; so far {:?}",
                waiting_for.escape_ascii().to_string(),
                self.ahead.escape_ascii().to_string()
            ),
        }
    }
}

/// A server that runs a script for each connection, each in a thread of its own.
#[derive(Debug)]
pub struct RawServer {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
    scripts: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl RawServer {
    /// Listens on a free loopback address. `script` gets the number of the connection, from 0, and the connection.
    pub fn start(script: impl Fn(usize, Raw) + Send + Sync + 'static) -> RawServer {
        RawServer::start_on(crate::address::free(), script)
    }

    /// Listens on `address`.
    ///
    /// # Panics
    /// The address is taken.
    #[track_caller]
    pub fn start_on(address: SocketAddr, script: impl Fn(usize, Raw) + Send + Sync + 'static) -> RawServer {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("listening on {address}: {error}"));
        let address = listener.local_addr().expect("a bound socket has an address");
        let (accepted, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let scripts = Arc::<Mutex<Vec<JoinHandle<()>>>>::default();
        let acceptor = {
            let (accepted, stop, scripts, script) =
                (Arc::clone(&accepted), Arc::clone(&stop), Arc::clone(&scripts), Arc::new(script));
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let number = accepted.fetch_add(1, Ordering::AcqRel);
                    let script = Arc::clone(&script);
                    let thread = thread::spawn(move || script(number, Raw::new(stream)));
                    scripts.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
                }
            })
        };
        RawServer { address, accepted, stop, acceptor: Some(acceptor), scripts }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    /// Stops listening and waits for every script.
    ///
    /// # Panics
    /// With the panic of a script that failed.
    pub fn finish(mut self) {
        self.stop();
        for script in self.scripts.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if let Err(panic) = script.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take() {
            // Wakes it. Where a test has left no local port free, one is in a moment.
            while TcpStream::connect(self.address).is_err() && !acceptor.is_finished() {
                thread::sleep(Duration::from_millis(10));
            }
            let _ = acceptor.join();
        }
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_scripts_talk() {
        let server = RawServer::start(|number, mut raw| {
            raw.expect("ping").send(format!("pong {number}\n"));
            assert_eq!(raw.read_to_end(), b"bye");
        });
        for number in 0..2 {
            let mut client = Raw::connect(server.address());
            client.send("ping");
            assert_eq!(client.read_through("\n"), format!("pong {number}\n").as_bytes());
            client.send("bye").finish();
            client.expect_end();
        }
        assert_eq!(server.accepted(), 2);
        server.finish();
    }

    #[test]
    #[should_panic(expected = "wanted \"ping\", got \"pong\"")]
    fn a_script_that_fails_fails_the_test() {
        let server = RawServer::start(|_, mut raw| {
            raw.expect("ping");
        });
        let mut client = Raw::connect(server.address());
        client.send("pong").finish();
        client.expect_end();
        server.finish();
    }

    #[test]
    fn a_reset_is_an_end() {
        let server = RawServer::start(|_, mut raw| {
            raw.expect("x");
            raw.reset();
        });
        Raw::connect(server.address()).send("x").expect_end();
    }
}

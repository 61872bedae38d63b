//! A steady load of HTTP/1.1 requests through a forward proxy, which goes on while a test breaks things.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::wait;

/// Failures that are kept with their words; more are only counted.
const KEPT: usize = 20;

/// What the load has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Answers with status 200.
    pub good: u64,
    /// Everything else: other statuses, broken connections, answers that ended early.
    pub failed: u64,
    /// The first failures, as people read them.
    pub failures: Vec<String>,
    /// How often each body came with status 200.
    pub bodies: BTreeMap<String, u64>,
}

impl Seen {
    /// How often bodies with `text` in them came.
    pub fn with(&self, text: &str) -> u64 {
        self.bodies.iter().filter(|(body, _)| body.contains(text)).map(|(_, count)| count).sum()
    }
}

/// GET requests at a fixed rate, over connections that are kept, until it is told to stop.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<()>>,
}

impl Steady {
    /// Asks the forward proxy at `proxy` for `url`, `rate` times a second over `connections` connections. A request that is
    /// due while its connection is busy is sent right after, so that the rate holds over time.
    pub fn start(proxy: SocketAddr, url: &str, rate: u32, connections: u32) -> Steady {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::<Mutex<Seen>>::default();
        let host = url.split('/').nth(2).unwrap_or_default();
        let request = format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        let interval = Duration::from_secs(1) * connections / rate;
        let start = Instant::now();
        let threads = (0..connections)
            .map(|index| {
                let (stop, seen, request) = (Arc::clone(&stop), Arc::clone(&seen), request.clone());
                let first = start + interval * index / connections;
                thread::spawn(move || drive(proxy, &request, first, interval, &stop, &seen))
            })
            .collect();
        Steady { stop, seen, threads }
    }

    /// What has been seen so far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Waits until `count` more requests have ended.
    ///
    /// # Panics
    /// They do not, or one fails; with what was seen.
    #[track_caller]
    pub fn go_on(&self, count: u64) {
        let before = self.seen();
        wait::until(&format!("{count} more answers"), wait::LONG, || {
            let seen = self.seen();
            assert!(seen.failed == 0, "{seen:#?}");
            if seen.good >= before.good + count { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }

    /// Stops it, and returns what was seen.
    ///
    /// # Panics
    /// One of its threads did.
    #[track_caller]
    pub fn finish(mut self) -> Seen {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().expect("the load does not panic");
        }
        self.seen()
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn drive(proxy: SocketAddr, request: &[u8], first: Instant, interval: Duration, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut connection = None;
    let mut due = first;
    while !stop.load(Ordering::Acquire) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        let result = exchange(proxy, request, &mut connection);
        let mut seen = lock(seen);
        match result {
            Ok(body) => {
                seen.good += 1;
                *seen.bodies.entry(body).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                seen.failed += 1;
                if seen.failures.len() < KEPT {
                    seen.failures.push(format!("{error} (after {:?})", sent.elapsed()));
                }
            }
        }
        due += interval;
    }
}

/// One request and its whole answer, which must have status 200 and a Content-Length.
fn exchange(proxy: SocketAddr, request: &[u8], connection: &mut Option<TcpStream>) -> Result<String> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect_timeout(&proxy, wait::LONG)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(wait::LONG))?;
            connection.insert(stream)
        }
    };
    stream.write_all(request)?;
    let (mut buffer, mut length) = ([0; 16 * 1024], 0);
    loop {
        let read = stream.read(&mut buffer[length..])?;
        if read == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, format!("the answer ended after {length} bytes")));
        }
        length += read;
        let Some(head) = buffer[..length].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        if !text.starts_with("HTTP/1.1 200") {
            return Err(Error::other(text));
        }
        let body: usize = field("content-length")
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| Error::other(format!("no Content-Length in {text}")))?;
        if length < head + 4 + body {
            continue;
        }
        if field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            *connection = None;
        }
        return Ok(String::from_utf8_lossy(&buffer[head + 4..head + 4 + body]).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::RawServer;

    #[test]
    fn counts_answers_by_body_and_failures_by_cause() {
        let server = RawServer::start(|number, mut raw| {
            while let Some(head) = raw.next_head() {
                assert!(head.starts_with("GET http://x/y HTTP/1.1\r\nHost: x\r\n"), "{head}");
                match number {
                    0 => raw.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"),
                    1 => raw.send("HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                    _ => raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nbb"),
                };
                if number > 0 {
                    return;
                }
            }
        });
        let load = Steady::start(server.address(), "http://x/y", 1_000, 2);
        let seen = wait::until("some of each", wait::LONG, || {
            let seen = load.seen();
            if seen.with("a") > 9 && seen.with("bb") > 9 { Ok(seen) } else { Err(format!("{seen:?}")) }
        });
        assert_eq!((seen.failed, seen.failures.len()), (1, 1), "{seen:?}");
        assert!(seen.failures[0].starts_with("HTTP/1.1 503 No"), "{seen:?}");
        assert_eq!(seen.good, seen.with("a") + seen.with("bb"));
        assert_eq!(load.finish().failed, 1);
    }
}

//! Sends HTTP/1.1 requests at a fixed rate and prints latency percentiles as JSON. Standard library only; `bench/run` compiles it.
//!
//! `open_loop ADDRESS HOST PATH RATE SECONDS CONNECTIONS`
//!
//! Open loop: each request has a time at which it is due, whatever became of the ones before it. When a connection is still busy at
//! that time, the wait counts as latency (no coordinated omission). When it is free, latency counts from the moment of sending, so
//! that the generator's own late wake-ups are not blamed on the server.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// What one connection saw.
#[derive(Default)]
struct Seen {
    /// Latencies, nanoseconds.
    latencies: Vec<u64>,
    errors: u64,
}

struct Plan {
    address: String,
    request: Vec<u8>,
    interval: Duration,
    end: Instant,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, host, path, rate, seconds, connections] = arguments.as_slice() else {
        return Err(invalid("usage: open_loop ADDRESS HOST PATH RATE SECONDS CONNECTIONS"));
    };
    let rate: f64 = rate.parse().map_err(|_| invalid("RATE is not a number"))?;
    let seconds: f64 = seconds.parse().map_err(|_| invalid("SECONDS is not a number"))?;
    let connections: u32 = connections.parse().map_err(|_| invalid("CONNECTIONS is not a number"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let start = Instant::now() + Duration::from_millis(200);
    let interval = Duration::from_secs_f64(f64::from(connections) / rate);
    let threads: Vec<_> = (0..connections)
        .map(|index| {
            let first = start + interval.mul_f64(f64::from(index) / f64::from(connections));
            let plan = Plan {
                address: address.clone(),
                request: request.clone(),
                interval,
                end: start + Duration::from_secs_f64(seconds),
            };
            thread::spawn(move || drive(&plan, first))
        })
        .collect();
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().map_err(|_| invalid("a connection's thread ended badly"))?;
        all.latencies.extend(seen.latencies);
        all.errors += seen.errors;
    }
    all.latencies.sort_unstable();
    let at = |share: f64| {
        let index = (all.latencies.len() as f64 * share).ceil() as usize;
        all.latencies.get(index.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    };
    println!(
        r#"{{"requests": {}, "errors": {}, "p50_us": {:.1}, "p90_us": {:.1}, "p99_us": {:.1}, "p999_us": {:.1}, "max_us": {:.1}}}"#,
        all.latencies.len(),
        all.errors,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

/// Sends one request after the other over one connection, each when it is due, until the plan ends.
fn drive(plan: &Plan, first: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    let mut due = first;
    let mut free_since = Instant::now();
    while due < plan.end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        let from = if free_since <= due { sent } else { due };
        match exchange(plan, &mut connection) {
            Ok(()) => seen.latencies.push(from.elapsed().as_nanos() as u64),
            Err(error) => {
                eprintln!("{error}");
                seen.errors += 1;
                connection = None;
            }
        }
        free_since = Instant::now();
        due += plan.interval;
    }
    seen
}

/// One request and its whole response, which must be 200 with a Content-Length.
fn exchange(plan: &Plan, connection: &mut Option<TcpStream>) -> Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(&plan.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            connection.insert(stream)
        }
    };
    stream.write_all(&plan.request)?;
    let (mut buffer, mut length) = ([0; 16384], 0);
    loop {
        let read = stream.read(&mut buffer[length..])?;
        if read == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the response ended early"));
        }
        length += read;
        let Some(head) = buffer[..length].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            return Err(invalid("the status is not 200"));
        }
        let body =
            text.lines().find_map(|line| line.strip_prefix("content-length:")).and_then(|n| n.trim().parse().ok());
        let body: usize = body.ok_or_else(|| invalid("no Content-Length"))?;
        if length >= head + 4 + body {
            return Ok(());
        }
    }
}

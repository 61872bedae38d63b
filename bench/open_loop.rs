//! Sends requests at a fixed mean rate and prints latency percentiles as JSON. Standard library only; `bench/run` compiles it.
//!
//! `open_loop http1|http2 ADDRESS HOST PATH LENGTH RATE WARM SECONDS CONNECTIONS`
//!
//! First every connection is made and carries a request, and all of them together the same load for WARM seconds, of which errors alone
//! count, so that the figures are of warm connections and proxies; then it prints `ready` and waits for a line. An answer counts as good if its status is 200 and its body is LENGTH bytes long (`-`: however
//! long; a gRPC call that failed is an answer of 200 without a body).
//!
//! Open loop: each request has a time at which it is due, whatever became of the ones before it; the arrivals on each connection are
//! a Poisson process (exponential gaps), so that requests come alone, together and in bursts as independent callers' do. When a
//! connection is still busy at that time, the wait counts as latency (no coordinated omission). When it is free, latency counts from
//! the moment of sending, so that the generator's own late wake-ups are not blamed on the server.
//!
//! A late wake-up of the generator is therefore not seen, and a proxy that makes the machine busy, so that the generator wakes late, has its
//! tail understated.
//!
//! HTTP/2 is spoken without TLS, one stream at a time on a connection. A path with a dot in it is taken for a gRPC method.

use std::io::{Error, ErrorKind, Read, Result, Write, stdin};
use std::net::TcpStream;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// What one connection saw.
#[derive(Default)]
struct Seen {
    /// Latencies, nanoseconds.
    latencies: Vec<u64>,
    errors: u64,
}

#[derive(Clone)]
struct Plan {
    http2: bool,
    address: String,
    host: String,
    path: String,
    /// Bytes of an answer's body, where they are known.
    length: Option<usize>,
    /// Mean time between two requests of one connection.
    gap: Duration,
    /// How long the load runs before it counts, and then.
    warm: Duration,
    duration: Duration,
}

/// Where all connections meet: when they are made, when they are warm, and when they may start.
struct Gate {
    meet: Barrier,
    start: OnceLock<Instant>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, address, host, path, length, rate, warm, seconds, connections] = arguments.as_slice() else {
        return Err(invalid("usage: open_loop http1|http2 ADDRESS HOST PATH LENGTH RATE WARM SECONDS CONNECTIONS"));
    };
    let rate: f64 = rate.parse().map_err(|_| invalid("RATE is not a number"))?;
    let warm: f64 = warm.parse().map_err(|_| invalid("WARM is not a number"))?;
    let seconds: f64 = seconds.parse().map_err(|_| invalid("SECONDS is not a number"))?;
    let connections: u32 = connections.parse().map_err(|_| invalid("CONNECTIONS is not a number"))?;
    let length = match length.as_str() {
        "-" => None,
        number => Some(number.parse().map_err(|_| invalid("LENGTH is neither a number nor -"))?),
    };
    let plan = Plan {
        http2: protocol == "http2",
        address: address.clone(),
        host: host.clone(),
        path: path.clone(),
        length,
        gap: Duration::from_secs_f64(f64::from(connections) / rate),
        warm: Duration::from_secs_f64(warm),
        duration: Duration::from_secs_f64(seconds),
    };
    let gate = Arc::new(Gate { meet: Barrier::new(connections as usize + 1), start: OnceLock::new() });
    let threads: Vec<_> = (0..connections)
        .map(|index| {
            let (plan, gate) = (plan.clone(), Arc::clone(&gate));
            thread::spawn(move || drive(&plan, &gate, Gaps(0x9e37_79b9_7f4a_7c15 ^ (u64::from(index) + 1))))
        })
        .collect();
    gate.meet.wait();
    gate.meet.wait();
    println!("ready");
    stdin().read_line(&mut String::new())?;
    gate.start.get_or_init(|| Instant::now() + Duration::from_millis(50));
    gate.meet.wait();
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

/// Random gaps between arrivals, the same in every run: splitmix64 (Steele, Lea, Flood 2014) turned into exponential ones.
struct Gaps(u64);

impl Gaps {
    fn next(&mut self, mean: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits make a number above 0 and at most 1.
        let uniform = ((mixed >> 11) + 1) as f64 / (1u64 << 53) as f64;
        mean.mul_f64(-uniform.ln())
    }
}

/// What becomes of one connection: a request, the warm-up, and the load that counts.
fn drive(plan: &Plan, gate: &Gate, mut gaps: Gaps) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    if let Err(error) = exchange(plan, &mut connection) {
        eprintln!("{error}");
        seen.errors += 1;
        connection = None;
    }
    gate.meet.wait();
    run(plan, Instant::now(), plan.warm, &mut connection, &mut gaps, &mut seen);
    seen.latencies.clear();
    gate.meet.wait();
    gate.meet.wait();
    let start = *gate.start.get().expect("it is set before the last meeting");
    run(plan, start, plan.duration, &mut connection, &mut gaps, &mut seen);
    seen
}

/// Sends one request after the other over one connection, each when it is due, for so long from `start` on.
fn run(
    plan: &Plan,
    start: Instant,
    duration: Duration,
    connection: &mut Option<Connection>,
    gaps: &mut Gaps,
    seen: &mut Seen,
) {
    let mut due = start + gaps.next(plan.gap);
    let mut free_since = start;
    while due < start + duration {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        let from = if free_since <= due { sent } else { due };
        match exchange(plan, connection) {
            Ok(()) => seen.latencies.push(from.elapsed().as_nanos() as u64),
            Err(error) => {
                eprintln!("{error}");
                seen.errors += 1;
                *connection = None;
            }
        }
        free_since = Instant::now();
        due += gaps.next(plan.gap);
    }
}

/// One request and its whole response, which must be 200 and as long as it should.
fn exchange(plan: &Plan, connection: &mut Option<Connection>) -> Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(plan)?),
    };
    let length = if plan.http2 { connection.http2()? } else { connection.http1()? };
    if plan.length.is_none_or(|wanted| wanted == length) { Ok(()) } else { Err(invalid("the body has another length")) }
}

struct Connection {
    stream: TcpStream,
    /// The request: of HTTP/2 the header block.
    request: Vec<u8>,
    /// What follows the request's head.
    body: &'static [u8],
    /// What was read and not looked at yet.
    input: Vec<u8>,
    /// The next stream of HTTP/2.
    next: u32,
    /// Bytes of HTTP/2 bodies that were taken and not told of.
    taken: u32,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How far servers may send ahead on a connection before it is told that it may go on: the smallest window there is.
const WINDOW: u32 = 65_535;

impl Connection {
    fn open(plan: &Plan) -> Result<Connection> {
        let mut stream = TcpStream::connect(&plan.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut body: &[u8] = &[];
        let request = if plan.http2 {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
            stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
            let grpc = plan.path.contains('.');
            if grpc {
                body = b"\0\0\0\0\x03abc";
            }
            header_block(&plan.host, &plan.path, grpc)
        } else {
            format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", plan.path, plan.host).into_bytes()
        };
        Ok(Connection { stream, request, body, input: Vec::new(), next: 1, taken: 0 })
    }

    /// Reads until there are `length` bytes.
    fn fill(&mut self, length: usize) -> Result<()> {
        let mut buffer = [0; 16384];
        while self.input.len() < length {
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "the response ended early"));
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
        Ok(())
    }

    /// Says how long the body was. The response must have a Content-Length.
    fn http1(&mut self) -> Result<usize> {
        self.stream.write_all(&self.request)?;
        self.input.clear();
        loop {
            self.fill(self.input.len() + 1)?;
            let Some(head) = self.input.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&self.input[..head]).to_ascii_lowercase();
            if !text.starts_with("http/1.1 200") {
                return Err(invalid("the status is not 200"));
            }
            let body =
                text.lines().find_map(|line| line.strip_prefix("content-length:")).and_then(|n| n.trim().parse().ok());
            let body: usize = body.ok_or_else(|| invalid("no Content-Length"))?;
            self.fill(head + 4 + body)?;
            return Ok(body);
        }
    }

    /// Says how long the body was.
    fn http2(&mut self) -> Result<usize> {
        let mut body = 0;
        let stream = self.next;
        self.next += 2;
        let end = if self.body.is_empty() { END_STREAM } else { 0 };
        let mut request = frame(HEADERS, END_HEADERS | end, stream, &self.request);
        if !self.body.is_empty() {
            request.extend(frame(DATA, END_STREAM, stream, self.body));
        }
        self.stream.write_all(&request)?;
        let mut answered = false;
        loop {
            self.fill(9)?;
            let length = u32::from_be_bytes([0, self.input[0], self.input[1], self.input[2]]) as usize;
            let (kind, flags) = (self.input[3], self.input[4]);
            let of = u32::from_be_bytes([self.input[5], self.input[6], self.input[7], self.input[8]]) & 0x7fff_ffff;
            self.fill(9 + length)?;
            let payload: Vec<u8> = self.input.drain(..9 + length).skip(9).collect();
            match kind {
                SETTINGS if flags & 1 == 0 => self.stream.write_all(&frame(SETTINGS, 1, 0, &[]))?,
                PING if flags & 1 == 0 => self.stream.write_all(&frame(PING, 1, 0, &payload))?,
                GOAWAY => return Err(invalid("the server says goodbye")),
                RST_STREAM => return Err(invalid("the stream was reset")),
                HEADERS if of == stream && !answered => {
                    // `:status: 200` is entry 8 of the static table (RFC 7541, appendix A), behind at most table size updates.
                    if payload.iter().find(|byte| **byte & 0xe0 != 0x20) != Some(&0x88) {
                        return Err(invalid("the status is not 200"));
                    }
                    answered = true;
                }
                DATA => {
                    // Nobody pads here.
                    body += if of == stream { length } else { 0 };
                    self.take(length as u32)?;
                }
                _ => {}
            }
            if of == stream && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return Ok(body);
            }
        }
    }

    /// Tells the server, now and then, that the connection takes more. Streams are too short to need it.
    fn take(&mut self, length: u32) -> Result<()> {
        self.taken += length;
        if self.taken > WINDOW / 2 {
            self.stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes()))?;
            self.taken = 0;
        }
        Ok(())
    }
}

/// A frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request's fields, none of them in a dynamic table (RFC 7541, section 6.2.2), so that all requests of a connection are equal.
fn header_block(host: &str, path: &str, grpc: bool) -> Vec<u8> {
    // `:method: GET` or `POST`, `:scheme: http`, and the names `:authority` and `:path`, of the static table.
    let mut block = vec![if grpc { 0x83 } else { 0x82 }, 0x86];
    let mut text = |index: Option<u8>, name: &str, value: &str| {
        block.push(index.unwrap_or(0));
        if index.is_none() {
            block.push(name.len() as u8);
            block.extend(name.bytes());
        }
        block.push(value.len() as u8);
        block.extend(value.bytes());
    };
    text(Some(1), ":authority", host);
    text(Some(4), ":path", path);
    if grpc {
        text(None, "content-type", "application/grpc");
        text(None, "te", "trailers");
    }
    block
}

//! What the HTTP/1 codec costs: parses and forwards one request of ten fields, many times.
//!
//! `cargo run --profile dist -p proxy --features fuzzing --example h1 [ROUNDS]` prints nanoseconds a round. For instructions, which
//! do not depend on the machine's load, run the built program under `valgrind --tool=callgrind` with two numbers of rounds and
//! divide the difference.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

const REQUEST: &[u8] = b"GET /api/cart/42?full=1 HTTP/1.1\r\n\
    Host: cart.shop.svc.cluster.local\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\
    X-Request-Id: 7f8a1c1e-6f1d-4a53-9df6-0f4c5b6d7e8f\r\n\
    Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    Cookie: session=0123456789abcdef; theme=dark\r\n\
    Cache-Control: no-cache\r\n\
    Connection: keep-alive\r\n\r\n";

fn main() -> std::io::Result<()> {
    let rounds: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let mut codec = proxy::fuzzing::Round::default();
    let mut out = Vec::with_capacity(4096);
    let start = Instant::now();
    for _ in 0..rounds {
        out.clear();
        assert!(codec.run(black_box(REQUEST), &mut out));
        black_box(&out);
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    writeln!(std::io::stdout(), "{each:.0} ns a request ({} bytes in, {} out)", REQUEST.len(), out.len())
}

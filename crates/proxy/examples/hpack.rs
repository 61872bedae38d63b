//! What HTTP/2's header compression costs: the heads of a gRPC call, as one proxy receives and sends them, many times.
//!
//! `cargo run --profile dist -p proxy --features fuzzing --example hpack WHAT [ROUNDS]` prints nanoseconds a round. WHAT is
//! `indexed` (decode a request whose fields are in the table but for its ids), `literal` (decode one that is all literals in
//! Huffman's code), `encode` (encode the former, table in use) or `plain` (the same without a table). For instructions, see `h1`.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use proxy::fuzzing::Hpack;

/// The ids change from request to request.
const FIELDS: [[(&[u8], &[u8]); 10]; 2] = [
    fields(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    fields(b"00-9e107d9d372bb6826bd81d3542a419d6-53995c3f42cd8ad8-01"),
];

const fn fields(trace: &'static [u8]) -> [(&'static [u8], &'static [u8]); 10] {
    [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/shop.v1.CartService/GetCart"),
        (b":authority", b"cart.shop.svc.cluster.local:8080"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-go/1.66.0"),
        (b"te", b"trailers"),
        (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        (b"grpc-timeout", b"999m"),
        (b"traceparent", trace),
    ]
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let rounds: u32 = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    let (mut sender, mut receiver) = (Hpack::default(), Hpack::default());
    if what == "plain" {
        sender.without_table();
    }
    let mut blocks = [const { Vec::new() }; 2];
    // What repeats is in the table after the second time.
    for _ in 0..2 {
        for (fields, block) in FIELDS.iter().zip(&mut blocks) {
            block.clear();
            sender.encode(fields, block);
            assert!(receiver.decode(block).is_some());
        }
    }
    if what == "literal" {
        blocks = FIELDS.map(|fields| proxy::fuzzing::literals(&fields));
    }
    let mut out = Vec::with_capacity(4096);
    let start = Instant::now();
    for round in 0..rounds as usize {
        if what == "indexed" || what == "literal" {
            assert!(receiver.decode(black_box(&blocks[round % 2])).is_some());
        } else {
            out.clear();
            sender.encode(black_box(&FIELDS[round % 2]), &mut out);
            black_box(&out);
        }
    }
    let each = start.elapsed().as_nanos() as f64 / f64::from(rounds);
    writeln!(std::io::stdout(), "{each:.0} ns a head ({} bytes)", blocks[0].len())
}

//! The data path alone, for profilers: one sidecar, or two with mutual TLS between them, in front of a given server.
//!
//! `road one|two SERVER [WORKERS] [http2]` prints the address to send load to, and runs until it is ended. Destinations are
//! published as the control plane would; nothing else of the mesh runs. `docs/performance.md` shows its use.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A tool for developers.

#[path = "../tests/data_path/world.rs"]
#[allow(dead_code, reason = "the tests use the rest of this module")]
mod world;

use std::net::SocketAddr;

use engine::Protocol;
use world::{World, listener, plain};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let server: SocketAddr = arguments[1].parse().unwrap();
    let workers = arguments.get(2).map_or(1, |text| text.parse().unwrap());
    let protocol = if arguments.get(3).is_some_and(|text| text == "http2") { Protocol::Http2 } else { Protocol::Http1 };
    let world = World::new();
    let mut at = None;
    let _client = world.client(|settings| {
        settings.workers = workers;
        at = Some(listener(settings));
    });
    let receiving = (arguments[0] == "two").then(|| world.server(server, protocol, Default::default()));
    let endpoint = match &receiving {
        Some(sidecar) => sidecar.endpoint(server.port()),
        None => plain(server),
    };
    world.publish(protocol, vec![endpoint]);
    println!("{}", at.unwrap());
    loop {
        std::thread::park();
    }
}

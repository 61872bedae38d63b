//! Bodies without a descriptor for a pipe, in a process of its own because the limit holds for all of it.
#![allow(clippy::unwrap_used)] // In a test the panic is the message.

use std::fs::File;

use engine::Protocol;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testkit::raw::RawServer;

use crate::world::{World, plain};

// The helpers of `data_path`, of which this needs a few. The test cannot be one of that program, whose tests share its descriptors
// where they are not run in a process each.
#[allow(dead_code, reason = "most of it is for the other tests")]
#[path = "data_path/world.rs"]
mod world;

#[test]
fn long_bodies_on_open_connections_arrive_without_free_descriptors() {
    const LARGE: usize = 4 * 1024 * 1024;
    let app = RawServer::start(|_, mut raw| {
        while let Some(head) = raw.next_head() {
            let length = if head.starts_with("GET /large ") { LARGE } else { 2 };
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).send(vec![b'x'; length]);
        }
    });
    let world = World::new();
    world.publish(Protocol::Http1, vec![plain(app.address())]);
    let client = world.client(|_| {});
    let mut raw = client.connect();
    let get = |path: &str| format!("GET http://cart/{path} HTTP/1.1\r\nHost: cart\r\n\r\n");
    raw.send(get("small")).read_head();
    raw.expect("xx");
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    setrlimit(Resource::RLIMIT_NOFILE, 128.min(hard), hard).unwrap();
    let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!taken.is_empty());
    for _ in 0..2 {
        raw.send(get("large")).read_head();
        raw.expect(vec![b'x'; LARGE]);
    }
    assert_eq!(app.accepted(), 1);
    drop(taken);
    // With descriptors again, bodies pass inside the kernel again.
    raw.send(get("large")).read_head();
    raw.expect(vec![b'x'; LARGE]);
}

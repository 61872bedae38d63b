//! A gRPC echo server and client in Python (`grpcio`): an implementation that is not ours.
//!
//! The service is `test.Echo`; messages are plain bytes, so no code is generated. Methods: `Unary` (echoes), `Stream`
//! (sends the message as often as its text says), `Chat` (echoes each message as it comes), `Fail` (ends with the status
//! code that its text names). Each answer carries the trailer `x-instance` with the server's name.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address;
use crate::process::{Command, Process};

const SERVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/grpc_echo_server.py");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/grpc_echo_client.py");

/// The Python that `cargo xtask test` prepared with `grpcio`, or the one that `HEDDLE_TEST_PYTHON` names.
///
/// # Panics
/// There is none.
#[track_caller]
pub fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("HEDDLE_TEST_PYTHON") {
        return path.into();
    }
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-tools/python/bin/python"));
    assert!(path.is_file(), "{} is missing: `cargo xtask test` makes it", path.display());
    path
}

/// A running echo server that ends with the test.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts one called `name` on `address`.
    #[track_caller]
    pub fn start(address: SocketAddr, name: &str) -> Server {
        let address_text = address.to_string();
        let process = Command::new(python()).args([SERVER, "--listen", &address_text, "--name", name]).start();
        address::wait_listening(address);
        Server { process, address }
    }
}

/// The command of an echo server, for a manifest: program and arguments.
pub fn server_command(listen: &str, name: &str) -> Vec<String> {
    let python = python().to_string_lossy().into_owned();
    [&python, SERVER, "--listen", listen, "--name", name].map(str::to_owned).to_vec()
}

/// What a call ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// gRPC status, as `OK` or `UNAVAILABLE`.
    pub code: String,
    /// The status message.
    pub details: String,
    /// Messages received.
    pub messages: Vec<String>,
    /// The trailer `x-instance`: who answered.
    pub instance: Option<String>,
}

/// Calls `method` at `target` (`host:port`, reached directly or through `proxy`, a forward proxy's `host:port`) with each of
/// `messages`.
///
/// # Panics
/// The client does not run; a failed call is a [`Reply`].
#[track_caller]
pub fn call(target: &str, proxy: Option<&str>, method: &str, messages: &[&str]) -> Reply {
    let mut command = Command::new(python()).args([CLIENT, target, method]).args(messages);
    for name in [
        "http_proxy",
        "https_proxy",
        "grpc_proxy",
        "no_grpc_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ] {
        command = command.env_remove(name);
    }
    if let Some(proxy) = proxy {
        command = command.env("grpc_proxy", format!("http://{proxy}"));
    }
    parse(&command.run(Duration::from_secs(60)).success())
}

/// Reads the client's lines `key value`.
fn parse(text: &str) -> Reply {
    let mut reply = Reply { code: String::new(), details: String::new(), messages: Vec::new(), instance: None };
    for line in text.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("message", value) => reply.messages.push(value.to_owned()),
            ("instance", value) => reply.instance = Some(value.to_owned()),
            ("code", value) => value.clone_into(&mut reply.code),
            ("details", value) => value.clone_into(&mut reply.details),
            _ => panic!("the client said {line:?}"),
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_every_kind() {
        let server = Server::start(address::free(), "echo-1");
        let target = server.address.to_string();
        let ok = |messages: &[&str]| Reply {
            code: "OK".into(),
            details: String::new(),
            messages: messages.iter().map(|message| (*message).to_owned()).collect(),
            instance: Some("echo-1".into()),
        };
        assert_eq!(call(&target, None, "Unary", &["hello"]), ok(&["hello"]));
        assert_eq!(call(&target, None, "Stream", &["3"]), ok(&["3", "3", "3"]));
        assert_eq!(call(&target, None, "Chat", &["a", "b"]), ok(&["a", "b"]));
        let failed = call(&target, None, "Fail", &["RESOURCE_EXHAUSTED"]);
        assert_eq!((failed.code.as_str(), failed.details.as_str()), ("RESOURCE_EXHAUSTED", "as asked"));
    }
}

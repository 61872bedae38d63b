//! nginx in a directory of its own, in the foreground, without privileges.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::address;
use crate::process::{Command, Process};

/// A running nginx that ends with the test.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    _prefix: TempDir,
}

impl Nginx {
    /// Serves `locations` (the inside of a `server` block) on a free loopback address.
    #[track_caller]
    pub fn start(locations: &str) -> Nginx {
        Nginx::start_on(address::free(), locations)
    }

    /// Serves `locations` on `address`.
    ///
    /// # Panics
    /// nginx is not installed or refuses the configuration.
    #[track_caller]
    pub fn start_on(address: SocketAddr, locations: &str) -> Nginx {
        let prefix = tempfile::tempdir().expect("the temporary directory takes a directory");
        let configuration = prefix.path().join("nginx.conf");
        std::fs::write(&configuration, configure(address, locations)).expect("a new directory can be written");
        let process = Command::new(program())
            .args(["-e", "stderr", "-p"])
            .args([prefix.path()])
            .args(["-c"])
            .args([&configuration]);
        let process = process.start();
        address::wait_listening(address);
        Nginx { process, address, _prefix: prefix }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Debian puts it where an ordinary user's PATH does not look.
fn program() -> &'static str {
    let debian = "/usr/sbin/nginx";
    if Path::new(debian).exists() { debian } else { "nginx" }
}

/// A configuration that writes nothing outside its prefix and runs as whoever starts it.
pub fn configure(address: SocketAddr, locations: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {kind}_temp;\n"))
        .collect();
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr warn;\nevents {{ worker_connections 1024; }}\n\
         http {{\n{temporary}    access_log off;\n    keepalive_requests 1000000;\n    server {{\n        listen {address};\n{locations}\n    }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::curl;

    #[test]
    fn serves_what_it_is_told() {
        let nginx = Nginx::start("location = /hello { return 200 \"hello $http_x_name\\n\"; }");
        let answer = curl(["-H", "x-name: heddle", &format!("http://{}/hello", nginx.address())]);
        assert_eq!((answer.status, answer.text()), (200, "hello heddle\n"));
        assert!(answer.header("Server").unwrap().starts_with("nginx"));
        assert_eq!(curl([format!("http://{}/other", nginx.address())]).status, 404);
    }
}

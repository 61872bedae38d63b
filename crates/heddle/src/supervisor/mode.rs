//! How an instance's connections come to its sidecar.

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, ValueEnum};
use net::inside::{Plan, Refused};

use super::inside::Inside;
use super::report::Reporter;

/// `--mode`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ModeArgs {
    /// How connections come to the sidecar: through variables such as http_proxy (explicit), redirected in namespaces of the
    /// instance's own (namespace), or that where this machine allows it (auto)
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "MODE", env = "HEDDLE_MODE")]
    pub(crate) mode: Choice,
}

/// What a person chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// Namespaces where they are allowed.
    Auto,
    /// See [`Mode::Explicit`].
    Explicit,
    /// See [`Mode::Namespace`]; an error where it is not allowed.
    Namespace,
}

/// How an instance's connections come to its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The application is told of a forward proxy and of listeners by variables.
    Explicit,
    /// The application runs in namespaces in which everything is redirected.
    Namespace,
}

impl Choice {
    /// The mode on this machine; that it is not the best one is said, with the reason.
    pub(crate) async fn decide(self, reporter: &Reporter) -> anyhow::Result<Mode> {
        if self == Choice::Explicit {
            return Ok(Mode::Explicit);
        }
        // Nothing says for certain what a kernel and its security modules allow but to try it.
        let ip = IpAddr::V4(Ipv4Addr::new(127, net::block::FIRST, 0, 1));
        let error = match Inside::make("a trial", plan(ip, "default"), reporter).await {
            Ok(_) => return Ok(Mode::Namespace),
            Err(error) => error,
        };
        if self == Choice::Namespace {
            return Err(error.context(
                "namespaces, which --mode namespace asks for, cannot be had; `--mode explicit` does without",
            ));
        }
        let why = match error.downcast_ref::<Refused>() {
            Some(refused) => format!("namespaces are refused: {refused}"),
            None => format!("namespaces cannot be had: {error:#}"),
        };
        reporter.warn(format_args!(
            "explicit mode (programs are told of their sidecars by variables such as http_proxy), for {why}"
        ));
        Ok(Mode::Explicit)
    }
}

/// What is made for an instance of `namespace` with address `ip`, which is one of a block `127.N.0.0/16`.
pub(crate) fn plan(ip: IpAddr, namespace: &str) -> Plan {
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Plan { ip, instances: (ip, 16), resolv_conf: resolv_conf(namespace, &host) }
}

/// What `/etc/resolv.conf` says inside: any server, for all are redirected; and where names are looked for, as a cluster's pods
/// have it, after the name itself if it has a dot, before what this machine has in `host`.
fn resolv_conf(namespace: &str, host: &str) -> String {
    let mut search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    // The last line of this kind counts (resolv.conf(5)).
    let own = host.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then(|| words.collect::<Vec<_>>())
    });
    for domain in own.unwrap_or_default() {
        search.push(' ');
        search.push_str(domain);
    }
    format!(
        "# Written by heddle: every question goes to this instance's sidecar.\nnameserver 127.0.0.1\nsearch {search}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_for_in_the_mesh_first() {
        let host = "search old\nnameserver 10.0.0.1\nsearch example.org corp.example\noptions ndots:2\n";
        let text = resolv_conf("shop", host);
        assert!(
            text.ends_with(
                "nameserver 127.0.0.1\nsearch shop.svc.cluster.local svc.cluster.local cluster.local example.org corp.example\n"
            ),
            "{text}"
        );
        assert!(resolv_conf("a", "").ends_with("search a.svc.cluster.local svc.cluster.local cluster.local\n"));
        assert!(resolv_conf("a", "domain b\n").ends_with("cluster.local b\n"));
    }
}

//! `heddle init`: kernel rules that lead connections through a sidecar (redirect mode).

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use net::inside::DNS_PORT;
use net::redirect::{self, Network, Redirect, RoutingStep};

use crate::console;
use crate::sidecar::settings::{ADMIN_PORT, FORWARD_PROXY_PORT, INBOUND_PORT};

/// The user of sidecars in pods, as other meshes have it too.
const USER: u32 = 1337;

/// Write the kernel rules of redirect mode: everything of this network namespace passes the sidecar
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// User whose connections are left alone: the sidecar's own. May be given more than once
    #[arg(long, value_name = "UID", default_values_t = [USER])]
    uid: Vec<u32>,
    /// Where the sidecar takes what the application sends
    #[arg(long, value_name = "PORT", default_value_t = FORWARD_PROXY_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,
    /// Where the sidecar takes what is sent to the application
    #[arg(long, value_name = "PORT", default_value_t = INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,
    /// Where the sidecar answers questions for names (`names` of its settings)
    #[arg(long, value_name = "PORT", default_value_t = DNS_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    dns_port: u16,
    /// Leave calls to this port of anybody alone; 53 leaves names alone
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exclude_outbound_port: Vec<u16>,
    /// Leave calls to this port of the application alone
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    exclude_inbound_port: Vec<u16>,
    /// Leave calls to these addresses alone
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    exclude_destination: Vec<Network>,
    /// Leave calls from these addresses alone
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    exclude_source: Vec<Network>,
    /// Let the application see its callers' addresses (TPROXY); the sidecar needs CAP_NET_ADMIN and `keepSource`
    #[arg(long)]
    tproxy: bool,
    /// Remove the rules
    #[arg(long)]
    remove: bool,
    /// Print what would be applied, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: InitArgs) -> anyhow::Result<ExitCode> {
    let rules = if args.remove { redirect::removal() } else { args.redirect().rules() };
    let routing = if args.tproxy && !args.remove { redirect::routing(has_v6()) } else { Vec::new() };
    if args.dry_run {
        console::line(rules.trim_end());
        for step in &routing {
            console::line(format_args!("# ip {}", step.add.join(" ")));
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Routes first, which mean nothing without rules. The rules are one transaction, so there is no moment without them, and where
    // anything is refused, all is as it was.
    let mut added = Vec::new();
    let applied = routing
        .iter()
        .try_for_each(|step| add(step, &mut added))
        .and_then(|()| succeed("nft", &["-f".to_owned(), "-".to_owned()], &rules, "nftables"));
    if applied.is_err() {
        take_back(&added);
    } else if routing.is_empty() {
        // Of an earlier `--tproxy`.
        take_back(&redirect::routing(true));
    }
    applied.map(|()| ExitCode::SUCCESS)
}

/// Whether routes of IPv6 can be had on the loopback device: not without IPv6, nor where it is switched off, as containers often
/// have it.
fn has_v6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|disabled| disabled.trim() == "0")
}

/// Takes a step unless it is taken already, and puts it among those `added`.
fn add(step: &RoutingStep, added: &mut Vec<RoutingStep>) -> anyhow::Result<()> {
    let Err(error) = succeed("ip", &step.add, "", "iproute2") else {
        added.push(step.clone());
        return Ok(());
    };
    // What the kernel says to `ip` where the same is there (EEXIST).
    if error.to_string().contains("File exists") { Ok(()) } else { Err(error) }
}

/// Takes steps back. What is not there need not be; without `ip`, nothing was ever added.
fn take_back(steps: &[RoutingStep]) {
    for step in steps {
        let _ = call("ip", &step.remove, "");
    }
}

impl InitArgs {
    fn redirect(&self) -> Redirect {
        let mut inbound_ports: BTreeSet<u16> = self.exclude_inbound_port.iter().copied().collect();
        // Metrics and health are asked for by those who have no sidecar.
        inbound_ports.insert(ADMIN_PORT);
        Redirect {
            outbound: self.outbound_port,
            inbound: self.inbound_port,
            names: self.dns_port,
            users: self.uid.iter().copied().collect(),
            outbound_ports: self.exclude_outbound_port.iter().copied().collect(),
            inbound_ports,
            destinations: self.exclude_destination.iter().copied().collect(),
            sources: self.exclude_source.iter().copied().collect(),
            keep_source: self.tproxy,
        }
    }
}

/// Runs a program to its end, which must be a good one. `package`: what to install where it is missing.
fn succeed(program: &str, args: &[String], input: &str, package: &str) -> anyhow::Result<()> {
    let output = call(program, args, input)
        .with_context(|| format!("cannot run {program}; is the package {package} installed?"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim();
    let way_out = match nix::unistd::geteuid().is_root() {
        true => "inside a container this needs CAP_NET_ADMIN",
        false => "this needs root, or CAP_NET_ADMIN in a network namespace of one's own",
    };
    bail!("{program} {} was refused: {said} ({way_out})", args.join(" "))
}

fn call(program: &str, args: &[String], input: &str) -> std::io::Result<Output> {
    // An ordinary user's PATH may lack the folders that these programs are in.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(program)
        .args(args)
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    child.wait_with_output()
}

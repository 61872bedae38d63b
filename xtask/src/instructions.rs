//! Counts what the hot path costs in instructions, which do not depend on how busy the machine is, and fails when one takes
//! more than it did: parsing, matching, choosing, and whole requests through the data path.
//!
//! Each is counted by callgrind in two runs of different length; the difference, divided by the difference of the lengths,
//! leaves out what starting costs. What stands in [`EXPECTED`] was counted in this way too.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{output, succeed};

/// What each benchmark may take.
const EXPECTED: &str = "xtask/instructions.toml";

/// Our crates that a request passes through; the others of that kind are those that the release profile optimises fully.
const HOT: &[&str] = &["engine", "net", "telemetry", "proxy"];

/// Kept as the tests are built with it: the C of it takes longer to compile than all else together.
const SHARED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "libmimalloc-sys", "mimalloc"];

/// Repetitions of what runs alone, in the short and in the long run.
const ROUNDS: [u64; 2] = [1_000, 11_000];

/// Requests through the data path, in the short and in the long run.
const REQUESTS: [u64; 2] = [200, 3_200];

/// The same where many are under way at a time.
const BUSY: [u64; 2] = [640, 3_840];

/// A gRPC message of 1 KiB, which is request and answer.
const MESSAGE: &str = "message";

/// How long a program may take to start under valgrind on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is counted: its name, and how.
const BENCHMARKS: &[(&str, What)] = &[
    ("parse", What::Alone("h1", &[])),
    ("hpack-decode", What::Alone("hpack", &["indexed"])),
    ("hpack-decode-huffman", What::Alone("hpack", &["literal"])),
    ("hpack-encode", What::Alone("hpack", &["encode"])),
    ("match", What::Alone("hot", &["match"])),
    ("choose", What::Alone("hot", &["choose"])),
    ("forward-http1", What::Road("one", Load::Http1)),
    ("forward-http1-mtls", What::Road("two", Load::Http1)),
    ("forward-http1-mtls-12k", What::Road("two", Load::LongHttp1)),
    ("forward-http1-mtls-busy", What::Road("two", Load::BusyHttp1)),
    ("forward-http2", What::Road("one", Load::Http2)),
    ("forward-http2-mtls", What::Road("two", Load::Http2)),
    ("forward-http2-bodies", What::Road("one", Load::Bodies)),
    ("forward-grpc", What::Road("one", Load::Grpc)),
    ("forward-grpc-busy", What::Road("one", Load::BusyGrpc)),
];

#[derive(Clone, Copy)]
enum What {
    /// An example that takes the number of repetitions behind these arguments.
    Alone(&'static str, &'static [&'static str]),
    /// The example `road` in this mode.
    Road(&'static str, Load),
}

/// Requests that `h2load` sends.
#[derive(Clone, Copy)]
enum Load {
    /// One after the other, answered with 1 KiB.
    Http1,
    /// The same with 12 KiB, about as long as bodies on links are.
    LongHttp1,
    /// On sixteen connections, one after the other on each, answered with 1 KiB.
    BusyHttp1,
    /// Over HTTP/2, one after the other, answered with 1 KiB.
    Http2,
    /// On four connections, 16 at a time on each, answered with 64 KiB.
    Bodies,
    /// Calls with 1 KiB each way and trailers, one after the other.
    Grpc,
    /// The same on four connections, 16 at a time on each.
    BusyGrpc,
}

impl Load {
    /// How many, in the short and in the long run.
    fn lengths(self) -> [u64; 2] {
        match self {
            Load::Http1 | Load::LongHttp1 | Load::Http2 | Load::Grpc => REQUESTS,
            // The first ones on each connection are dearer.
            Load::BusyHttp1 | Load::Bodies | Load::BusyGrpc => BUSY,
        }
    }

    fn is_http1(self) -> bool {
        matches!(self, Load::Http1 | Load::LongHttp1 | Load::BusyHttp1)
    }

    /// What `h2load` is told, but for the number of requests.
    fn arguments(self, address: &str, scratch: &Path) -> Vec<String> {
        let path = match self {
            Load::Http1 | Load::BusyHttp1 | Load::Http2 => "/1k",
            Load::LongHttp1 => "/12k",
            Load::Bodies => "/64k",
            Load::Grpc | Load::BusyGrpc => "/grpc",
        };
        let protocol = if self.is_http1() { "--h1" } else { "--no-tls-proto=h2c" };
        let mut arguments = vec![protocol.to_owned(), format!("http://{address}{path}")];
        let clients = match self {
            Load::Bodies | Load::BusyGrpc => ["-c4", "-m16"],
            Load::BusyHttp1 => ["-c16", "-m1"],
            Load::Http1 | Load::LongHttp1 | Load::Http2 | Load::Grpc => ["-c1", "-m1"],
        };
        arguments.extend(clients.map(str::to_owned));
        if matches!(self, Load::Grpc | Load::BusyGrpc) {
            arguments.extend(["-H", "content-type: application/grpc", "-H", "te: trailers"].map(str::to_owned));
            arguments.push(format!("-d{}", scratch.join(MESSAGE).display()));
        }
        arguments
    }
}

/// Builds, counts and compares; with `write`, makes what was counted the expectation.
pub(crate) fn run(root: &Path, write: bool) -> Result<()> {
    let examples = build(root)?;
    let scratch = root.join("target/instructions");
    let origin = Origin::start(&scratch)?;
    let mut counted = BTreeMap::new();
    for (name, what) in BENCHMARKS {
        let each = match what {
            What::Alone(example, arguments) => each(ROUNDS, |n| alone(&examples.join(example), arguments, n))?,
            What::Road(mode, load) => {
                each(load.lengths(), |n| road(&examples.join("road"), mode, *load, &origin, &scratch, n))?
            }
        };
        counted.insert((*name).to_owned(), each);
    }
    let path = root.join(EXPECTED);
    if write {
        return std::fs::write(&path, Expected { slack_percent: SLACK_PERCENT, counts: counted }.text())
            .with_context(|| format!("writing {}", path.display()));
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let (table, worse) = compare(&Expected::parse(&text).with_context(|| format!("{}", path.display()))?, &counted);
    eprint!("{table}");
    ensure!(
        worse.is_empty(),
        "more instructions than {EXPECTED} allows: {}; make it cheaper, or accept it with `cargo xtask instructions --write` and say why in the commit",
        worse.join(", ")
    );
    Ok(())
}

/// What goes into a new file; a few percent cover the compiler's and valgrind's moods.
const SLACK_PERCENT: u64 = 4;

struct Expected {
    /// How much more than expected is let pass, and how much less is worth a note.
    slack_percent: u64,
    /// Instructions of one repetition or request, by benchmark.
    counts: BTreeMap<String, u64>,
}

impl Expected {
    fn parse(text: &str) -> Result<Expected> {
        let table: toml::Table = text.parse()?;
        let number = |value: &toml::Value| value.as_integer().and_then(|n| u64::try_from(n).ok());
        let slack_percent = table.get("slack_percent").and_then(number).context("`slack_percent` is no number")?;
        let counts = table.get("instructions").and_then(toml::Value::as_table).context("no table `instructions`")?;
        let counts = counts
            .iter()
            .map(|(name, value)| Ok((name.clone(), number(value).with_context(|| format!("{name} is no number"))?)));
        Ok(Expected { slack_percent, counts: counts.collect::<Result<_>>()? })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# Instructions of one repetition or request, as `cargo xtask instructions` counts them; `--write` writes this file.\n\
             # More than so many percent above fails in CI.\nslack_percent = {}\n\n[instructions]\n",
            self.slack_percent
        );
        for (name, count) in &self.counts {
            writeln!(text, "{name} = {count}").expect("writing to a string cannot fail");
        }
        text
    }
}

/// A table for people, and the names of what got worse. What nobody expects is worse too: a benchmark without a threshold
/// guards nothing.
fn compare(expected: &Expected, counted: &BTreeMap<String, u64>) -> (String, Vec<String>) {
    let mut table = format!("{:<24}{:>10}{:>10}\n", "instructions", "counted", "expected");
    let mut worse = Vec::new();
    for (name, &count) in counted {
        let Some(&wanted) = expected.counts.get(name) else {
            writeln!(table, "{name:<24}{count:>10}{:>10}  no threshold", "-").expect("writing to a string cannot fail");
            worse.push(name.clone());
            continue;
        };
        let slack = wanted * expected.slack_percent / 100;
        let note = if count > wanted + slack {
            worse.push(name.clone());
            "  too many"
        } else if count + slack < wanted {
            "  fewer: write the new ones down (--write)"
        } else {
            ""
        };
        writeln!(table, "{name:<24}{count:>10}{wanted:>10}{note}").expect("writing to a string cannot fail");
    }
    // A benchmark that nobody counts any more guards nothing either.
    for (name, wanted) in expected.counts.iter().filter(|(name, _)| !counted.contains_key(*name)) {
        writeln!(table, "{name:<24}{:>10}{wanted:>10}  not counted", "-").expect("writing to a string cannot fail");
        worse.push(name.clone());
    }
    (table, worse)
}

/// Instructions of one, from a short and a long run.
fn each(lengths: [u64; 2], mut count: impl FnMut(u64) -> Result<u64>) -> Result<u64> {
    let [short, long] = lengths;
    let less = count(short)?;
    let more = count(long)?;
    let more = more.checked_sub(less).context("the long run took fewer instructions than the short one")?;
    Ok(more / (long - short))
}

/// Builds the examples in the profile of the tests, whose artifacts are there in CI already, with full optimisation of what
/// the release optimises fully. Returns the folder that they are in.
fn build(root: &Path) -> Result<PathBuf> {
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let release = manifest.get("profile").and_then(|p| p.get("release")).and_then(|p| p.get("package"));
    let packages = release.and_then(toml::Value::as_table).context("Cargo.toml has no [profile.release.package]")?;
    let full = packages.iter().filter(|(_, p)| p.get("opt-level").and_then(toml::Value::as_integer) == Some(3));
    let names = full.map(|(name, _)| name.as_str()).filter(|name| !SHARED.contains(name));
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).env("CARGO_INCREMENTAL", "0").arg("build");
    for name in names.chain(HOT.iter().copied()) {
        for setting in ["opt-level=3", "codegen-units=1", "debug-assertions=false", "overflow-checks=false"] {
            cargo.args(["--config", &format!("profile.dev.package.{name}.{setting}")]);
        }
    }
    succeed(cargo.args(["--quiet", "-p", "engine", "-p", "proxy", "--features", "proxy/fuzzing"]).args([
        "--example",
        "hot",
        "--example",
        "h1",
        "--example",
        "hpack",
        "--example",
        "road",
    ]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("debug/examples"))
}

fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command
}

/// Instructions of a whole run: `Collected : N` in what callgrind says at the end.
fn collected(said: &str) -> Result<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected :")).context("callgrind counted nothing")?;
    line.1.trim().parse().with_context(|| format!("callgrind said {:?}", line.1))
}

fn alone(example: &Path, arguments: &[&str], times: u64) -> Result<u64> {
    let mut command = valgrind(example);
    let done = command.args(arguments).arg(times.to_string()).output().context("starting valgrind")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?} failed: {}\n{said}", done.status);
    collected(&said)
}

fn road(example: &Path, mode: &str, load: Load, origin: &Origin, scratch: &Path, requests: u64) -> Result<u64> {
    let log = scratch.join("valgrind.log");
    let mut command = valgrind(example);
    let (port, protocol) = if load.is_http1() { (origin.http1, "http1") } else { (origin.http2, "http2") };
    command.args([mode, &format!("127.0.0.1:{port}"), "1", protocol]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(std::fs::File::create(&log)?);
    let mut child = Ended(command.spawn().context("starting valgrind")?);
    let mut address = String::new();
    BufReader::new(child.0.stdout.take().context("it was asked for")?).read_line(&mut address)?;
    ensure!(!address.is_empty(), "road ended at once:\n{}", std::fs::read_to_string(&log)?);
    let mut h2load = Command::new("h2load");
    let said = output(h2load.arg(format!("-n{requests}")).args(load.arguments(address.trim(), scratch)))?;
    // A gRPC call that failed succeeds without a body.
    let whole = said.contains(&format!("{requests} succeeded")) && !said.contains("(0) data");
    ensure!(whole, "not every request was answered:\n{said}");
    child.end()?;
    collected(&std::fs::read_to_string(&log)?)
}

/// A child that does not outlive us; callgrind says what it counted when it is asked to end.
struct Ended(Child);

impl Ended {
    fn end(&mut self) -> Result<()> {
        succeed(Command::new("kill").arg(self.0.id().to_string()))?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may have ended by itself meanwhile, and nobody is left to tell.
            let _ = self.end();
        }
    }
}

/// The server behind the data path: nginx with 1, 12 and 64 KiB, and a gRPC method that answers with a file and a trailer.
struct Origin {
    http1: u16,
    http2: u16,
    _child: Ended,
}

impl Origin {
    fn start(scratch: &Path) -> Result<Origin> {
        std::fs::create_dir_all(scratch)?;
        let (http1, http2) = (free_port()?, free_port()?);
        let config = scratch.join("nginx.conf");
        let at = scratch.display();
        let body = "0123456789abcdef".repeat(64);
        std::fs::write(scratch.join(MESSAGE), [b"\0\0\0\x04\0", body.as_bytes()].concat())?;
        for (name, times) in [("12k", 12), ("64k", 64)] {
            std::fs::write(scratch.join(name), body.repeat(times))?;
        }
        std::fs::write(
            &config,
            format!(
                "worker_processes 1; daemon off; pid {at}/pid; error_log {at}/error.log; events {{ worker_connections 64; }}\n\
                 http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {at}/b; proxy_temp_path {at}/p;\n\
                 fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n\
                 server {{ listen 127.0.0.1:{http1}; listen 127.0.0.1:{http2} http2; root {at}; types {{ }} etag off;\n\
                 location = /1k {{ return 200 {body}; }}\n\
                 location = /12k {{ }}\n\
                 location = /64k {{ }}\n\
                 location = /grpc {{ error_page 405 =200 /{MESSAGE}; return 405; }}\n\
                 location = /{MESSAGE} {{ internal; default_type application/grpc; add_trailer grpc-status 0; }} }} }}\n"
            ),
        )?;
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("nginx");
        command.env("PATH", path).arg("-p").arg(scratch).arg("-e").arg(scratch.join("error.log")).arg("-c").arg(config);
        let child = Ended(command.spawn().context("starting nginx")?);
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", http1)).is_err() {
            if Instant::now() > deadline {
                bail!("nginx does not listen on port {http1}; see {at}/error.log");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Origin { http1, http2, _child: child })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected::parse("slack_percent = 4\n[instructions]\nmatch = 1000\nparse = 5000\n").unwrap()
    }

    fn worse(counted: &[(&str, u64)]) -> Vec<String> {
        compare(&expected(), &counted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()).1
    }

    #[test]
    fn more_than_the_slack_is_refused_and_less_is_not() {
        assert!(worse(&[("match", 1040), ("parse", 4000)]).is_empty());
        assert_eq!(worse(&[("match", 1041), ("parse", 5000)]), ["match"]);
        assert_eq!(worse(&[("match", 2000), ("parse", 9000)]), ["match", "parse"]);
    }

    #[test]
    fn a_benchmark_without_a_threshold_is_refused_and_so_is_a_threshold_without_a_benchmark() {
        assert_eq!(worse(&[("match", 1), ("new", 1), ("parse", 1)]), ["new"]);
        assert_eq!(worse(&[("match", 1)]), ["parse"]);
    }

    #[test]
    fn a_long_run_that_does_less_is_an_error() {
        assert!(each([10, 110], |n| Ok(5_000 - n)).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let again = Expected::parse(&expected().text()).unwrap();
        assert_eq!((again.slack_percent, &again.counts), (4, &expected().counts));
    }

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 10094300\n").unwrap(), 10_094_300);
        assert!(collected("==7== no such thing\n").is_err());
    }

    #[test]
    fn starting_is_not_counted() {
        assert_eq!(each([10, 110], |n| Ok(5_000 + 7 * n)).unwrap(), 7);
    }
}

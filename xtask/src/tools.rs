//! The one place that knows which programs the tests need and how they are installed.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::succeed;

/// A program, arguments with which it succeeds where it is installed, and the Debian package that it is in.
const PROGRAMS: &[(&str, &[&str], &str)] = &[
    ("curl", &["--version"], "curl"),
    // Debian puts it where an ordinary user's PATH does not look.
    ("sh", &["-c", "PATH=$PATH:/usr/sbin nginx -v"], "nginx-light"),
    ("h2load", &["--version"], "nghttp2-client"),
    // Without a URL, wrk prints its usage and fails; that it starts is enough.
    ("sh", &["-c", "command -v wrk"], "wrk"),
    ("ip", &["-V"], "iproute2"),
    ("sh", &["-c", "PATH=$PATH:/usr/sbin nft --version"], "nftables"),
    ("redis-server", &["--version"], "redis-server"),
    ("redis-cli", &["--version"], "redis-tools"),
    ("psql", &["--version"], "postgresql-client"),
    ("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"], "postgresql"),
    ("valgrind", &["--version"], "valgrind"),
    ("python3", &["-c", "import ensurepip, venv"], "python3-venv"),
    // Servers whose protocols are detected; see bench/detect.
    ("sh", &["-c", "PATH=$PATH:/usr/sbin mariadbd --version"], "mariadb-server"),
    ("mariadb", &["--version"], "mariadb-client"),
    ("sh", &["-c", "ls /usr/lib/postgresql/*/bin/initdb"], "postgresql"),
    ("psql", &["--version"], "postgresql-client"),
    ("redis-server", &["--version"], "redis-server"),
    ("redis-cli", &["--version"], "redis-tools"),
    ("sh", &["-c", "PATH=$PATH:/usr/sbin nats-server --version"], "nats-server"),
    ("sh", &["-c", "command -v /usr/sbin/sshd"], "openssh-server"),
    ("sh", &["-c", "command -v ssh-keyscan"], "openssh-client"),
    ("/usr/bin/python3", &["-c", "import aiosmtpd"], "python3-aiosmtpd"),
];

/// Python packages, pinned, for peers that are not ours.
const PYTHON_PACKAGES: &[&str] = &["grpcio==1.74.0"];

/// Where the Python environment is; `testkit::grpc` looks there.
const PYTHON: &str = "target/test-tools/python";

/// Installs what is missing; asks the system for nothing when all is there.
pub(crate) fn install(root: &Path) -> Result<()> {
    install_programs()?;
    install_python(&root.join(PYTHON))
}

/// Whether a command starts and succeeds.
pub(crate) fn works(program: &str, args: &[&str]) -> bool {
    let status =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn install_programs() -> Result<()> {
    let missing = PROGRAMS.iter().filter(|(program, args, _)| !works(program, args));
    let packages: Vec<_> = missing.map(|(_, _, package)| *package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    let by_hand =
        format!("the tests need programs that are missing; install them: apt-get install {}", packages.join(" "));
    if !works("apt-get", &["--version"]) {
        bail!("{by_hand} (or what your system calls them)");
    }
    eprintln!("xtask: installing {}", packages.join(" "));
    succeed(apt()?.arg("update")).context(by_hand.clone())?;
    succeed(apt()?.args(["install", "--yes", "--no-install-recommends"]).args(&packages)).context(by_hand)
}

/// apt-get, with the rights that it needs.
fn apt() -> Result<Command> {
    let root = Command::new("id").arg("-u").output().context("asking who we are")?.stdout.trim_ascii() == b"0";
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    Ok(command)
}

fn install_python(folder: &Path) -> Result<()> {
    let python = folder.join("bin/python");
    // Written last, so that an interrupted installation is done again.
    let stamp = folder.join("installed");
    let wanted = PYTHON_PACKAGES.join("\n");
    if python.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    eprintln!("xtask: installing {} into {}", PYTHON_PACKAGES.join(" "), folder.display());
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
    succeed(Command::new(&python).args(pip).args(PYTHON_PACKAGES))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("writing {}", stamp.display()))
}

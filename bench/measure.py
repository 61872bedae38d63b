"""Processes, and what is measured of them."""

import ctypes
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRATCH = ROOT / "target" / "bench"

# Plain HTTP only: variables of the surroundings must not send our requests elsewhere.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")}


def say(text):
    """What goes on, for people."""
    print(text, file=sys.stderr, flush=True)


class Failure(Exception):
    """Something that makes a comparison meaningless."""


# What a subject may do to whoever starts, asks or measures it. It is refused with that as the reason; the others go on.
BROKEN = (Failure, OSError, ArithmeticError, subprocess.SubprocessError, http.client.HTTPException)


def reason(broken):
    """Why, for people: the exception's words, or its name where it has none."""
    return str(broken) or repr(broken)


def _end_with_parent():
    """In the child: SIGTERM when the parent dies, so that nothing outlives a killed benchmark."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, linux/prctl.h


class Process:
    """A child process, its descendants, and its log."""

    def __init__(self, name, argv, log, **options):
        self.name, self.log = name, log
        options.setdefault("env", ENVIRONMENT)
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_end_with_parent, **options
            )

    def alive(self):
        return self.child.poll() is None

    def stop(self):
        """Ends it: SIGTERM, and SIGKILL after five seconds."""
        if not self.alive():
            return
        self.child.terminate()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def pids(self):
        return tree(self.child.pid)

    def tail(self):
        lines = Path(self.log).read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])


def tree(pid):
    """`pid` and all its descendants."""
    found, todo = [], [pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                todo += [int(child) for child in task.read_text().split()]
            except OSError:
                pass
    return found


def cpu_seconds(pids):
    """Processor time of whole processes, user and system, threads that have ended included, to the nanosecond.

    The clock of a process is named by its id (clock_getcpuclockid(3), include/linux/posix-timers.h: CPUCLOCK_SCHED). The ticks
    of /proc/PID/stat are as true but a hundred times coarser than what a short run at a low rate needs.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def memory_mib(pids, what="Pss"):
    """Proportional set size of processes together; with `Rss` their resident set size, which counts shared pages whole."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{what}:"):
                total += int(line.split()[1])
    return total / 1024


def raise_descriptors(wanted=65536):
    """Lets this process and its children open many files: as many as it may, and more where it is allowed to raise that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            return
        except (ValueError, OSError):
            wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


_given = set()


def free_port():
    """A port below the range that outgoing connections use, given once."""
    for port in range(21000, 31000):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise Failure("no free port between 21000 and 31000")


def wait_until(what, condition, seconds=20, process=None):
    """Polls until `condition` holds; fails with the end of the process's log."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and not process.alive():
            raise Failure(f"{process.name} ended before {what}:\n{process.tail()}")
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s" + (f"\n{process.tail()}" if process else ""))
        time.sleep(0.02)


def accepts(address):
    """Whether something listens at (host, port)."""
    try:
        socket.create_connection(address, 1).close()
        return True
    except OSError:
        return False

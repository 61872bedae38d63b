"""Processes, and what is measured of them."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRATCH = ROOT / "target" / "bench"

# Plain HTTP only: variables of the surroundings must not send our requests elsewhere.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")}


class Failure(Exception):
    """Something that makes a comparison meaningless."""


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
    """Processor time of whole processes, threads that have ended included (proc(5), fields utime and stime of stat)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def pss_kib(pids):
    """Proportional set size of processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total


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


def build_open_loop():
    """Compiles the fixed-rate load generator, if its source is newer than the program."""
    source, program = HERE / "open_loop.rs", SCRATCH / "open_loop"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["rustc", "--edition", "2024", "-O", source, "-o", program], check=True)
    return program


def _json_line(argv, seconds):
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, env=ENVIRONMENT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise Failure(f"{argv[0]} failed: {done.stderr.strip()[-500:] or done.stdout.strip()[-500:]}")
    return json.loads(lines[-1])


def saturate(target, seconds, connections):
    """As many requests as go through; `wrk`'s summary."""
    url = f"http://{target.address[0]}:{target.address[1]}{target.path}"
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(HERE / "report.lua")]
    return _json_line(argv + ["-H", f"Host: {target.host}", url], seconds)


def at_rate(target, rate, seconds, connections):
    """Latency percentiles at a fixed rate, open loop."""
    address = f"{target.address[0]}:{target.address[1]}"
    argv = [str(build_open_loop()), address, target.host, target.path, str(rate), str(seconds), str(connections)]
    return _json_line(argv, seconds)


def get(target, count=1):
    """`count` requests over one connection: a list of (status, body)."""
    import http.client

    connection = http.client.HTTPConnection(*target.address, timeout=10)
    answers = []
    for _ in range(count):
        connection.request("GET", target.path, headers={"Host": target.host})
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    connection.close()
    return answers


def hold(target, count):
    """`count` connections that have each made a request and stay open."""
    request = f"GET {target.path} HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
    held = []
    for _ in range(count):
        connection = socket.create_connection(target.address, 10)
        connection.sendall(request)
        held.append(connection)
    for connection in held:
        connection.settimeout(20)
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            raise Failure("a held connection got no 200")
    return held

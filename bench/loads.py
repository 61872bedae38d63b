"""The loads: as much as goes through, a fixed rate, new TLS connections, connections that stay."""

import http.client
import json
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

from measure import ENVIRONMENT, HERE, SCRATCH, Failure

# A gRPC request: not compressed, a message of three bytes.
GRPC_REQUEST = b"\0\0\0\0\3abc"

# Bytes of an answer's body.
SMALL, LARGE, GRPC = 1024, 1 << 20, 5 + 1024


def build():
    """Compiles the fixed-rate load generator, if its source is newer than the program."""
    source, program = HERE / "open_loop.rs", SCRATCH / "open_loop"
    SCRATCH.mkdir(parents=True, exist_ok=True)
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["rustc", "--edition", "2024", "-O", source, "-o", program], check=True)
    (SCRATCH / "grpc-request").write_bytes(GRPC_REQUEST)
    return program


def _output(argv, seconds):
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=seconds + 30, env=ENVIRONMENT)
    if done.returncode != 0:
        raise Failure(f"{argv[0]} failed: {done.stderr.strip()[-500:] or done.stdout.strip()[-500:]}")
    return done.stdout


def _json_line(argv, seconds):
    lines = [line for line in _output(argv, seconds).splitlines() if line.startswith("{")]
    if not lines:
        raise Failure(f"{argv[0]} printed no figures")
    return json.loads(lines[-1])


def url(target, path):
    return f"http://{target.address[0]}:{target.address[1]}{path}"


def http1(target, path, seconds, connections, each):
    """As many HTTP/1.1 requests as go through, each answered with `each` bytes (see `answer_length`); `wrk`'s summary."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", HERE / "report.lua",
            "-H", f"Host: {target.host}", url(target, path)]
    seen = _json_line(argv, seconds)
    # wrk takes 3xx for good, and does not look at how long an answer is. At its end one more may be under way on each connection.
    return seen | {"errors": max(seen["errors"], of_another_length(seen["requests"], each, seen["bytes"], connections))}


def http2(target, path, requests, connections, streams):
    """So many HTTP/2 requests, gRPC ones where the path is that of a method; what `h2load` says of them."""
    argv = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-n{requests}", "-H", f":authority: {target.host}"]
    if is_grpc(path):
        argv += ["-d", SCRATCH / "grpc-request", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    text = _output([*argv, url(target, path)], 60)
    counts = re.search(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded", text)
    codes = re.search(r"status codes: (\d+) 2xx", text)
    took = re.search(r"finished in ([\d.]+)(us|ms|s|m)", text)
    data = re.search(r"traffic: .*\((\d+)\) data", text)
    if not (counts and codes and took and data):
        raise Failure(f"h2load printed something unknown: {text[-500:]}")
    seconds = float(took.group(1)) * {"us": 1e-6, "ms": 1e-3, "s": 1, "m": 60}[took.group(2)]
    good = min(int(counts.group(2)), int(codes.group(1)))
    # A gRPC call that failed is an answer of 200 without a body; the status that says so is in a trailer.
    good -= of_another_length(good, length(path), int(data.group(1)))
    return {"requests": int(counts.group(1)), "errors": requests - good, "seconds": seconds}


def of_another_length(answers, each, read, under_way=0):
    """How many of so many answers of `each` bytes must have been shorter or longer, at least, if so many bytes were read in all and up to
    so many further answers may have come in part: a byte too few or too many counts as one answer."""
    wrong = max(0, answers * each - read, read - (answers + under_way) * each)
    return min(answers, -(-wrong // each))


def _http1_request(target, path):
    """What wrk sends."""
    return f"GET {path} HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()


def _http1_answer(connection, path):
    """Reads an answer, which must be a good one; says how long it is with its head."""
    def more():
        piece = connection.recv(1 << 18)
        if not piece:
            raise Failure("an answer ended early")
        return piece

    seen = b""
    while b"\r\n\r\n" not in seen:
        seen += more()
    head = seen.partition(b"\r\n\r\n")[0].lower()
    announced = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head)
    if not head.startswith(b"http/1.1 200") or not announced or int(announced.group(1)) != length(path):
        raise Failure(f"the answer to {path} is not 200 with {length(path)} bytes: {head[:200]!r}")
    whole, read = len(head) + 4 + length(path), len(seen)
    while read < whole:
        read += len(more())
    if read > whole:
        raise Failure(f"more than {length(path)} bytes follow the head of the answer to {path}")
    return whole


def answer_length(target, path):
    """How long each answer to wrk must be, its head included: what each of two on one connection is."""
    with socket.create_connection(target.address, 10) as connection:
        both = []
        for _ in range(2):
            connection.sendall(_http1_request(target, path))
            both.append(_http1_answer(connection, path))
    if both[0] != both[1]:
        raise Failure(f"two answers to {path} have {both[0]} and {both[1]} bytes, heads included: nobody could tell whether others are whole")
    return both[0]


def length(path):
    """Bytes of the body of a good answer."""
    return GRPC if is_grpc(path) else {"/1k": SMALL, "/1m": LARGE}[path]


def is_grpc(path):
    """Whether a path names a method of a gRPC service, `/package.Service/Method`."""
    return "." in path


def at_rate(target, path, rate, seconds, connections, protocol="http1", warm=0, starting=lambda: None):
    """Latency percentiles at a fixed rate, open loop, on connections that have each carried a request already, and the same load for `warm`
    seconds, of which errors alone count. `starting` is called then, before the first request that counts."""
    address = f"{target.address[0]}:{target.address[1]}"
    argv = [SCRATCH / "open_loop", protocol, address, target.host, path, length(path), rate, warm, seconds, connections]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([str(a) for a in argv], env=ENVIRONMENT, **pipes) as child:
        # A connection that cannot be made fails within the generator's own limits.
        if child.stdout.readline() == "ready\n":
            starting()
        try:
            out, errors = child.communicate("\n", timeout=seconds + 30)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    if child.returncode != 0:
        raise Failure(f"open_loop failed: {errors.strip()[-500:]}")
    return json.loads(out)


def handshakes(tls, seconds, processes=2):
    """New mutual TLS connections, one after the other in each of so many processes: how many were made, and how many failed."""
    argv = [sys.executable, HERE / "handshakes.py", json.dumps(tls.as_json()), str(seconds)]
    children = [subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, env=ENVIRONMENT) for _ in range(processes)]
    seen = [json.loads(child.communicate(timeout=seconds + 30)[0] or "{}") for child in children]
    if any(child.returncode for child in children):
        raise Failure("handshakes.py failed")
    return {key: sum(one[key] for one in seen) for key in ("connections", "errors")}


def get(target, path, count=1):
    """`count` HTTP/1.1 requests over one connection: a list of (status, body)."""
    connection = http.client.HTTPConnection(*target.address, timeout=10)
    answers = []
    for _ in range(count):
        connection.request("GET", path, headers={"Host": target.host})
        response = connection.getresponse()
        answers.append((response.status, response.read()))
    connection.close()
    return answers


@contextmanager
def held(target, path, count, at_once=100):
    """`count` connections that have each made a request and stay open; no more than `at_once` requests are under way together."""
    request = _http1_request(target, path)
    connections = []
    try:
        while len(connections) < count:
            batch = []
            for number in range(len(connections), min(len(connections) + at_once, count)):
                # Several addresses of our own, or the ports of one run out while closed connections linger.
                own = f"127.0.0.{2 + number % 8}" if target.address[0].startswith("127.") else ""
                connection = socket.create_connection(target.address, 10, source_address=(own, 0))
                connections.append(connection)
                batch.append(connection)
                connection.sendall(request)
            for connection in batch:
                connection.settimeout(20)
                _http1_answer(connection, path)
        yield connections
    finally:
        for connection in connections:
            connection.close()

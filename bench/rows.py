"""The rows: what is measured, with which load, and what Heddle's goal is."""

import time
from dataclasses import dataclass, field

import loads
import measure
from peers import GRPC_METHOD

CONNECTIONS = 64
# Of HTTP/2: as many requests under way as connections above.
HTTP2_CONNECTIONS, HTTP2_STREAMS = 4, 16
LARGE_CONNECTIONS = 16
LOW_RATE, HIGH_RATE = 1000, 5000
# Percentiles that differ by no more are the same.
UNCHANGED = 1.1
# Rounds of what varies little, of percentiles that want many, and of what does not vary.
FEWER, TAILS, ONCE = (1, 3), (1, 5), (1, 1)
ALL = ("nginx", "haproxy", "envoy", "heddle")
LINKED = ("nginx", "haproxy", "haproxy h2", "envoy", "heddle")
HTTP2 = ("haproxy", "envoy", "heddle")


@dataclass(frozen=True)
class Metric:
    """A figure of a round."""
    key: str
    label: str
    digits: int = 1
    summed_up: bool = False  # it is in the last table though no goal is about it


@dataclass(frozen=True)
class Goal:
    """What `subject` must reach: an absolute `limit`, or one on the ratio to a peer (or to the better of several) or on the difference to it."""
    metric: str
    limit: float
    against: tuple = ()
    more_is_better: bool = False
    difference: bool = False
    subject: str = "heddle"


@dataclass(frozen=True)
class Row:
    """A line of the goals table."""
    ident: str
    title: str
    scenario: str  # one hop, two hops, or something that a row of its own starts
    kind: str
    metrics: tuple
    sample: callable
    goals: tuple = ()
    subjects: tuple = ALL
    rounds: tuple = (2, 5)  # of a quick run, and of a full one

    def compared(self):
        """The subjects that a goal is about."""
        return {goal.subject for goal in self.goals}.union(*(goal.against for goal in self.goals))


@dataclass
class Round:
    """What a sample may use."""
    number: int
    seconds: float
    quick: bool
    origin: object
    warm: float = 0  # seconds of a load that does not count before the one that does
    shared: dict = field(default_factory=dict)  # what the subjects of one round have in common


CPU = Metric("cpu_us", "CPU per request, µs")
RPS = Metric("rps", "requests/s", 0)
SATURATED = (CPU, RPS, Metric("p50_us", "p50 when saturated, µs", 0), Metric("p99_us", "p99 when saturated, µs", 0))


def _wrk(running, now, path, connections):
    """As many requests as go through, after a warm-up (in a quick run in the first round alone): what was seen, and the processor time."""
    failed, each = 0, loads.answer_length(running.target, path)
    if now.number == 0 or not now.quick:
        failed = loads.http1(running.target, path, 1, connections, each)["errors"]
    before = measure.cpu_seconds(running.pids())
    seen = loads.http1(running.target, path, now.seconds, connections, each)
    used = measure.cpu_seconds(running.pids()) - before
    return seen | {"errors": failed + seen["errors"]}, used


def saturated_http1(running, now):
    """As many requests as go through."""
    seen, used = _wrk(running, now, "/1k", CONNECTIONS)
    # wrk counts what was answered within the run; up to one request a connection more was worked on.
    return {"errors": seen["errors"], "rps": seen["requests"] / (seen["duration_us"] / 1e6), "cpu_us": used * 1e6 / seen["requests"],
            "p50_us": seen["p50_us"], "p99_us": seen["p99_us"]}


def saturated_http2(path):
    """The same over HTTP/2; the number of requests is fixed by the rate of the warm-up."""
    def sample(running, now):
        warm = loads.http2(running.target, path, 4000, HTTP2_CONNECTIONS, HTTP2_STREAMS)
        requests = max(4000, int(now.seconds * warm["requests"] / warm["seconds"]))
        before = measure.cpu_seconds(running.pids())
        seen = loads.http2(running.target, path, requests, HTTP2_CONNECTIONS, HTTP2_STREAMS)
        used = measure.cpu_seconds(running.pids()) - before
        return {"errors": warm["errors"] + seen["errors"], "rps": seen["requests"] / seen["seconds"], "cpu_us": used * 1e6 / max(1, seen["requests"])}
    return sample


def large_bodies(running, now):
    """1 MiB a response; through a proxy of kind `tcp` these are opaque bytes."""
    seen, used = _wrk(running, now, "/1m", LARGE_CONNECTIONS)
    return {"errors": seen["errors"], "mib_per_cpu_s": seen["requests"] / used, "mib_per_s": seen["requests"] / (seen["duration_us"] / 1e6)}


def unsaturated(protocol, path):
    """Processor time of a request that comes alone."""
    connections = HTTP2_CONNECTIONS if protocol == "http2" else CONNECTIONS

    def sample(running, now):
        # The connections are made and warm before the clock is read.
        before = []
        seen = loads.at_rate(running.target, path, LOW_RATE, now.seconds, connections, protocol, now.warm,
                             lambda: before.append(measure.cpu_seconds(running.pids())))
        used = measure.cpu_seconds(running.pids()) - before[0]
        return {"errors": seen["errors"], "cpu_us": used * 1e6 / max(1, seen["requests"])}
    return sample


def added_latency(rate):
    """What the proxies add to the origin's own latency in the same round."""
    def sample(running, now):
        seconds = now.seconds * 1.5
        if "direct" not in now.shared:
            now.shared["direct"] = loads.at_rate(now.origin, "/1k", rate, seconds, CONNECTIONS, warm=now.warm)
        direct = now.shared["direct"]
        seen = loads.at_rate(running.target, "/1k", rate, seconds, CONNECTIONS, warm=now.warm)
        return {"errors": seen["errors"] + direct["errors"], "added_p50_us": seen["p50_us"] - direct["p50_us"],
                "added_p99_us": seen["p99_us"] - direct["p99_us"], "origin_p50_us": direct["p50_us"], "origin_p99_us": direct["p99_us"]}
    return sample


def new_connections(running, now):
    """Mutual TLS straight to the second proxy, a request on each connection."""
    failed = loads.handshakes(running.tls, now.warm)["errors"]
    before = measure.cpu_seconds(running.pids())
    seen = loads.handshakes(running.tls, now.seconds)
    used = measure.cpu_seconds(running.pids()) - before
    return {"errors": failed + seen["errors"], "per_cpu_s": seen["connections"] / used, "per_s": seen["connections"] / now.seconds}


def memory(running, now):
    """When the checks have made their few requests, and with connections that have each made one and stay open."""
    time.sleep(1)  # what a start and the checks need and free is freed
    figures = {"errors": 0, "idle_mib": measure.memory_mib(running.pids()), "idle_rss_mib": measure.memory_mib(running.pids(), "Rss")}
    for count in (1000, 10000):
        with loads.held(running.target, "/1k", count):
            figures[f"held_{count}_mib"] = measure.memory_mib(running.pids())
    return figures


def caller_memory(running, _now):
    """Of a sidecar that has used ten services."""
    time.sleep(1)  # what a start needs and frees is freed
    return {"errors": 0, "pss_mib": measure.memory_mib(running.pids())}


def under_changes(running, now):
    """Three times as long as others: at this rate a percentile needs it."""
    return running.sample(3 * now.seconds)


def _cpu_goals(haproxy, envoy, nginx=None):
    goals = [Goal("cpu_us", haproxy, ("haproxy",)), Goal("cpu_us", envoy, ("envoy",))]
    return tuple(goals + ([Goal("cpu_us", nginx, ("nginx",))] if nginx else []))


_BEST = (Goal("cpu_us", 1.0, ("nginx", "haproxy", "envoy")),)
_BEST_HTTP2 = (Goal("cpu_us", 1.0, ("haproxy", "envoy")),)
_BYTES = (Metric("mib_per_cpu_s", "MiB per CPU second", 0), Metric("mib_per_s", "MiB/s", 0))
_BYTES_GOAL = (Goal("mib_per_cpu_s", 1.0, ("haproxy",), more_is_better=True),)
_LATENCY = (Metric("added_p50_us", "added p50, µs", 0), Metric("added_p99_us", "added p99, µs", 0),
            Metric("origin_p50_us", "origin's own p50, µs", 0), Metric("origin_p99_us", "origin's own p99, µs", 0))
_LATENCY_GOALS = tuple(Goal(key, 0, (peer,), difference=True) for key in ("added_p50_us", "added_p99_us")
                       for peer in LINKED if peer != "heddle")
# Heddle's program pages are shared by its sidecars and control plane, and so PSS divides them; a peer runs alone. RSS divides nothing.
_MEMORY = (Metric("idle_mib", "PSS idle, MiB"), Metric("idle_rss_mib", "RSS idle, MiB", summed_up=True),
           Metric("held_1000_mib", "PSS with 1,000 connections, MiB"), Metric("held_10000_mib", "PSS with 10,000 connections, MiB"))

_CHANGES = (Metric("control_cores", "control plane, cores", 3), Metric("sidecar_cores", "caller's sidecar, cores", 3),
            Metric("p50_us", "p50, µs", 0), Metric("p99_us", "p99, µs", 0), Metric("changes_per_s", "changes/s"))

ROWS = (
    Row("memory", "Memory of one sidecar", "one", "http1", _MEMORY, memory, rounds=ONCE,
        goals=(Goal("idle_mib", 10), Goal("held_1000_mib", 40), Goal("held_10000_mib", 250))),
    Row("http1", "HTTP/1.1, one hop, 64 connections, 1 KiB", "one", "http1", SATURATED, saturated_http1, _cpu_goals(0.9, 0.27, 0.9)),
    Row("http1-1000", "HTTP/1.1, one hop, at 1,000 requests/s", "one", "http1", (CPU,), unsaturated("http1", "/1k"), _BEST, rounds=FEWER),
    Row("bodies", "1 MiB bodies, one hop", "one", "http1", _BYTES, large_bodies, _BYTES_GOAL, rounds=FEWER),
    Row("http2", "HTTP/2, one hop, 4 connections of 16 streams, 1 KiB", "one", "http2", (CPU, RPS), saturated_http2("/1k"), _cpu_goals(1.0, 0.25), HTTP2),
    Row("http2-1000", "HTTP/2, one hop, at 1,000 requests/s", "one", "http2", (CPU,), unsaturated("http2", "/1k"), _BEST_HTTP2, HTTP2, rounds=FEWER),
    Row("grpc", "gRPC unary, one hop, 4 connections of 16 streams, 1 KiB", "one", "http2", (CPU, RPS), saturated_http2(GRPC_METHOD),
        _cpu_goals(1.0, 0.25), HTTP2),
    Row("grpc-1000", "gRPC unary, one hop, at 1,000 requests/s", "one", "http2", (CPU,), unsaturated("http2", GRPC_METHOD), _BEST_HTTP2, HTTP2, rounds=FEWER),
    Row("tcp", "Opaque TCP, one hop", "one", "tcp", _BYTES, large_bodies, _BYTES_GOAL, HTTP2, rounds=FEWER),
    Row("http1-mtls", "HTTP/1.1, two hops, mTLS, 64 connections, 1 KiB", "two", "http1", SATURATED, saturated_http1,
        (Goal("cpu_us", 0.6, ("nginx", "haproxy")), Goal("cpu_us", 0.6, ("haproxy h2",)), Goal("cpu_us", 0.2, ("envoy",))), LINKED),
    Row("http1-mtls-1000", "HTTP/1.1, two hops, mTLS, at 1,000 requests/s", "two", "http1", (CPU,), unsaturated("http1", "/1k"),
        (Goal("cpu_us", 1.0, ("nginx", "haproxy", "haproxy h2", "envoy")),), LINKED, rounds=FEWER),
    Row("latency-1000", "Added latency, two hops, mTLS, 1,000 requests/s", "two", "http1", _LATENCY, added_latency(LOW_RATE), _LATENCY_GOALS, LINKED, TAILS),
    Row("latency-5000", "Added latency, two hops, mTLS, 5,000 requests/s", "two", "http1", _LATENCY, added_latency(HIGH_RATE), _LATENCY_GOALS, LINKED, TAILS),
    Row("bodies-mtls", "1 MiB bodies, two hops, mTLS", "two", "http1", _BYTES, large_bodies, _BYTES_GOAL, rounds=FEWER),
    Row("connections", "New mTLS connections, full handshakes", "two", "http1",
        (Metric("per_cpu_s", "connections per CPU second", 0), Metric("per_s", "connections/s", 0)), new_connections,
        (Goal("per_cpu_s", 1.0, ("haproxy",), more_is_better=True),), rounds=TAILS),
    Row("http2-mtls", "HTTP/2, two hops, mTLS, 4 connections of 16 streams, 1 KiB", "two", "http2", (CPU, RPS), saturated_http2("/1k"),
        _cpu_goals(1.0, 0.25), HTTP2, rounds=TAILS),
    Row("http2-mtls-1000", "HTTP/2, two hops, mTLS, at 1,000 requests/s", "two", "http2", (CPU,), unsaturated("http2", "/1k"), _BEST_HTTP2, HTTP2, rounds=FEWER),
    Row("grpc-mtls", "gRPC unary, two hops, mTLS, 4 connections of 16 streams, 1 KiB", "two", "http2", (CPU, RPS), saturated_http2(GRPC_METHOD),
        _cpu_goals(1.0, 0.25), HTTP2, rounds=TAILS),
    Row("grpc-mtls-1000", "gRPC unary, two hops, mTLS, at 1,000 requests/s", "two", "http2", (CPU,), unsaturated("http2", GRPC_METHOD), _BEST_HTTP2, HTTP2,
        rounds=FEWER),
    Row("tcp-mtls", "Opaque TCP, two hops, mTLS", "two", "tcp", _BYTES, large_bodies, _BYTES_GOAL, HTTP2, rounds=FEWER),
    Row("workers", "Two workers and one, HTTP/1.1, one hop, 64 connections, 1 KiB", "workers", "http1", SATURATED, saturated_http1,
        (Goal("cpu_us", 1.05, ("heddle 1 worker",), subject="heddle 2 workers"),), ("heddle 1 worker", "heddle 2 workers"), rounds=TAILS),
    Row("services", "10,000 services known to the control plane, 10 used: memory of the caller's sidecar", "known", "http1",
        (Metric("pss_mib", "PSS, MiB", 2),), caller_memory,
        (Goal("pss_mib", 1, ("heddle 10 services",), difference=True, subject="heddle 10,000 services"),),
        ("heddle 10 services", "heddle 10,000 services"), rounds=ONCE),
    Row("changes", "10,000 endpoints held, 100 changes/s, beside 500 requests/s elsewhere", "changes", "http1", _CHANGES, under_changes,
        (Goal("control_cores", 0.5, subject="heddle 100 changes/s"), Goal("sidecar_cores", 0.15, subject="heddle 100 changes/s"),
         Goal("p99_us", UNCHANGED, ("heddle quiet",), subject="heddle 100 changes/s")),
        ("heddle quiet", "heddle 100 changes/s"), rounds=FEWER),
)

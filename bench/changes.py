"""What changes of endpoints cost: one mesh, quiet and while some of its instances become ready or not ready all the time.

The mesh knows ENDPOINTS endpoints of one service: Workloads of manifests, and CHURNING instances with real sessions
(`crates/control/examples/churn.rs`). A caller's sidecar holds all of them, and sends its requests to another service.
"""

import contextlib
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import heddle
import loads
from measure import BROKEN, ENVIRONMENT, ROOT, Failure, cpu_seconds, wait_until

ENDPOINTS = 10000
CHANGES = 100  # a second
# Instances that change; the other endpoints never do.
CHURNING = 100
RATE = 500
CONNECTIONS = 16

MANY = """apiVersion: v1
kind: Service
metadata: {name: many, namespace: bench}
spec: {selector: {app: many}, ports: [{name: http, port: 80, targetPort: 80, appProtocol: http}]}
---
"""

ONE = """apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {name: many-%(number)d, namespace: bench, labels: {app: many}}
spec: {address: %(address)s, ports: [{name: http, port: 80, appProtocol: http}]}
---
"""


# What changes the instances.
PROGRAM = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "examples" / "churn"


def build(beside_heddle):
    """Builds PROGRAM; where Heddle was built with the same profile, named too, so that both are built of the same libraries."""
    packages = (["-p", "heddle"] if beside_heddle else []) + ["-p", "control"]
    subprocess.run(["cargo", "build", "--quiet", "--release", *packages, "--example", "churn"], cwd=ROOT, check=True)


def manifests(port):
    """The service that is called, the service with many endpoints, and those; a file holds 10,000 documents at most."""
    called = heddle.SERVICE % {"kind": "called", "protocol": "http", "port": port}
    texts = [called + heddle.WORKLOAD % {"http1": port, "http2": 1, "tcp": 2} + "---\n" + MANY]
    for start in range(0, ENDPOINTS - CHURNING, 5000):
        numbers = range(start, min(start + 5000, ENDPOINTS - CHURNING))
        texts.append("".join(ONE % {"number": n, "address": f"127.252.{n // 250}.{n % 250 + 1}"} for n in numbers))
    return texts


class Instances:
    """Those that change."""

    def __init__(self, runtime):
        argv = [str(PROGRAM), str(runtime), str(CHURNING), str(CHANGES)]
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        if self.child.stdout.readline() != "ready\n":
            raise Failure("the changing instances could not be registered")

    def _say(self, word):
        self.child.stdin.write(word + "\n")
        self.child.stdin.flush()

    def go(self):
        self._say("go")

    def stop(self):
        """Says how many changes there were."""
        self._say("stop")
        count = self.child.stdout.readline()
        if not count:
            raise Failure("the changing instances have ended")
        return int(count)

    def end(self):
        try:
            self.child.stdin.close()
            self.child.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.child.kill()
            self.child.wait()


class Changing:
    """The mesh, with its caller and the instances that change."""

    def __init__(self, folder, port):
        self.mesh, self.instances = heddle.Mesh(folder, manifests(port), caller="called"), None
        try:
            self.instances = Instances(self.mesh.runtime)
            self.target, many = self.mesh.target("called"), self.mesh.target("many")
            # Nobody need answer: called once, its endpoints are held.
            with contextlib.suppress(*BROKEN):
                loads.get(many, "/")
            wait_until("the sidecar holds every endpoint", lambda: self.held() == ENDPOINTS, 60, self.mesh.caller)
            self.pids = {"control": heddle.processes(self.mesh.up, "control"), "sidecar": heddle.processes(self.mesh.caller, "proxy")}
            loads.at_rate(self.target, "/1k", RATE, 1, CONNECTIONS)
        except BaseException:
            self.stop()
            raise

    def held(self):
        """How many endpoints of the service with many the caller's sidecar holds."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://{self.mesh.variables['POD_IP']}:15020/metrics", timeout=10).read().decode()
        return sum(line.startswith('heddle_endpoint_in_flight{service="bench/many"') for line in text.splitlines())

    def window(self, changing, seconds):
        """Latency and processor time while the load runs, with changes or without."""
        before, began = {name: cpu_seconds(pids) for name, pids in self.pids.items()}, time.monotonic()
        if changing:
            self.instances.go()
        changes = 0
        try:
            seen = loads.at_rate(self.target, "/1k", RATE, seconds, CONNECTIONS)
            took = time.monotonic() - began
            figures = {f"{name}_cores": (cpu_seconds(pids) - before[name]) / took for name, pids in self.pids.items()}
        finally:
            # A load that broke off must not leave them changing, for the next one may be a quiet one.
            if changing:
                changes = self.instances.stop()
        return {**figures, "changes_per_s": changes / took, "errors": seen["errors"], "p50_us": seen["p50_us"], "p99_us": seen["p99_us"]}

    def stop(self):
        if self.instances:
            self.instances.end()
        self.mesh.stop()


class View:
    """The mesh as a subject: quiet, or with changes. It ends with the mesh."""

    def __init__(self, mesh, changing):
        self.mesh, self.changing = mesh, changing

    def sample(self, seconds):
        return self.mesh.window(self.changing, seconds)

    def stop(self):
        pass

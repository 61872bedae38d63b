"""Heddle as one more subject: real `heddle up`, `heddle control`, `heddle proxy` and `heddle exec` processes on a mesh made here.

The load goes to the listener that the sidecar of a `heddle exec` keeps for the service. With one hop the service is a Workload without
a sidecar, the common origin; with two it is a Deployment of one nginx with the origin's configuration, and the measured
processes are the caller's sidecar and the instance's.
"""

import http.client
import os
import re
import socket
import ssl
import subprocess
from pathlib import Path

from measure import ENVIRONMENT, ROOT, Failure, Process, accepts, wait_until
from peers import BODY, NGINX, Running, Target

SERVICE = """apiVersion: v1
kind: Service
metadata: {name: origin, namespace: bench}
spec:
  selector: {app: origin}
  ports: [{name: http, port: 80, targetPort: %d, appProtocol: http}]
---
"""

WORKLOAD = """apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {name: origin, namespace: bench, labels: {app: origin}}
spec:
  address: 127.0.0.1
  ports: [{name: http, port: %d, appProtocol: http}]
"""

DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {name: origin, namespace: bench}
spec:
  selector: {matchLabels: {app: origin}}
  template:
    metadata: {labels: {app: origin}}
    spec:
      containers:
      - name: origin
        image: nginx
        command: [sh, -c, 'sed "s/POD_IP/$POD_IP/" "$0/nginx.conf.in" > "$0/nginx.conf" && exec nginx -p "$0" -e "$0/error.log" -c "$0/nginx.conf" -g "daemon off;"', "%s"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: 8080}}
"""

_binary = None


def build(quick):
    """Builds Heddle: with the `dist` profile for figures that are published. HEDDLE_BINARY names one that is there already."""
    global _binary
    if given := os.environ.get("HEDDLE_BINARY"):
        _binary = Path(given).resolve()
        return
    profile = "release" if quick else "dist"
    subprocess.run(["cargo", "build", "--quiet", "--profile", profile, "-p", "heddle"], cwd=ROOT, check=True)
    _binary = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / profile / "heddle"


def version():
    """What is measured."""
    done = subprocess.run([_binary, "--version"], capture_output=True, text=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return f"{done.stdout.strip()} ({commit.stdout.strip() or 'no commit'}, {_binary.parent.name})"


def _sidecars(process):
    """Processes below `process` that are sidecars."""
    found = []
    for pid in process.pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(words[0].decode()).name == "heddle" and b"proxy" in words[1:2]:
            found.append(pid)
    return found


class Mesh(Running):
    """A running mesh; its measured processes are sidecars that others started."""

    def __init__(self, target, runtime, sidecars, processes):
        super().__init__("heddle", target, [], processes)
        self.runtime, self.sidecars = runtime, sidecars

    def pids(self):
        return self.sidecars


def _start(folder, manifest, server_sidecar):
    folder.mkdir()
    (folder / "mesh.yaml").write_text(manifest)
    # Unix socket paths end at 108 bytes.
    runtime = folder / "r"
    up = Process("heddle up", [_binary, "up", folder / "mesh.yaml", "--runtime", runtime, "-o", "json"], folder / "up.log")
    processes = [up]
    try:
        wait_until("the mesh is up", lambda: '"up":true' in Path(up.log).read_text().replace(" ", ""), 30, up)
        environment = folder / "environment"
        script = f'env > "{environment}.new" && mv "{environment}.new" "{environment}" && exec sleep 100000'
        argv = [_binary, "exec", "--runtime", runtime, "-n", "bench", "origin", "--", "sh", "-c", script]
        caller = Process("heddle exec", argv, folder / "exec.log")
        processes.insert(0, caller)
        wait_until("the caller runs", environment.exists, 30, caller)
        variables = dict(line.split("=", 1) for line in environment.read_text().splitlines() if "=" in line)
        target = Target(int(variables["ORIGIN_SERVICE_PORT"]), "origin", address=variables["ORIGIN_SERVICE_HOST"])
        wait_until("the service's listener accepts", lambda: accepts(target.address), 10, caller)
        sidecars = _sidecars(caller) + (_sidecars(up) if server_sidecar else [])
        if len(sidecars) != (2 if server_sidecar else 1):
            raise Failure(f"found {len(sidecars)} sidecars instead of {2 if server_sidecar else 1}")
        return Mesh(target, runtime, sidecars, processes)
    except BaseException:
        for process in processes:
            process.stop()
        raise


def one_hop(folder, origin_port):
    """Client → sidecar → origin, plain."""
    return _start(folder / "heddle-one", SERVICE % origin_port + WORKLOAD % origin_port, False)


def two_hops(folder, origin_port):
    """Client → sidecar → mutual TLS → sidecar → an origin of the same configuration."""
    del origin_port
    origin = folder / "heddle-origin"
    origin.mkdir()
    content = f'server {{ listen POD_IP:8080; location / {{ default_type text/plain; return 200 "{BODY.decode()}"; }} }}'
    (origin / "nginx.conf.in").write_text(NGINX.format(folder=origin, content=content))
    return _start(folder / "heddle-two", SERVICE % 8080 + DEPLOYMENT % origin, True)


def _ask(address, context, name):
    """Status of a request made straight to the instance's sidecar."""
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
        if tls.version() != "TLSv1.3":
            raise Failure(f"the sidecar speaks {tls.version()}")
        connection = http.client.HTTPConnection(*address, timeout=5)
        connection.sock = tls
        connection.request("GET", "/1k", headers={"Host": "origin"})
        return connection.getresponse().status


def mutual_tls(running, certificates):
    """The instance's sidecar speaks TLS 1.3, serves a client of the mesh, and refuses others. Returns what was seen."""
    instances = [path for path in (running.runtime / "instances").iterdir() if path.name.startswith("bench.origin")]
    if len(instances) != 1:
        raise Failure(f"instances: {[path.name for path in instances]}")
    folder = instances[0]
    workload = folder.name.removeprefix("bench.")
    settings = next(folder.glob("*.json")).read_text()
    found = re.search(r'"inbound"\s*:\s*"([^"]+):(\d+)"', settings)
    if not found:
        raise Failure("the instance's settings name no inbound address")
    address = (found.group(1), int(found.group(2)))
    name = f"p8080.{workload}.bench.heddle"

    def context(certificate=None, key=None):
        made = ssl.create_default_context(cafile=folder / "roots.pem")
        made.check_hostname = False  # identities are SPIFFE URIs, not host names
        made.set_alpn_protocols(["heddle-h1"])
        if certificate:
            made.load_cert_chain(certificate, key)
        return made

    if _ask(address, context(folder / "certificate.pem", folder / "key.pem"), name) != 200:
        raise Failure("the sidecar does not serve a client of the mesh")
    strangers = [(), (certificates.path("false-client.crt"), certificates.path("false-client.key"))]
    for stranger in strangers:
        try:
            status = _ask(address, context(*stranger), name)
        except (OSError, http.client.HTTPException):
            continue
        raise Failure(f"the sidecar answers {status} to a client with {'a strange' if stranger else 'no'} certificate")
    return {"version": "TLSv1.3", "client verified": True}

"""Heddle as one more subject: real `heddle up`, `heddle control`, `heddle proxy` and `heddle exec` processes on a mesh made here.

The load goes to the listeners that the sidecar of a `heddle exec` keeps for the services (explicit mode). With one hop the services are a Workload
without a sidecar, the common origin; with two they are a Deployment of one nginx with the origin's configuration, and the measured
processes are the caller's sidecar and the instance's. One mesh serves all kinds of a scenario.
"""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import loads
from measure import HERE, ROOT, Failure, Process, accepts, wait_until
from peers import BODY, NGINX, ORIGIN, Running, Target, TlsTarget, origin_files

# One service a kind, for a service has one protocol on a port.
SERVICE = """apiVersion: v1
kind: Service
metadata: {name: %(kind)s, namespace: bench}
spec:
  selector: {app: origin}
  ports: [{name: %(protocol)s, port: 80, targetPort: %(port)d, appProtocol: %(protocol)s}]
---
"""

WORKLOAD = """apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {name: origin, namespace: bench, labels: {app: origin}}
spec:
  address: 127.0.0.1
  ports:
  - {name: http, port: %(http1)d, appProtocol: http}
  - {name: http2, port: %(http2)d, appProtocol: http2}
  - {name: tcp, port: %(tcp)d, appProtocol: tcp}
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
        ports:
        - {name: http, containerPort: 8080}
        - {name: http2, containerPort: 8081}
        - {name: tcp, containerPort: 8082}
        readinessProbe: {tcpSocket: {port: 8080}}
"""

OTHER = """apiVersion: v1
kind: Service
metadata: {name: other-%(number)d, namespace: others}
spec:
  selector: {app: other-%(number)d}
  ports: [{name: http, port: 80, targetPort: %(port)d, appProtocol: http}]
---
apiVersion: heddle.dev/v1alpha1
kind: Workload
metadata: {name: other-%(number)d, namespace: others, labels: {app: other-%(number)d}}
spec:
  address: 127.0.0.1
  ports: [{name: http, port: %(port)d, appProtocol: http}]
---
"""

PROTOCOLS = {"http1": "http", "http2": "http2", "tcp": "tcp"}
INSTANCE_PORTS = {"http1": 8080, "http2": 8081, "tcp": 8082}

_binary = None
# How it was built: `release`, `dist` or `pgo`; of a program that is given nothing is known.
_built = None


def option(parser):
    """`--heddle FILE` or `--pgo`, as every command of the bench has it."""
    parser.add_argument("--pgo", action="store_true", help="build Heddle with bench/pgo, as for a release")
    parser.add_argument("--heddle", type=Path, metavar="FILE", default=os.environ.get("HEDDLE_BINARY") or None,
                        help="measure this program (default: that in HEDDLE_BINARY) instead of building one")


def build(options, quick):
    """Measures the program that is given, or builds one: with the `dist` profile or as for a release where figures are published."""
    global _binary, _built
    if options.heddle and options.pgo:
        raise Failure(f"--pgo builds a program, and --heddle or HEDDLE_BINARY gives one ({options.heddle}): leave one of them out")
    if options.heddle:
        _binary = options.heddle.resolve()
        if not _binary.is_file():
            raise Failure(f"there is no {options.heddle}")
    elif options.pgo:
        done = subprocess.run([HERE / "pgo"], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise Failure("bench/pgo failed; without --pgo the `dist` profile is measured")
        _binary, _built = Path(done.stdout.strip()), "pgo"
    else:
        _built = "release" if quick else "dist"
        subprocess.run(["cargo", "build", "--quiet", "--profile", _built, "-p", "heddle"], cwd=ROOT, check=True)
        _binary = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / _built / "heddle"


def built_as(profile):
    """Whether the program was built here, and so."""
    return _built == profile


def version():
    """What is measured: of a program that is given its digest, of one that was built here its commit and how it was built."""
    said = subprocess.run([_binary, "--version"], capture_output=True, text=True).stdout.strip()
    if not _built:
        return f"{said} (given, SHA-256 {hashlib.sha256(_binary.read_bytes()).hexdigest()[:12]})"
    return f"{said} ({_commit()}, {_built})"


def _commit():
    """The checkout's commit, and whether it has changes that are in no commit."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    if not (commit := git("rev-parse", "--short=12", "HEAD")):
        return "no commit"
    return f"commit {commit}" + (" with uncommitted changes" if git("status", "--porcelain") else "")


def processes(process, command):
    """Processes below `process` that are `heddle COMMAND`."""
    found = []
    for pid in process.pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if Path(words[0].decode()).name == _binary.name and words[1:2] == [command.encode()]:
            found.append(pid)
    return found


class View(Running):
    """A mesh as the subject of one kind; its measured processes are sidecars that others started, and it ends with the mesh."""

    def __init__(self, kind, target, sidecars, tls=None):
        super().__init__("heddle", kind, target, [], tls)
        self.sidecars = sidecars

    def pids(self):
        return self.sidecars

    def stop(self):
        pass


# What is measured are the listeners that explicit mode has on this machine's own addresses.
os.environ.setdefault("HEDDLE_MODE", "explicit")


class Mesh:
    """A running mesh and a caller in it."""

    def __init__(self, folder, manifests, caller="http1"):
        """`manifests` are texts of files; `caller` is the service whose identity and listeners the caller has."""
        folder.mkdir()
        self.runtime = folder / "r"  # short, for paths of Unix sockets end at 108 bytes
        (folder / "manifests").mkdir()
        for number, manifest in enumerate(manifests):
            (folder / "manifests" / f"{number}.yaml").write_text(manifest)
        self.up = Process("heddle up", [_binary, "up", folder / "manifests", "--mode", "explicit", "--runtime", self.runtime, "-o", "json"], folder / "up.log")
        self.processes = [self.up]
        try:
            wait_until("the mesh is up", lambda: '"up":true' in Path(self.up.log).read_text().replace(" ", ""), 180, self.up)
            environment = folder / "environment"
            script = f'env > "{environment}.new" && mv "{environment}.new" "{environment}" && exec sleep 100000'
            argv = [_binary, "exec", "--mode", "explicit", "--runtime", self.runtime, "-n", "bench", caller, "--", "sh", "-c", script]
            self.caller = Process("heddle exec", argv, folder / "exec.log")
            self.processes.insert(0, self.caller)
            wait_until("the caller runs", environment.exists, 30, self.caller)
            self.variables = dict(line.split("=", 1) for line in environment.read_text().splitlines() if "=" in line)
        except BaseException:
            self.stop()
            raise

    def target(self, service):
        """Where the caller's sidecar takes connections for a service."""
        name = service.upper().replace("-", "_")
        target = Target(int(self.variables[f"{name}_SERVICE_PORT"]), service, self.variables[f"{name}_SERVICE_HOST"])
        wait_until("the service's listener accepts", lambda: accepts(target.address), 10, self.caller)
        return target

    def sidecars(self, of_instances):
        """The caller's sidecar, and that of the instance."""
        found = processes(self.caller, "proxy") + (processes(self.up, "proxy") if of_instances else [])
        if len(found) != (2 if of_instances else 1):
            raise Failure(f"found {len(found)} sidecars instead of {2 if of_instances else 1}")
        return found

    def view(self, kind, hops):
        """The mesh as a subject."""
        return View(kind, self.target(kind), self.sidecars(hops == 2), self._inbound(kind) if hops == 2 else None)

    def _inbound(self, kind):
        """Where the instance's sidecar takes mutual TLS, with that instance's own certificate."""
        instances = [path for path in (self.runtime / "instances").iterdir() if path.name.startswith("bench.origin")]
        if len(instances) != 1:
            raise Failure(f"instances: {[path.name for path in instances]}")
        folder = instances[0]
        found = re.search(r'"inbound"\s*:\s*"([^"]+):(\d+)"', next(folder.glob("*.json")).read_text())
        if not found:
            raise Failure("the instance's settings name no inbound address")
        name = f"p{INSTANCE_PORTS[kind]}.{folder.name.removeprefix('bench.')}.bench.heddle"
        alpn = {"http1": "heddle-h1", "http2": "heddle-h2", "tcp": "heddle-tcp"}[kind]
        return TlsTarget((found.group(1), int(found.group(2))), name, folder / "roots.pem", folder / "certificate.pem",
                         folder / "key.pem", [alpn])

    def another_caller(self, folder, number, workers):
        """A sidecar of its own like the caller's, with so many workers: `heddle proxy` with the caller's settings, changed."""
        written = next((self.runtime / "instances").glob("bench.exec-*/settings.json"))
        name, address = f"caller-{number}", self.target("http1").address[0]
        # Callers' addresses are drawn from 240 up; a mesh as small as this one has none at 239.
        own = ".".join(address.split(".")[:2] + ["239", str(number)])
        settings = json.loads(written.read_text().replace(written.parent.name.removeprefix("bench."), name).replace(address, own))
        settings["proxy"]["workers"], settings["directory"] = workers, str(folder)
        folder.mkdir(mode=0o700)
        (folder / "settings.json").write_text(json.dumps(settings))
        account = settings["registration"]["serviceAccount"]
        argv = [_binary, "token", "--workload", f"bench/{name}", "--service-account", account, "--runtime", self.runtime]
        token = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        if token.returncode:
            raise Failure(f"heddle token: {token.stderr}")
        with open(os.open(folder / "token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(token.stdout)
        argv = [_binary, "proxy", "--settings", folder / "settings.json", "--standalone", "--token-file", folder / "token"]
        process = Process(f"heddle proxy with {workers} workers", argv, folder / "log")
        target = Target(self.target("http1").address[1], "http1", own)
        wait_until("it listens", lambda: accepts(target.address), 10, process)
        return Running(f"heddle {workers} workers", "http1", target, [process])

    def stop(self):
        for process in self.processes:
            process.stop()


class Known:
    """A mesh of many services of which its caller uses ten; the caller's sidecar is measured."""

    USED = 10

    def __init__(self, folder, origin_port, others):
        used = "".join(SERVICE % {"kind": f"used-{number}", "protocol": "http", "port": origin_port} for number in range(self.USED))
        manifests = [used + WORKLOAD % {"http1": origin_port, "http2": 1, "tcp": 2}]
        # A file holds 10,000 documents at most.
        for start in range(0, others, 5000):
            manifests.append("".join(OTHER % {"number": number, "port": origin_port} for number in range(start, min(start + 5000, others))))
        self.mesh = Mesh(folder, manifests, caller="used-0")
        targets = [self.mesh.target(f"used-{number}") for number in range(self.USED)]
        for target in targets:
            for status, body in loads.get(target, "/1k", 20):
                if (status, body) != (200, BODY):
                    raise Failure(f"{target.host}: answered {status}")
        self.pids = lambda: self.mesh.sidecars(False)

    def stop(self):
        self.mesh.stop()


def _services(ports):
    return "".join(SERVICE % {"kind": kind, "protocol": PROTOCOLS[kind], "port": port} for kind, port in ports.items())


def one_hop(folder, origin_ports):
    """Client → sidecar → origin, plain."""
    return Mesh(folder, [_services(origin_ports) + WORKLOAD % origin_ports])


def two_hops(folder):
    """Client → sidecar → mutual TLS → sidecar → an origin of the same configuration."""
    origin = folder.with_name(folder.name + "-origin")
    origin_files(origin)
    content = ORIGIN.format(address="POD_IP", folder=origin, body=BODY.decode(), **INSTANCE_PORTS)
    (origin / "nginx.conf.in").write_text(NGINX.format(folder=origin, content=content))
    return Mesh(folder, [_services(INSTANCE_PORTS) + DEPLOYMENT % origin])

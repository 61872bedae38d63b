"""What must be true of a proxy before it is worth measuring."""

import re
import socket
import ssl
import subprocess

import loads
from measure import Failure
from peers import BODY, GRPC_METHOD, SERVER_NAME, two_hops


def answers(running):
    """Requests of each sort that is measured, answered 200 with the very body."""
    if running.kind == "http2":
        return http2_answers(running)
    for path, expected in (("/1k", BODY), ("/1m", BODY * 1024)):
        for status, body in loads.get(running.target, path, 2):
            if (status, body) != (200, expected):
                raise Failure(f"{running.name}: answered {status} with {len(body)} bytes {body[:80]!r}")


def http2_answers(running):
    """The same of HTTP/2 and gRPC; a gRPC answer must have its status in a trailer."""
    authority = f":authority: {running.target.host}"
    plain = subprocess.run(["nghttp", "-H", authority, loads.url(running.target, "/1k")], capture_output=True, timeout=10)
    if plain.stdout != BODY:
        raise Failure(f"{running.name}: answered {plain.stdout[:80]!r} over HTTP/2: {plain.stderr[-200:]!r}")
    argv = ["nghttp", "-v", "-d", loads.SCRATCH / "grpc-request", "-H", authority, "-H", "content-type: application/grpc", "-H", "te: trailers"]
    grpc = subprocess.run([str(a) for a in argv] + [loads.url(running.target, GRPC_METHOD)], capture_output=True, timeout=10)
    if not re.search(rb"recv \(stream_id=\d+\) grpc-status: 0", grpc.stdout) or BODY not in grpc.stdout:
        raise Failure(f"{running.name}: no good gRPC answer: {grpc.stdout[-300:]!r}")


def _http2_status_is_200(tls):
    """Asks for /1k over HTTP/2. The block is `GET http /1k` with an authority, in static-table form (RFC 7541)."""
    block = b"\x82\x86\x01\x0abench.test\x04\x03/1k"
    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
                + bytes([0, 0, len(block), 1, 5, 0, 0, 0, 1]) + block)
    seen = b""
    while more := tls.recv(65536):
        seen += more
        while len(seen) >= 9 and len(seen) >= 9 + int.from_bytes(seen[:3], "big"):
            frame, seen = seen[:9 + int.from_bytes(seen[:3], "big")], seen[9 + int.from_bytes(seen[:3], "big"):]
            if frame[3] == 1:
                return frame[9:].lstrip(b"\x20\x3f")[:1] == b"\x88"
    return False


def serves(tls, certificate=None, key=None):
    """Whether a request straight to the second proxy, with this certificate, is answered with 200."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False  # a sidecar's name is a SPIFFE URI
    if tls.alpn:
        context.set_alpn_protocols(tls.alpn)
    if certificate:
        context.load_cert_chain(certificate, key)
    try:
        with socket.create_connection(tls.address, 5) as plain, context.wrap_socket(plain, server_hostname=tls.name) as secure:
            if secure.version() != "TLSv1.3":
                raise Failure(f"port {tls.address[1]} speaks {secure.version()}")
            if tls.alpn and tls.alpn[0].endswith("h2"):
                return _http2_status_is_200(secure)
            secure.sendall(b"GET /1k HTTP/1.1\r\nHost: bench.test\r\nConnection: close\r\n\r\n")
            return secure.recv(65536).startswith(b"HTTP/1.1 200")
    except OSError:
        return False  # with TLS 1.3 a refusal shows at the first read


def group(tls):
    """The key exchange group that the second proxy agrees to when it is offered X25519 alone: newer versions of OpenSSL would prefer
    a hybrid one, which Heddle has and the peers here have not."""
    argv = ["openssl", "s_client", "-connect", "{}:{}".format(*tls.address), "-tls1_3", "-groups", "X25519", "-servername", tls.name, "-CAfile", tls.ca,
            "-cert", tls.certificate, "-key", tls.key] + (["-alpn", tls.alpn[0]] if tls.alpn else [])
    done = subprocess.run([str(a) for a in argv], input="", capture_output=True, text=True, timeout=10)
    found = re.search(r"(?:Server|Peer) Temp Key: (\w+)", done.stdout)
    return found.group(1) if found else "unknown"


def mutual_tls(running, certificates):
    """The hop between the proxies is TLS 1.3 over X25519, and the second proxy verifies. Returns what was seen, for the report."""
    tls = running.tls
    if not serves(tls, tls.certificate, tls.key):
        raise Failure(f"{running.name}: the right client certificate gets no answer")
    for identity in (None, "false-client"):
        pair = (certificates.path(identity + ".crt"), certificates.path(identity + ".key")) if identity else ()
        if serves(tls, *pair):
            raise Failure(f"{running.name}: the second proxy serves a client with {identity or 'no'} certificate")
    agreed = group(tls)
    if agreed != "X25519":
        raise Failure(f"{running.name}: key exchange {agreed} instead of X25519")
    return {"version": "TLSv1.3", "group": agreed, "client verified": True}


def first_proxy_verifies(name, kind, folder, origin_ports, certificates):
    """The first proxy refuses a server of a strange authority. Of Heddle that is a test of its own, for nobody can plant one."""
    false = two_hops(name, kind, folder, origin_ports, certificates, server="false-server", label="false")
    try:
        if kind == "http2":
            answered = loads.http2(false.target, "/1k", 1, 1, 1)["errors"] == 0
        else:
            try:
                status, body = loads.get(false.target, "/1k")[0]
                answered = status < 500 or body == BODY
            except (OSError, loads.http.client.HTTPException):
                answered = False
        if answered:
            raise Failure(f"{name}: the first proxy trusts a server of a strange authority for {SERVER_NAME}")
    finally:
        false.stop()

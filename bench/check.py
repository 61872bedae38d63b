"""What must be true of a proxy before it is worth measuring."""

import http.client
import re
import socket
import ssl
import subprocess

from measure import Failure, get
from peers import BODY, SERVER_NAME, two_hops


def answers(running):
    """Three requests over one connection, each answered 200 with the very body."""
    for status, body in get(running.target, 3):
        if (status, body) != (200, BODY):
            raise Failure(f"{running.name}: answered {status} with {len(body)} bytes {body[:80]!r}")


def _through_tls(port, certificates, identity):
    """Status of a request made straight to the second proxy, as `identity` (a certificate's name or none)."""
    context = ssl.create_default_context(cafile=certificates.path("ca.pem"))
    if identity:
        context.load_cert_chain(certificates.path(identity + ".crt"), certificates.path(identity + ".key"))
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls:
        if tls.version() != "TLSv1.3":
            raise Failure(f"port {port} speaks {tls.version()}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.sock = tls
        connection.request("GET", "/1k")
        return connection.getresponse().status


def refuses(port, certificates, identity):
    """Whether the second proxy answers nothing but an error to `identity`. With TLS 1.3 the refusal shows at the first read."""
    try:
        return _through_tls(port, certificates, identity) == 400
    except (OSError, http.client.HTTPException):
        return True


def group(port, certificates):
    """The key exchange group that the second proxy agrees to."""
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-servername", SERVER_NAME, "-CAfile",
            certificates.path("ca.pem"), "-cert", certificates.path("client.crt"), "-key", certificates.path("client.key")]
    done = subprocess.run([str(a) for a in argv], input="", capture_output=True, text=True, timeout=10)
    found = re.search(r"(?:Server|Peer) Temp Key: (\w+)", done.stdout)
    return found.group(1) if found else "unknown"


def mutual_tls(running, certificates, folder, origin_port):
    """The hop between the proxies is TLS 1.3 over X25519, and both sides verify. Returns what was seen, for the report."""
    port = running.tls
    if _through_tls(port, certificates, "client") != 200:
        raise Failure(f"{running.name}: the right client certificate gets no answer")
    for identity in (None, "false-client"):
        if not refuses(port, certificates, identity):
            raise Failure(f"{running.name}: the second proxy serves a client with {identity or 'no'} certificate")
    agreed = group(port, certificates)
    if agreed != "X25519":
        raise Failure(f"{running.name}: key exchange {agreed} instead of X25519")
    false = two_hops(running.name, folder, origin_port, certificates, server="false-server", label="false")
    try:
        status, body = get(false.target)[0]
        if status < 500 or body == BODY:
            raise Failure(f"{running.name}: the first proxy trusts a server of a strange authority ({status})")
    finally:
        false.stop()
    return {"version": "TLSv1.3", "group": agreed, "client verified": True, "server verified": True}

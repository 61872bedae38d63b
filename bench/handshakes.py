#!/usr/bin/env python3
"""Makes mutual TLS connections one after the other, each with a whole handshake and one request, and prints how many.

`handshakes.py '{"address": [HOST, PORT], "name": SNI, "ca": FILE, "certificate": FILE, "key": FILE, "alpn": [NAME]}' SECONDS`

No session is resumed: none is kept. X25519 is the only key exchange that is offered. (Before OpenSSL 3 Python cannot say so, but there
it is the first choice, which every server here agrees to.)
"""

import json
import socket
import ssl
import sys
import time


def without_delay(plain):
    """The request leaves at once behind the handshake's last flight, whenever that is acknowledged."""
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain


def whole(tls):
    """An answer with a body of 1 KiB; one that ends early is not."""
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < 1024:
        more = tls.recv(65536)
        if not more:
            return b"cut off: " + answer
        answer += more
    return answer if len(answer.partition(b"\r\n\r\n")[2]) == 1024 else b"too long: " + answer


def main():
    where, seconds = json.loads(sys.argv[1]), float(sys.argv[2])
    context = ssl.create_default_context(cafile=where["ca"])
    context.check_hostname = False  # a sidecar's name is a SPIFFE URI; the chain is verified
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ssl.OPENSSL_VERSION_INFO >= (3,):
        context.set_ecdh_curve("X25519")
    context.load_cert_chain(where["certificate"], where["key"])
    if where["alpn"]:
        context.set_alpn_protocols(where["alpn"])
    request = b"GET /1k HTTP/1.1\r\nHost: bench.test\r\n\r\n"
    made = errors = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection(tuple(where["address"]), 5) as plain, \
                    context.wrap_socket(without_delay(plain), server_hostname=where["name"], suppress_ragged_eofs=True) as tls:
                tls.sendall(request)
                answer = whole(tls)
                if not answer.startswith(b"HTTP/1.1 200") or tls.session_reused:
                    raise OSError(f"answered {answer[:40]!r}")
                made += 1
        except OSError as error:
            print(error, file=sys.stderr)
            errors += 1
            if errors > 100:
                break
    print(json.dumps({"connections": made, "errors": errors}))


if __name__ == "__main__":
    main()

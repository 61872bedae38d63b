"""`hold.py HOST PORT COUNT` opens COUNT connections to a forward proxy and asks on each, says `held`, and asks on each again for every
line that it reads, after which it says `served`."""

import socket
import sys

REQUEST = b"GET http://back/ HTTP/1.1\r\nHost: back\r\n\r\n"


def ask(connection):
    connection.sendall(REQUEST)
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = connection.recv(4096)
        assert more, answer
        answer += more
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        more = connection.recv(4096)
        assert more, answer
        body += more


address, count = (sys.argv[1], int(sys.argv[2])), int(sys.argv[3])
connections = []
for _ in range(count):
    connections.append(socket.create_connection(address, timeout=30))
    ask(connections[-1])
print("held", flush=True)
for _ in sys.stdin:
    for connection in connections:
        ask(connection)
    print("served", flush=True)

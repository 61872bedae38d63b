"""Names over DNS, without the system's resolver.

`names.py ask udp|tcp SERVER NAME` prints the addresses of IPv4 that SERVER has for NAME, or the code of its refusal.
`names.py answer [SECONDS]` answers every question at port 53, UDP and TCP, IPv4 and IPv6, with 192.0.2.99; over UDP after so long.
`names.py many SERVER NAME` asks every 20 ms over UDP, each question once, until its input ends; prints how many were asked, how many had
no answer, and how long the slowest took, in milliseconds.
"""

import socket
import struct
import sys
import threading
import time


def skip_name(message, at):
    while message[at] not in (0, *range(192, 256)):
        at += 1 + message[at]
    return at + (1 if message[at] == 0 else 2)


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 4711, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def told(message):
    number, flags, _, answers, _, _ = struct.unpack("!6H", message[:12])
    assert number == 4711 and flags & 0x8000, message
    if flags & 15:
        return f"code {flags & 15}"
    at = skip_name(message, 12) + 4
    found = []
    for _ in range(answers):
        at = skip_name(message, at)
        kind, _, _, length = struct.unpack("!2HIH", message[at : at + 10])
        at += 10
        if kind == 1:
            found.append(socket.inet_ntoa(message[at : at + length]))
        at += length
    return " ".join(sorted(found))


def exactly(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        assert more, data
        data += more
    return data


def ask(way, server, name):
    if way == "udp":
        asking = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        asking.settimeout(10)
        # Connected: an answer from elsewhere than it was asked from is not heard.
        asking.connect((server, 53))
        asking.send(question(name))
        return told(asking.recv(4096))
    with socket.create_connection((server, 53), timeout=10) as asking:
        asking.sendall(struct.pack("!H", len(question(name))) + question(name))
        return told(exactly(asking, struct.unpack("!H", exactly(asking, 2))[0]))


def answer_to(message):
    end = skip_name(message, 12) + 4
    head = message[:2] + struct.pack("!5H", 0x8180, 1, 1, 0, 0)
    return head + message[12:end] + struct.pack("!3HIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton("192.0.2.99")


def answer(delay):
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.bind(("::", 53))
    tcp = socket.create_server(("::", 53), family=socket.AF_INET6, dualstack_ipv6=True)

    def streams():
        while True:
            connection = tcp.accept()[0]
            with connection:
                reply = answer_to(exactly(connection, struct.unpack("!H", exactly(connection, 2))[0]))
                connection.sendall(struct.pack("!H", len(reply)) + reply)

    threading.Thread(target=streams, daemon=True).start()
    print("serving", flush=True)
    while True:
        message, sender = udp.recvfrom(4096)
        threading.Timer(delay, udp.sendto, (answer_to(message), sender)).start()


def many(server, name):
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect((server, 53))
    asked, took, over = {}, {}, threading.Event()

    def hear():
        while True:
            number = struct.unpack("!H", asking.recv(4096)[:2])[0]
            took[number] = time.monotonic() - asked[number]

    threading.Thread(target=hear, daemon=True).start()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print("asking", flush=True)
    while not over.wait(0.02):
        number = len(asked)
        asked[number] = time.monotonic()
        asking.send(struct.pack("!H", number) + question(name)[2:])
    patience = time.monotonic() + 10
    while len(took) < len(asked) and time.monotonic() < patience:
        time.sleep(0.01)
    print(f"asked {len(asked)} lost {len(asked) - len(took)} slowest {round(1000 * max(took.values()))}")


if sys.argv[1] == "ask":
    print(ask(*sys.argv[2:]))
elif sys.argv[1] == "many":
    many(*sys.argv[2:])
else:
    answer(float(sys.argv[2]) if len(sys.argv) > 2 else 0)

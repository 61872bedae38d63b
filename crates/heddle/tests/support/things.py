"""An HTTP/1.1 server that tells what arrived: `things.py ADDRESS PORT`.

GET and POST answer with JSON: the request's head as it came, length and SHA-256 of its body. `/ws` speaks WebSocket and
sends back each text frame (of less than 126 bytes). `/chunked` sends a body in chunks.
"""

import base64
import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# RFC 6455, 1.3.
WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_GET(self):
        if self.path == "/ws":
            return self.websocket()
        body = self.body()
        head = [self.requestline, *("%s: %s" % field for field in self.headers.items())]
        answer = {"head": head, "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        text = json.dumps(answer).encode()
        self.send_response(200)
        for name, value in (("X-Second", "2"), ("x-first", "1"), ("Set-Cookie", "a=1"), ("set-cookie", "b=2")):
            self.send_header(name, value)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for byte in text:
                self.wfile.write(b"1\r\n%c\r\n" % byte)
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    do_POST = do_GET

    def websocket(self):
        key = self.headers["sec-websocket-key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while (start := self.rfile.read(2)) and start[0] == 0x81:
            length, mask = start[1] & 0x7F, self.rfile.read(4)
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes([0x81, length]) + text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()

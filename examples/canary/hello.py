"""Says hello, and which version of it does."""

import argparse
import http.server
import itertools
import os
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("--listen", required=True)
arguments.add_argument("--version", required=True)
arguments.add_argument("--delay", type=float, default=0)
arguments.add_argument("--fail-every", type=int, default=0)
options = arguments.parse_args()
numbers = itertools.count(1)


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        status = 200
        if self.path != "/healthz":
            time.sleep(options.delay)
            if options.fail_every and next(numbers) % options.fail_every == 0:
                status = 500
        body = f"hello from version {options.version}, {os.environ.get('POD_NAME', '?')}\n".encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


host, port = options.listen.rsplit(":", 1)
http.server.ThreadingHTTPServer((host, int(port)), Hello).serve_forever()

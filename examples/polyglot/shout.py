"""A TCP server that speaks first and then shouts back each line: no HTTP, and nothing to detect."""

import os
import socketserver
import sys


class Shout(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(f"This is {os.environ.get('POD_NAME', 'shout')}. Say something.\n".encode())
        for line in self.rfile:
            self.wfile.write(line.upper())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


with Server((sys.argv[1], int(sys.argv[2])), Shout) as server:
    print(f"listens on {sys.argv[1]}:{sys.argv[2]}", flush=True)
    server.serve_forever()

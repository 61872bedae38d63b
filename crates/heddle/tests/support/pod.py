"""An application in a pod: HTTP on 8080 of every address, saying who calls; a greeting on 2222 of IPv4."""

import http.server
import socket
import socketserver
import threading


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello {self.client_address[0].removeprefix('::ffff:')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


class Greet(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220 here\r\n")
        self.request.recv(1)


web = Server(("::", 8080), Hello)
greeter = socketserver.ThreadingTCPServer(("0.0.0.0", 2222), Greet)
threading.Thread(target=greeter.serve_forever, daemon=True).start()
print("serving", flush=True)
web.serve_forever()

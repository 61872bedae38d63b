"""gRPC echo server for tests: service test.Echo with plain bytes as messages, so that nothing needs to be generated."""

import argparse
import signal
from concurrent import futures

import grpc


def handlers(name):
    trailer = (("x-instance", name),)

    def unary(request, context):
        context.set_trailing_metadata(trailer)
        return request

    def stream(request, context):
        context.set_trailing_metadata(trailer)
        for _ in range(int(request)):
            yield request

    def chat(requests, context):
        context.set_trailing_metadata(trailer)
        yield from requests

    def fail(request, context):
        context.set_trailing_metadata(trailer)
        context.abort(grpc.StatusCode[request.decode()], "as asked")

    return grpc.method_handlers_generic_handler(
        "test.Echo",
        {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "Stream": grpc.unary_stream_rpc_method_handler(stream),
            "Chat": grpc.stream_stream_rpc_method_handler(chat),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
        },
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="address:port")
    parser.add_argument("--name", default="echo", help="sent as the trailer x-instance")
    options = parser.parse_args()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((handlers(options.name),))
    server.add_insecure_port(options.listen)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
    server.wait_for_termination()


if __name__ == "__main__":
    main()

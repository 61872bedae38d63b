"""A gRPC service in Python. Its messages are plain text, so there is no generated code to look at."""

import argparse
import os
from concurrent import futures

import grpc


def text(data):
    return data.decode()


def hello(request, context):
    context.set_trailing_metadata((("x-instance", os.environ.get("POD_NAME", "unknown")),))
    return f"Hello, {request}!"


def count(request, context):
    for number in range(1, int(request) + 1):
        yield str(number)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--listen", required=True)
    listen = arguments.parse_args().listen
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    methods = {
        "Hello": grpc.unary_unary_rpc_method_handler(hello, request_deserializer=text, response_serializer=str.encode),
        "Count": grpc.unary_stream_rpc_method_handler(count, request_deserializer=text, response_serializer=str.encode),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Greeter", methods),))
    if server.add_insecure_port(listen) == 0:
        raise SystemExit(f"cannot listen on {listen}")
    server.start()
    print(f"greets on {listen}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()

"""Calls the greeter by its name in the mesh: `heddle exec pages -- python3 greet.py Ada`."""

import sys

import grpc

name = sys.argv[1] if len(sys.argv) > 1 else "world"
method = sys.argv[2] if len(sys.argv) > 2 else "Hello"
with grpc.insecure_channel("greeter.polyglot:50051") as channel:
    call = channel.unary_unary(f"/demo.Greeter/{method}", request_serializer=str.encode, response_deserializer=bytes.decode)
    try:
        answer, details = call.with_call(name, timeout=10)
    except grpc.RpcError as error:
        raise SystemExit(f"{error.code().name}: {error.details()}")
    print(answer, dict(details.trailing_metadata()).get("x-instance"))

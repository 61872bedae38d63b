"""gRPC client for tests: calls a method of test.Echo and prints one line `key value` for everything that came back."""

import sys

import grpc


def main():
    target, method, *messages = sys.argv[1:]
    requests = [message.encode() for message in messages]
    path = "/test.Echo/" + method
    with grpc.insecure_channel(target) as channel:
        if method == "Chat":
            call = channel.stream_stream(path)(iter(requests), timeout=20)
            replies = call
        elif method == "Stream":
            call = channel.unary_stream(path)(requests[0], timeout=20)
            replies = call
        else:
            call = channel.unary_unary(path).future(requests[0], timeout=20)
            replies = [call.result()] if call.exception() is None else []
        try:
            for reply in replies:
                print("message", reply.decode())
        except grpc.RpcError:
            pass
        for key, value in call.trailing_metadata() or ():
            if key == "x-instance":
                print("instance", value)
        print("code", call.code().name)
        print("details", (call.details() or "").replace("\n", " "))


if __name__ == "__main__":
    main()

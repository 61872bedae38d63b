"""gRPC in Python through a mesh: `serve ADDRESS`, or `call TARGET`, which prints one line of JSON with what it saw.

Messages are plain bytes, so that nothing needs to be generated. Each answer carries the instance's name as a trailer.
"""

import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
from collections import Counter
from concurrent import futures

import grpc

LIMITS = (("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20))
NAME = os.environ.get("POD_NAME", "?")


def serve(address):
    def trailer(context, *more):
        context.set_trailing_metadata((("x-instance", NAME), *more))

    def echo(request, context):
        seen = {k: v.decode() if isinstance(v, bytes) else v for k, v in context.invocation_metadata()}
        context.send_initial_metadata((("x-early", "first"), ("x-data-bin", b"\x00\xff")))
        trailer(context, ("x-saw", seen.get("x-word", "")), ("x-user-agent", seen.get("user-agent", "")))
        return request

    def count(request, context):
        trailer(context)
        for number in range(int(request)):
            yield b"%d" % number

    def total(requests, context):
        trailer(context)
        return b"%d" % sum(len(request) for request in requests)

    def chat(requests, context):
        trailer(context)
        for request in requests:
            yield request.upper()

    def fail(request, context):
        trailer(context, ("x-detail", "a detail"))
        context.abort(grpc.StatusCode[request.decode()], "as asked: 100% \N{SNOWMAN}")

    def sleep(request, context):
        # Ends when the caller's deadline has passed, which it is told of.
        ended = futures.Future()
        context.add_callback(lambda: ended.set_result(None))
        ended.result(timeout=float(request))
        return b"woke"

    def endless(request, context):
        # Counts as ended only when the caller, or its deadline, has ended it.
        context.add_callback(lambda: ended.add(request))
        while context.is_active():
            yield bytes(100_000)

    def swallow(requests, context):
        key = next(requests)
        context.add_callback(lambda: ended.add(key))
        for _ in requests:
            pass
        return b"all"

    ended = set()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=(("grpc.so_reuseport", 0), *LIMITS))
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Echo": unary(echo),
        "Count": stream(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fail": unary(fail),
        "Sleep": unary(sleep),
        "Endless": stream(endless),
        "Swallow": grpc.stream_unary_rpc_method_handler(swallow),
        "Ended": unary(lambda request, context: b"yes" if request in ended else b"no"),
        "Hidden": unary(echo),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.Calls", handlers),))
    server.add_insecure_port(address)
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(5))
    server.wait_for_termination()


def outcome(call):
    """What a failed or finished call ended with."""
    return {"code": call.code().name, "details": call.details(), "trailers": texts(call.trailing_metadata())}


def texts(metadata):
    return {k: v if isinstance(v, str) else v.hex() for k, v in metadata or ()}


def unary(channel, method, message, **options):
    call = channel.unary_unary("/t.Calls/" + method).future(message, timeout=options.pop("timeout", 10), **options)
    try:
        reply = call.result().decode()
    except grpc.RpcError:
        reply = None
    return {"reply": reply, "headers": texts(call.initial_metadata()), **outcome(call)}


def ends(channel, method, timeout):
    """Ends a call in the middle of much data, by hand or by a short deadline, and waits until its server knows."""
    key, enough = os.urandom(8), threading.Event()

    def words():
        yield key
        for count in itertools.count():
            if count == 100:
                enough.set()
            yield bytes(100_000)

    if method == "Endless":
        call = channel.unary_stream("/t.Calls/Endless")(key, timeout=timeout)
        for _ in range(100):
            next(call)
    else:
        call = channel.stream_unary("/t.Calls/Swallow").future(words(), timeout=timeout)
        enough.wait(timeout=10)
    if timeout > 1:
        call.cancel()
    else:
        try:
            [None for _ in call] if method == "Endless" else call.result()
        except grpc.RpcError:
            pass
    # Each instance is asked in turn.
    ended, until = channel.unary_unary("/t.Calls/Ended"), time.monotonic() + 10
    while ended(key, timeout=5) != b"yes":
        if time.monotonic() > until:
            return "never"
    return call.code().name


def everything(channel):
    # Sixty calls at once, before any failure makes an instance unattractive.
    echo = channel.unary_unary("/t.Calls/Echo")
    calls = [echo.future(b"", timeout=10) for _ in range(60)]
    seen = {"shares": Counter(texts(call.trailing_metadata()).get("x-instance") for call in calls)}
    seen["echo"] = unary(channel, "Echo", b"hello", metadata=(("x-word", "woven"),))
    # Larger than a frame, and than every window.
    big = os.urandom(20 << 20)
    call = channel.unary_unary("/t.Calls/Echo")
    seen["big"] = call(big, timeout=20) == big
    call = channel.unary_stream("/t.Calls/Count")(b"1000", timeout=20)
    seen["count"] = [reply.decode() for reply in call] == [str(n) for n in range(1000)]
    total = channel.stream_unary("/t.Calls/Total")
    seen["total"] = int(total(iter([b"x" * 1000] * 1000), timeout=20))

    # Each message is sent only when the one before has come back, so nothing may be held back on the way.
    said, heard = [], queue.Queue()

    def words():
        yield b"first"
        for word in (b"second", b"third"):
            heard.get(timeout=10)
            yield word

    for reply in channel.stream_stream("/t.Calls/Chat")(words(), timeout=20):
        said.append(reply.decode())
        heard.put(reply)
    seen["chat"] = said
    seen["ended"] = [ends(channel, *how) for how in (("Endless", 20), ("Endless", 0.5), ("Swallow", 20), ("Swallow", 0.5))]
    seen["fail"] = unary(channel, "Fail", b"RESOURCE_EXHAUSTED")
    seen["late"] = unary(channel, "Sleep", b"30", timeout=0.3)
    seen["hidden"] = unary(channel, "Hidden", b"")
    seen["nothing"] = unary(channel, "Nothing", b"")
    return seen


def main():
    if sys.argv[1] == "serve":
        return serve(sys.argv[2])
    with grpc.insecure_channel(sys.argv[2], options=LIMITS) as channel:
        print(json.dumps(everything(channel) if sys.argv[1] == "call" else unary(channel, "Echo", b"")))


if __name__ == "__main__":
    main()

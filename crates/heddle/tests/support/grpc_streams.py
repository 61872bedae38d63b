"""gRPC streams without end: `grpc_streams.py TARGET` keeps twenty open, says how it goes ten times a second, one JSON object a line.

Each stream lives for two seconds of messages, each answered before the next one is sent; then another takes its place.
"""

import json
import sys
import threading
import time

import grpc

STREAMS, MESSAGES, PAUSE = 20, 40, 0.05
seen = {"messages": 0, "finished": 0, "broken": []}
lock = threading.Lock()


def stream(channel, number):
    answered = threading.Semaphore(1)

    def words():
        for word in range(MESSAGES):
            answered.acquire()
            yield b"word %d of %d" % (word, number)
            time.sleep(PAUSE)

    chat = channel.stream_stream("/t.Calls/Chat")
    count = 0
    for answer in chat(words(), timeout=60):
        assert answer == b"WORD %d OF %d" % (count, number), answer
        count += 1
        with lock:
            seen["messages"] += 1
        answered.release()
    assert count == MESSAGES, count


def keep(channel, number):
    while True:
        try:
            stream(channel, number)
            with lock:
                seen["finished"] += 1
        except Exception as error:  # Whatever it is, it is told.
            with lock:
                seen["broken"].append(repr(error)[:500])


with grpc.insecure_channel(sys.argv[1], options=(("grpc.enable_http_proxy", 0),)) as channel:
    for number in range(STREAMS):
        threading.Thread(target=keep, args=(channel, number), daemon=True).start()
    while True:
        time.sleep(0.1)
        with lock:
            print(json.dumps(seen), flush=True)

"""An HTTP/1.1 server for bench/balance: `app.py ADDRESS PORT TIMES`. What is wrong with it follows from POD_NAME.

It takes as long as a time drawn from the file TIMES (milliseconds, one a line), without using the processor, and serves any
number of requests at once. `slow-…` takes ten times as long, `failing-…` answers 500 at once, `cold-…` takes ten times as long
at first and evenly less until its 300th request.
"""

import asyncio
import os
import random
import sys

NAME = os.environ["POD_NAME"]
KIND = NAME.rsplit("-", 1)[0]
COLD_REQUESTS, FACTOR = 300, 10.0


def main():
    address, port, path = sys.argv[1:]
    with open(path, encoding="ascii") as lines:
        times = [float(line) for line in lines]
    draw = random.Random(NAME)
    served = 0

    def wait():
        time = draw.choice(times)
        if KIND == "slow":
            return time * FACTOR
        if KIND == "cold":
            return time * (1 + (FACTOR - 1) * max(0.0, 1 - served / COLD_REQUESTS))
        return time

    async def serve(reader, writer):
        nonlocal served
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                del head
                served += 1
                status = b"200 OK"
                if KIND == "failing":
                    status = b"500 Internal Server Error"
                else:
                    await asyncio.sleep(wait() / 1000)
                writer.write(b"HTTP/1.1 %s\r\nX-Instance: %s\r\nContent-Length: 3\r\n\r\nok\n" % (status, NAME.encode()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run():
        server = await asyncio.start_server(serve, address, int(port))
        await server.serve_forever()

    asyncio.run(run())


main()

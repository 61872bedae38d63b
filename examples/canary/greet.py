"""Asks through the mesh until there is an answer, and says what it heard."""

import sys
import time
import urllib.error
import urllib.request

for attempt in range(50):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5) as answer:
            print("heard:", answer.read().decode().strip(), flush=True)
            sys.exit(0)
    except urllib.error.HTTPError as error:
        print("not yet:", error.code, error.headers.get("heddle-reason"), flush=True)
        time.sleep(0.2)
sys.exit("no answer")

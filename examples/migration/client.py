"""A client of the original runner: `python client.py URL MESSAGE ...`. It need not know what answers it."""

import json
import sys
from typing import Any
from urllib.request import Request, urlopen


def fetch(request: str | Request) -> Any:
    """Return the JSON that is answered."""
    with urlopen(request, timeout=60) as response:
        return json.load(response)


def main(url: str, *messages: str) -> None:
    """Ask one question after the other, then look how the server is and what was said."""
    for message in messages:
        body = json.dumps({"message": message}).encode()
        answer = fetch(Request(f"{url}/chat", body, {"Content-Type": "application/json"}))
        print(f"{answer['agent_id']} ({answer['status']}): {answer['response']}")
    health = fetch(f"{url}/health")
    print(f"{health['status']}, processing: {health['processing']}, waiting: {health['queue_depth']}")
    last = fetch(f"{url}/history?count=1")["messages"][-1]
    print(f"last: {last['role']}: {last['content'][0]['text']}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The desk: sends a message to the agent, shows a person its questions, and sends the typed answers."""

import json
import sys
from typing import Any
from urllib.request import Request, urlopen

URL = "http://127.0.0.1:8080/chat"


def chat(**body: Any) -> dict[str, Any]:
    """Send a message, or answers, and return what comes back."""
    data = json.dumps({"session_id": "desk", **body}).encode()
    with urlopen(Request(URL, data, {"Content-Type": "application/json"})) as answer:
        shown: dict[str, Any] = json.load(answer)
        return shown


def main(message: str) -> None:
    """Continue until the agent has no more questions."""
    answer = chat(message=message)
    while answer["status"] == "needs_input":
        responses = []
        for request in answer["input_requests"]:
            print(f"{request['name']}: {json.dumps(request['reason'])}")
            print("yes, or why not: ", end="", flush=True)
            responses.append({"id": request["id"], "response": sys.stdin.readline().strip() or "no"})
        answer = chat(responses=responses)
    print(answer["response"])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))

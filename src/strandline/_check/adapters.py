"""How servers are asked: an adapter is an async function of a client, an address, a session and a text.

It returns the text of the answer. What it raises is no answer: `Refused`, or an HTTP error with status 409, 429 or 503,
is a request that the server did not take; anything else is one that failed.
"""

import asyncio
import inspect
import json
import runpy
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import httpx

from strandline.errors import SetupError

Ask = Callable[[httpx.AsyncClient, str, str, str], Awaitable[str]]

WORKING: Final = ("submitted", "working")
POLL_S: Final = 0.2
SESSION_HEADER: Final = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"


class Refused(Exception):
    """The server did not take the request; it may be sent again."""


class AdapterError(SetupError):
    """There is no such adapter, or its file cannot be used; the message says what to write."""

    code = "adapter"


async def strandline(client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
    """Ask as Strandline is asked: `POST /v1/sessions/{session_id}/runs`."""
    response = await client.post(
        f"{url}/v1/sessions/{session}/runs", json={"input": text}, headers={"Prefer": "wait=300"}
    )
    response.raise_for_status()
    run = response.json()
    while run["status"] in ("queued", "running"):
        response = await client.get(f"{url}/v1/runs/{run['run_id']}", headers={"Prefer": "wait=30"})
        response.raise_for_status()
        run = response.json()
    if run["status"] != "succeeded":
        raise RuntimeError(f"the run {run['status']}: {run['error']}")
    return str(run["output"])


async def original(client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
    """Ask as the original runner is asked: `POST /chat`."""
    response = await client.post(f"{url}/chat", json={"message": text, "session_id": session})
    response.raise_for_status()
    body = response.json()
    if body["status"] != "success":
        raise RuntimeError(str(body["response"]))
    return str(body["response"])


async def agentcore(client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
    """Ask as AgentCore Runtime asks: `POST /invocations`, with a session of 33 characters at least."""
    headers = {SESSION_HEADER: session.ljust(40, "-")}
    response = await client.post(f"{url}/invocations", json={"prompt": text}, headers=headers)
    response.raise_for_status()
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        events = _events(response.text)
        if failed := next((each for each in events if isinstance(each, dict) and "error" in each), None):
            raise RuntimeError(str(failed["error"]))
        return "".join(each if isinstance(each, str) else _text(each) for each in events)
    return _text(response.json())


async def responses(client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
    """Ask as clients of OpenAI's Responses API: `POST /v1/responses`, the session as `conversation`."""
    response = await client.post(f"{url}/v1/responses", json={"model": "any", "input": text, "conversation": session})
    response.raise_for_status()
    said = response.json()
    while said["status"] in ("queued", "in_progress"):
        await asyncio.sleep(POLL_S)
        response = await client.get(f"{url}/v1/responses/{said['id']}")
        response.raise_for_status()
        said = response.json()
    if said["status"] != "completed":
        raise RuntimeError(f"the response {said['status']}: {said['error']}")
    messages = (item for item in said["output"] if item["type"] == "message")
    return "".join(str(part["text"]) for item in messages for part in item["content"] if part["type"] == "output_text")


async def a2a(client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
    """Ask as A2A 0.3 has it: JSON-RPC `message/send`, the session as `contextId`."""
    message = {
        "kind": "message",
        "role": "user",
        "messageId": uuid.uuid4().hex,
        "contextId": session,
        "parts": [{"kind": "text", "text": text}],
    }
    result = await _call(client, url, "message/send", {"message": message})
    while result.get("status", {}).get("state") in WORKING:
        await asyncio.sleep(POLL_S)
        result = await _call(client, url, "tasks/get", {"id": result["id"]})
    state = result.get("status", {}).get("state", "completed")
    parts = [part for artifact in result.get("artifacts") or [] for part in artifact["parts"]]
    parts = parts or result.get("parts") or result.get("status", {}).get("message", {}).get("parts", [])
    reply = "".join(part.get("text", "") for part in parts)
    if state != "completed":
        raise RuntimeError(f"the task is {state}: {reply}")
    return reply


class AgUi:
    """Asks as AG-UI has it: `RunAgentInput`, answered by a stream of events; the session is `threadId`.

    A client of AG-UI keeps the conversation, and sends all of it each time: a server need not keep any. What is kept
    here is what was answered.
    """

    def __init__(self) -> None:
        self._threads: dict[str, list[dict[str, str]]] = {}

    async def __call__(self, client: httpx.AsyncClient, url: str, session: str, text: str) -> str:
        """Ask the next question of a thread."""
        question = {"id": uuid.uuid4().hex, "role": "user", "content": text}
        thread = self._threads.setdefault(session, [])
        body = {
            "threadId": session,
            "runId": uuid.uuid4().hex,
            "messages": [*thread, question],
            "state": {},
            "tools": [],
            "context": [],
            "forwardedProps": {},
        }
        response = await client.post(url, json=body, headers={"Accept": "text/event-stream"})
        response.raise_for_status()
        message_id, reply = uuid.uuid4().hex, ""
        for event in _events(response.text):
            match event:
                case {"type": "TEXT_MESSAGE_CONTENT" | "TEXT_MESSAGE_CHUNK", "delta": str(delta)}:
                    message_id, reply = event.get("messageId") or message_id, reply + delta
                case {"type": "RUN_ERROR"}:
                    reason = f"{event.get('code', '')} {event.get('message', '')}".strip()
                    raise Refused(reason) if "BUSY" in str(event.get("code", "")).upper() else RuntimeError(reason)
        thread += [question, {"id": message_id, "role": "assistant", "content": reply}]
        return reply


BUILT_IN: Final[dict[str, Ask | type[AgUi]]] = {
    "strandline": strandline,
    "original": original,
    "agentcore": agentcore,
    "responses": responses,
    "a2a": a2a,
    "ag-ui": AgUi,
}


def load(name: str) -> Ask:
    """Return the adapter of a name, or the function `ask` of a file. Raises `AdapterError`."""
    if (found := BUILT_IN.get(name)) is not None:
        return found() if isinstance(found, type) else found
    path = Path(name)
    if path.suffix != ".py":
        raise AdapterError(f"there is no adapter {name!r}: name one of {', '.join(BUILT_IN)}, or a file of yours (.py)")
    if not path.is_file():
        raise AdapterError(f"{name} does not exist, seen from {Path.cwd()}")
    try:
        ask = runpy.run_path(name).get("ask")
    except Exception as error:
        raise AdapterError(f"{name} cannot be imported: {type(error).__name__}: {error}") from None
    if not inspect.iscoroutinefunction(ask):
        raise AdapterError(f"{name} has no `async def ask(client, url, session, text)` that returns the answer's text")
    loaded: Ask = ask
    return loaded


async def _call(client: httpx.AsyncClient, url: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    request = {"jsonrpc": "2.0", "id": uuid.uuid4().hex, "method": method, "params": params}
    response = await client.post(url, json=request)
    response.raise_for_status()
    body: dict[str, Any] = response.json()
    if "error" in body:
        raise RuntimeError(str(body["error"].get("message", body["error"])))
    result: dict[str, Any] = body["result"]
    return result


def _events(text: str) -> list[Any]:
    return [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]


def _text(body: Any) -> str:
    """Return the text of an answer whose form is the entrypoint's own affair."""
    if isinstance(body, dict):
        for name in ("result", "response", "output", "message", "text"):
            if name in body:
                return _text(body[name])
        if "content" in body:
            return "".join(_text(block) for block in body["content"])
    return body if isinstance(body, str) else json.dumps(body)

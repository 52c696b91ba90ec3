"""Headers between servers stay between servers: no client reads one, and none that a client makes up gets there."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from cluster_support import pair, run, until
from strandline._agents.port import Attempt
from strandline._http.app.openapi import OPERATIONS, Operation
from strandline._http.dialects.mcp.places import Place
from strandline._http.forwarding.client_request import ClientRequest
from strandline._http.forwarding.envelope import Forward
from strandline._http.forwarding.inner import ACCEPTED, CLOCK, FEED_AFTER, INTERNAL, MOVED, RESUMABLE
from strandline._model import RunId

NAMES: Final = (MOVED, ACCEPTED, RESUMABLE, FEED_AFTER, CLOCK.encode(), b"strandline-new")
FORGED: Final = {name.decode(): "1" for name in NAMES}
BODIES: Final[dict[str, Any]] = {
    "/v1/sessions/{session_id}/runs": {"input": "hi"},
    "/v1/sessions/{session_id}": {"options": {"priority": 2}},
    "/v1/runs/{run_id}": {"input": "another"},
    "/v1/runs/{run_id}/move": {"front": True},
    "/v1/runs/{run_id}/resolve": {"tools": []},
    "/v1/schedules": {"session_id": "s", "input": "hi", "every": 1000},
    "/v1/schedules/{schedule_id}": {"paused": True},
    "/v1/chat/completions": {"model": "x", "user": "s", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "x", "conversation": "s", "input": "hi"},
    "/v1/conversations/{conversation_id}": {"metadata": {"topic": "sea"}},
    "/chat": {"session_id": "s", "message": "hi"},
    "/agui": {"threadId": "s", "runId": "1", "messages": [{"id": "m", "role": "user", "content": "hi"}]},
    "/mcp": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "ask", "arguments": {"message": "hi", "session": "s"}},
    },
    "/a2a": {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "SendMessage",
        "params": {"message": {"messageId": "1", "contextId": "s", "parts": [{"text": "hi"}]}},
    },
    "/invocations": {"session_id": "s", "prompt": "hi"},
}
CASES: Final = [
    (method, operation, accept)
    for operation in OPERATIONS
    for method in ((operation.method, "HEAD") if operation.method == "GET" else (operation.method,))
    for accept in ("application/json", *(["text/event-stream"] if operation.events or operation.streams else []))
]


@pytest.mark.parametrize(
    ("method", "operation", "accept"), CASES, ids=[f"{m} {each.path} {accept[-6:]}" for m, each, accept in CASES]
)
def test_no_header_between_servers_reaches_a_client_and_none_of_a_client_a_server(
    method: str, operation: Operation, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Forward] = []
    make = ClientRequest.envelope

    def noted(request: ClientRequest, *given: Any) -> Forward:
        envelope = make(request, *given)
        assert isinstance(envelope, Forward)
        sent.append(envelope)
        return envelope

    monkeypatch.setattr(ClientRequest, "envelope", noted)

    async def scene() -> None:
        async with pair(answering) as (_, first, owner, client):
            first.journal._connection = owner.journal._connection  # (what is stored, all servers read)
            begun = await client.post("/chat", json={"session_id": "s", "message": "before"})
            made = await client.post("/v1/schedules", json=BODIES["/v1/schedules"])
            path = operation.path.format(
                session_id="s",
                run_id=begun.json()["run_id"],
                conversation_id="s",
                response_id=f"resp_{begun.json()['run_id']}",
                schedule_id=made.json()["schedule_id"],
                webhook_id="unknown",
                model="strandline",
                file_id=f"file_{'0' * 32}",
            )
            for at in (first, owner):  # (for a session of another server, and of its own)
                del sent[:]
                headers = {**FORGED, "Accept": accept}
                if operation.method == "GET" and operation.path == "/mcp":  # (of a call that is this run)
                    headers["Last-Event-ID"] = Place(RunId(begun.json()["run_id"]), 0, 0, 1, None).encoded()
                body = BODIES.get(operation.path) if operation.body is not None else None
                if body is not None and operation.streams and accept == "text/event-stream":
                    body = {**body, "stream": True}
                async with answered(client, method, at.url + path, headers, body) as answer:
                    shown = [each for each in answer.headers if each.startswith(INTERNAL.decode())]
                    assert (answer.status_code < 500, shown) == (True, [])
                assert sent or at is owner or not is_of_a_session(operation)
                passed_on = [name for each in sent for name, _ in each.headers]
                assert [name for name in passed_on if name.startswith(INTERNAL)] == []
            await until(lambda: not owner.service.health().running, "all have ended")

    run(scene)


def is_of_a_session(operation: Operation) -> bool:
    """Return whether only one server can answer. Stored schedules, files, histories, trees and exports are read by all,
    and any of them sends an event again."""
    if "/webhooks" in operation.path:
        return False
    if operation.method == "GET" and ("/schedules" in operation.path or "/files" in operation.path):
        return False
    read_by_all = operation.path.endswith(("/history", "/tree", "/export"))
    return operation.path in BODIES or ("_id}" in operation.path and not read_by_all)


async def answering(_: Attempt) -> str:
    return "done"


@contextlib.asynccontextmanager
async def answered(
    client: httpx.AsyncClient, method: str, url: str, headers: dict[str, str], body: Any
) -> AsyncIterator[httpx.Response]:
    """Send a request, and have the head of its answer: some streams have no end."""
    async with client.stream(method, url, headers=headers, json=body) as answer:
        yield answer

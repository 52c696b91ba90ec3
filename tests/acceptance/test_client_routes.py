"""The Python client reaches each route of the run API, at a real server."""

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, serving
from strandline.client import Client, Conflict, NotFound

AGENT: Final = TARGETS / "agent.py"
FAR: Final = "2096-10-02T07:06:40Z"
EXCEPTIONS: Final = {
    "GET /v1/events": "a stream without end, which a program reads as server-sent events, with `Last-Event-ID`",
    "POST /v1/chat/completions": "for clients of OpenAI",
    "POST /v1/responses": "for clients of OpenAI",
    "GET /v1/responses/{}": "for clients of OpenAI",
    "GET /v1/responses/{}/input_items": "for clients of OpenAI",
    "POST /v1/responses/{}/cancel": "for clients of OpenAI",
    "POST /v1/conversations": "for clients of OpenAI",
    "POST /v1/conversations/{}": "for clients of OpenAI",
    "GET /v1/conversations/{}/items": "for clients of OpenAI",
    "GET /v1/conversations/{}": "for clients of OpenAI",
    "DELETE /v1/conversations/{}": "for clients of OpenAI",
    "GET /v1/models": "for clients of OpenAI",
    "GET /v1/models/{}": "for clients of OpenAI",
}
"""Routes of `/v1` without a method of the client, and why."""
ARGUMENTS: Final[dict[str, Any]] = {
    "text": "x", "run_id": "ID", "session_id": "ID", "schedule_id": "ID", "file_id": "ID", "event_id": "ID",
    "file": b"x", "origin": None, "tools": [], "responses": {}, "url": "http://example.com/",
}  # fmt: skip
NO_ROUTE: Final = {"ask", "close"}


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def requested(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the routes that the methods of a client request, each called with the least that it takes."""
    found: set[str] = set()

    def note(_: httpx.Client, request: httpx.Request, **__: object) -> httpx.Response:
        found.add(f"{request.method} {request.url.path.replace('/ID', '/{}').replace('/default', '/{}')}")
        body = {"run_id": "ID", "session_id": "ID", "status": "queued"}
        is_first_of_answer = request.url.path == "/v1/runs/ID" and calling == "answer"
        status = 200 if is_first_of_answer else 404
        return httpx.Response(status, content=json.dumps(body), request=request)

    monkeypatch.setattr(httpx.Client, "send", note)
    with Client("http://127.0.0.1:1", patience_s=0) as client:
        for calling, method in inspect.getmembers(client, inspect.ismethod):
            if calling.startswith("_") or calling in NO_ROUTE:
                continue
            needed = [
                each
                for each in inspect.signature(method).parameters.values()
                if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
            ]
            named = {each.name: ARGUMENTS[each.name] for each in needed if each.kind is each.KEYWORD_ONLY}
            with pytest.raises(NotFound):
                begin(method, [ARGUMENTS[each.name] for each in needed if each.name not in named], named)
    return found


def begin(method: Callable[..., object], arguments: list[Any], named: dict[str, Any]) -> None:
    """Call a method, and have one that yields send its request."""
    outcome = method(*arguments, **named)
    if inspect.isgenerator(outcome):
        next(outcome)


def test_each_route_of_the_run_api_has_a_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
    routes = set()
    for path, methods in paths.items():
        if path.startswith("/v1/"):
            plain = "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
            routes |= {f"{each.upper()} {plain}" for each in methods if each in ("get", "post", "patch", "delete")}
    found = requested(monkeypatch)
    assert len(routes) > 30
    assert routes - found == EXCEPTIONS.keys(), "add a method, or a reason why there is none"


def test_a_client_controls_sessions_runs_and_schedules(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server, Client(server.url) as client:
        client.chat("one", "desk")
        assert client.pause("desk").paused
        first, second = [
            client.ask("POST", "/v1/sessions/desk/runs", {"input": text})["run_id"] for text in ("two", "three")
        ]
        assert client.get_run(second).position == 2
        assert client.move(second).position == 1
        assert client.move(second, 5).position == 2
        assert [each.run_id for each in client.session_runs("desk")][:2] == [second, first]
        assert len(client.session_runs("desk", 1)) == 1
        session = client.session("desk")
        assert (session.queue_depth, session.paused, session.why and session.why.code) == (2, True, "paused")
        assert client.set_options("desk", priority=2, timeout=60).options == {"priority": 2, "timeout": 60}
        assert client.set_options("desk", timeout=None).options == {"priority": 2}
        with pytest.raises(ValueError, match="clear removes all"):
            client.set_options("desk", clear=True, priority=1)
        assert client.set_options("desk", clear=True).options == {}
        with pytest.raises(Conflict):
            client.delete_session("desk")
        assert set(client.cancel_session("desk").cancelled) == {first, second}
        assert not client.resume("desk").paused

        made = client.schedule("report", "desk", cron="0 9 * * MON", paused=True)
        assert client.get_schedule(made.schedule_id) == made
        changed = client.change_schedule(made.schedule_id, input="news", cron="0 9 * * TUE", paused=False)
        assert (changed.input, changed.cron, changed.paused, len(changed.next)) == ("news", "0 9 * * TUE", False, 5)
        run = client.run_schedule(made.schedule_id)
        assert client.wait(run.run_id).output == "news"
        assert [each.session_id for each in client.sessions()] == ["desk"]
        client.delete_session("desk")
        assert client.sessions() == []
        for lost in (client.session, client.pause, client.delete_session, client.get_schedule):
            with pytest.raises(NotFound):
                lost("desk")

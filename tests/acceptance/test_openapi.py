"""What the server answers is what its own document says that it answers."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from acceptance.events import listening
from acceptance.server import TARGETS, Server, serving

Document = dict[str, Any]
EVENTS = "text/event-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(f"{TARGETS / 'function.py'}:answer", folder=tmp_path_factory.mktemp("described")) as made:
        yield made


@pytest.fixture(scope="module")
def document(server: Server) -> Document:
    answer = server.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    made: Document = answer.json()
    assert made["openapi"].startswith("3.1")
    assert made["servers"] == [{"url": "/"}]
    return made


def check(document: Document, path: str, answer: httpx.Response) -> None:
    """Fail unless the answer of a path is as described."""
    operation = document["paths"][path][answer.request.method.lower()]
    described = operation["responses"].get(str(answer.status_code))
    assert described is not None, f"{path}: {answer.status_code} is not described: {answer.text}"
    if answer.status_code == 204:
        assert answer.content == b""
        return
    kind = answer.headers["content-type"].partition(";")[0]
    if kind == EVENTS:
        assert kind in described["content"]
        return  # each event is looked at as it is heard: see `acceptance.events`
    schema = described["content"][kind]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    if answer.status_code >= 400 and "code" in answer.json():
        assert f"`{answer.json()['code']}`" in described["description"]


def test_answers_are_as_described(server: Server, document: Document) -> None:
    get, post = server.client.get, server.client.post
    wait = {"Prefer": "wait=20"}
    runs, run, session = "/v1/sessions/{session_id}/runs", "/v1/runs/{run_id}", "/v1/sessions/{session_id}"
    created = post("/v1/sessions/s/runs", json={"input": "x", "metadata": {"a": 1}}, headers=wait)
    run_id = created.json()["run_id"]
    asked = [
        (runs, created),
        (runs, post("/v1/sessions/s/runs", json={"input": "y"})),
        (runs, post("/v1/sessions/s/runs", json={})),
        (runs, post("/v1/sessions/s/runs", content="{}")),
        (runs, post("/v1/sessions/s/runs", content="{", headers={"Content-Type": "application/json"})),
        (runs, get("/v1/sessions/s/runs")),
        (run, get(f"/v1/runs/{run_id}", headers=wait)),
        (run, get("/v1/runs/none")),
        (f"{run}/cancel", post(f"/v1/runs/{run_id}/cancel")),
        (f"{run}/move", post(f"/v1/runs/{run_id}/move", json={"front": True})),
        (f"{run}/move", post(f"/v1/runs/{run_id}/move")),
        ("/v1/sessions", get("/v1/sessions")),
        ("/v1/sessions", get("/v1/sessions", params={"limit": 0})),
        (session, get("/v1/sessions/s")),
        (session, get("/v1/sessions/none")),
        (f"{session}/history", get("/v1/sessions/s/history")),
        (f"{session}/pause", post("/v1/sessions/s/pause")),
        (runs, post("/v1/sessions/s/runs", json={"input": "waits"})),
        (session, server.client.delete("/v1/sessions/s")),
        (f"{session}/cancel", post("/v1/sessions/s/cancel", json={"running": True})),
        (f"{session}/resume", post("/v1/sessions/s/resume")),
        ("/chat", post("/chat", json={"message": "x"})),
        ("/chat", post("/chat", json={})),
        ("/history", get("/history", params={"count": 0, "include_tool_messages": "true"})),
        ("/history", get("/history", params={"count": "x"})),
        ("/health", get("/health")),
        ("/livez", get("/livez")),
        ("/readyz", get("/readyz")),
        (session, server.client.delete("/v1/sessions/s")),
    ]
    for path, answer in asked:
        check(document, path, answer)
    assert {answer.status_code for _, answer in asked} >= {200, 202, 204, 400, 404, 409, 415, 422}


def test_streams_are_as_described(server: Server, document: Document) -> None:
    runs, events = "/v1/sessions/{session_id}/runs", "/v1/runs/{run_id}/events"
    with listening(server, "GET", "/v1/events") as changes:
        with listening(server, "POST", "/v1/sessions/t/runs", json={"input": "x"}) as told:
            run_id = told.until("run.finished").data["run_id"]
        changes.until("run.finished")
        server.client.post("/v1/sessions/t/pause")
        server.client.post("/v1/sessions/t/resume")
        server.client.delete("/v1/sessions/t")
        changes.until("session.deleted")
    kept = {"Accept": EVENTS, "Idempotency-Key": "k"}
    once = server.client.post("/v1/sessions/u/runs", json={"input": "x"}, headers=kept)
    last = re.findall(r"^id: (\d+)$", once.text, re.MULTILINE)[-1]
    path = once.headers["Location"] + "/events"
    asked = [
        (runs, once),
        (runs, server.client.post("/v1/sessions/u/runs", json={"input": "x"}, headers={**kept, "Last-Event-ID": last})),
        ("/chat", server.client.post("/chat", json={"message": "x"}, headers={"Accept": EVENTS})),
        (events, server.client.get(path)),
        (events, server.client.get(path, headers={"Last-Event-ID": last})),
        (events, server.client.get(path, headers={"Last-Event-ID": "x"})),
        (events, server.client.get(f"/v1/runs/{run_id}/events")),
        ("/v1/events", server.client.get("/v1/events?type=x")),
    ]
    for described, answer in asked:
        check(document, described, answer)
    assert [answer.status_code for _, answer in asked] == [200, 204, 200, 200, 204, 422, 404, 422]


def test_the_page_is_there(server: Server) -> None:
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/sessions/{session_id}/runs" in answer.text

"""What the server answers is what its own document says that it answers."""

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest

from acceptance.checkpoints import checkpoints
from acceptance.events import listening
from acceptance.server import TARGETS, Server, serving, until
from strandline._access.keyring import new_key
from strandline._http.app.openapi import HEADERS
from strandline._http.middleware.auth import CARDS

Document = dict[str, Any]
FUNCTION = f"{TARGETS / 'function.py'}:answer"
EVENTS = "text/event-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(FUNCTION, folder=tmp_path_factory.mktemp("described")) as made:
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
    for name in HEADERS:
        if name in answer.headers:
            schema = described["headers"][name]["schema"]
            sent = answer.headers[name]
            jsonschema.validate(int(sent) if schema.get("type") == "integer" else sent, schema)
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
    completions = "/v1/chat/completions"
    said = [{"id": "m", "role": "user", "content": "x"}]
    a2a_said = {"message": {"messageId": "m", "contextId": "s", "parts": [{"text": "x"}]}}
    created = post("/v1/sessions/s/runs", json={"input": "x", "metadata": {"a": 1}}, headers=wait)
    run_id = created.json()["run_id"]
    file = post("/v1/sessions/s/files", content=b"x")
    responses = [
        (runs, created),
        (runs, post("/v1/sessions/s/runs", json={"input": "y"})),
        (runs, post("/v1/sessions/s/runs", json={"input": "k"}, headers={**wait, "Idempotency-Key": "k"})),
        (runs, post("/v1/sessions/s/runs", json={"input": "k"}, headers={"Idempotency-Key": "k"})),
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
        (f"{session}/files", file),
        (f"{session}/files", post("/v1/sessions/s/files")),
        (f"{session}/files", get("/v1/sessions/s/files")),
        (f"{session}/files", get("/v1/sessions/s/files", params={"cursor": "x"})),
        (f"{session}/files/{{file_id}}", get("/v1/sessions/s/files/none")),
        (f"{session}/files/{{file_id}}", get(file.headers["location"], headers={"Range": "bytes=1000000-"})),
        (f"{session}/files/{{file_id}}", server.client.delete(file.headers["location"])),
        (f"{session}/pause", post("/v1/sessions/s/pause")),
        (runs, post("/v1/sessions/s/runs", json={"input": "waits"})),
        (session, server.client.delete("/v1/sessions/s")),
        (f"{session}/cancel", post("/v1/sessions/s/cancel", json={"running": True})),
        (f"{session}/resume", post("/v1/sessions/s/resume")),
        ("/chat", post("/chat", json={"message": "x"})),
        ("/chat", post("/chat", json={"message": "k"}, headers={"Idempotency-Key": "k"})),
        ("/chat", post("/chat", json={"message": "k"}, headers={"Idempotency-Key": "k"})),
        ("/chat", post("/chat", json={})),
        ("/history", get("/history", params={"count": 0, "include_tool_messages": "true"})),
        ("/history", get("/history", params={"count": "x"})),
        (completions, post(completions, json={"messages": [{"role": "user", "content": "x"}], "metadata": None})),
        (completions, post(completions, json={"messages": []})),
        (completions, post(completions, content="x")),
        ("/v1/models", get("/v1/models")),
        ("/v1/models/{model}", get("/v1/models/strandline")),
        ("/v1/models/{model}", get("/v1/models/none")),
        ("/invocations", post("/invocations", json={"prompt": "x"})),
        ("/invocations", post("/invocations", json={"prompt": "k"}, headers={"Idempotency-Key": "i"})),
        ("/invocations", post("/invocations", json={"prompt": "k"}, headers={"Idempotency-Key": "i"})),
        ("/invocations", post("/invocations", json={})),
        ("/agui", post("/agui", json={"threadId": "s", "runId": "1", "messages": said})),
        ("/agui", post("/agui", json={"threadId": "s", "runId": "1", "messages": []})),
        ("/agui", post("/agui", content="{")),
        ("/mcp", post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})),
        ("/mcp", post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "none"})),
        ("/mcp", post("/mcp", json={})),
        ("/mcp", post("/mcp", content="{")),
        ("/a2a", post("/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": a2a_said})),
        ("/a2a", post("/a2a", json={"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": "none"}})),
        ("/a2a", post("/a2a", content="{", headers={"Content-Type": "application/json"})),
        *((path, get(path)) for path in CARDS),
        ("/ping", get("/ping")),
        ("/health", get("/health")),
        ("/livez", get("/livez")),
        ("/readyz", get("/readyz")),
        (session, server.client.delete("/v1/sessions/s")),
    ]
    for path, answer in responses:
        check(document, path, answer)
    assert {answer.status_code for _, answer in responses} >= {200, 202, 204, 400, 404, 409, 415, 422}
    assert {name for name in HEADERS for _, answer in responses if name in answer.headers} == HEADERS.keys() - {
        "Retry-After", "WWW-Authenticate"
    }  # fmt: skip


def test_what_is_refused_without_a_key_is_as_described(tmp_path: Path) -> None:
    """In the form of each protocol; and an operator's page, to somebody who is none."""
    key, kept = new_key("ada")
    with serving(FUNCTION, "--api-keys", kept.line(), folder=tmp_path) as server:
        document = server.client.get("/openapi.json").json()
        for path in ("/v1/sessions", "/v1/models", "/history", "/v1/events", "/metrics"):
            check(document, path, server.client.get(path))
        for path in ("/chat", "/v1/chat/completions", "/invocations", "/agui", "/mcp", "/a2a"):
            answer = server.client.post(path, json={}, headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401
            check(document, path, answer)
        check(document, "/metrics", server.client.get("/metrics", headers={"Authorization": f"Bearer {key}"}))


def test_refusals_are_as_described(tmp_path: Path) -> None:
    """A full queue, a full server, a body that is too large, a foreign page, a server that stops."""
    limits = ("--max-running", "2", "--max-queued-per-session", "1", "--max-queued", "2", "--max-body-bytes", "500")
    flags = (*limits, "--drain-grace", "20")
    with checkpoints() as at, serving(FUNCTION, *flags, folder=tmp_path, variables=at.environment) as server:
        document = server.client.get("/openapi.json").json()
        at.hold("x")
        runs, chat = "/v1/sessions/{session_id}/runs", "/chat"

        def both(session: str, text: str = "x", headers: dict[str, str] | None = None) -> list[httpx.Response]:
            post = server.client.post
            return [
                post(f"/v1/sessions/{session}/runs", json={"input": text}, headers=headers),
                post("/chat", json={"message": text, "session_id": session}, headers=headers),
            ]

        for session in ("a", "a", "b", "b"):
            assert server.client.post(f"/v1/sessions/{session}/runs", json={"input": "x"}).status_code == 202
        responses = [both("a"), both("c"), both("c", "x" * 500), both("c", headers={"Origin": "http://evil.example"})]
        run_id = server.client.get("/v1/sessions/a/runs").json()["runs"][0]["run_id"]
        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
        responses.append(both("c"))
        response = server.client.delete("/v1/sessions/c")
        check(document, "/v1/sessions/{session_id}", response)
        check(document, "/readyz", server.client.get("/readyz"))
        check(document, "/v1/runs/{run_id}/move", server.client.post(f"/v1/runs/{run_id}/move", json={"front": True}))
        for each in responses:
            for path, answer in zip((runs, chat), each, strict=True):
                check(document, path, answer)
                assert ("retry-after" in answer.headers) is (answer.status_code in (429, 503))
        codes = [[answer.json()["code"] for answer in each] for each in responses]
        assert codes == [[code] * 2 for code in ("queue_full", "server_full", "body_too_large", "foreign", "draining")]
        at.release()
        assert server.ended() == 0


def test_streams_are_as_described(server: Server, document: Document) -> None:
    runs, events = "/v1/sessions/{session_id}/runs", "/v1/runs/{run_id}/events"
    with listening(server, "GET", "/v1/events") as changes:
        with listening(server, "POST", "/v1/sessions/t/runs", json={"input": "x"}) as lines:
            run_id = lines.until("run.finished").data["run_id"]
        changes.until("run.finished")
        server.client.post("/v1/sessions/t/pause")
        server.client.post("/v1/sessions/t/resume")
        server.client.delete("/v1/sessions/t")
        changes.until("session.deleted")
    kept = {"Accept": EVENTS, "Idempotency-Key": "k"}
    once = server.client.post("/v1/sessions/u/runs", json={"input": "x"}, headers=kept)
    last = re.findall(r"^id: (\d+)$", once.text, re.MULTILINE)[-1]
    path = once.headers["Location"] + "/events"
    responses = [
        (runs, once),
        (runs, server.client.post("/v1/sessions/u/runs", json={"input": "x"}, headers={**kept, "Last-Event-ID": last})),
        ("/chat", server.client.post("/chat", json={"message": "x"}, headers={"Accept": EVENTS})),
        (events, server.client.get(path)),
        (events, server.client.get(path, headers={"Last-Event-ID": last})),
        (events, server.client.get(path, headers={"Last-Event-ID": "x"})),
        (events, server.client.get(f"/v1/runs/{run_id}/events")),
        ("/v1/events", server.client.get("/v1/events?type=x")),
    ]
    for described, answer in responses:
        check(document, described, answer)
    assert [answer.status_code for _, answer in responses] == [200, 204, 200, 200, 204, 422, 404, 422]


def test_the_page_is_there(server: Server) -> None:
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/sessions/{session_id}/runs" in answer.text


def status_of(server: Server, command: str, headers: dict[str, str]) -> int:
    """Ask what a command for curl asks, and return the status; of an endless answer nothing is read."""
    words = iter(shlex.split(command.replace("\\\n", ""))[1:])
    method: str | None = None
    body, url = None, ""
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-d":
                body = next(words)
            case "--data-binary":
                body = f"the content of {next(words)}"
            case "-H":
                name, _, given = next(words).partition(": ")
                headers = {name: given, **headers}
            case _:
                url = word
    method = method or ("GET" if body is None else "POST")
    with server.client.stream(method, url, content=body, headers=headers) as answer:
        return answer.status_code


@pytest.mark.parametrize("keys", [False, True])
def test_each_example_of_the_page_is_one_that_the_server_takes(keys: bool, tmp_path: Path) -> None:
    key, kept = new_key("ada", operator=True)
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")
    with serving("agent.py:answer", *(["--api-keys", kept.line()] if keys else []), folder=tmp_path) as server:
        shown = {"Authorization": f"Bearer {key}"} if keys else {}
        page = server.client.get("/docs").text
        run = server.client.post("/v1/sessions/my-session/runs", json={"input": "x"}, headers=shown).json()["run_id"]
        made = {"session_id": "other", "input": "x", "cron": "0 9 * * *"}
        schedule = server.client.post("/v1/schedules", json=made, headers=shown).json()["schedule_id"]
        server.client.post("/v1/sessions/talk/runs", json={"input": "x"}, headers=shown)
        file = server.client.post("/v1/sessions/my-session/files", content="x", headers=shown).json()["file_id"]
        ask = {"name": "ask", "arguments": {"message": "x"}}
        heard = server.client.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": ask},
            headers={**shown, "Accept": "text/event-stream", "MCP-Protocol-Version": "2025-11-25"},
        )
        event = re.findall(r"^id: (.+)$", heard.text, re.MULTILINE)[-1]
        commands = [html.unescape(each) for each in re.findall(r"<h3>Example</h3><pre>(.*?)</pre>", page, re.DOTALL)]
        assert len(commands) > 20
        for command in sorted(
            commands, key=lambda each: ("DELETE" in each, "FILE_ID" not in each)
        ):  # (it forgets what the others ask for)
            assert f" {server.url}/" in command or f" '{server.url}/" in command, command
            server.quiet()
            asked = (
                command.replace("RUN_ID", run)
                .replace("RESPONSE_ID", f"resp_{run}")
                .replace("CONVERSATION_ID", "talk")
                .replace("FILE_ID", file)
                .replace("SCHEDULE_ID", schedule)
                .replace("MODEL", "strandline")
                .replace("EVENT_ID", event)
            )
            status = status_of(server, asked, shown)
            # The run has ended: it can neither be cancelled nor moved. No event waits to be sent.
            is_so = (status == 409 and "RUN_ID" in command) or (status == 404 and "WEBHOOK_ID" in command)
            is_for_keys = not keys and status == 422 and "/v1/tokens" in command
            assert status < 300 or is_so or is_for_keys, (command, status)


def test_examples_name_no_address_that_nobody_should_copy(tmp_path: Path) -> None:
    with serving(FUNCTION, "--allowed-hosts", "*", folder=tmp_path) as server:
        for host in ("localhost:1$(id)", "a'b", "a b", "a;id"):
            shown = html.unescape(server.client.get("/docs", headers={"Host": host}).text)
            assert host not in shown
            assert "curl http://127.0.0.1:8080/livez" in shown
        assert "curl http://name:99/livez" in server.client.get("/docs", headers={"Host": "name:99"}).text

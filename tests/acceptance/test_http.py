"""What the server refuses and how, how it reports runs, and what strangers may not do."""

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving, texts

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

MAX_BODY = 100_000
LIMITS = ("--max-body-bytes", str(MAX_BODY), "--max-queued-per-session", "2", "--max-queued", "4")


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("http")
    with serving(TARGETS / "agent.py", *LIMITS, folder=folder, variables=at.environment) as made:
        yield made


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that this is a problem document, and return it."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["type"] == "about:blank"
    assert body["title"]
    assert body["detail"]
    return body


def post(server: Server, content: bytes | str) -> httpx.Response:
    return server.client.post("/chat", content=content)


# -- bodies -------------------------------------------------------------------------------------------

NOT_JSON = {
    "empty": b"",
    "cut off": b'{"message": "a"',
    "no JSON": b"message=hello",
    "more after it": b'{"message": "a"} {"message": "b"}',
    "invalid UTF-8": b'{"message": "\xff\xfe"}',
    "UTF-16": '{"message": "a"}'.encode("utf-16"),
    "lone surrogate": b'{"message": "\\ud800 alone"}',
    "nested deeply": b'{"message": "a", "more": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "nested deeply, never closed": b'{"message": "a", "more": ' + b'{"a": [' * 10_000,
}


@pytest.mark.parametrize(
    "text",
    [b"\\ud800 alone", b"at the end \\uDBFF", b"\\udc00", b"\\ud83d\\ud83d\\ude00", b"\xed\xa0\x80", b"\\\\\\ud800"],
)
def test_a_lone_surrogate_is_called_by_its_name(server: Server, text: bytes) -> None:
    refusal = problem(post(server, b'{"message": "%b"}' % text), 400, "malformed")
    assert "lone surrogate" in refusal["detail"]


@pytest.mark.parametrize("text", [b"\\ud83d\\ude00", b"\\\\ud800", b"\xf0\x9f\x98\x80"])
def test_text_like_a_lone_surrogate_is_read(server: Server, text: bytes) -> None:
    assert post(server, b'{"message": "pair %b", "session_id": "pairs"}' % text).status_code == 200
    assert "surrogate" not in problem(post(server, b'{"message": "%b"' % text), 400, "malformed")["detail"]


def test_null_stands_for_what_is_left_out(server: Server) -> None:
    options = dict.fromkeys(("if_busy", "priority", "timeout", "queue_timeout", "on_disconnect", "metadata"))
    said = server.client.post("/v1/sessions/null/runs", json={"input": "n", **options}, headers={"Prefer": "wait=20"})
    assert said.status_code == 200, said.text
    run = said.json()
    assert (run["if_busy"], run["priority"], run["metadata"]) == ("enqueue", 3, {})


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_a_body_that_is_not_json(server: Server, body: bytes) -> None:
    problem(post(server, body), 400, "malformed")


@pytest.mark.parametrize(
    "body",
    ["[]", '"text"', "null", "1", "{}", '{"text": "a"}', '{"message": null}', '{"message": 1}', '{"message": ["a"]}',
     '{"message": {"text": "a"}}', '{"message": "a", "session_id": 5}', '{"message": "a", "session_id": ["b"]}'],
)  # fmt: skip
def test_a_value_of_the_wrong_type(server: Server, body: str) -> None:
    refusal = problem(post(server, body), 422, "invalid")
    assert "`message`" in refusal["detail"]


@pytest.mark.parametrize("session", ["", " ", "a b", ".", "..", "a/b", "ü", "a\n", "x" * 257, "a\u0000"])
def test_a_session_id_that_is_not_allowed(server: Server, session: str) -> None:
    refusal = problem(server.client.post("/chat", json={"message": "a", "session_id": session}), 422, "invalid")
    assert "session_id must be 1 to 256 characters" in refusal["detail"]


@pytest.mark.parametrize("session", ["a", "x" * 256, "...", "Tenant:user@host.example_1-2"])
def test_a_session_id_that_is_allowed(server: Server, session: str) -> None:
    assert server.chat("fine", session)["session_id"] == session


def test_a_body_that_is_too_large(server: Server) -> None:
    """As announced, or as it comes in chunks; the next request on the same connections is served."""
    start = b'{"message": "large", "session_id": "large", "more": "'
    fitting = start + b"x" * (MAX_BODY - len(start) - 2) + b'"}'
    assert post(server, fitting).json()["response"] == "large"
    refusal = problem(post(server, fitting + b" "), 413, "body_too_large")
    assert str(MAX_BODY) in refusal["detail"]
    chunks = iter([fitting, b" "])
    problem(server.client.post("/chat", content=chunks), 413, "body_too_large")
    assert server.client.post("/chat", content=iter([fitting])).json()["response"] == "large"
    assert len(server.history("large")) == 4


def test_a_huge_announced_body_is_refused_before_it_comes(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        connection.sendall(f"POST /chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000000000\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 413"


# -- paths and methods --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/console/", "/nothing", "/chat/", "/Chat", "/v1", "/v1/runs/", "/v1/runs/a/b", "/v1/sessions/a/x",
             "/%00", "/%ff", "/..%2f..%2fetc/passwd", "//chat"],
)  # fmt: skip
def test_a_path_that_is_not_there(server: Server, path: str) -> None:
    # (as a whole address: of `//chat` alone the client would make the path `/` of a host)
    problem(server.client.get(f"{server.url}{path}"), 404, "not_found")


@pytest.mark.parametrize(("method", "path", "allowed"), [
    ("GET", "/chat", "POST"), ("PUT", "/chat", "POST"), ("OPTIONS", "/chat", "POST"), ("POST", "/health", "GET"),
    ("DELETE", "/history", "GET"), ("PUT", "/v1/runs/x", "PATCH"), ("PUT", "/v1/sessions/x", "DELETE"),
    ("POST", "/readyz", "GET"),
])  # fmt: skip
def test_a_method_that_a_path_does_not_take(server: Server, method: str, path: str, allowed: str) -> None:
    response = server.client.request(method, path)
    problem(response, 405, "method_not_allowed")
    assert allowed in response.headers["allow"]


@pytest.mark.parametrize("run_id", ["run_1", "x", "%00", "%ff", "x" * 5000, "run_0'--"])
def test_an_unknown_run(server: Server, run_id: str) -> None:
    problem(server.client.get(f"/v1/runs/{run_id}"), 404, "not_found")


def test_the_probes(server: Server) -> None:
    assert server.client.get("/livez").status_code == 200
    assert server.client.get("/readyz").json() == {"status": "ready"}
    assert server.client.head("/health").status_code == 200
    health = server.health()
    assert (health["status"], health["auth"], health["ready"]) == ("healthy", "none", True)
    assert (health["stalled"], health["held"], health["agent_id"]) == (0, 0, "strandline")
    assert "session" not in json.dumps(health).replace("locked_sessions", "")


# -- limits -------------------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_continues(server: Server, at: Checkpoints) -> None:
    """429 with the place and the estimate, before anything is kept; what waits is answered, then there is room."""
    server.chat("before", "full")
    at.hold("full-1 model 0")
    requests = server.line_up("full-1", "full-2", "full-3", session_id="full")
    response = server.client.post("/chat", json={"message": "full-4", "session_id": "full"})
    refusal = problem(response, 429, "queue_full")
    assert int(response.headers["retry-after"]) >= 1
    assert refusal["position"] == 3
    assert refusal["estimated_wait_s"] >= 0
    assert server.health()["queue_depth"] == 2
    assert server.chat("elsewhere", "elsewhere")["status"] == "success"
    at.release()
    assert [each.result(DEADLINE_S).json()["response"] for each in requests] == ["full-1", "full-2", "full-3"]
    assert server.chat("full-5", "full")["response"] == "full-5"
    assert texts(server.history("full"), "user") == ["before", "full-1", "full-2", "full-3", "full-5"]


def test_a_full_server_refuses_requests_that_would_wait(server: Server, at: Checkpoints) -> None:
    """503 in whatever session; one whose session is free does not wait, so it is served."""
    at.hold("s1-1 model 0", "s2-1 model 0", "s3-1 model 0")
    requests = server.line_up("s1-1", "s1-2", "s1-3", session_id="s1")
    requests += server.line_up("s2-1", "s2-2", "s2-3", session_id="s2")
    requests += server.line_up("s3-1", session_id="s3")
    response = server.client.post("/chat", json={"message": "s3-2", "session_id": "s3"})
    refusal = problem(response, 503, "server_full")
    assert int(response.headers["retry-after"]) == 5
    assert refusal["position"] == 1
    assert server.chat("s4-1", "s4")["response"] == "s4-1"
    at.release()
    assert {each.result(DEADLINE_S).status_code for each in requests} == {200}
    assert texts(server.history("s3"), "user") == ["s3-1"]
    assert server.chat("s3-3", "s3")["response"] == "s3-3"


# -- who may ask --------------------------------------------------------------------------------------


def test_a_foreign_host_or_origin_is_refused(server: Server) -> None:
    """A web page must not drive a local agent, by its own name for this address or by a request across origins."""
    own = server.url.removeprefix("http://")
    port = own.split(":")[1]
    for host in (own, f"localhost:{port}", "LocalHost", f"[::1]:{port}"):
        assert chat_as(server, {"Host": host}).status_code == 200, host
        assert chat_as(server, {"Host": host, "Origin": f"http://{host}"}).status_code == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        problem(chat_as(server, {"Host": host}), 403, "foreign")
        problem(chat_as(server, {"Host": host, "Origin": f"http://{host}"}), 403, "foreign")
        problem(server.client.get("/history", headers={"Host": host}), 403, "foreign")
    for origin in (
        "http://evil.example",
        "null",
        f"http://localhost:{port}",
        f"http://{own}.evil.example",
        f"http://{own}@evil.example",
        f"http://{own}/",
        "http://[x",
        "x",
    ):
        problem(chat_as(server, {"Origin": origin}), 403, "foreign")
    for probe in ("/health", "/livez", "/readyz"):
        assert server.client.get(probe, headers={"Host": "evil.example", "Origin": "null"}).status_code == 200
    assert len(server.history("guest")) == 16


def chat_as(server: Server, headers: dict[str, str]) -> httpx.Response:
    return server.client.post("/chat", json={"message": "guest", "session_id": "guest"}, headers=headers)


# -- the report of a run ------------------------------------------------------------------------------


def wait_for(server: Server, run_id: str, preference: str) -> httpx.Response:
    return server.client.get(f"/v1/runs/{run_id}", headers={"Prefer": preference}).raise_for_status()


def moment(text: str) -> datetime:
    """Return an RFC 3339 time in UTC as a datetime."""
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def test_a_run_in_all_its_states(server: Server, at: Checkpoints) -> None:
    """Waiting with its place, in the model, in a tool, ended with its answer."""
    server.chat("zero", "states")
    at.hold("first model 0", "second model 0", "second a")
    requests = server.line_up("first", "second a", "third", session_id="states")
    second, third = (run.run_id for run in server.stored()[-2:])
    run = server.run(third)
    assert (run["status"], run["phase"], run["position"]) == ("queued", "waiting", 2)
    assert run["estimated_wait_s"] >= 0
    assert (run["started_at"], run["ended_at"], run["attempt"], run["priority"]) == (None, None, 0, 3)
    assert (run["output"], run["message"], run["error"], run["held"], run["metadata"]) == ("", None, None, False, {})

    at.release("first model 0")
    at.reached("second model 0")
    run = server.run(second)
    assert (run["status"], run["phase"], run["position"], run["attempt"]) == ("running", "model", None, 1)
    at.release("second model 0")
    at.reached("second a")
    assert server.run(second)["phase"] == "tool work"
    assert server.run(third)["position"] == 1

    # `wait` gives up after its time with the run as it is, and answers as soon as it has ended.
    begun = time.monotonic()
    response = wait_for(server, second, "respond-async, wait=1")
    assert time.monotonic() - begun >= 1
    assert response.headers["preference-applied"] == "wait=1"
    assert response.json()["status"] == "running"
    assert wait_for(server, second, "wait=0").json()["status"] == "running"
    assert "preference-applied" not in wait_for(server, second, "wait=soon").headers
    waiters: list[Future[httpx.Response]] = [
        server.submit(wait_for, server, run_id, "wait=20") for run_id in (second, third, third)
    ]
    at.release()
    ended = [waiter.result(DEADLINE_S).json() for waiter in waiters]
    assert [(run["status"], run["phase"], run["output"]) for run in ended] == [
        ("succeeded", None, "second: did a"), ("succeeded", None, "third"), ("succeeded", None, "third")
    ]  # fmt: skip
    run = ended[0]
    assert moment(run["created_at"]) <= moment(run["started_at"]) <= moment(run["ended_at"])
    assert moment(run["ended_at"]) - moment(run["started_at"]) < timedelta(seconds=DEADLINE_S)
    assert run["message"]["content"] == [{"text": "second: did a"}]
    assert wait_for(server, second, "wait=20").json() == run
    assert [each.result(DEADLINE_S).json()["run_id"] for each in requests[1:]] == [second, third]


def test_a_session_can_be_deleted(server: Server, at: Checkpoints) -> None:
    """Not while it has work; then it is gone, runs and all, and begins anew."""
    problem(server.client.delete("/v1/sessions/gone"), 404, "not_found")
    problem(server.client.delete("/v1/sessions/a b"), 422, "invalid")
    at.hold("gone-1 model 0")
    requests = server.line_up("gone-1", session_id="gone")
    problem(server.client.delete("/v1/sessions/gone"), 409, "session_busy")
    at.release()
    run_id = requests[0].result(DEADLINE_S).json()["run_id"]
    assert server.client.delete("/v1/sessions/gone").status_code == 204
    assert server.history("gone") == []
    problem(server.client.get(f"/v1/runs/{run_id}"), 404, "not_found")
    server.chat("gone-2", "gone")
    assert texts(server.history("gone"), "user") == ["gone-2"]


def test_nothing_was_written_to_the_log_that_is_none_of_its_business(server: Server) -> None:
    """What guests do wrong is answered, not logged as an error of the server's."""
    assert "ERROR" not in server.stderr, server.stderr


def test_estimates_are_null_until_runs_have_ended(at: Checkpoints, tmp_path: Path) -> None:
    with serving(
        TARGETS / "agent.py", "--max-queued-per-session", "1", folder=tmp_path, variables=at.environment
    ) as fresh:
        at.hold("fresh-1 model 0")
        fresh.line_up("fresh-1", "fresh-2")
        assert fresh.run(fresh.stored()[1].run_id)["estimated_wait_s"] is None
        refusal = problem(fresh.client.post("/chat", json={"message": "fresh-3"}), 429, "queue_full")
        assert refusal["estimated_wait_s"] is None
        at.release()

"""Clients that hang up, over real sockets: their runs continue, unless requested otherwise."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, serving, until

pytestmark = pytest.mark.usefixtures("nothing_left_behind")

AGENT = TARGETS / "agent.py"


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("gone")
    with serving(AGENT, "--cancel-grace", "0.5", folder=folder, variables=at.environment) as made:
        yield made


def connected(server: Server, method: str, path: str, headers: str = "", **body: Any) -> socket.socket:
    """Send a request and return its connection, to be hung up."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    content = json.dumps(body).encode() if body else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return connection


def lost(server: Server) -> int:
    return int(server.health()["lost_clients"])


def run_of(server: Server, session_id: str) -> dict[str, Any]:
    """Return the latest run of a session."""
    runs = server.client.get(f"/v1/sessions/{session_id}/runs").json()["runs"]
    run: dict[str, Any] = runs[0]
    return run


@pytest.mark.parametrize("route", ["chat", "runs", "attached", "later"])
def test_a_run_that_executes_is_cancelled_when_its_client_hangs_up(server: Server, at: Checkpoints, route: str) -> None:
    """Whether it waits in `/chat`, in the run API, under the same key as another one, or for a run that is there."""
    session, text = f"c-{route}", f"{route} ?a"
    options = {"on_disconnect": "cancel"}
    runs = f"/v1/sessions/{session}/runs"
    if route == "chat":
        connection = connected(server, "POST", "/chat", message=text, session_id=session, **options)
    elif route == "later":
        answer = server.client.post(runs, json={"input": text, **options})
        assert answer.status_code == 202
        connection = connected(server, "GET", answer.headers["location"], "Prefer: wait=60\r\n")
    else:
        headers = "Prefer: wait=60\r\nIdempotency-Key: k\r\n"
        connection = connected(server, "POST", runs, headers, input=text, **options)
        if route == "attached":
            at.reached(f"{route} ?a")
            before = lost(server)
            connection.close()
            connection = connected(server, "POST", runs, headers, input=text, **options)
            until(lambda: lost(server) == before + 1, "the first client is missed")
            with pytest.raises(AssertionError):
                until(lambda: run_of(server, session)["cancel_requested"], "cancelled", deadline_s=2.5)
    at.reached(f"{route} ?a")
    before = lost(server)
    connection.close()
    until(lambda: lost(server) == before + 1, "the client is missed")
    until(lambda: run_of(server, session)["status"] == "cancelled", "the run is cancelled")


def test_a_waiting_run_is_cancelled_on_request_and_an_executing_one_continues(server: Server, at: Checkpoints) -> None:
    at.hold("q1 model 0")
    options = {"session_id": "queued", "on_disconnect": "cancel_if_queued"}
    executes = connected(server, "POST", "/chat", message="q1", **options)
    at.reached("q1 model 0")
    waits = connected(server, "POST", "/chat", message="q2", **options)
    until(lambda: server.health()["queue_depth"] == 1, "one waits")
    for connection in (executes, waits):
        connection.close()
    until(lambda: server.health()["queue_depth"] == 0, "it waits no longer")
    at.release()
    until(lambda: server.chat("q3", "queued"), "the queue continues")
    runs = server.client.get("/v1/sessions/queued/runs").json()["runs"]
    assert [run["status"] for run in runs] == ["succeeded", "succeeded", "cancelled"]


def test_a_run_continues_without_its_client_by_default(server: Server, at: Checkpoints) -> None:
    at.hold("n1 model 0")
    connection = connected(server, "POST", "/chat", message="n1", session_id="on")
    at.reached("n1 model 0")
    waits = connected(server, "POST", "/chat", message="n2", session_id="on")
    until(lambda: server.health()["queue_depth"] == 1, "one waits")
    before = lost(server)
    connection.close()
    until(lambda: lost(server) == before + 1, "the one whose run executes is missed")
    waits.close()
    until(lambda: lost(server) == before + 2, "the one that waits is missed")
    at.release()
    until(lambda: run_of(server, "on")["output"] == "n2" or server.health()["running"] == 0, "both are done")
    server.quiet()
    assert [run["status"] for run in server.client.get("/v1/sessions/on/runs").json()["runs"]] == ["succeeded"] * 2

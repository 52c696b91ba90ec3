"""Strandline in an app of somebody's own, under a real uvicorn, and in a script of somebody's own."""

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.mounted import MountedServer, mounted
from acceptance.server import DEADLINE_S, TARGETS, Server, environment, texts, tool_results, until
from strandline._history import UNKNOWN_OUTCOME

IN_TARGETS = ("--app-dir", str(TARGETS))
SCRIPT = f"""
import sys
import strandline
sys.exit(strandline.serve({str(TARGETS / "agent.py")!r}, port=0, journal="sqlite:journal.db"{{more}}))
"""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def answered(pending: "Future[httpx.Response]") -> str:
    response = pending.result(DEADLINE_S)
    assert response.status_code == 200, response.text
    return str(response.json()["response"])


# -- an app that is mounted ----------------------------------------------------------------------------


def test_requests_to_a_session_wait_their_turn_behind_a_middleware_of_the_app(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        first, second = server.line_up("one", "two", session_id="ada")
        assert server.health()["queue_depth"] == 1
        at.release()
        assert [answered(first), answered(second)] == ["one", "two"]
        assert first.result().headers["x-stamped"] == "yes"
        assert texts(server.history("ada"), "assistant") == ["one", "two"]


def test_a_client_that_leaves_while_its_run_waits_changes_nothing(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        (first,) = server.line_up("one", session_id="ada")
        port = int(server.url.rpartition(":")[2])
        body = b'{"message": "two", "session_id": "ada"}'
        with socket.create_connection(("127.0.0.1", port)) as leaver:
            leaver.sendall(b"POST /agent/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            leaver.sendall(body)
            until(lambda: server.health()["queue_depth"] == 1, "the run waits")
        at.release()
        assert answered(first) == "one"
        server.quiet()
        assert texts(server.history("ada"), "assistant") == ["one", "two"]


def test_the_apps_own_lifespan_may_start_it(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:beside", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        assert server.client.get(f"{server.url}/own").json() == "mine"
        assert server.chat("one")["response"] == "one"


def test_one_that_was_never_started_says_which_line_is_missing(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:forgotten", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        for response in (
            server.client.post("/chat", json={"message": "one"}),
            server.client.get("/health"),
            server.client.get("/readyz"),
        ):
            assert response.headers["content-type"] == "application/problem+json"
            assert (response.status_code, response.json()["code"]) == (503, "not_started")
            assert "FastAPI(lifespan=agent.lifespan)" in response.json()["detail"]
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.parametrize(("name", "flags"), [("mounted", ("--root-path", "/shop")), ("rooted", ())])
def test_where_a_run_is_found_takes_in_what_a_proxy_and_the_app_put_before_it(
    name: str, flags: tuple[str, ...], at: Checkpoints, tmp_path: Path
) -> None:
    """Whether the server or the app knows what a proxy strips."""
    with mounted(f"mounting:{name}", *IN_TARGETS, *flags, folder=tmp_path, variables=at.environment) as server:
        assert server.client.get("/readyz", headers={"Host": "evil.example"}).status_code == 200
        at.hold("one model 0")
        _, second = server.line_up("one", "two", session_id="ada")
        server.terminate()
        later = second.result(DEADLINE_S)
        assert later.status_code == 202
        assert later.headers["location"] == f"/shop/agent/v1/runs/{later.json()['run_id']}"
        at.release()
        server.ended()


def test_other_protocols_say_where_a_run_is_found_as_their_clients_see_it(at: Checkpoints, tmp_path: Path) -> None:
    """When the server stops, in texts too, whole and in streams: with what the app is mounted at."""
    flags = ("--root-path", "/shop")
    with mounted("mounting:mounted", *IN_TARGETS, *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        server.line_up("one", session_id="ada")
        post, bodies = server.client.post, []
        asked = {"role": "user", "content": "x"}
        said = {"messages": [asked], "user": "ada"}
        runtime = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "ada"}
        pending = [
            server.submit(post, "/v1/chat/completions", json=said),
            server.submit(post, "/v1/chat/completions", json={**said, "stream": True}),
            server.submit(
                post, "/invocations", json={"prompt": "x"}, headers={**runtime, "Accept": "text/event-stream"}
            ),
            server.submit(post, "/agui", json={"threadId": "ada", "runId": "1", "messages": [{"id": "m", **asked}]}),
        ]
        until(lambda: server.health()["queue_depth"] == len(pending), "all wait")
        server.terminate()
        bodies = [each.result(DEADLINE_S).text for each in pending]
        at.release()
        server.ended()
        for body in bodies:
            assert re.search(r"see /shop/agent/v1/runs/run_", body), body


def test_how_to_answer_is_shown_with_the_clients_path(at: Checkpoints, tmp_path: Path) -> None:
    """What waits for a person says where the answer goes with what the app is mounted at, in every stream."""
    calls: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/v1/sessions/ada/runs", {"input": "x"}),
        ("GET", "/v1/events?session_id=ada", None),
        (
            "POST",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "user": "ada", "stream": True},
        ),
        ("POST", "/invocations", {"prompt": "x"}),
    ]
    flags = ("--root-path", "/shop")
    headers = {"Accept": "text/event-stream", "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "ada"}
    with mounted("mounting:mounted", *IN_TARGETS, *flags, folder=tmp_path, variables=at.environment) as server:
        server.client.post("/chat", json={"message": "go @pay", "session_id": "ada"})
        for method, path, body in calls:
            with server.client.stream(method, path, json=body, headers=headers) as stream:
                if body is None:
                    server.client.post("/v1/sessions/ada/runs", json={"input": "x"})
                how = next(line for line in stream.iter_lines() if "/v1/sessions/ada/runs" in line)
            assert "/shop/agent/v1/sessions/ada/runs" in how, path


def test_a_page_with_a_name_of_its_own_cannot_drive_an_app_on_loopback(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        body = {"message": "one"}
        foreign = server.client.post("/chat", json=body, headers={"Host": "evil.example"})
        assert (foreign.status_code, foreign.json()["code"]) == (403, "foreign")
        assert "allowed_hosts" in foreign.json()["detail"]
        page = server.client.post("/chat", json=body, headers={"Origin": "http://evil.example"})
        assert (page.status_code, page.json()["code"]) == (403, "foreign")
        assert server.client.get("/readyz", headers={"Host": "evil.example"}).status_code == 200
        assert server.client.post("/chat", json=body, headers={"Host": "localhost"}).status_code == 200
    variables = {**at.environment, "STRANDLINE_ALLOWED_HOSTS": "shop.example"}
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=variables) as server:
        assert server.client.post("/chat", json=body, headers={"Host": "shop.example"}).status_code == 200


def test_killed_it_breaks_the_connections_and_continues_after_the_start(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=at.environment) as server:
        at.hold("one a")
        requests = server.line_up("one a", "two", session_id="ada")
        at.reached("one a")
        server.kill()
        for each in requests:
            assert isinstance(each.exception(DEADLINE_S), httpx.RemoteProtocolError)
        at.release()
        server.start()
        server.quiet()
        history = server.history("ada")
        assert texts(history, "user") == ["one a", "two"]
        assert tool_results(history) == [UNKNOWN_OUTCOME]
        assert texts(history, "assistant")[-1] == "two"
        assert at.steps.count("one a") == 1


@pytest.mark.parametrize("name", ["mounted", "alone"])
def test_a_run_that_outlasts_the_grace_does_not_keep_the_server_from_leaving(
    name: str, at: Checkpoints, tmp_path: Path
) -> None:
    """uvicorn waits for every answer before it stops an app; ours starts to drain at the signal, and answers."""
    place = "" if name == "alone" else "/agent"
    server = MountedServer(f"mounting:{name}", *IN_TARGETS, folder=tmp_path, variables=at.environment, mounted_at=place)
    try:
        server.start()
        at.hold("one model 0")
        requests = server.line_up("one", "two", session_id="ada")
        server.terminate()
        answers = [each.result(DEADLINE_S) for each in requests]
        assert [each.status_code for each in answers] == [202, 202]
        at.release()  # (a thread of the agent's own, for which Python would wait)
        assert server.ended() == -signal.SIGTERM
        server.start()
        for each, text in zip(answers, ["one", "two"], strict=True):
            url = f"{server.url}{each.headers['location']}"
            run = server.client.get(url, headers={"Prefer": "wait=20"}).json()
            assert (run["status"], run["output"]) == ("succeeded", text)
    finally:
        server.close()


# -- an app that is served itself ----------------------------------------------------------------------


def test_served_itself_it_lives_as_the_server_says(at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:alone", *IN_TARGETS, folder=tmp_path, variables=at.environment, mounted_at="") as server:
        assert server.chat("one")["response"] == "one"
        server.terminate()
        server.ended()
        server.start()
        assert texts(server.history(), "assistant") == ["one"]


@pytest.mark.parametrize("name", ["mounted", "alone"])
def test_a_second_process_on_the_same_journal_refuses_and_says_why(name: str, at: Checkpoints, tmp_path: Path) -> None:
    with mounted("mounting:mounted", *IN_TARGETS, folder=tmp_path, variables=at.environment):
        done = subprocess.run(
            [sys.executable, "-m", "uvicorn", f"mounting:{name}", *IN_TARGETS, "--port", "0"],
            cwd=tmp_path, env=environment(at.environment), capture_output=True, text=True, timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip
        assert done.returncode == 3
        assert "The journal is in use by process" in done.stderr
        assert "start the server with one worker" in done.stderr
        if name == "alone":
            assert "Traceback" not in done.stderr


def test_of_two_workers_one_serves(at: Checkpoints, tmp_path: Path) -> None:
    server = MountedServer("mounting:mounted", *IN_TARGETS, "--workers", "2", folder=tmp_path, variables=at.environment)
    try:
        server.start()
        until(lambda: "start the server with one worker" in server.stderr, f"one refuses\n{server.stderr}")
        assert [server.chat(each)["response"] for each in ("one", "two")] == ["one", "two"]
        server.terminate()
        server.ended()
    finally:
        server.close()


# -- a server in a script ------------------------------------------------------------------------------


class Script(Server):
    """A script that calls `strandline.serve`."""

    def command(self) -> list[str]:
        return [sys.executable, *self._target]


def script(folder: Path, more: str = "") -> Path:
    file = folder / "serve_it.py"
    file.write_text(SCRIPT.format(more=more))
    return file


def test_a_script_serves_until_it_is_stopped(at: Checkpoints, tmp_path: Path) -> None:
    server = Script(script(tmp_path), folder=tmp_path, variables=at.environment)
    try:
        server.start()
        at.hold("one model 0")
        requests = server.line_up("one", "two")
        server.terminate()
        until(lambda: server.client.get("/readyz").status_code == 503, "it stops")
        at.release()
        assert answered(requests[0]) == "one"
        assert requests[1].result(DEADLINE_S).status_code == 202
        assert server.ended() == 0
    finally:
        server.close()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (", max_runing=3", "strandline: `max_runing` is not a setting; did you mean `max_running`?\n"),
        (", max_running=0", "max_running is 0 (given to strandline.serve); it must be a whole number"),
        (', host="0.0.0.0"', "set STRANDLINE_ALLOW_ANONYMOUS=1"),
        (', history="session_manager", config="none.toml"', "none.toml cannot be read"),
    ],
)
def test_what_keeps_a_script_from_serving_is_one_paragraph(more: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script(tmp_path, more))],
        cwd=tmp_path, env=environment({}), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert expected in done.stderr
    assert re.fullmatch(r"strandline: [^\n]+\n", done.stderr), done.stderr
    assert not (tmp_path / "journal.db").exists()


def test_the_package_alone_is_next_to_nothing_to_import() -> None:
    code = "import sys, strandline; print(sorted(m for m in sys.modules if m.partition('.')[0] in {'strandline', 'strands', 'starlette', 'msgspec'}))"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    assert done.stdout.strip() == "['strandline']"

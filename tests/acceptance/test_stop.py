"""SIGTERM at known places: executing runs may finish, the rest continues after the restart, and every client knows."""

import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.events import listening
from acceptance.server import DEADLINE_S, TARGETS, Server, ran, serving, texts, tool_results, until
from strandline._exits import EXITED_AT_ONCE
from strandline._history import UNKNOWN_OUTCOME

STOPPED = "(This run ended early: stopped.)\nthe server was stopped"
SLOWLY_MADE = """
import time
from strands import Agent
from strandline.providers import load_model

def make_agent():
    time.sleep(0.5)
    return Agent(model=load_model("scripted"), callback_handler=None)
"""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def accepted_for_later(pending: "Future[httpx.Response]", session_id: str) -> str:
    """Check that a client got 202 for a run that continues later, and return the run's URL."""
    response = pending.result(DEADLINE_S)
    body = response.json()
    assert response.status_code == 202, response.text
    assert (body["status"], body["session_id"]) == ("queued", session_id)
    assert response.headers["location"] == f"/v1/runs/{body['run_id']}"
    return str(response.headers["location"])


def answer(pending: "Future[httpx.Response]") -> dict[str, Any]:
    response = pending.result(DEADLINE_S)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def draining(server: Server) -> None:
    """Ask the server to stop, and return when it does."""
    server.terminate()
    until(lambda: server.client.get("/readyz").status_code == 503, "not ready")


def test_a_hangup_drains_as_sigterm_does(at: Checkpoints, tmp_path: Path) -> None:
    """The terminal in which it was started is gone: what executes is answered, what waits runs later."""
    with serving(TARGETS / "agent.py", "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        one, two = server.line_up("one", "two", session_id="s")
        at.reached("one model 0")
        server.signal(signal.SIGHUP)
        waited = accepted_for_later(two, "s")
        at.release()
        assert answer(one)["response"] == "one"
        assert server.ended() == 0
        server.start()
        assert server.run(waited.rpartition("/")[2], wait_s=20)["status"] == "succeeded"


def test_a_server_that_was_started_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    """As `nohup` starts it, which has SIGHUP ignored."""
    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message\n")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        server = Server("agent.py:answer", folder=tmp_path, installed=True)
        server.start()
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        server.signal(signal.SIGHUP)
        assert server.chat("still there")["response"] == "still there"
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()


def test_what_executes_finishes_within_the_grace(at: Checkpoints, tmp_path: Path) -> None:
    """Runs in the model and in a tool answer their clients; waiting ones get a URL, and execute later."""
    with serving(TARGETS / "agent.py", "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("model-1 model 0", "tool-1 a", "tool-1 b")
        model = server.line_up("model-1 c", "model-2", "model-3", session_id="model")
        tool = server.line_up("tool-1 a+b ~c", "tool-2", session_id="tool")
        at.reached("model-1 model 0", "tool-1 a", "tool-1 b")
        draining(server)
        waited = [accepted_for_later(each, "model") for each in model[1:]] + [accepted_for_later(tool[1], "tool")]

        # While it drains, it is alive, says what it does, and accepts nothing.
        probe = server.client.get("/readyz")
        assert probe.json() == {"status": "draining"}
        assert int(probe.headers["retry-after"]) >= 1
        assert server.client.get("/livez").status_code == 200
        assert server.health()["running"] == 2
        refusal = server.client.post("/chat", json={"message": "late", "session_id": "late"})
        assert (refusal.status_code, refusal.json()["code"]) == (503, "draining")
        assert int(refusal.headers["retry-after"]) >= 1
        assert [server.client.get(each).json()["status"] for each in waited] == ["queued"] * 3
        assert server.client.get(waited[0], headers={"Prefer": "wait=20"}).json()["status"] == "queued"
        server.terminate()  # asking twice changes nothing

        at.release()
        assert answer(model[0])["response"] == "model-1: did c"
        assert answer(tool[0])["response"] == "tool-1: did a, did b, did ~c"
        assert server.ended() == 0
        assert not [step for step in at.steps if step.startswith(("model-2", "model-3", "tool-2"))]

        server.start()
        runs = [server.client.get(each, headers={"Prefer": "wait=20"}).json() for each in waited]
        assert [(run["status"], run["output"]) for run in runs] == [
            ("succeeded", "model-2"), ("succeeded", "model-3"), ("succeeded", "tool-2")
        ]  # fmt: skip
        assert texts(server.history("model"), "user") == ["model-1 c", "model-2", "model-3"]
        assert server.history("late") == []


def test_clients_that_wait_for_a_run_learn_its_state(at: Checkpoints, tmp_path: Path) -> None:
    """Never that the server is unavailable: accepted runs continue, or have a readable outcome."""
    with serving(TARGETS / "agent.py", "--drain-grace", "0.3", folder=tmp_path, variables=at.environment) as server:
        names = [f"given-{number}" for number in range(4)]
        at.hold("tool a", *(f"{name} model 0" for name in names))
        pending = [
            server.submit(_ask_and_wait, server, name, f"{name} {tool}")
            for name, tool in [("tool", "a"), *((name, "b") for name in names)]
        ]
        at.reached("tool a", *(f"{name} model 0" for name in names))
        waiting = server.submit(_ask_and_wait, server, "tool", "behind")
        until(lambda: server.health()["queue_depth"] == 1, "one waits")
        draining(server)
        assert waiting.result(DEADLINE_S).json()["status"] == "queued"
        answers = [each.result(DEADLINE_S) for each in pending]
        assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "failed")] + [
            (202, "queued")
        ] * 4
        assert answers[0].json()["error"]["code"] == "stopped"
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers[1:])
        assert server.ended() == 0


def test_a_run_that_executes_is_waited_for_while_the_server_stops(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "agent.py", "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("q1 model 0")
        run_id = server.client.post("/v1/sessions/s/runs", json={"input": "q1"}).json()["run_id"]
        at.reached("q1 model 0")
        draining(server)
        late = server.submit(server.client.get, f"/v1/runs/{run_id}", headers={"Prefer": "wait=20"})
        with pytest.raises(TimeoutError):
            late.result(0.3)
        at.release()
        assert late.result(DEADLINE_S).json()["status"] == "succeeded"
        assert server.ended() == 0


def test_the_journal_is_open_until_those_that_wait_for_runs_have_read_what_became_of_them(
    at: Checkpoints, tmp_path: Path
) -> None:
    with serving(
        TARGETS / "agent.py", "--drain-grace", "20", folder=tmp_path, variables=at.environment, journal="memory:"
    ) as server:
        at.hold("q1 model 0")
        run = server.client.post("/v1/sessions/s/runs", json={"input": "q1"}).json()
        at.reached("q1 model 0")
        waiting = [
            server.submit(server.client.get, f"/v1/runs/{run['run_id']}", headers={"Prefer": "wait=20"})
            for _ in range(4)
        ]
        draining(server)
        with pytest.raises(TimeoutError):
            waiting[-1].result(0.3)
        at.release()
        answers = [each.result(DEADLINE_S) for each in waiting]
        assert [(answer.status_code, answer.json().get("status")) for answer in answers] == [(200, "succeeded")] * 4
        assert server.ended() == 0


def _ask_and_wait(server: Server, session_id: str, prompt: str) -> httpx.Response:
    headers = {"Prefer": "wait=60"}
    return server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": prompt}, headers=headers)


def test_what_does_not_finish_within_the_grace(at: Checkpoints, tmp_path: Path) -> None:
    """No tool executing: requeued, uncounted, resumed from there. In a tool: stopped, its result unknown."""
    with serving(TARGETS / "agent.py", "--drain-grace", "0.2", folder=tmp_path, variables=at.environment) as server:
        at.hold("model-1 model 0", "between-1 model 1", "gap-1 a ended", "tool-1 b")
        model = server.line_up("model-1 a", "model-2", session_id="model")
        between = server.line_up("between-1 a b", session_id="between")
        gap = server.line_up("gap-1 a b", session_id="gap")
        polite = server.line_up("polite-1 ?a+b ~c", session_id="polite")
        tool = server.line_up("tool-1 a b+~c d", "tool-2", session_id="tool")
        at.reached("model-1 model 0", "between-1 model 1", "gap-1 a ended", "polite-1 ?a", "tool-1 b")
        at.reached("tool-1 ~c ended")
        begun = time.monotonic()
        server.terminate()
        later = [accepted_for_later(each, "model") for each in model] + [accepted_for_later(between[0], "between")]
        later += [
            accepted_for_later(gap[0], "gap"),
            accepted_for_later(polite[0], "polite"),
            accepted_for_later(tool[1], "tool"),
        ]
        stopped = answer(tool[0])
        assert (stopped["status"], stopped["error_code"]) == ("error", "stopped")
        # Although the thread of a sync tool still works.
        assert server.ended() == 0
        assert time.monotonic() - begun < 10
        assert "Traceback" not in server.stderr

        server.start()
        at.release()
        runs = [server.client.get(each, headers={"Prefer": "wait=20"}).json() for each in later]
        assert [(run["status"], run["output"], run["attempt"]) for run in runs] == [
            ("succeeded", "model-1: did a", 1),
            ("succeeded", "model-2", 1),
            ("succeeded", "between-1: did a, did b", 1),
            ("succeeded", "gap-1: did a, did b", 1),
            ("succeeded", "polite-1: did ?a, did b, did ~c", 1),
            ("succeeded", "tool-2", 1),
        ]
        assert texts(server.history("model"), "user") == ["model-1 a", "model-2"]
        assert tool_results(server.history("between")) == ["did a", "did b"]
        run = server.run(stopped["run_id"])
        assert (run["status"], run["error"]["code"]) == ("failed", "stopped")
        messages = server.history("tool")
        assert texts(messages, "user") == ["tool-1 a b+~c d", "tool-2"]
        assert texts(messages, "assistant") == ["Round 0. ", "Round 1. ", STOPPED, "tool-2"]
        assert tool_results(messages) == ["did a", UNKNOWN_OUTCOME, "did ~c"]
        tools = [step for step in at.steps if " model " not in step and not step.endswith("ended")]
        assert sorted(tools) == [
            "between-1 a", "between-1 b", "gap-1 a", "gap-1 b", "model-1 a", "polite-1 ?a", "polite-1 b",
            "polite-1 ~c", "tool-1 a", "tool-1 b", "tool-1 ~c",
        ]  # fmt: skip


def test_a_run_that_cannot_resume_and_does_not_finish_is_stopped(at: Checkpoints, tmp_path: Path) -> None:
    """What a plain function has done cannot be seen, so it is not requeued."""
    with serving(
        TARGETS / "function.py:answer", "--drain-grace", "0", folder=tmp_path, variables=at.environment
    ) as server:
        at.hold("one")
        requests = server.line_up("one", "two")
        at.reached("one")
        server.terminate()
        assert answer(requests[0])["error_code"] == "stopped"
        location = accepted_for_later(requests[1], "default")
        assert server.ended() == 0
        server.start()
        run = server.client.get(location, headers={"Prefer": "wait=20"}).json()
        assert (run["status"], run["output"]) == ("succeeded", "two after 2 messages")
        assert at.steps == ["one", "two"]
        assert texts(server.history(), "assistant")[0] == STOPPED


def test_idleness_counts_from_when_it_is_ready(tmp_path: Path) -> None:
    """However long it takes to make an agent: nobody could ask for anything before."""
    (tmp_path / "agent.py").write_text(SLOWLY_MADE)
    done = ran("serve", "agent.py", "--port", "0", "--idle-timeout-minutes", "0.001", folder=tmp_path)
    assert done.returncode == 0
    assert " at http://" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_leaves_at_once(at: Checkpoints, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing executes: exit code 0, well before the grace is over, also with a connection open."""
    with serving(
        TARGETS / "agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment, installed=True
    ) as server:
        assert server.chat("hello")["status"] == "success"
        begun = time.monotonic()
        server.signal(number)
        assert server.ended() == 0
        assert time.monotonic() - begun < 5


def test_it_leaves_although_user_code_blocks_its_loop(at: Checkpoints, tmp_path: Path) -> None:
    """An async tool that blocks cannot even be asked to stop: its run ends, others continue later."""
    one = ("--workers", "1")  # (with more, only some of the others wait for that loop)
    with serving(
        TARGETS / "blocking.py", *one, "--drain-grace", "0.2", folder=tmp_path, variables=at.environment
    ) as server:
        requests = server.line_up("block 60", "two")
        at.reached("blocks")
        other = server.line_up("three", session_id="other")[0]
        begun = time.monotonic()
        server.terminate()
        assert answer(requests[0])["error_code"] == "stopped"
        later = [accepted_for_later(requests[1], "default"), accepted_for_later(other, "other")]
        assert server.ended() == 0
        assert time.monotonic() - begun < 10
        server.start()
        runs = [server.client.get(each, headers={"Prefer": "wait=20"}).json() for each in later]
        assert [run["output"] for run in runs] == ["answer to two", "answer to three"]
        assert tool_results(server.history()) == [UNKNOWN_OUTCOME]


def test_it_leaves_although_a_client_does_not_finish_its_request(at: Checkpoints, tmp_path: Path) -> None:
    """A connection that is silent in the middle of a body is closed."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
            connection.sendall(f'POST /chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: 60\r\n\r\n{{"mess'.encode())
            server.health()
            begun = time.monotonic()
            server.terminate()
            assert server.ended() == 0
            assert time.monotonic() - begun < 10
            assert b"200" not in connection.recv(1000)


def test_stopped_at_any_instant(at: Checkpoints, tmp_path: Path) -> None:
    """Under load: accepted runs are answered or continue later, other requests are refused, nothing fails."""
    with serving(
        TARGETS / "function.py:answer", "--drain-grace", "20", folder=tmp_path, variables=at.environment
    ) as server:
        responses: list[httpx.Response] = []

        def ask_on(name: str, client: httpx.Client) -> httpx.Response:
            number = 0
            while True:
                body = {"message": f"{name}-{number}", "session_id": f"{name}-{number % 7}"}
                responses.append(client.post("/chat", json=body))
                number += 1

        askers = [server.submit(ask_on, f"asker-{number}", server.client) for number in range(24)]
        until(lambda: len(responses) > 100, f"a hundred answers\n{server.stderr}")
        server.terminate()
        assert server.ended() == 0
        assert all(isinstance(asker.exception(0), httpx.HTTPError) for asker in askers), askers
        assert "Traceback" not in server.stderr, server.stderr
        assert {response.status_code for response in responses} <= {200, 202, 503}
        before = server.stored()
        assert {run.status for run in before} <= {"queued", "succeeded"}
        accepted = {response.json()["run_id"] for response in responses if response.status_code != 503}
        assert accepted <= {run.run_id for run in before}
        server.start()
        server.quiet()
        assert [(run.run_id, run.status, run.attempt) for run in server.stored()] == [
            (run.run_id, "succeeded", 1) for run in before
        ]
        assert len(at.steps) == len(set(at.steps)) == len(before)


def test_a_second_interrupt_leaves_at_once_and_the_run_is_taken_up_again(at: Checkpoints, tmp_path: Path) -> None:
    """Ctrl-C twice does not wait for the drain, and loses nothing."""
    with serving(TARGETS / "agent.py", "--drain-grace", "60", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 0")
        server.line_up("one", "two")
        at.reached("one model 0")
        server.signal(signal.SIGINT)
        until(lambda: server.client.get("/readyz").status_code == 503, "not ready")
        begun = time.monotonic()
        server.signal(signal.SIGINT)
        assert server.ended() == 130
        assert EXITED_AT_ONCE in server.stderr
        assert time.monotonic() - begun < 5
        at.release("one model 0")
        server.start()
        server.quiet()
        assert texts(server.history(), "user") == ["one", "two"]


def test_open_streams_end_and_keep_no_server_from_leaving(at: Checkpoints, tmp_path: Path) -> None:
    """Streams of waiting runs end at once, others after their last event; even if a client reads nothing."""
    with serving(TARGETS / "agent.py", "--drain-grace", "20", folder=tmp_path, variables=at.environment) as server:
        at.hold("long model 0")
        long = server.client.post("/v1/sessions/s/runs", json={"input": "long"}).json()["run_id"]
        at.reached("long model 0")
        waits = server.client.post("/v1/sessions/s/runs", json={"input": "waits"}).json()["run_id"]
        with (
            listening(server, "GET", f"/v1/runs/{long}/events") as executing,
            listening(server, "GET", f"/v1/runs/{waits}/events") as waiting,
            listening(server, "GET", "/v1/events") as changes,
            reading_nothing(server, f"/v1/runs/{long}/events"),
        ):
            waiting.until("run.queued")
            draining(server)
            assert [each.type for each in waiting.rest()] == ["run.queued"]
            at.release()
            assert executing.rest()[-1].type == "run.finished"
            assert [each.type for each in changes.rest()][-1] == "run.finished"
            began = time.monotonic()
            assert server.ended() == 0
            assert time.monotonic() - began < 10
        server.start()
        with listening(server, "GET", f"/v1/runs/{waits}/events", after=waiting.last_id) as ear:
            assert ear.rest()[-1].data["output"] == "waits"


@contextmanager
def reading_nothing(server: Server, path: str) -> Iterator[None]:
    """Ask for something and read nothing of it."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        yield

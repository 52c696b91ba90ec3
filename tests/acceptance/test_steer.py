"""Runs that steer the one that executes: a real agent hears them before its next model call, whatever dies."""

import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.events import listening
from acceptance.server import TARGETS, Server, serving, texts, until
from acceptance.test_workers import workers
from strandline.client import Client, RunFinished, RunJoined, RunQueued, TextDelta

TARGET = TARGETS / "steered.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def accepted(server: Server, text: str, session_id: str = "s", **more: Any) -> dict[str, Any]:
    """Submit a run, and return it as it was accepted."""
    response = server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": text, **more})
    assert response.status_code == 202, response.text
    body: dict[str, Any] = response.json()
    return body


def steer(server: Server, text: str, session_id: str = "s", **more: Any) -> dict[str, Any]:
    """Submit a run that steers."""
    return accepted(server, text, session_id, if_busy="steer", **more)


def said(server: Server, session_id: str = "s") -> str:
    """Return all that the user has said in history."""
    return "\n".join(texts(server.history(session_id), "user"))


def ended(server: Server, *runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return these runs once each has ended."""
    return [server.run(run["run_id"], wait_s=60) for run in runs]


def test_an_agent_hears_what_is_said_meanwhile_before_its_next_model_call(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment, installed=True) as server:
        at.hold("q a")
        host = accepted(server, "plan q a b")
        at.reached("q a")
        first = steer(server, "be brief", expected_run_id=host["run_id"])
        assert (first["status"], first["join"], first["joined"]) == ("queued", "pending", host["run_id"])
        assert (first["position"], first["why"]["code"], first["if_busy"]) == (None, "joins", "steer")
        second = steer(server, "and kind", metadata={"n": 2})
        at.hold("q model 1")
        at.release("q a")
        at.reached("q model 1")
        assert [server.run(run["run_id"])["join"] for run in (first, second)] == ["applied", "applied"]
        assert server.run(first["run_id"])["status"] == "running"
        for path, body in (("cancel", {}), ("move", {"priority": 1})):
            refusal = server.client.post(f"/v1/runs/{first['run_id']}/{path}", json=body)
            assert (refusal.status_code, refusal.json()["code"]) == (409, "too_late")
        at.release()
        hosts, *joined = ended(server, host, first, second)
        assert hosts["output"] == "q: be brief; and kind"
        for run in joined:
            assert (run["status"], run["output"], run["usage"]) == ("succeeded", hosts["output"], None)
            assert (run["join"], run["joined"], run["attempt"]) == ("applied", host["run_id"], 0)
        assert hosts["usage"] is not None
        assert said(server).count("be brief") == said(server).count("and kind") == 1
        late = server.client.post(
            "/v1/sessions/s/runs", json={"input": "x", "if_busy": "steer", "expected_run_id": host["run_id"]}
        )
        assert (late.status_code, late.json()["code"]) == (409, "not_running")
        alone = steer(server, "no one there")
        (alone,) = ended(server, alone)
        assert (alone["output"], alone["join"], alone["joined"]) == ("alone: no one there", "became_next_run", None)


def test_if_no_model_call_comes_any_more_it_is_the_next_run(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        at.hold("q model 1")
        host = accepted(server, "plan q a")
        at.reached("q model 1")
        others = accepted(server, "others"), accepted(server, "more")
        late = steer(server, "too late for q")
        at.release()
        host, late, *_ = ended(server, host, late, *others)
        assert host["output"] == "q: "
        assert (late["output"], late["join"]) == ("alone: too late for q", "became_next_run")
        steps = [step for step in at.steps if step.startswith("alone")]
        assert steps == ["alone too late for q", "alone others", "alone more"]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_with_runs_that_joined_and_runs_that_wait_to(at: Checkpoints, tmp_path: Path, workers: int) -> None:
    """Each ends once, with the host that it has reached, and is in history once; what waited is heard after all."""
    flags = ("--workers", str(workers)) if workers else ()
    with serving(TARGET, *flags, folder=tmp_path, variables=at.environment) as server:
        at.hold("q a")
        host = accepted(server, "plan q a b c")
        at.reached("q a")
        one, two = steer(server, "say-1"), steer(server, "say-2")
        at.hold("q model 1")
        at.release("q a")
        at.reached("q model 1")
        three = steer(server, "say-3")
        server.kill()
        server.start()
        at.reached("q model 1", times=2)
        assert [server.run(run["run_id"])["join"] for run in (one, two, three)] == ["applied"] * 3
        at.hold("q model 3")
        at.release("q model 1")
        at.reached("q model 3")
        four = steer(server, "say-4")
        server.kill()
        at.release()
        server.start()
        host, *joined = ended(server, host, one, two, three, four)
        assert host["output"] == "q: say-1; say-2; say-3; say-4"
        assert {run["output"] for run in joined} == {host["output"]}
        assert [said(server).count(f"say-{number}") for number in (1, 2, 3, 4)] == [1, 1, 1, 1]
        assert [at.steps.count(f"q {name}") for name in "abc"] == [1, 1, 1]


def test_killed_in_a_tool_the_host_crashes_with_what_it_heard_and_the_rest_runs(
    at: Checkpoints, tmp_path: Path
) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        at.hold("q model 0", "q b")
        host = accepted(server, "plan q a b")
        at.reached("q model 0")
        at.hold("q a")
        at.release("q model 0")
        at.reached("q a")
        heard = steer(server, "heard")
        at.release("q a")
        at.reached("q b")
        waits = steer(server, "waits")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        host, heard, waits = ended(server, host, heard, waits)
        assert host["error"]["code"] == heard["error"]["code"] == "crashed"
        assert (waits["output"], waits["join"]) == ("alone: waits", "became_next_run")
        assert said(server).count("heard") == said(server).count("waits") == 1


def test_killed_again_and_again_each_is_heard_and_ends_once(at: Checkpoints, tmp_path: Path) -> None:
    """Kills come while steers arrive, are stored, and reach an agent that nothing holds."""
    texts_of: dict[str, str] = {}

    def send(server: Server, text: str) -> httpx.Response:
        body = {"input": text, "if_busy": "enqueue" if text.startswith("plan ") else "steer"}
        headers = {"Idempotency-Key": f'"{text}"'}
        return server.client.post("/v1/sessions/s/runs", json=body, headers=headers)

    with serving(TARGET, "--max-attempts", "20", folder=tmp_path, variables=at.environment) as server:
        for round_ in range(6):
            texts_ = [f"plan h{round_} a b c d e f", *(f"word-{round_}-{number}" for number in range(5))]
            pending = [server.submit(send, server, text) for text in texts_]
            with suppress(httpx.HTTPError):
                assert pending[round_].result().status_code == 202
            server.kill()
            server.start()
            for text in texts_:  # whether or not it was accepted before
                again = send(server, text)
                assert again.status_code in (200, 202), again.text
                texts_of[again.json()["run_id"]] = text
        assert len(texts_of) == 36
        server.quiet()
        runs = [server.run(run_id) for run_id in texts_of]
        history = said(server).replace("\n", " | ") + " |"
        for run in runs:
            text = texts_of[run["run_id"]]
            assert history.count(f"{text} |") == 1, (text, history)
            assert run["ended_at"] is not None
            assert run["join"] in ("applied", "became_next_run", None), run
            if run["joined"] is not None:
                host = server.run(run["joined"])
                assert (run["status"], run["output"], run["error"]) == (host["status"], host["output"], host["error"])
                assert run["status"] != "succeeded" or text in run["output"]


def test_streams_of_runs_that_join_continue_with_their_hosts(at: Checkpoints, tmp_path: Path) -> None:
    """Ids rise, each event comes once, and a client resumes after any of them, also when all have ended."""
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        at.hold("q a", "q model 1")
        host = accepted(server, "plan q a b")
        at.reached("q a")
        joined = steer(server, "hello")
        with Client(server.url) as client:
            events = client.events(joined["run_id"])
            first = next(events)
            assert isinstance(first, RunQueued)
            assert first.why is not None
            assert first.why.code == "joins"
            at.release()
            found = [first, *events]
            ids = [event.id for event in found if event.id is not None]
            assert ids == sorted(set(ids))
            assert {event.run_id for event in found} == {joined["run_id"]}
            second = found[1]
            assert isinstance(second, RunJoined)
            assert (second.joining, second.joined) == (joined["run_id"], host["run_id"])
            assert second.content[-1] == {"text": "hello"}
            assert "".join(event.text for event in found if isinstance(event, TextDelta)).endswith("q: hello")
            assert isinstance(found[-1], RunFinished)
            assert (found[-1].output, found[-1].usage) == ("q: hello", None)
            costs = [event.usage for event in client.events(host["run_id"]) if isinstance(event, RunFinished)]
            assert None not in costs
            (last,) = client.events(joined["run_id"], after=found[-2].id or 0)
            assert last == found[-1]
            for at_ in range(1, len(found) - 1):
                again = list(client.events(joined["run_id"], after=found[at_].id or 0))
                assert [event.id for event in again] == [event.id for event in found[at_ + 1 :]]
            assert sum(isinstance(event, RunJoined) for event in client.events(host["run_id"])) == 1


def test_a_host_is_cancelled_only_when_the_clients_of_all_that_joined_are_gone(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        at.hold("q a", "q b")
        body = {"input": "plan q a b", "on_disconnect": "cancel"}
        headers = {"Accept": "text/event-stream"}
        with server.client.stream("POST", "/v1/sessions/s/runs", json=body, headers=headers) as stream:
            host = stream.headers["location"].rpartition("/")[2]
            at.reached("q a")
            joined = steer(server, "still here")
            waiting = server.submit(server.client.get, f"/v1/runs/{joined['run_id']}", headers={"Prefer": "wait=60"})
            at.release("q a")
            at.reached("q b")
        at.hold("q model 2")
        at.release("q b")
        at.reached("q model 2")
        assert not server.run(host)["cancel_requested"]
        at.release()
        assert waiting.result().json()["status"] == "succeeded"


def test_a_host_that_waits_again_is_cancelled_with_all_that_joined_it(at: Checkpoints, tmp_path: Path) -> None:
    """Its worker was lost in a paused session. Everybody hears of the ends, and each counts as a turn that was one."""
    server = Server(TARGET, "--workers", "2", folder=tmp_path, variables=at.environment)
    server.start()
    try:
        at.hold("q a", "q model 1")
        host = accepted(server, "plan q a b")
        at.reached("q a")
        joined = steer(server, "heard")
        at.release("q a")
        at.reached("q model 1")
        late = steer(server, "late")
        server.client.post("/v1/sessions/s/pause").raise_for_status()
        with listening(server, "GET", "/v1/events?type=run.finished") as ear:
            for worker in workers(server):
                os.kill(worker, signal.SIGKILL)
            until(lambda: server.run(host["run_id"])["status"] == "queued", "the host waits again")
            shown = server.run(joined["run_id"])
            assert (shown["status"], shown["phase"], shown["join"]) == ("running", "waiting", "applied")
            server.client.post(f"/v1/runs/{host['run_id']}/cancel").raise_for_status()
            at.release()
            both = {event.data["run_id"]: event.data["status"] for event in itertools.islice(ear, 2)}
        assert both == {host["run_id"]: "cancelled", joined["run_id"]: "cancelled"}
        counted = 'strandline_runs_ended_total{code="none",outcome="cancelled"} 1.0'
        assert counted in server.client.get("/metrics").text
        server.client.post("/v1/sessions/s/resume").raise_for_status()
        assert [run["output"] for run in ended(server, late)] == ["alone: late"]
        assert said(server).count("heard") == 1
    finally:
        server.close()


def test_what_does_not_go_with_steering_is_refused(tmp_path: Path, at: Checkpoints) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        for body in (
            {"input": "x", "expected_run_id": "run_x"},
            {"input": "x", "if_busy": "interrupt", "expected_run_id": "run_x"},
            {"input": {"responses": [{"id": "i", "response": 1}]}, "if_busy": "steer"},
            {"input": "x", "if_busy": "steer", "expected_run_id": 5},
        ):
            refusal = server.client.post("/v1/sessions/s/runs", json=body)
            assert (refusal.status_code, refusal.json()["code"]) == (422, "invalid"), body

"""A tool that asks a person, over real HTTP: with an answer or without, and over restarts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, ran, serving, texts, tool_results
from strandline._history import DISMISSED, NOT_ANSWERED, UNKNOWN_OUTCOME
from strandline.testing._checker import check_history

AGENT = TARGETS / "agent.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def ask(server: Server, prompt: Any, session_id: str = "s", wait: int | None = 30, **body: Any) -> httpx.Response:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    return server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": prompt, **body}, headers=headers)


def paused_run(server: Server, prompt: str, session_id: str = "s") -> dict[str, Any]:
    """Send a message whose run asks for input; return that run."""
    answer = ask(server, prompt, session_id)
    assert answer.status_code == 200, answer.text
    run: dict[str, Any] = answer.json()
    assert run["status"] == "needs_input"
    return run


def answers(run: dict[str, Any], response: Any = "yes") -> dict[str, Any]:
    return {"responses": [{"id": each["id"], "response": response} for each in run["input_requests"]]}


def messages(server: Server, session_id: str = "s") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.client.get(f"/v1/sessions/{session_id}/history").json()["messages"]
    return found


def test_a_cancel_of_a_session_says_whether_it_dismissed_an_input_request(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        paused_run(server, "go @b")
        for body, dismissed in (({}, False), ({"running": True}, True), ({"running": True}, False)):
            answer = server.client.post("/v1/sessions/s/cancel", json=body)
            expected = {"cancelled": [], "cancelling": [], "dismissed": dismissed}
            assert (answer.status_code, answer.json()) == (200, expected)
        assert server.client.get("/v1/sessions/s").json()["input_requests"] == []


def test_a_run_asks_and_continues_with_the_answer(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run = paused_run(server, "go a @b")
        (request,) = run["input_requests"]
        assert (request["name"], request["reason"]) == ("@b", "may I, go?")
        assert [message["pending"] for message in messages(server)] == [False, False, False, True]
        session = server.client.get("/v1/sessions/s").json()
        assert session["input_requests"] == [request]
        assert session["input_until"]

        answer = ask(server, answers(run, "gladly"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["output"] == "go: did a, did @b (gladly)"
        assert not any(message["pending"] for message in messages(server))
        assert check_history(server.history("s")) == []
        assert server.client.get("/v1/sessions/s").json()["input_requests"] == []
        again = ask(server, answers(run, "no"))
        assert (again.status_code, again.json()["code"]) == (409, "already_answered")
        assert ask(server, "next").json()["output"] == "next"
        assert at.steps.count("go a") == 1, "what had finished is not done again"


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_question_and_its_answer_survive_a_restart(at: Checkpoints, tmp_path: Path, how: str) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run = paused_run(server, "go a+@b+c")
        if how == "killed":
            server.kill()
        else:
            server.terminate()
            assert server.ended() == 0
        server.start()
        assert server.run(run["run_id"])["status"] == "needs_input"
        assert [message["pending"] for message in messages(server)] == [False, True]
        answer = ask(server, answers(run))
        assert answer.json()["output"] == "go: did a, did c, did @b (yes)"
        assert [at.steps.count(step) for step in ("go a", "go c", "go @b")] == [1, 1, 2]
        assert check_history(server.history("s")) == []
        server.kill()
        server.start()
        again = ask(server, answers(run))
        assert (again.status_code, again.json()["code"]) == (409, "already_answered")


def test_killed_when_the_answer_was_accepted(at: Checkpoints, tmp_path: Path) -> None:
    """While it waits for its turn, before the tool has resumed, while it executes, and when it has ended."""
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        runs = {name: paused_run(server, f"{name} a+@b", name) for name in ("waits", "begins", "works", "ended")}
        at.hold("begins @b", "works @b answered yes", "ended @b ended")
        accepted = {}
        for name in ("begins", "works", "ended"):
            answer = ask(server, answers(runs[name]), name, wait=None)
            assert answer.status_code == 202, answer.text
            accepted[name] = answer.json()["run_id"]
        at.reached("begins @b", times=2)
        at.reached("works @b answered yes", "ended @b ended")
        server.client.post("/v1/sessions/waits/pause")
        accepted["waits"] = ask(server, answers(runs["waits"]), "waits", wait=None).json()["run_id"]
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        server.client.post("/v1/sessions/waits/resume")
        server.quiet()
        ends = {name: server.run(run_id) for name, run_id in accepted.items()}
        assert ends["waits"]["output"] == "waits: did a, did @b (yes)"
        assert ends["ended"]["output"] == "ended: did a, did @b (yes)"
        for name in ("begins", "works"):
            assert ends[name]["error"]["code"] == "crashed", "nobody knows what the tool has done since it was answered"
            assert UNKNOWN_OUTCOME in tool_results(server.history(name))
        for name, run in runs.items():
            assert check_history(server.history(name)) == []
            assert at.steps.count(f"{name} a") == 1
            assert at.steps.count(f"{name} @b answered yes") <= 1, "nothing is done twice"
            again = ask(server, answers(run), name)
            assert (again.status_code, again.json()["code"]) == (409, "already_answered")
            assert ask(server, "next", name).json()["output"] == "next"


def test_waiting_runs_continue_when_nobody_answers_even_after_a_kill(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, "--input-timeout", "3", folder=tmp_path, variables=at.environment) as server:
        run = paused_run(server, "go @b")
        waits = ask(server, "next", wait=None).json()
        assert (waits["status"], waits["position"]) == ("queued", 1)
        server.kill()
        server.start()
        server.quiet()
        assert server.run(waits["run_id"])["output"] == "next"
        history = server.history("s")
        assert check_history(history) == []
        assert DISMISSED in tool_results(history)
        assert NOT_ANSWERED in texts(history, "assistant")
        late = ask(server, answers(run))
        assert (late.status_code, late.json()["code"]) == (409, "dismissed")


def test_an_idempotent_tool_is_given_the_answer_again_after_a_crash(at: Checkpoints, tmp_path: Path) -> None:
    flags = ("--idempotent-tools", "work")
    with serving(AGENT, *flags, folder=tmp_path, variables=at.environment) as server:
        run = paused_run(server, "go a+@b")
        at.hold("go @b answered yes")
        accepted = ask(server, answers(run), wait=None).json()
        at.reached("go @b answered yes")
        server.wait_until_stored()
        server.kill()
        at.release()
        server.start()
        server.quiet()
        assert server.run(accepted["run_id"])["output"] == "go: did a, did @b (yes)"
        assert at.steps.count("go a") == 1


def test_chat_shows_the_question_and_takes_the_answer(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        chat = server.client.post("/chat", json={"message": "go @b", "session_id": "s"})
        assert chat.status_code == 200
        body = chat.json()
        assert body["status"] == "needs_input"
        assert body["response"] == "Round 0. "
        assert [each["name"] for each in body["input_requests"]] == ["@b"]
        answer = server.client.post("/chat", json={**answers(body), "session_id": "s"})
        assert (answer.json()["status"], answer.json()["response"]) == ("success", "go: did @b (yes)")
        again = server.client.post("/chat", json={**answers(body), "session_id": "s"})
        assert (again.status_code, again.json()["code"]) == (409, "already_answered")
        wrongs: list[dict[str, Any]] = [
            {},
            {**answers(body), "message": "x"},
            {"responses": [{"id": "x"}]},
            {"responses": []},
        ]
        for wrong in wrongs:
            refused = server.client.post("/chat", json={**wrong, "session_id": "s"})
            assert refused.status_code == 422, refused.text
        assert server.client.post("/chat", json={**answers(body), "session_id": "t"}).status_code == 404


def test_a_question_is_withdrawn_by_a_cancel_and_a_session_can_be_deleted(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run = paused_run(server, "go @b")
        cancelled = server.client.post(f"/v1/runs/{run['run_id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "needs_input")
        assert server.client.post(f"/v1/runs/{run['run_id']}/cancel").json() == cancelled.json(), "it may be repeated"
        assert ask(server, "next").json()["output"] == "next"
        paused_run(server, "then @b")
        assert server.client.delete("/v1/sessions/s").status_code == 204
        assert server.history("s") == []


def test_verify_finds_open_and_closed_questions_sound(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, "--input-timeout", "0.1", folder=tmp_path, variables=at.environment) as server:
        ask(server, answers(paused_run(server, "go a @b", "answered")), "answered")
        paused_run(server, "go @b", "dismissed")
        ask(server, "next", "dismissed")
        ask(server, {"responses": []}, "dismissed")
        paused_run(server, "go a @b", "open")
        server.wait_until_stored()
        done = ran("journal", "verify", "journal.db", folder=tmp_path)
        assert (done.returncode, done.stdout + done.stderr)[0] == 0, done.stdout + done.stderr

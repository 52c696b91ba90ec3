"""A tool that asks a person, over real HTTP: asked, answered, not answered, also by a server that was started again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import TARGETS, Server, serving
from strandline.testing.checker import check_history

AGENT = TARGETS / "agent.py"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def ask(server: Server, prompt: Any, session_id: str = "s", wait: int | None = 30, **body: Any) -> httpx.Response:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    return server.client.post(f"/v1/sessions/{session_id}/runs", json={"input": prompt, **body}, headers=headers)


def asked(server: Server, prompt: str, session_id: str = "s") -> dict[str, Any]:
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


def test_a_run_asks_and_its_answer_goes_on_with_it(at: Checkpoints, tmp_path: Path) -> None:
    with serving(AGENT, folder=tmp_path, variables=at.environment) as server:
        run = asked(server, "go a @b")
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
        run = asked(server, "go a+@b+c")
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

"""The race test is worth something: what people do today fails it, each in its own way."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from strands import Agent
from strands.types.content import Messages

from acceptance.race import judge, race
from alternatives import agent as race_agent
from alternatives import lock, reject, unprotected
from fakes.server import serving
from strandline.testing import Gate, ScriptedModel, question

TESTS = Path(__file__).parents[1]


def held_agent(gate: Gate, make_agent: Callable[[str], Agent]) -> Callable[[str], Agent]:
    """Make agents that answer at once, but not before the gate is open."""

    async def repeat(messages: Messages) -> str:
        await gate.wait()
        if "please fail" in question(messages):
            raise ConnectionError("the provider is out of order")
        return f"You asked: {question(messages)}"

    def make(session_id: str) -> Agent:
        agent = make_agent(session_id)
        agent.model = ScriptedModel(repeat)
        return agent

    return make


def test_a_lock_passes_the_race() -> None:
    gate = Gate()
    with serving(lock.make_app(held_agent(gate, race_agent.make_agent))) as url:
        verdict = race(url, all_inside=gate.open)
    assert verdict.good, verdict
    assert verdict.seen_processing
    assert verdict.most_waiting == 4


def test_without_protection_the_race_breaks_history() -> None:
    gate = Gate()
    with serving(unprotected.make_app(held_agent(gate, race_agent.make_reentrant_agent))) as url:
        verdict = race(url, all_inside=gate.open)
    assert not verdict.good
    assert all(answer.status_code == 200 for answer in verdict.answers)
    assert "user, user" in str(verdict)


def test_refusal_answers_only_the_first() -> None:
    gate = Gate()
    with serving(reject.make_app(held_agent(gate, race_agent.make_agent))) as url:
        verdict = race(url, all_inside=gate.open)
    assert not verdict.good
    assert sorted(answer.status_code for answer in verdict.answers) == [200, 409, 409, 409, 409]
    assert judge(verdict.history) == []


def test_a_lock_breaks_history_when_a_request_fails_in_the_middle() -> None:
    gate = Gate()
    gate.open()
    with (
        serving(lock.make_app(held_agent(gate, race_agent.make_agent))) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        replies = [client.post("/chat", json={"message": text}).json() for text in ("a", "please fail", "c")]
        history = client.get("/history").json()["messages"]
    assert [reply["status"] for reply in replies] == ["success", "error", "success"]
    assert [message["role"] for message in history] == ["user", "assistant", "user", "user", "assistant"]
    assert judge(history) != []


@contextmanager
def process(module: str, agent: str, answer_s: float) -> Iterator[str]:
    """Start an alternative as a process of its own; give the URL that it prints."""
    command = [sys.executable, "-m", module, "--agent", f"{TESTS / 'alternatives' / 'agent.py'}:{agent}"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "ANSWER_S": str(answer_s)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            found = next((m for line in server.stderr if (m := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
            assert found is not None, "the server ended without printing its URL"
            yield found.group()
        finally:
            server.terminate()
            server.communicate(timeout=30)


@pytest.mark.parametrize(
    ("module", "agent", "good"),
    [
        ("alternatives.lock", "make_agent", True),
        ("alternatives.unprotected", "make_reentrant_agent", False),
        ("alternatives.reject", "make_agent", False),
    ],
)
def test_the_same_is_seen_of_a_process(module: str, agent: str, good: bool) -> None:
    # A good server takes five times as long, a bad one must not have answered before the second request.
    with process(module, agent, 0.1 if good else 1.0) as url:
        verdict = race(url)
    assert verdict.good is good, verdict


def test_judge_finds_every_kind_of_broken_history() -> None:
    def message(role: str, **block: object) -> dict[str, object]:
        return {"role": role, "content": [block]}

    asking = message("assistant", toolUse={"toolUseId": "1"})
    result = message("user", toolResult={"toolUseId": "1"})
    fine = [message("user", text="q"), asking, result, message("assistant", text="You asked: q")]
    assert judge(fine, ["q"]) == []
    assert "take turns" in judge(fine[:3])[0]
    assert "results for []" in judge(fine[:2])[0]
    assert "results for ['1']" in judge([fine[0], fine[3], result, fine[3]])[0]
    assert "not those that were asked" in judge(fine, ["q", "r"])[0]
    assert "followed by" in judge([message("user", text="q"), message("assistant", text="no")], ["q"])[0]

"""Graphs, Swarms, one agent for all sessions, and agents with a session manager, served by the installed command."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, ran, serving, texts
from strandline._access.keyring import new_key

GRAPH = f"{TARGETS / 'nodes.py'}:make_graph"
SWARM = f"{TARGETS / 'nodes.py'}:make_swarm"


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def answer(pending: "Future[httpx.Response]") -> dict[str, Any]:
    body: dict[str, Any] = pending.result(DEADLINE_S).json()
    return body


def test_a_graph_answers_with_its_last_node_and_remembers_also_after_a_crash(at: Checkpoints, tmp_path: Path) -> None:
    with serving(GRAPH, folder=tmp_path, variables=at.environment) as server:
        assert server.chat("q1", "a")["response"] == "writes knows 1"
        assert server.chat("q2", "a")["response"] == "writes knows 2"
        assert server.chat("q1", "b")["response"] == "writes knows 1"
        assert texts(server.history("a"), "assistant") == ["writes knows 1", "writes knows 2"]
        server.kill()
        server.start()
        assert server.chat("q3", "a")["response"] == "writes knows 3"


def test_a_graph_that_was_in_the_middle_when_the_server_died_is_never_run_twice(
    at: Checkpoints, tmp_path: Path
) -> None:
    with serving(GRAPH, folder=tmp_path, variables=at.environment) as server:
        assert server.chat("q1")["response"] == "writes knows 1"
        at.hold("writes q2")
        server.ask("q2")
        at.reached("writes q2")
        server.kill()
        at.release()
        server.start()
        server.quiet()
        run = next(stored for stored in server.stored() if stored.status == "failed")
        assert server.run(run.run_id)["error"]["code"] == "crashed"
        assert server.chat("q3")["response"] == "writes knows 2", "the nodes know nothing of the run that crashed"
        reply = texts(server.history(), "assistant")[1]
        assert reply.startswith("(This run ended early: crashed.)\nthe server died while the run executed")
    assert at.steps.count("plans q2") == 1


def test_a_swarm_whose_factory_does_not_say_what_it_makes_is_seen_to_be_one(at: Checkpoints, tmp_path: Path) -> None:
    with serving(SWARM, "--verbose", folder=tmp_path, variables=at.environment) as server:
        assert "makes an object of type strands.multiagent.swarm.Swarm" in server.stderr
        for question in "q1", "q2":
            assert server.chat(question)["response"] == "second knows 1", "a Swarm forgets from run to run"
        assert texts(server.history(), "user") == ["q1", "q2"]
        at.hold("second q3")
        server.ask("q3")
        at.reached("second q3")
        server.kill()
        at.release()
        server.start()
        server.quiet()
        assert [stored.status for stored in server.stored()] == ["succeeded", "succeeded", "failed"]
    assert at.steps.count("first q3") == 2, "one model call before the handoff, one after it"


def test_one_agent_serves_three_sessions_by_turns_in_order_and_mixes_nothing(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "shared.py", folder=tmp_path, variables=at.environment) as server:
        assert "one run at a time" in server.stderr
        at.hold("a1 begins")
        pending = {"a1": server.line_up("a1", session_id="a")[0]}
        at.reached("a1 begins")
        for number in (1, 2, 3):
            for session in "abc":
                if (question := f"{session}{number}") != "a1":
                    pending[question] = server.line_up(question, session_id=session)[0]
        assert server.health()["running"] == 1
        at.release()
        for question, given in pending.items():
            numbers = range(1, int(question[1]) + 1)
            assert answer(given)["response"] == " ".join(f"{question[0]}{number}" for number in numbers)
        server.quiet()
        for session in "abc":
            assert texts(server.history(session), "user") == [f"{session}{n}" for n in (1, 2, 3)]
        server.kill()
        server.start()
        assert server.chat("b4", "b")["response"] == "b1 b2 b3 b4"
    steps = [step.split() for step in at.steps]
    assert [what for _, what in steps] == ["begins", "ends"] * 10
    assert all(begun[0] == ended[0] for begun, ended in zip(steps[::2], steps[1::2], strict=True))


def test_a_run_of_the_one_agent_resumes_after_a_crash_and_does_nothing_twice(at: Checkpoints, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("from acceptance.targets.agent import make_agent\n\nagent = make_agent('all')\n")
    with serving("one.py:agent", folder=tmp_path, variables=at.environment) as server:
        assert server.chat("p1 a", "other")["response"] == "p1: did a"
        at.hold("q1 model 1")
        server.ask("q1 b")
        at.reached("q1 model 1")
        server.kill()
        at.release()
        server.start()
        server.quiet()
        assert texts(server.history(), "assistant")[-1] == "q1: did b"
        assert server.chat("q2", "other")["response"] == "q2"
    assert at.steps.count("q1 b") == 1


def test_with_self_managed_history_the_conversation_is_in_the_session_managers_files(tmp_path: Path) -> None:
    target = str(TARGETS / "external.py")
    with serving(target, "--history", "session_manager", folder=tmp_path) as server:
        assert server.chat("a1", "a")["response"] == "a1"
        assert server.chat("b1", "b")["response"] == "b1"
        server.kill()
        server.start()
        assert server.chat("a2", "a")["response"] == "a1 a2"
        assert server.chat("fail", "a")["status"] == "error"
        assert server.chat("a3", "a")["response"] == "a1 a2 fail a3"
        server.terminate()
        assert server.ended() == 0
        for file in (tmp_path / "kept" / "session_b").rglob("*.json"):
            file.write_text("{")
        server.start()
        assert server.chat("b2", "b")["status"] == "error"
        assert server.chat("b3", "b")["status"] == "error"
        assert server.chat("a4", "a")["response"] == "a1 a2 fail a3 a4"


def test_without_the_setting_a_session_manager_fails_the_run_and_the_setting_is_named(tmp_path: Path) -> None:
    with serving(TARGETS / "external.py", folder=tmp_path) as server:
        answer = server.chat("a1")
        assert answer["status"] == "error"
        run = server.run(answer["run_id"])
        assert "history=session_manager" in run["error"]["detail"]


def test_with_keys_and_self_managed_history_each_caller_has_a_conversation_of_its_own(tmp_path: Path) -> None:
    ada, bob = new_key("ada"), new_key("bob")
    keys = ("--api-keys", f"{ada[1].line()},{bob[1].line()}")
    with serving(
        f"{TARGETS / 'external.py'}:make_apart", "--history", "session_manager", *keys, folder=tmp_path
    ) as server:
        for shown, said in ((ada[0], "ada's"), (bob[0], "bob's"), (ada[0], "ada's ada's")):
            answer = server.client.post(
                "/chat",
                json={"message": said.split()[0], "session_id": "s"},
                headers={"Authorization": f"Bearer {shown}"},
            )
            assert answer.json()["response"] == said
    assert {each.name for each in (tmp_path / "kept").iterdir()} == {"ada", "bob"}


@pytest.mark.parametrize("flags", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_with_keys_and_self_managed_history_a_factory_without_principal_is_not_served(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    target = f"{TARGETS / 'external.py'}:make_agent"
    keys = ("--api-keys", new_key("ada")[1].line())
    done = ran("serve", target, "--history", "session_manager", "--port", "0", *keys, *flags, folder=tmp_path)
    assert done.returncode == 2
    assert "does not take `principal`" in done.stderr
    assert "def make_agent(session_id, principal):" in done.stderr
    assert "Traceback" not in done.stderr

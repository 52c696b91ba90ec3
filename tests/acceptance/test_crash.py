"""`kill -9` at known places: after a restart no accepted run is lost, repeated, or misreported."""

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import (
    COMMAND,
    DEADLINE_S,
    TARGETS,
    Server,
    environment,
    ran,
    serving,
    texts,
    tool_results,
    until,
)  # fmt: skip
from ports import reserved_port
from strandline._history import UNKNOWN_OUTCOME

CRASHED = "(This run ended early: crashed.)\nthe server died while "


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def killed_and_started(server: Server) -> None:
    """Kill the server when all that was handed to its journal is durable; start it again on the same journal."""
    server.wait_until_stored()
    server.kill()
    server.start()


def runs_of(server: Server, session_id: str) -> list[dict[str, Any]]:
    """Return the runs of a session, in order of acceptance, as the run API shows them."""
    return [server.run(run.run_id) for run in server.stored() if run.session_id == session_id]


def statuses(server: Server, session_id: str) -> list[str]:
    return [run["status"] if run["error"] is None else run["error"]["code"] for run in runs_of(server, session_id)]


def test_killed_with_runs_at_every_place(at: Checkpoints, tmp_path: Path) -> None:
    """Waiting, in the model, between rounds, between a tool's result and its round's end, and in a tool."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, installed=True) as server:
        at.hold("model-1 model 0", "between-1 model 1", "gap-1 a ended", "gap-1 b ended", "tool-1 b")
        server.line_up("model-1 a", "model-2 a", "model-3", session_id="model")
        server.line_up("between-1 a b", "between-2", session_id="between")
        server.line_up("gap-1 a+b", "gap-2", session_id="gap")
        server.line_up("tool-1 a b+~c", "tool-2", "tool-3 d", session_id="tool")
        at.reached("model-1 model 0", "between-1 model 1", "gap-1 a ended", "gap-1 b ended", "tool-1 b", "tool-1 ~c")
        at.reached("tool-1 ~c ended")
        server.wait_until_stored()
        server.kill()
        at.release()
        before = server.stored()
        server.start()
        server.quiet()

        assert [run[:2] for run in server.stored()] == [run[:2] for run in before], "a run was lost, or made up"
        # In the model: asked again, in front of those that waited.
        assert statuses(server, "model") == ["succeeded"] * 3
        assert texts(server.history("model"), "user") == ["model-1 a", "model-2 a", "model-3"]
        assert [run["output"] for run in runs_of(server, "model")] == ["model-1: did a", "model-2: did a", "model-3"]
        # Between rounds, and before a round's end: it resumes there.
        assert [run["output"] for run in runs_of(server, "between")] == ["between-1: did a, did b", "between-2"]
        assert [run["output"] for run in runs_of(server, "gap")] == ["gap-1: did a, did b", "gap-2"]
        assert [run["attempt"] for run in runs_of(server, "between")] == [2, 1]
        # In a tool: it ends there. What had finished is kept, what had not is unknown.
        crashed, *others = runs_of(server, "tool")
        assert crashed["status"] == "failed"
        assert crashed["error"]["code"] == "crashed"
        assert [run["output"] for run in others] == ["tool-2", "tool-3: did d"]
        messages = server.history("tool")
        assert texts(messages, "user") == ["tool-1 a b+~c", "tool-2", "tool-3 d"]
        assert tool_results(messages) == ["did a", UNKNOWN_OUTCOME, "did ~c", "did d"]
        assert texts(messages, "assistant")[:3] == [
            "Round 0. ", "Round 1. ", f"{CRASHED}a tool worked (work); what the tool did is unknown"
        ]  # fmt: skip
        # Nothing was done twice, whatever became of it.
        tools = [step for step in at.steps if " model " not in step and not step.endswith("ended")]
        assert sorted(tools) == [
            "between-1 a", "between-1 b", "gap-1 a", "gap-1 b", "model-1 a", "model-2 a",
            "tool-1 a", "tool-1 b", "tool-1 ~c", "tool-3 d",
        ]  # fmt: skip


def test_killed_before_a_round_is_durable(at: Checkpoints, tmp_path: Path) -> None:
    """No tool begins before the model's message is in the journal, however long that takes; then it begins once."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 1 asks")
        server.line_up("one a b")
        at.reached("one model 1 asks")
        server.wait_until_stored()
        with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as another:
            another.execute("BEGIN IMMEDIATE")  # from here on the server's writer has to wait
            at.release()
            with pytest.raises(AssertionError, match="the tool begins"):
                until(lambda: "one b" in at.steps, "the tool begins", deadline_s=0.5)
            server.kill()
        server.start()
        server.quiet()
        assert statuses(server, "default") == ["succeeded"]
        assert tool_results(server.history()) == ["did a", "did b"]
        assert at.steps.count("one b") == 1


def test_killed_by_the_first_act_of_a_tool(at: Checkpoints, tmp_path: Path) -> None:
    """A tool does not begin before the journal knows of it: however early the server dies, it is not started again."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        with pytest.raises(httpx.HTTPError):
            server.chat("one a ~^b")
        assert server.ended() == -signal.SIGKILL
        server.start()
        server.quiet()
        assert statuses(server, "default") == ["crashed"]
        assert tool_results(server.history()) == ["did a", UNKNOWN_OUTCOME]
        assert server.chat("two")["response"] == "two"


def test_five_rounds_killed_three_times_run_each_tool_once(at: Checkpoints, tmp_path: Path) -> None:
    """A run resumes from its last checkpointed round, as often as it takes."""
    with serving(TARGETS / "agent.py", "--max-attempts", "5", folder=tmp_path, variables=at.environment) as server:
        at.hold("five model 1", "five c ended", "five model 5")
        server.line_up("five a ~b c d e", "six")
        for place in ("five model 1", "five c ended", "five model 5"):
            at.reached(place)
            server.wait_until_stored()
            server.kill()
            at.release(place)
            server.start()
        server.quiet()
        first, second = runs_of(server, "default")
        assert (first["status"], first["attempt"], second["attempt"]) == ("succeeded", 4, 1)
        assert first["output"] == "five: did a, did ~b, did c, did d, did e"
        assert [step for step in at.steps if step in {f"five {name}" for name in ("a", "~b", "c", "d", "e")}] == [
            "five a", "five ~b", "five c", "five d", "five e"
        ]  # fmt: skip
        messages = server.history()
        assert tool_results(messages) == ["did a", "did ~b", "did c", "did d", "did e"]
        assert texts(messages, "user") == ["five a ~b c d e", "six"]
        assert server.chat("seven f")["response"] == "seven: did f"
        assert len(server.history()) == 18


def test_attempts_used_up_and_a_last_attempt_alone(at: Checkpoints, tmp_path: Path) -> None:
    """A run that dies with the server in each attempt fails; its last attempt runs beside no other last one."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        at.hold("poison model 0", "innocent model 0")
        server.line_up("poison", "after", session_id="poison")
        server.line_up("innocent", session_id="innocent")
        for attempt in (1, 2):
            at.reached("poison model 0", "innocent model 0", times=attempt)
            killed_and_started(server)
        at.reached("poison model 0", times=3)
        server.wait_until_stored()
        assert at.steps.count("innocent model 0") == 2
        waiting = runs_of(server, "innocent")[0]
        assert (waiting["status"], waiting["attempt"], waiting["position"]) == ("queued", 2, 1)
        at.release("innocent model 0")
        killed_and_started(server)
        server.quiet()
        assert statuses(server, "poison") == ["crashed", "succeeded"]
        assert statuses(server, "innocent") == ["succeeded"]
        assert runs_of(server, "poison")[0]["attempt"] == 3
        messages = server.history("poison")
        assert texts(messages, "user") == ["poison", "after"]
        assert texts(messages, "assistant") == [f"{CRASHED}the run executed in each of its 3 attempts", "after"]
        assert at.steps.count("poison model 0") == 3


def test_a_last_attempt_that_ends_lets_the_next_one_go(at: Checkpoints, tmp_path: Path) -> None:
    """Runs that had to wait for another's last attempt run when that has ended, without a restart."""
    with serving(TARGETS / "agent.py", "--max-attempts", "2", folder=tmp_path, variables=at.environment) as server:
        sessions = ["one", "two", "three"]
        at.hold(*(f"{each} model 0" for each in sessions))
        for each in sessions:
            server.line_up(each, session_id=each)
        at.reached(*(f"{each} model 0" for each in sessions))
        killed_and_started(server)
        at.reached("one model 0", times=2)
        server.wait_until_stored()
        assert server.health()["running"] == 1
        at.release()
        server.quiet()
        assert [statuses(server, each) for each in sessions] == [["succeeded"]] * 3


def test_after_crash_fail(at: Checkpoints, tmp_path: Path) -> None:
    """With `--after-crash fail` whatever executed fails; what waited runs."""
    with serving(TARGETS / "agent.py", "--after-crash", "fail", folder=tmp_path, variables=at.environment) as server:
        at.hold("one model 1")
        server.line_up("one a b", "two")
        at.reached("one model 1")
        killed_and_started(server)
        server.quiet()
        assert statuses(server, "default") == ["crashed", "succeeded"]
        messages = server.history()
        assert tool_results(messages) == ["did a"]
        assert texts(messages, "assistant") == ["Round 0. ", f"{CRASHED}the run executed", "two"]
        assert at.steps.count("one model 1") == 1


def test_a_run_that_cannot_resume_counts_as_in_a_tool(at: Checkpoints, tmp_path: Path) -> None:
    """Nobody can see what a plain function has done, so it is never called twice for one run."""
    with serving(TARGETS / "function.py:answer", folder=tmp_path, variables=at.environment) as server:
        assert server.chat("zero")["response"] == "zero after 0 messages"
        at.hold("one")
        server.line_up("one", "two")
        at.reached("one")
        killed_and_started(server)
        server.quiet()
        assert statuses(server, "default") == ["succeeded", "crashed", "succeeded"]
        assert at.steps.count("one") == 1
        messages = server.history()
        crashed = f"{CRASHED}the run executed; what it had done by then is unknown"
        assert texts(messages, "assistant") == ["zero after 0 messages", crashed, "two after 4 messages"]


def test_killed_at_any_instant(at: Checkpoints, tmp_path: Path) -> None:
    """Under load, at no chosen place: every accepted run ends once, in order, and no tool of it is started twice."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server:
        questions = [(f"{name}{number} a b+~c", name) for number in range(8) for name in "wxyz"]
        pending = {question: server.ask(question, name) for question, name in questions}
        until(lambda: len(at.steps) >= 5, "a few steps")
        server.kill()
        accepted = server.stored()
        server.start()
        so_far = len(at.steps)
        until(lambda: len(at.steps) >= so_far + 30 or server.inside() == 0, "many steps")
        server.kill()
        server.start()
        server.quiet()
        assert [run[:2] for run in server.stored()] == [run[:2] for run in accepted]
        recorded: list[str] = []
        for name in "wxyz":
            in_history = texts(server.history(name), "user")
            runs = runs_of(server, name)
            assert len(in_history) == len(runs)
            for run, question in zip(runs, in_history, strict=True):
                if run["status"] == "succeeded":
                    assert run["output"] == f"{question.split()[0]}: did a, did b, did ~c"
                else:
                    assert (run["status"], run["error"]["code"]) == ("failed", "crashed")
            # Each kill can have failed no more than the one that executed.
            assert [run["status"] for run in runs].count("failed") <= 2
            recorded += in_history
        assert len(recorded) == len(set(recorded)), "a run is in history twice"
        answered = {question for question, each in pending.items() if each.exception(0) is None}
        assert answered <= set(recorded)
        tools = [step for step in at.steps if " model " not in step and not step.endswith("ended")]
        assert len(tools) == len(set(tools)), "a tool was started twice"


def test_two_servers_on_one_journal(at: Checkpoints, tmp_path: Path) -> None:
    """The second is alive but not ready, and takes over, with all that waits, when the first is gone."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as first:
        at.hold("one model 0")
        first.line_up("one", "two")
        second = Server(TARGETS / "agent.py", folder=tmp_path, variables=at.environment, port=reserved_port())
        try:
            second.start(ready=False)
            until(lambda: answers(second, "/livez"), f"the second is alive\n{second.stderr}")
            until(lambda: "waiting for the journal" in second.stderr, "it says that it waits")
            assert f"process {first.pid}" in second.stderr
            assert second.client.get("/readyz").status_code == 503
            early = second.client.get("/health")
            assert (early.status_code, early.json()["status"], early.json()["ready"]) == (503, "starting", False)
            waiting = second.submit(
                httpx.post, f"{second.url}/chat", json={"message": "three"}, timeout=DEADLINE_S, trust_env=False
            )
            assert first.health()["running"] == 1
            port = second.url.rpartition(":")[2]
            found = ran("doctor", folder=tmp_path, variables={"STRANDLINE_PORT": port, **at.environment}).stdout
            assert "answers there, not ready" in found, found
            with said_by("chat", second.url, "-s", "other", "-m", "typed", folder=tmp_path) as typed:
                assert typed.stderr is not None
                assert "Not now: the server says 503" in typed.stderr.readline()
                first.kill()
                at.release()
                assert typed.communicate(timeout=DEADLINE_S)[0] == "typed\n"
            second.until_ready()
            assert second.client.get("/readyz").status_code == 200
            assert waiting.result(DEADLINE_S).json()["response"] == "three", "it came before the server was ready"
            assert second.health()["status"] == "healthy"
            assert statuses(second, "default") == ["succeeded"] * 3
            assert texts(second.history(), "assistant") == ["one", "two", "three"]
        finally:
            second.close()
        assert "Traceback" not in second.stderr, second.stderr


def said_by(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    """Run the command; its output can be read while it runs."""
    return subprocess.Popen(
        [COMMAND, *arguments], cwd=folder, env=environment({}), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answers(server: Server, path: str) -> bool:
    """Return whether somebody listens there and answers."""
    try:
        return server.client.get(path).status_code == 200
    except OSError:
        return False
    except Exception as error:
        if "refused" in str(error):
            return False
        raise


def test_second_servers_that_give_up(at: Checkpoints, tmp_path: Path) -> None:
    """With `--lock-wait 1` one ends with exit code 2 and says whom to stop; SIGTERM ends one that waits, with 0."""
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as first:
        impatient, stopped = (
            Server(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment, port=reserved_port())
            for flags in (["--lock-wait", "1"], [])
        )
        try:
            impatient.start(ready=False)
            stopped.start(ready=False)
            until(lambda: "waiting for the journal" in stopped.stderr, "it waits")
            stopped.terminate()
            assert stopped.ended() == 0
            assert impatient.ended() == 2
        finally:
            impatient.close()
            stopped.close()
        assert impatient.stderr.count(f"process {first.pid}") == 2, impatient.stderr
        assert "Stop that one" in impatient.stderr
        assert "Traceback" not in impatient.stderr + stopped.stderr
        assert first.chat("still-here")["response"] == "still-here"


FORKS = """
import os, signal

async def agent(message, session):
    if message == "fork":
        child = os.fork()
        if not child:  # like the processes of a pool: they do not learn that the server is dead
            os.close(1), os.close(2)
            signal.pause()
        return str(child)
    return message
"""


def test_what_user_code_has_forked_keeps_neither_journal_nor_port_when_the_server_is_killed(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text(FORKS)
    with serving(tmp_path / "agent.py", "--lock-wait", "0", folder=tmp_path, port=reserved_port()) as server:
        child = int(server.chat("fork")["response"])
        try:
            server.kill()
            server.start()
            assert server.chat("hello")["response"] == "hello"
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)

"""Agents in worker processes of a real server: spread, killed, wedged, and gone with it."""

import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from acceptance import (
    test_crash,
    test_input_requests,
    test_mixed_policies,
    test_reload,
    test_stop,
    test_targets,
    test_timeouts,
)
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, environment, ran, refused, serving, tool_results, until
from strandline._history import UNKNOWN_OUTCOME

AGENT = TARGETS / "agent.py"
TWO = ("--workers", "2")
THE_SAME = [
    test_crash.test_killed_with_runs_at_every_place,
    test_crash.test_killed_before_a_round_is_durable,
    test_crash.test_killed_by_the_first_act_of_a_tool,
    test_input_requests.test_killed_when_the_answer_was_accepted,
    test_mixed_policies.test_two_hundred_requests_of_all_policies_leave_nothing_lost_and_nothing_broken,
    test_reload.test_a_run_in_a_chain_of_tools_continues_in_the_new_code,
    test_stop.test_what_does_not_finish_within_the_grace,
    test_stop.test_stopped_at_any_instant,
    test_targets.test_a_graph_that_was_in_the_middle_when_the_server_died_is_never_run_twice,
    test_targets.test_with_self_managed_history_the_conversation_is_in_the_session_managers_files,
    test_targets.test_with_keys_and_self_managed_history_each_caller_has_a_conversation_of_its_own,
    test_timeouts.test_a_server_whose_threads_are_used_up_drains_and_exits_with_70,
]
"""Of all that is claimed of servers, what two kinds of processes and their deaths have most to do with."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def is_there(pid: int) -> bool:
    """Return whether a process still is more than an entry in the table."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def workers(server: Server) -> list[int]:
    """Return the processes of a server's workers, once all of them take calls."""

    def pids() -> list[int | None]:
        return [each["pid"] for each in server.health()["workers"]]

    until(lambda: None not in pids(), "all workers are ready")
    return [pid for pid in pids() if pid is not None]


def test_sessions_are_spread_over_workers_and_a_worker_that_dies_takes_only_its_own_runs_with_it(
    at: Checkpoints, tmp_path: Path
) -> None:
    """It is killed between two rounds of a run, and once more in a tool; another session's run is undisturbed."""
    server = Server(AGENT, *TWO, "--drain-grace", "20", folder=tmp_path, variables=at.environment)
    (tmp_path / "signal.py").write_text("raise SystemExit('a file of the user that no worker has a use for')\n")
    try:
        server.start()
        first, second = workers(server)
        at.hold("mine model 1", "yours model 0")
        yours = server.ask("yours", "b")
        at.reached("yours model 0")
        mine = server.ask("mine a", "a")
        at.reached("mine model 1")
        busy = {each["pid"]: each["running"] for each in server.health()["workers"]}
        assert busy == {first: 1, second: 1}, "each has one"
        stacks = ran("stacks", "--journal", "sqlite:journal.db", folder=tmp_path)
        assert stacks.stdout.count("in pass_step") == 2, stacks.stdout + stacks.stderr
        mine_id = next(each.run_id for each in server.stored() if each.session_id == "a")
        os.kill(second, signal.SIGKILL)  # (the first is that of the session that came first)
        until(lambda: server.run(mine_id)["attempt"] == 2, "it goes on")
        at.release("mine model 1")
        assert mine.result(DEADLINE_S).json()["response"] == "mine: did a"
        assert at.steps.count("mine a") == 1, "what had ended was not started again"
        third = next(pid for pid in workers(server) if pid != first)
        assert third != second

        at.hold("tool x")
        crashing = server.ask("tool x", "c")
        at.reached("tool x")
        os.kill(third, signal.SIGKILL)
        answer = crashing.result(DEADLINE_S).json()
        assert answer["error_code"] == "crashed"
        at.release()
        assert server.ask("again", "c").result(DEADLINE_S).json()["response"] == "again"
        assert tool_results(server.history("c")) == [UNKNOWN_OUTCOME]
        assert yours.result(DEADLINE_S).json()["response"] == "yours"
        yours_id = next(each.run_id for each in server.stored() if each.session_id == "b")
        assert server.run(yours_id)["attempt"] == 1
        text = server.client.get("/metrics").text
        assert "\nstrandline_workers_lost_total 2.0\n" in text
        assert '\nstrandline_worker_ready{worker="1"}' in text

        last = workers(server)
        os.kill(last[0], signal.SIGTERM)
        os.kill(last[0], signal.SIGINT)
        assert server.ask("still", "a").result(DEADLINE_S).json()["response"] == "still"
        assert workers(server) == last, "a signal to all processes is for the server to act on"
        server.terminate()
        assert server.ended() == 0
        assert not any(map(is_there, last))
    finally:
        at.release()
        server.close()
    assert server.stderr.count("has died: ended by SIGKILL") == 2
    assert "Traceback" not in server.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a worker hears of it from its socket alone")
def test_code_that_keeps_pythons_lock_for_good_is_killed_with_its_worker_and_dies_with_a_killed_server(
    at: Checkpoints, tmp_path: Path
) -> None:
    flags = (*TWO, "--cancel-grace", "1", "--unlock-after", "30")
    server = Server(TARGETS / "gripping.py:answer", *flags, folder=tmp_path, variables=at.environment)
    try:
        server.start()
        before = workers(server)
        gripping = server.submit(
            server.client.post, "/chat", json={"message": "grip", "session_id": "a", "timeout": 0.5}
        )
        at.reached("grips")
        follows = server.ask("next", "a")
        assert gripping.result(DEADLINE_S).json()["error_code"] == "timeout"
        assert int(follows.result(DEADLINE_S).json()["response"]) in workers(server), "long before the hold was over"
        after = workers(server)
        assert len(set(before) & set(after)) == 1, "one was replaced"
        assert "is given up" in server.stderr
        server.ask("grip", "b")
        at.reached("grips", times=2)
        server.kill()
        until(lambda: not any(map(is_there, after)), "no worker outlives its server", 5.0)
    finally:
        server.close()


@pytest.mark.parametrize("test", THE_SAME, ids=lambda test: test.__name__.removeprefix("test_"))
def test_the_same_is_true_of_a_server_with_workers(
    test: Callable[..., None], at: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acceptance.server.WORKERS", "2")
    assert environment({})["STRANDLINE_WORKERS"] == "2"
    given = {"at": at, "tmp_path": tmp_path}
    test(**{name: given[name] for name in inspect.signature(test).parameters})


def test_what_cannot_be_served_is_reported_as_without_workers(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("import nothing_of_this_name\n")
    message = refused("agent.py", *TWO, "--port", "0", folder=tmp_path)
    assert "nothing_of_this_name" in message
    assert message == refused("agent.py", "--port", "0", folder=tmp_path)


def test_a_module_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("import os\nos._exit(7)\n")
    message = refused("agent.py", *TWO, "--port", "0", folder=tmp_path)
    assert "a worker process ended while it loaded its target: exit code 7" in " ".join(message.split())


def test_one_agent_for_all_sessions_has_one_worker_and_takes_turns(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGETS / "shared.py", *TWO, folder=tmp_path, variables=at.environment) as server:
        assert len(workers(server)) == 1
        assert "has no effect on one Agent for all sessions" in server.stderr
        for session in "ab":
            response: httpx.Response = server.ask("hello", session).result(DEADLINE_S)
            assert response.json()["status"] == "success"


def test_without_the_setting_there_are_none(tmp_path: Path) -> None:
    with serving(
        TARGETS / "gripping.py:answer", "--workers", "1", folder=tmp_path, variables={"CHECKPOINTS": "0"}
    ) as server:
        assert "workers" not in server.health()
        assert "strandline_worker_ready{" not in server.client.get("/metrics").text
        assert server.ask("hello").result(DEADLINE_S).json()["status"] == "success"


def test_a_server_whose_workers_cannot_be_replaced_is_not_ready_until_they_can(tmp_path: Path) -> None:
    """What it has accepted by then waits, and is answered in the end."""
    code = "async def agent(message, session):\n    return message\n"
    agent = tmp_path / "agent.py"
    agent.write_text(code)
    server = Server(agent, *TWO, folder=tmp_path)
    key = {"Idempotency-Key": "known"}
    route = "/v1/sessions/a/runs"

    def readiness() -> tuple[int, str]:
        answer = server.client.get("/readyz")
        return answer.status_code, answer.json()["status"]

    try:
        server.start()
        first, second = workers(server)
        agent.write_text("import nothing_of_this_name\n")
        os.kill(first, signal.SIGKILL)
        until(lambda: server.stderr.count("cannot serve: ") == 1, "one cannot be replaced")
        assert readiness() == (200, "ready"), "as long as there is another"
        assert server.ask("hello").result(DEADLINE_S).json()["response"] == "hello"
        os.kill(second, signal.SIGKILL)
        until(lambda: f"(process {second}) has died" in server.stderr, "the other one is gone")
        waits = server.submit(
            server.client.post, route, json={"input": "waits"}, headers={**key, "Prefer": "wait=60"}, timeout=60
        )
        until(lambda: server.inside() == 1, "accepted, although there is none at this moment")

        until(lambda: readiness() == (503, "no_worker"), "it says that there is none")
        assert "docs/operations.md" in server.client.get("/readyz").json()["detail"]
        refused = server.client.post("/chat", json={"message": "more", "session_id": "b"})
        assert (refused.status_code, refused.json()["code"]) == (503, "no_worker")
        assert int(refused.headers["Retry-After"]) > 0
        assert server.client.post(route, json={"input": "waits"}, headers=key).status_code == 202, "it is known"
        assert server.client.get("/livez").status_code == 200
        text = server.client.get("/metrics").text
        for line in ("ready 0.0", 'refusals_total{reason="no_worker"} 1.0', 'worker_ready{worker="1"} 0.0'):
            assert f"\nstrandline_{line}\n" in text
        until(lambda: "not ready: no worker takes calls" in server.stderr, "the log says it")

        agent.write_text(code)
        assert waits.result(2 * DEADLINE_S).json()["output"] == "waits"
        assert readiness() == (200, "ready")
        assert server.ask("more", "b").result(DEADLINE_S).json()["response"] == "more"
        until(lambda: "ready again after" in server.stderr, "the log says that too")
        assert server.stderr.count("not ready: ") == 1
    finally:
        server.close()
    assert "Traceback" not in server.stderr


def test_nothing_of_a_server_that_was_stopped_works_beside_the_one_that_takes_over(
    at: Checkpoints, tmp_path: Path
) -> None:
    flags = (*TWO, "--drain-grace", "0", "--cancel-grace", "0.2")
    first, second = (Server(AGENT, *flags, folder=tmp_path, variables=at.environment) for _ in range(2))
    try:
        first.start()
        second.start(ready=False)
        old = workers(first)
        at.hold("mine x")
        mine = first.ask("mine x", "a")
        at.reached("mine x")
        first.line_up_behind("next", "a")
        until(lambda: "waiting for the journal" in second.stderr, "it waits to take over")
        at.hold("next model 0")
        for pid in old:
            os.kill(pid, signal.SIGSTOP)  # so that it does not leave by itself
        first.terminate()
        at.reached("next model 0")
        left = [pid for pid in old if is_there(pid)]
        assert left == [], "a tool of the run before could work on there"
        assert mine.result(DEADLINE_S).json()["error_code"] == "stopped"
    finally:
        at.release()
        first.close()
        second.close()

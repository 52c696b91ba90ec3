"""How workers end, seen from the serving process: what they have said before counts, and no other run suffers."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine_support import Played, echo, outcome, play_round, prompt_of, send
from strandline import _backoff
from strandline._agents.port import AgentLost, Attempt, Finished
from strandline._clock import SystemClock
from strandline._encoding import encode_messages
from strandline._engine.execution import FailedRemotely
from strandline._engine.loops import Call
from strandline._engine.observers import CURRENT_RUN
from strandline._journal.memory import MemoryJournal
from strandline._model import Checkpoint, FencingToken, InputRequest, NeedsInput, RoundStarted
from strandline._settings import Settings
from strandline._workers import loops, pool, process
from strandline._workers import messages as m
from strandline._workers.channel import Frames, frame
from strandline._workers.loops import WorkerLoops
from strandline._workers.reports import reports
from strandline.errors import SetupError
from strandline.testing import Gate
from target_support import run, until
from unit.test_workers import in_workers, kill
from workers_support import DONE, SETUP, Few, Nearby, RecordingAttempt, build, order, virtual

THREADLESS = """
import threading

def refused(thread):
    raise RuntimeError("can't start new thread")

threading.Thread.start = refused

async def agent(message, session):
    return message
"""
CANCELLED = m.Failure("CancelledError", "", cancelled=True)


def test_a_round_of_a_dead_worker_is_not_stored() -> None:
    """It would look like one whose tools may have run."""

    async def main(few: Few) -> None:
        call, _ = few.run(attempt := RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.AttemptCall(0, "end_tool", ["t1", {}]), m.AttemptCall(0, "begin_round", []))
        few.all[0].dies()
        await asyncio.sleep(1)
        attempt.gate.set()
        with pytest.raises(AgentLost):
            await call.done
        assert attempt.reported == ["t1"]

    virtual(main)


@pytest.mark.parametrize("what", [("touch", []), ("end_round", [None])], ids=str)
def test_a_report_that_cannot_be_taken_fails_its_own_run_and_no_other(what: tuple[str, list[Any]]) -> None:
    class Odd(RecordingAttempt):
        def touch(self) -> None:
            raise TypeError("nothing that can be touched")

        async def end_round(self, state: object) -> None:
            raise TypeError("nothing that can be ended")

    async def main(few: Few) -> None:
        (call, _), (other, _) = few.run(Odd()), few.run(Odd())
        await asyncio.sleep(1)
        few.all[0].report(m.AttemptCall(0, *what))
        await asyncio.sleep(1)
        assert m.Cancel(0) in few.all[0].orders()
        few.all[0].report(
            m.Done(call=0, resumable=True, failure=CANCELLED), m.Done(call=1, resumable=True, finished=DONE)
        )
        with pytest.raises(TypeError):
            await call.done
        assert await other.done == DONE

    virtual(main)


def test_nothing_of_a_process_counts_as_gone_before_it_is() -> None:
    """Else a thread that still works there could join the run that resumed elsewhere."""

    async def main(few: Few) -> None:
        (call, worker), (other, _) = few.run(RecordingAttempt()), few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.loops.replace(call)
        await asyncio.sleep(1)
        assert few.killed() == [0]
        assert worker not in few.loops._workers, "another one is on its way"
        assert not few.loops.is_current(worker)
        assert not other.done.done()
        assert call.is_alive
        call.abandon(DONE)
        assert call.is_alive
        few.all[0].killed = False
        few.all[0].channel.connection_lost(None)
        await asyncio.sleep(1)
        assert few.killed() == [0], "once more"
        assert not other.done.done(), "its connection has ended, and not yet it"
        few.all[0].over.set()
        with pytest.raises(AgentLost):
            await other.done
        await asyncio.sleep(1)
        assert not call.is_alive

    virtual(main)


def test_an_end_in_a_form_that_cannot_be_kept_fails_its_own_run_and_no_other() -> None:
    number: Any = 5
    odd = Finished(ending=NeedsInput([InputRequest("id", number)], {}))

    async def main(few: Few) -> None:
        (call, _), (other, _) = few.run(RecordingAttempt()), few.run(RecordingAttempt())
        await asyncio.sleep(1)
        few.all[0].report(m.Done(call=0, resumable=True, finished=odd), m.Done(call=1, resumable=True, finished=DONE))
        with pytest.raises(FailedRemotely, match="a result that cannot be stored: Expected `str`, got `int`"):
            await call.done
        await asyncio.sleep(1)
        assert not call.is_alive
        assert await other.done == DONE

    virtual(main)


def test_no_tool_starts_before_its_round_is_durable() -> None:
    durable = Gate()
    started: list[str] = []

    class Slow(MemoryJournal):
        async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
            if isinstance(checkpoint, RoundStarted):
                await durable.wait()
                started.append("durable")
            await super().checkpoint(token, checkpoint)

    async def behaviour(attempt: Attempt) -> str:
        async def works() -> str:
            started.append("tool")
            return "done"

        if prompt_of(attempt) == "go":
            await play_round(attempt, "t1", works)
        return "done"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, journal=Slow(SystemClock())) as (service, _, _):
            ticket = await send(service, "go", "a")
            await durable.reached.wait()
            await outcome(await send(service, "and back", "b"))
            assert started == []
            durable.open()
            await outcome(ticket)
            assert started == ["durable", "tool"]

    run(main)


def test_a_session_goes_on_as_soon_as_its_worker_says_that_nothing_works_on() -> None:
    straggler = Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "stuck":
            await asyncio.to_thread(straggler.block)
        return f"answer to {prompt_of(attempt)}"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, hold_limit_s=3600.0) as (service, served, _):
            await outcome(await send(service, "stuck", timeout_s=0.2))
            follows = await send(service, "next")
            await until(lambda: len(service._holds) == 1)
            straggler.open()
            assert (await outcome(follows)).output == "answer to next"
            assert served.load().workers_lost == 0

    run(main)


def test_a_worker_that_has_died_young_very_often_is_replaced_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backoff, "LONGEST_WAIT_READY_S", 0.01)

    async def main() -> None:
        async with in_workers(echo, workers=1) as (service, served, _):
            served._backoffs[0]._failures = 2000
            kill(served, 0)
            await until(lambda: served.load().workers_lost == 1)
            assert (await outcome(await send(service, "go"))).output == "echo go"

    run(main)


def test_a_worker_that_dies_again_and_again_before_it_takes_calls_is_replaced_ever_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At most every two seconds after one that took calls, and every thirty after one that could not."""

    async def main(few: Few) -> None:
        few.loops._backoffs[0]._failures = 2000
        few.are_ready = False
        few.all[0].dies()
        await asyncio.sleep(3)
        assert few.in_use() == [1]
        few.all[1].report(m.LoadFailed("no such module"))
        few.all[1].dies()
        await asyncio.sleep(25)
        assert few.in_use() == []
        await asyncio.sleep(6)
        assert few.in_use() == [2]

    virtual(main)
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        "worker 0 (process 0) has died: gone",
        "worker 0 (process 1) cannot serve: no such module",
    ]


def test_a_worker_is_replaced_once_also_if_that_could_not_be_done_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "SPAWN_AGAIN_S", 0.01)
    started: list[Nearby] = []
    played = Played(echo)

    def spawn() -> Nearby:
        if len(started) == 1:
            started.append(started[0])
            raise BlockingIOError("no more processes")
        started.append(Nearby(played))
        return started[-1]

    async def main() -> None:
        async with in_workers(echo, workers=1, spawn=spawn) as (service, served, _):
            call: Call[Any] = Call(asyncio.get_running_loop().create_future(), served._workers[0])
            served.drain(call)
            await until(lambda: len(started) == 3)
            later = WorkerLoops._replace_later.__qualname__
            await until(lambda: later not in [getattr(each.get_coro(), "__qualname__", "") for each in served._tasks])
            assert (await outcome(await send(service, "go"))).output == "echo go"
            assert len(started) == 3
            assert len(served._processes) == 1

    run(main)


def test_checkpoints_are_stored_in_the_context_of_their_run_and_workers_have_none() -> None:
    seen: list[object] = []

    class Looking(MemoryJournal):
        async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
            seen.append(CURRENT_RUN.get() and CURRENT_RUN.get().run_id)  # type: ignore[union-attr]
            await super().checkpoint(token, checkpoint)

    async def behaviour(attempt: Attempt) -> str:
        async def works() -> str:
            return "done"

        await play_round(attempt, "t1", works)
        return prompt_of(attempt)

    async def main() -> None:
        async with in_workers(behaviour, journal=Looking(SystemClock())) as (service, _, _):
            ticket = await send(service, "go")
            await outcome(ticket)
            assert seen == [ticket.run_id] * 3

    async def replaced(few: Few) -> None:
        call, _ = few.run(RecordingAttempt())
        named: Any = "a run"
        CURRENT_RUN.set(named)
        await asyncio.sleep(1)
        few.loops.drain(call)
        await asyncio.sleep(1)
        assert [each.began_for for each in few.all] == [None, None]

    run(main)
    virtual(replaced)


def test_a_worker_that_is_silent_is_given_nothing_while_another_one_is_not() -> None:
    async def main() -> None:
        async with in_workers(echo) as (service, served, played):
            first, second = served._workers
            await outcome(await send(service, "hello", "a"))
            assert (first.agents, second.agents) == (1, 0)
            first._pinged_at = SystemClock().monotonic() - 5
            for session in "abc":
                await outcome(await send(service, "hello", session))
            await until(lambda: (first.agents, second.agents) == (0, 3))
            second._pinged_at = first._pinged_at
            built = len(played.built)
            await outcome(await send(service, "hello", "a"))
            assert len(played.built) == built, "it is no better elsewhere"

    run(main)


def test_workers_that_cannot_be_started_are_an_error_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []

    class Starts:
        def __init__(self, setup: m.Setup) -> None:
            if begun:
                raise BlockingIOError("no more processes")
            begun.append(self)

        def kill(self) -> None:
            killed.append(self)

        def wait(self, within_s: float) -> None:
            pass

    begun: list[Starts] = []
    monkeypatch.setattr(pool, "WorkerProcess", Starts)
    with (
        pytest.raises(SetupError, match="2 worker processes cannot be started: no more processes"),
        pool.worker_pool("agent.py", Settings(workers=2), lambda: None),
    ):
        pass
    assert killed == begun != []


def test_a_process_that_ends_without_reading_its_orders_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    started = process.WorkerProcess(SETUP)
    with pytest.raises(SetupError, match="ended while it loaded its target: exit code 0"):
        started.loaded()
    started.wait(1.0)


FORKING = """
import os, pathlib, signal

async def agent(message, session):
    if (child := os.fork()) == 0:
        signal.pause()
    pathlib.Path(__file__).with_name("child").write_text(str(child))
    return "forked"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_worker_that_has_no_thread_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "agent.py").write_text(THREADLESS)
    started = process.WorkerProcess(msgspec.structs.replace(SETUP, target=str(tmp_path / "agent.py"), path=sys.path))
    started._socket.settimeout(20)
    frames, reported = Frames(), list[Any]()
    try:
        while data := started._socket.recv(1 << 16):
            reported += [report for each in frames.feed(data) for report in reports(each)]
    finally:
        started.wait(20)
    assert [type(each) for each in reported] == [m.Loaded, m.LoadFailed]
    assert "no thread can be started for agents" in reported[1].why
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_user_code_forks_has_no_part_in_the_connection(tmp_path: Path) -> None:
    """A fork would keep the connection of a dead worker open, or send reports."""
    (tmp_path / "agent.py").write_text(FORKING)
    started = process.WorkerProcess(msgspec.structs.replace(SETUP, target=str(tmp_path / "agent.py"), path=sys.path))
    started._socket.settimeout(20)
    frames = Frames()

    def heard(kind: type[Any]) -> Any:
        while data := started._socket.recv(1 << 16):
            for each in [report for reported in frames.feed(data) for report in reports(reported)]:
                if isinstance(each, kind):
                    return each
        raise AssertionError("the connection has ended")

    def report(order: m.Order) -> None:
        started._socket.sendall(frame(encode_messages(order)))

    heard(m.Ready)
    report(build(0))
    heard(m.Done)
    report(order(1))
    heard(m.Done)
    child = int((tmp_path / "child").read_text())
    try:
        started.kill()
        with pytest.raises(AssertionError, match="has ended"):
            heard(m.Ready)
    finally:
        os.kill(child, signal.SIGKILL)
        started.wait(20)

"""A machine that has no thread left: calls wait for one, and nothing is done that its caller saw failed."""

import asyncio
import logging
import sqlite3
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool

from engine_support import send
from strandline._agents.factory import FactoryTarget
from strandline._agents.parameters import NOTHING
from strandline._clock import SystemClock
from strandline._compat.threads import Threads
from strandline._engine.loops import AgentLoops
from strandline._journal.driver import connect_reader
from strandline._journal.reader import OPENS_ALL, Readers
from strandline._journal.sqlite import SqliteJournal
from strandline._logs import log_to_stderr
from strandline._model import ErrorCode, Outcome, RunStatus
from strandline.errors import JournalUnavailable, SetupError
from strandline.testing import Gate, ScriptedModel, call, results
from strandline.testing import question as prompt_of
from target_support import ask, run, serving, until

DEADLINE_S = 20.0


class Machine:
    """Whether threads can be started, and how many were wanted in vain."""

    def __init__(self) -> None:
        self.has_threads = True
        self.refused = 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine on which a test decides whether there are threads for pools and loops."""
    made = Machine()
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        if not made.has_threads and thread.name.startswith(("strandline", "test")):
            made.refused += 1
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    yield made
    made.has_threads = True


def test_a_call_waits_for_a_thread_that_cannot_be_started_and_is_done_once(machine: Machine) -> None:
    pool = Threads(2, "test")
    done: list[str] = []
    machine.has_threads = False
    waiting = [pool.submit(done.append, name) for name in "abc"]
    assert machine.refused == 3
    assert pool.backlog == 3
    pool.start_more()
    assert not any(each.done() for each in waiting)
    machine.has_threads = True
    pool.start_more()
    for each in waiting:
        each.result(DEADLINE_S)
    assert sorted(done) == ["a", "b", "c"]
    assert pool.refusal is None
    pool.shutdown()
    pool.start_more()


def test_as_many_threads_are_started_as_there_are_calls_that_wait(machine: Machine) -> None:
    pool = Threads(3, "test")
    gates = [Gate(), Gate(), Gate()]
    machine.has_threads = False
    held = [pool.submit(gate.block) for gate in gates]
    machine.has_threads = True
    pool.start_more()
    for gate in gates:
        gate.reached.block()  # all three, though none has ended
    for gate in gates:
        gate.open()
    for each in held:
        each.result(DEADLINE_S)
    pool.shutdown()


def test_a_call_that_was_cancelled_while_it_waited_is_never_done(machine: Machine) -> None:
    pool = Threads(1, "test")
    done: list[str] = []
    machine.has_threads = False
    dropped = pool.submit(done.append, "dropped")
    kept = pool.submit(done.append, "kept")
    assert dropped.cancel()
    machine.has_threads = True
    pool.start_more()
    kept.result(DEADLINE_S)
    assert done == ["kept"]
    pool.shutdown()


def test_a_call_with_a_thread_that_is_there_waits_for_that(machine: Machine) -> None:
    """Also in the pool that takes calls back: another thread could not be started, but there is one."""
    pool = Threads(2, "test")
    gate = Gate()
    first = pool.submit(gate.block)
    gate.reached.block()
    machine.has_threads = False
    second = pool.submit(str, 2)
    assert not pool.withdrawn(second)
    gate.open()
    assert second.result(DEADLINE_S) == "2"
    first.result(DEADLINE_S)
    pool.shutdown()


def test_a_read_without_a_thread_is_refused_and_never_reaches_the_journal(machine: Machine, tmp_path: Path) -> None:
    readers = Readers(partial(connect_reader, tmp_path / "journal.db"), sqlite3.Error, warm_up=OPENS_ALL)
    sqlite3.connect(tmp_path / "journal.db").close()
    heard: list[int] = []
    machine.has_threads = False
    with pytest.raises(JournalUnavailable, match="no thread can be started"):
        readers.ask(lambda connection: heard.append(1))
    machine.has_threads = True
    assert readers.ask(lambda connection: 2).result(DEADLINE_S) == 2
    assert heard == []
    readers.close()
    with pytest.raises(JournalUnavailable, match="not open"):
        readers.ask(lambda connection: 3)


def working(started: list[str]) -> Any:
    """Return a factory of agents whose tool says that it has started; it is sync, and so is the tool."""

    @tool
    def work() -> str:
        """Work."""
        started.append("work")
        return "worked"

    def script(messages: Any) -> Any:
        if prompt_of(messages) != "work":
            return "fine"
        return next(iter(results(messages).values()), None) or [call("work")]

    def make() -> Agent:
        started.append("made")
        return Agent(model=ScriptedModel(script), tools=[work])

    return make


def target(started: list[str]) -> FactoryTarget:
    made = FactoryTarget(working(started), takes=NOTHING, description="test")
    made._unknown = False  # (no trial, which would leave a thread)
    return made


def test_a_run_whose_factory_finds_no_thread_waits_and_is_logged(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        started: list[str] = []
        async with serving(target(started), tmp_path) as service:
            machine.has_threads = False
            ticket = await send(service, "hello")
            await until(lambda: "no thread can be started" in caplog.text)
            assert started == []
            assert service.health().running == 1
            machine.has_threads = True
            end = await asyncio.wait_for(ticket.stream.outcome(), DEADLINE_S)
            assert isinstance(end, Outcome)
            assert (end.output, started) == ("fine", ["made"])
            await until(lambda: "there are threads" in caplog.text)

    caplog.set_level(logging.INFO, "strandline")
    run(main)


def test_a_tool_that_finds_no_thread_waits_and_starts_once(machine: Machine, tmp_path: Path) -> None:
    async def main() -> None:
        started: list[str] = []

        async def make() -> Agent:
            return working(started)()  # type: ignore[no-any-return]

        made = FactoryTarget(make, takes=NOTHING, description="test")
        made._unknown, made.resumable = False, True
        async with serving(made, tmp_path) as service:
            machine.has_threads = False
            ticket = await send(service, "work")
            await until(lambda: machine.refused > 1)
            assert started == ["made"]
            machine.has_threads = True
            end = await asyncio.wait_for(ticket.stream.outcome(), DEADLINE_S)
            assert isinstance(end, Outcome)
            assert (end.output, started) == ("worked", ["made", "work"])

    run(main)


def test_a_tool_whose_run_was_over_before_there_was_a_thread_never_starts(machine: Machine, tmp_path: Path) -> None:
    async def main() -> None:
        started: list[str] = []

        async def make() -> Agent:
            return working(started)()  # type: ignore[no-any-return]

        made = FactoryTarget(make, takes=NOTHING, description="test")
        made._unknown, made.resumable = False, True
        async with serving(made, tmp_path, cancel_grace_s=0.3) as service:
            machine.has_threads = False
            ticket = await send(service, "work", timeout_s=0.5)
            end = await asyncio.wait_for(ticket.stream.outcome(), DEADLINE_S)
            assert isinstance(end, Outcome)
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            machine.has_threads = True
            assert (await ask(service, "hello")).status is RunStatus.SUCCEEDED
            assert (await ask(service, "work", "other")).output == "worked"
            assert started.count("work") == 1, "that of the other session"

    run(main)


def test_a_blocked_loop_that_no_thread_can_take_over_from_stays_in_use_until_one_can(machine: Machine) -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=1, clock=SystemClock())
        gate = Gate()

        async def blocks() -> None:
            gate.block()

        async def named() -> str:
            return threading.current_thread().name

        held = loops.start(blocks)
        await gate.reached.wait()
        machine.has_threads = False
        with pytest.raises(SetupError, match="can't start new thread"):
            loops.replace(held)
        assert loops.is_current(held.loop)
        machine.has_threads = True
        loops.replace(held)
        assert not loops.is_current(held.loop)
        assert await asyncio.wait_for(loops.start(named).done, DEADLINE_S) == "strandline-agents"
        gate.open()
        assert loops.close()

    asyncio.run(main())


def test_agents_that_have_no_thread_keep_a_server_from_starting_which_says_what_to_do(machine: Machine) -> None:
    machine.has_threads = False
    with pytest.raises(SetupError, match=r"no thread can be started .*pids-limit"):
        AgentLoops(executor_threads=1, clock=SystemClock())


def test_a_log_that_has_no_thread_keeps_a_server_from_starting_which_says_what_to_do(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.has_threads = False
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        with pytest.raises(SetupError, match=r"no thread can be started for the log .*pids-limit"):
            log_to_stderr()


def test_a_journal_that_has_no_thread_keeps_a_server_from_starting_and_leaves_no_lock(
    machine: Machine, tmp_path: Path
) -> None:
    async def main() -> None:
        machine.has_threads = False
        lacking = SqliteJournal(tmp_path / "journal.db", SystemClock())
        with pytest.raises(SetupError, match=r"no thread can be started .*pids-limit"):
            await lacking.open("test", max_attempts=3)
        machine.has_threads = True
        journal = SqliteJournal(tmp_path / "journal.db", SystemClock())
        await journal.open("test", max_attempts=3)
        await journal.close()

    asyncio.run(main())

"""How workers end, seen from the serving process: what they have said before counts, and no other run suffers."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine_support import Played, asked, echo, outcome, play_round, send
from strandline.agents.port import Attempt, Finished, RunContext
from strandline.clock import SystemClock
from strandline.config import Settings
from strandline.encoding import encode_messages
from strandline.engine.calls import CURRENT, Call
from strandline.engine.failures import FailedThere
from strandline.engine.tracing import RUN
from strandline.errors import SetupError
from strandline.history import Progress
from strandline.journal.memory import MemoryJournal
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Fact,
    InputRequest,
    NeedsInput,
    Principal,
    RoundStarted,
    RunId,
    SessionId,
    SessionKey,
    Succeeded,
    Token,
)
from strandline.testing import Gate
from strandline.workers import crew, end, loops, process
from strandline.workers import messages as m
from strandline.workers.channel import Channel, Frames, frame
from strandline.workers.inside import orders
from strandline.workers.loops import WorkerLoops
from strandline.workers.reports import reports
from target_support import run, until
from unit.test_workers import in_workers, kill
from workers_support import Nearby

SETUP = m.Setup(
    target="agent.py",
    history="journal",
    executor_threads=1,
    path=[],
    agent_id="a",
    log_level="info",
    log_format="text",
    log_details=False,
)

CONTEXT = RunContext(
    run_id=RunId("r"),
    session_id=SessionId("s"),
    principal=Principal("p"),
    attempt=1,
    metadata={},
    workspace="",
)

NOTHING = Progress(messages=[], results={})


class Spoken:
    """A process of which the test says every word."""

    pid = 1

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.died = asyncio.Event()
        self.run: object = None

    async def connect(self, channel: Channel) -> None:
        self.run = RUN.get()
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=self.ours)

    def frames(self) -> Frames:
        return Frames()

    def says(self, *reports: m.Report) -> None:
        self.theirs.sendall(frame(*map(encode_messages, reports)))

    def hears(self) -> list[m.Order]:
        """Return the orders that have come; at least one has to."""
        self.theirs.settimeout(20)
        return [order for each in Frames().feed(self.theirs.recv(1 << 16)) for order in orders(each)]

    def kill(self) -> None:
        self.died.set()

    async def ended(self) -> str:
        await self.died.wait()
        return "killed"

    def leave(self) -> None:
        self.kill()

    def gone(self, within_s: float) -> None:
        self.theirs.close()


class Noted:
    """An attempt that notes what it is told; a tool's result is durable when `staged` is open."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.staged = Gate()

    def add_text(self, delta: str) -> None:
        self.told.append(delta)

    def touch(self) -> None:
        raise TypeError("nothing that can be touched")

    async def begin_round(self) -> None:
        self.told.append("begins")

    async def end_tool(self, named: str, result: object) -> None:
        await self.staged.wait()
        self.told.append(named)

    async def end_round(self, state: object) -> None:
        raise TypeError("nothing that can be ended")


def done(number: int, **more: Any) -> m.Done:
    return m.Done(call=number, opaque=False, **{"finished": Finished(ending=Succeeded(text="done")), **more})


@asynccontextmanager
async def spoken() -> AsyncIterator[tuple[Spoken, WorkerLoops]]:
    each = Spoken()
    each.says(m.Ready(False))
    served = WorkerLoops([each], Spoken, SystemClock())
    try:
        yield each, served
    finally:
        served.close()
        await until(lambda: not served._processes)


def begin(served: WorkerLoops, attempt: Any) -> Call[Finished | None]:
    (here,) = served._ends

    async def work() -> Finished | None:
        call = CURRENT.get()
        assert call is not None
        order = m.Run(call=here.number(), agent=0, context=CONTEXT, trace=None, carrier=None, prompt=None, messages=[])
        return await here.execute(order, call, attempt)

    return served.start(work)


async def result(call: Call[Finished | None]) -> str:
    async with asyncio.timeout(20):
        try:
            finished = await call.done
        except Exception as error:
            return type(error).__name__
    assert finished is not None
    assert isinstance(finished.ending, Succeeded)
    return str(finished.ending.text)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def transport(served: WorkerLoops) -> Any:
    channel = served._ends[0]._channel
    assert channel is not None
    return channel._transport


def test_what_a_process_has_said_before_its_death_counts_also_when_that_is_noticed_first() -> None:
    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            call = begin(served, attempt := Noted())
            await turns()
            connection = transport(served)
            connection.pause_reading()
            worker.says(m.Told(0, "add_text", ["last words"]), done(0))
            worker.theirs.close()
            worker.kill()
            await turns()
            connection.resume_reading()
            assert await result(call) == "done"
            assert attempt.told == ["last words"]

    asyncio.run(main())


def test_a_fork_that_keeps_the_connection_open_keeps_nobody_from_noticing_a_death(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(end, "LAST_WORDS_S", 0.05)

    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            call = begin(served, Noted())
            await turns()
            fork = worker.theirs.dup()
            connection = transport(served)
            worker.theirs.close()
            worker.kill()
            assert await result(call) == "AgentLost"
            assert connection.is_closing(), "no descriptor is left"
            fork.close()

    asyncio.run(main())


def test_what_waits_behind_a_result_that_becomes_durable_is_taken_before_a_death() -> None:
    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            (here,) = served._ends
            call = begin(served, attempt := Noted())
            await turns()
            worker.says(m.Told(0, "end_tool", ["t1", {}]), m.Told(0, "add_text", ["last words"]))
            await attempt.staged.reached.wait()
            worker.theirs.close()
            await until(lambda: here._dead)
            await turns()
            assert not call.done.done()
            attempt.staged.open()
            assert await result(call) == "AgentLost"
            assert attempt.told == ["t1", "last words"]

    asyncio.run(main())


def test_a_round_that_nobody_is_there_to_begin_any_more_is_not_staged() -> None:
    """It would look like one whose tools may have run."""

    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            (here,) = served._ends
            call = begin(served, attempt := Noted())
            await turns()
            worker.says(m.Told(0, "end_tool", ["t1", {}]), m.Told(0, "begin_round", []))
            await attempt.staged.reached.wait()
            worker.theirs.close()
            await until(lambda: here._dead)
            attempt.staged.open()
            assert await result(call) == "AgentLost"
            assert attempt.told == ["t1"]

    asyncio.run(main())


@pytest.mark.parametrize("what", [("touch", []), ("end_round", [None])], ids=str)
def test_a_report_that_cannot_be_taken_fails_its_own_run_and_no_other(what: tuple[str, list[Any]]) -> None:
    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            call, other = begin(served, Noted()), begin(served, Noted())
            await turns()
            worker.hears()
            worker.says(m.Told(0, *what))
            await turns()
            assert m.Cancel(0) in worker.hears()
            worker.says(done(0, finished=None, failure=m.Failure("CancelledError", "", cancelled=True)), done(1))
            assert await result(call) == "TypeError"
            assert await result(other) == "done"

    asyncio.run(main())


def test_something_that_tells_of_a_run_that_is_over_is_not_heard() -> None:
    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            call, other = begin(served, noted := Noted()), begin(served, Noted())
            await turns()
            worker.says(done(0), m.Told(0, "add_text", ["late"]))
            assert await result(call) == "done"
            worker.says(m.Told(0, "end_tool", ["t1", {}]), done(1))
            assert await result(other) == "done"
            assert noted.told == []

    asyncio.run(main())


def test_nothing_of_a_process_counts_as_gone_before_it_is() -> None:
    """Else what goes on elsewhere could be joined by what still works there."""

    class Tough(Spoken):
        def kill(self) -> None:
            killed.append(self)

    killed: list[Tough] = []
    first = Tough()
    first.says(m.Ready(False))

    async def main() -> None:
        served = WorkerLoops([first], Tough, SystemClock())
        await served.begin()
        (here,) = served._ends
        call, other = begin(served, Noted()), begin(served, Noted())
        await turns()
        served.retire(call)
        await turns()
        assert killed == [first]
        assert here not in served._ends, "another one is on its way"
        assert not served.lives(here)
        assert not other.done.done()
        assert call.is_alive
        call.abandon(Finished(ending=Succeeded()))
        assert call.is_alive
        first.theirs.close()
        await until(lambda: len(killed) > 1)
        assert not other.done.done(), "its connection has ended, and not yet it"
        first.died.set()
        assert await result(other) == "AgentLost"
        await until(lambda: not call.is_alive)
        served.close()
        for each in served._processes.values():
            assert isinstance(each, Tough)
            each.died.set()
        await until(lambda: not served._processes)

    run(main)


def test_an_end_in_a_form_that_cannot_be_kept_fails_its_own_run_and_no_other() -> None:
    number: Any = 5
    odd = done(0, finished=Finished(ending=NeedsInput([InputRequest("id", number)], {})))

    async def main() -> None:
        async with spoken() as (worker, served):
            await served.begin()
            call, other = begin(served, Noted()), begin(served, Noted())
            await turns()
            worker.says(odd, done(1))
            with pytest.raises(FailedThere, match="in a form that cannot be kept: Expected `str`, got `int`"):
                await call.done
            assert not call.is_alive
            assert await result(other) == "done"

    asyncio.run(main())


def test_no_tool_starts_before_its_round_is_durable() -> None:
    durable = Gate()
    started: list[str] = []

    class Slow(MemoryJournal):
        async def stage(self, token: Token, fact: Fact) -> None:
            if isinstance(fact, RoundStarted):
                await durable.wait()
                started.append("durable")
            await super().stage(token, fact)

    async def behaviour(attempt: Attempt) -> str:
        async def works() -> str:
            started.append("tool")
            return "done"

        if asked(attempt) == "go":
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
    leftover = Gate()

    async def behaviour(attempt: Attempt) -> str:
        if asked(attempt) == "stuck":
            await asyncio.to_thread(leftover.block)
        return f"answer to {asked(attempt)}"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, hold_limit_s=3600.0) as (service, served, _):
            await outcome(await send(service, "stuck", timeout_s=0.2))
            follows = await send(service, "next")
            await until(lambda: len(service._holds) == 1)
            leftover.open()
            assert (await outcome(follows)).output == "answer to next"
            assert served.load().workers_lost == 0

    run(main)


def test_a_worker_that_has_died_young_very_often_is_replaced_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "LONGEST_WAIT_READY_S", 0.01)

    async def main() -> None:
        async with in_workers(echo, workers=1) as (service, served, _):
            served._failures[0] = 2000
            kill(served, 0)
            await until(lambda: served.load().workers_lost == 1)
            assert (await outcome(await send(service, "go"))).output == "echo go"

    run(main)


def test_a_worker_that_dies_again_and_again_before_it_takes_calls_is_replaced_ever_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with spoken() as (worker, served):
            served._failures[0] = 2000
            await served.begin()
            (first,) = served._ends
            worker.kill()
            worker.theirs.close()
            await until(lambda: served._ends != [first])  # it took calls
            (second,) = served._ends
            served._failures[0] = 2000
            (loading,) = served._processes.values()
            assert isinstance(loading, Spoken)
            await until(lambda: second._channel is not None)
            loading.says(m.Refused("no such module"))
            loading.theirs.close()
            await until(lambda: second._dead)
            await turns()
            assert served._ends == [second]
            assert served._failures == [2001]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "LONGEST_WAIT_READY_S", 0.0)
        run(main)
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        "worker 0 (process 1) has died: killed",
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
            call: Call[Any] = Call(asyncio.get_running_loop().create_future(), served._ends[0])
            served.relieve(call)
            await until(lambda: len(started) == 3)
            later = WorkerLoops._replace_later.__qualname__
            await until(lambda: later not in [getattr(each.get_coro(), "__qualname__", "") for each in served._tasks])
            assert (await outcome(await send(service, "go"))).output == "echo go"
            assert len(started) == 3
            assert len(served._processes) == 1

    run(main)


def test_what_is_staged_is_so_in_the_context_of_its_run_and_workers_have_none() -> None:
    seen: list[object] = []

    class Looking(MemoryJournal):
        async def stage(self, token: Token, fact: Fact) -> None:
            seen.append(RUN.get() and RUN.get().run_id)  # type: ignore[union-attr]
            await super().stage(token, fact)

    async def behaviour(attempt: Attempt) -> str:
        async def works() -> str:
            return "done"

        await play_round(attempt, "t1", works)
        return asked(attempt)

    async def main() -> None:
        async with in_workers(behaviour, journal=Looking(SystemClock())) as (service, _, _):
            ticket = await send(service, "go")
            await outcome(ticket)
            assert seen == [ticket.run_id] * 3
        async with spoken() as (_, served):
            await served.begin()
            named: Any = "a run"
            RUN.set(named)
            served.relieve(Call(asyncio.get_running_loop().create_future(), served._ends[0]))
            await until(lambda: served._ends[0]._channel is not None)
            (fresh,) = [each for here, each in served._processes.items() if here is served._ends[0]]
            assert isinstance(fresh, Spoken)
            assert fresh.run is None

    run(main)


def test_a_worker_that_is_silent_is_given_nothing_while_another_one_is_not() -> None:
    async def main() -> None:
        async with in_workers(echo) as (service, served, played):
            first, second = served._ends
            await outcome(await send(service, "hello", "a"))
            assert (first.agents, second.agents) == (1, 0)
            first._asked_at = SystemClock().monotonic() - 5
            for session in "abc":
                await outcome(await send(service, "hello", session))
            await until(lambda: (first.agents, second.agents) == (0, 3))
            second._asked_at = first._asked_at
            built = len(played.built)
            await outcome(await send(service, "hello", "a"))
            assert len(played.built) == built, "it is no better elsewhere"

    run(main)


def test_workers_that_cannot_be_started_are_told_of_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []

    class Starts:
        def __init__(self, setup: m.Setup) -> None:
            if begun:
                raise BlockingIOError("no more processes")
            begun.append(self)

        def kill(self) -> None:
            killed.append(self)

        def gone(self, within_s: float) -> None:
            pass

    begun: list[Starts] = []
    monkeypatch.setattr(crew, "WorkerProcess", Starts)
    with (
        pytest.raises(SetupError, match="2 worker processes cannot be started: no more processes"),
        crew.crew("agent.py", Settings(workers=2), lambda: None),
    ):
        pass
    assert killed == begun != []


def test_a_process_that_ends_without_a_look_at_what_it_was_sent_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    started = process.WorkerProcess(SETUP)
    with pytest.raises(SetupError, match="has ended while it loaded what it serves: exit code 0"):
        started.loaded()
    started.gone(1.0)


FORKING = """
import os, pathlib, signal

async def agent(message, session):
    if (child := os.fork()) == 0:
        signal.pause()
    pathlib.Path(__file__).with_name("child").write_text(str(child))
    return "forked"
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_process_that_user_code_forks_has_no_part_in_the_connection(tmp_path: Path) -> None:
    """It would keep it open when the worker is dead; and one that goes on as an agent would report."""
    (tmp_path / "agent.py").write_text(FORKING)
    started = process.WorkerProcess(msgspec.structs.replace(SETUP, target=str(tmp_path / "agent.py"), path=sys.path))
    started._socket.settimeout(20)
    frames = Frames()

    def heard(kind: type[Any]) -> Any:
        while data := started._socket.recv(1 << 16):
            for each in [report for told in frames.feed(data) for report in reports(told)]:
                if isinstance(each, kind):
                    return each
        raise AssertionError("the connection has ended")

    def tell(order: m.Order) -> None:
        started._socket.sendall(frame(encode_messages(order)))

    heard(m.Ready)
    key = SessionKey(CONTEXT.principal, CONTEXT.session_id)
    record = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
    tell(m.Build(call=0, run_id=RunId("r"), key=key, trace=None, carrier=None, record=record, progress=NOTHING))
    heard(m.Done)
    tell(m.Run(call=1, agent=0, context=CONTEXT, trace=None, carrier=None, prompt="fork", messages=[]))
    heard(m.Done)
    child = int((tmp_path / "child").read_text())
    try:
        started.kill()
        with pytest.raises(AssertionError, match="has ended"):
            heard(m.Ready)
    finally:
        os.kill(child, signal.SIGKILL)
        started.gone(20)

"""A drain that begins while runs are being accepted: what was claimed for them is requeued, uncounted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine_support import Played, Stubborn, echo, key, send, serving
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._engine.loops import AgentLoops
from strandline._engine.options import Options
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AcceptAnswer, RunQuery
from strandline._journal.sqlite import SqliteJournal
from strandline._model import ANONYMOUS, Claim, FencingToken, Outcome, RunId, RunStatus, SessionId, SessionKey
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual


def test_accepts_under_way_are_durable_and_go_on_later(tmp_path: Path) -> None:
    """Their callers learn that, and the runs have used up no attempt, although they were claimed as they came."""
    numbers = iter(range(100))

    async def main() -> list[tuple[RunStatus, int]]:
        journal = SqliteJournal(tmp_path / "journal.db", SystemClock())
        loops = AgentLoops(executor_threads=1, clock=SystemClock())
        service = Service(
            journal=journal,
            target=Played(echo, resumable=False),
            loops=loops,
            clock=SystemClock(),
            new_run_id=lambda key: RunId(f"run_{next(numbers)}"),
            workspace=lambda key: str(tmp_path),
            options=Options(),
        )
        await service.start()
        asking = [
            asyncio.create_task(service.submit(Request(key=SessionKey(ANONYMOUS, SessionId(name)), input=name)))
            for name in ("one", "two", "three")
        ]
        for _ in range(3):  # they are on their way to the thread that writes, and no further
            await asyncio.sleep(0)
        await service.drain()
        loops.close()
        for each in asking:
            assert await (await each).stream.outcome() is Later.LATER
        await journal.open("test", max_attempts=3)
        runs = [await journal.read(RunQuery(ANONYMOUS, RunId(f"run_{number}"))) for number in range(3)]
        await journal.close()
        return [(run.status, run.attempt) for run in runs if run is not None]

    assert asyncio.run(main()) == [(RunStatus.QUEUED, 0)] * 3


class Late(MemoryJournal):
    """Delivers claims long after the answers of their operations."""

    async def claims(self) -> AsyncIterator[Claim]:
        async for claim in super().claims():
            await asyncio.sleep(0.5)
            yield claim


def test_a_drain_waits_for_claims_that_are_on_their_way_and_gives_their_runs_back_uncounted() -> None:
    """One was made with the end of the run before it, one with its accept."""

    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return "done"

        journal = Late(clock)
        async with serving(clock, Played(behaviour), journal, drain_grace_s=0) as service:
            first, second = [await send(service, text) for text in ("one", "two")]
            assert isinstance(await first.stream.outcome(), Outcome)
            other = await send(service, "three", "another")
            await service.drain()
            assert [await each.stream.outcome() for each in (second, other)] == [Later.LATER, Later.LATER]
        assert await journal.open("test", max_attempts=3) == []
        for ticket in (second, other):
            run = await journal.read(RunQuery(ANONYMOUS, ticket.run_id))
            assert run is not None
            assert (run.status, run.attempt) == (RunStatus.QUEUED, 0)

    run_virtual(main)


class Handing(MemoryJournal):
    """Notes what is requeued, and which sessions stay until it is closed."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.noted: list[str] = []

    def stay(self, key: SessionKey) -> None:
        self.noted.append(f"{key.session_id} stays")

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        self.noted.append(f"requeued, {counted=}")
        await super().release(token, counted=counted)


@pytest.mark.parametrize("lingers", [True, False])
def test_a_drain_hands_no_run_over_while_its_code_still_executes(lingers: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        work = Stubborn()

        async def behaviour(attempt: Attempt) -> str:
            if lingers:
                work.leave()
            await asyncio.sleep(100_000)
            return "never"

        journal = Handing(clock)
        async with serving(clock, Played(behaviour), journal, drain_grace_s=0) as service:
            ticket = await send(service, "one")
            await asyncio.sleep(1)
            await service.drain()
            assert await ticket.stream.outcome() is Later.LATER
            work.end()
        stays = [f"{key().session_id} stays"] if lingers else []
        assert journal.noted == [*stays, "requeued, counted=False"]

    run_virtual(main)


class SlowToAccept(MemoryJournal):
    """Takes its time for each run, as on a slow disk."""

    async def accept(self, *args: Any, **options: Any) -> AcceptAnswer:
        await asyncio.sleep(3)
        return await super().accept(*args, **options)


@pytest.mark.parametrize(("drain_grace_s", "stop_grace_s"), [(10, 5), (1, 4)])
def test_a_drain_waits_for_runs_that_are_being_accepted_behind_others(drain_grace_s: int, stop_grace_s: int) -> None:
    """No claim comes for them, but their callers get an answer, within both graces together."""

    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return "done"

        graces: dict[str, Any] = {"drain_grace_s": drain_grace_s, "stop_grace_s": stop_grace_s}
        async with serving(clock, Played(behaviour), SlowToAccept(clock), **graces) as service:
            first = await send(service, "first")
            behind = asyncio.create_task(send(service, "behind"))
            await asyncio.sleep(0.5)
            await service.drain()
            assert behind.done()
            done, later = [await each.stream.outcome() for each in (first, behind.result())]
            assert isinstance(done, Outcome)
            assert done.output == "done"
            assert later is Later.LATER

    run_virtual(main)


class NeverAccepts(MemoryJournal):
    """Hangs, as on a disk that answers no more."""

    async def accept(self, *args: Any, **options: Any) -> AcceptAnswer:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


def test_a_drain_does_not_wait_for_a_journal_that_accepts_nothing_for_longer_than_its_graces() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), NeverAccepts(clock), drain_grace_s=3, stop_grace_s=1) as service:
            sending = asyncio.create_task(send(service, "one"))
            await asyncio.sleep(0.5)
            at = clock.monotonic()
            async with asyncio.timeout(60):
                await service.drain()
            assert clock.monotonic() - at < 15
            sending.cancel()

    run_virtual(main)


def test_nothing_begins_after_a_drain() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            await service.drain()
            late = service._claims.spawn(asyncio.sleep(100_000))
            await asyncio.wait([late], timeout=1)
            assert late.cancelled()

    run_virtual(main)


def test_a_service_that_is_aborted_leaves_no_task() -> None:
    async def main(clock: VirtualClock) -> None:
        async def stuck(attempt: Attempt) -> str:
            await asyncio.sleep(100_000)
            return "never"

        async with serving(clock, Played(stuck)) as service:
            await send(service, "one")
            await asyncio.sleep(1)
            await service.abort()
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)


def test_health_counts_runs_once_their_accept_is_answered() -> None:
    """Who has seen a run there finds it, even if the server is killed in that moment."""

    class Slow(MemoryJournal):
        async def accept(self, *args: Any, **options: Any) -> AcceptAnswer:
            answer = await super().accept(*args, **options)
            await asyncio.sleep(5)  # until it is durable
            return answer

    async def slow(attempt: Attempt) -> str:
        await asyncio.sleep(60)
        return "done"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), Slow(clock)) as service:
            for running, waiting in ((1, 0), (1, 1)):
                before = service.health()
                coming = asyncio.create_task(send(service, "x"))
                await asyncio.sleep(3)
                now = service.health()
                assert (now.running, now.queue_depth) == (before.running, before.queue_depth)
                await coming
                now = service.health()
                assert (now.running, now.queue_depth) == (running, waiting)

    run_virtual(main)


def test_a_service_that_is_aborted_while_it_opens_its_journal_leaves_no_task() -> None:
    class SlowToOpen(MemoryJournal):
        async def open(self, *args: Any, **options: Any) -> list[Claim]:
            await asyncio.sleep(3)
            return await super().open(*args, **options)

    async def main(clock: VirtualClock) -> None:
        service = Service(
            journal=SlowToOpen(clock),
            target=Played(echo),
            loops=InlineLoops(),
            clock=clock,
            new_run_id=lambda key: RunId("r"),
            workspace=lambda key: "",
            options=Options(),
        )
        starting = asyncio.create_task(service.start())
        await asyncio.sleep(1)
        await service.abort()
        await starting
        await asyncio.sleep(1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_virtual(main)

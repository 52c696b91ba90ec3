"""What is told to those who come late, were not looking, or come back: nothing stale, nothing missing, in order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine_support import Played, asked, key, send, serving, settled
from strandline.agents.port import Attempt
from strandline.engine.events import RunFinished, RunPosition, RunQueued, StreamGap, type_of
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import RunQuery
from strandline.model import ANONYMOUS, RunStatus
from strandline.testing.virtual import VirtualClock, VirtualLoop


def play(main: Callable[[VirtualClock], Awaitable[None]]) -> None:
    async def played() -> None:
        async with asyncio.timeout(10_000):
            await main(VirtualClock(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(played())


async def for_seconds(attempt: Attempt) -> str:
    """Take as many seconds as the question says."""
    await asyncio.sleep(float(asked(attempt)))
    return "done"


def test_one_that_comes_late_to_a_run_that_waits_is_told_where_it_stands_by_now() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds)) as service:
            for seconds in ("5", "5", "100"):
                await send(service, seconds)
            last = await send(service, "1")
            await asyncio.sleep(20.0)  # nobody listens while it comes nearer
            events = (await service.stream(ANONYMOUS, last.run_id)).subscribe()
            assert [each.event for each in events.ready()] == [RunQueued(3, None)]
            (moved,) = await events.next(5.0)
            assert isinstance(moved.event, RunPosition)
            assert moved.event.position == 1

    play(main)


def test_one_that_does_not_look_when_a_place_changes_is_told_when_it_does() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds)) as service:
            for seconds in ("5", "100"):
                await send(service, seconds)
            last = await send(service, "1")
            events = (await service.stream(ANONYMOUS, last.run_id)).subscribe()
            await events.next()
            await asyncio.sleep(10.0)  # its connection takes nothing
            assert [each.event.position for each in await events.next(5.0) if isinstance(each.event, RunPosition)] == [
                1
            ]

    play(main)


def test_no_place_is_told_of_a_run_that_has_begun_while_it_was_looked_up() -> None:
    class Slow(MemoryJournal):
        async def read(self, query: Any) -> Any:
            found = await super().read(query)
            if isinstance(query, RunQuery):
                await asyncio.sleep(7.0)
            return found

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds), Slow(clock)) as service:
            for seconds in ("5", "5"):
                await send(service, seconds)
            last = await send(service, "20")
            told = [each.event async for each in last.stream.subscribe()]
            kinds = [type_of(each) for each in told]
            assert "run.position" not in kinds[kinds.index("run.started") :]

    play(main)


def test_the_end_of_a_run_that_an_older_process_has_accepted_is_told_to_all_who_listen() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(for_seconds), journal) as service:
            await send(service, "100")
            waiting = await send(service, "1")
        async with serving(clock, Played(for_seconds), journal) as service:
            changes = service.changes(ANONYMOUS, types=["run.finished"])
            await service.cancel(ANONYMOUS, waiting.run_id)
            (end,) = changes.ready()
            assert end.run_id == waiting.run_id
            assert isinstance(end.event, RunFinished)
            assert end.event.status is RunStatus.CANCELLED

    play(main)


def test_whoever_comes_back_to_a_feed_too_late_is_told_so_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(for_seconds), journal) as service:
            feed = service.changes(ANONYMOUS)
            await send(service, "1")
            await settled(service)
            last = feed.ready()[-1].number or 0
        async with serving(clock, Played(for_seconds), journal) as service:
            for _ in range(2):  # the second finds the feed of the first
                back = service.changes(ANONYMOUS, last, types=["run.finished"])
                (gap,) = await back.next(1.0)
                assert isinstance(gap.event, StreamGap)
                assert (gap.event.first, gap.number) == (last + 1, None)
                assert abs(gap.at - clock.now()) < 5.0
                assert await back.next(1.0) == [], "it is told once"
            assert service.changes(ANONYMOUS).ready() == [], "who has just come has missed nothing"
            await service.pause(key())
            assert [type_of(each.event) for each in service.changes(ANONYMOUS, last).ready()] == [
                "stream.gap",
                "session.paused",
            ]

    play(main)


def test_a_run_that_waited_over_a_restart_tells_its_place_first_whoever_asked_for_it_before() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        keyed: dict[str, Any] = {"idempotency_key": "k", "fingerprint": b"f"}
        async with serving(clock, Played(for_seconds), journal) as service:
            await send(service, "100")
            first, second = await send(service, "1"), await send(service, "2", **keyed)
        async with serving(clock, Played(for_seconds), journal) as service:
            await service.wait(ANONYMOUS, first.run_id, 1.0)
            for stream in (
                await service.stream(ANONYMOUS, first.run_id),
                (await send(service, "2", **keyed)).stream,
            ):
                assert [type_of(each.event) for each in stream.subscribe().ready()] == ["run.queued"]
            assert second.run_id == stream.run_id

    play(main)

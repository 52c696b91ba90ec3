"""What clients get that come late, read late, or come back: nothing stale, nothing missing, in order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine_support import Played, key, prompt_of, send, serving, until_idle
from strandline._agents.port import Attempt
from strandline._clock import Clock
from strandline._engine.events import (
    Event,
    Reason,
    RunFinished,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStarted,
    StreamGap,
    TextDelta,
    ToolStarted,
    Usage,
    Why,
    type_of,
)
from strandline._engine.execution import LiveAttempt, Retries
from strandline._engine.loops import Flag
from strandline._engine.options import Options
from strandline._engine.streams import EventRecorder, Later, RunStream, Streams
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import Bounds
from strandline._history import fold
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import RunQuery
from strandline._model import ANONYMOUS, Claim, FencingToken, Lane, Outcome, Run, RunId, RunStatus
from strandline.testing._desk import StillClock
from strandline.testing._virtual import VirtualClock, VirtualLoop


def play(main: Callable[[VirtualClock], Awaitable[None]]) -> None:
    async def played() -> None:
        async with asyncio.timeout(10_000):
            await main(VirtualClock(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(played())


async def for_seconds(attempt: Attempt) -> str:
    """Take as many seconds as the question says."""
    await asyncio.sleep(float(prompt_of(attempt)))
    return "done"


def test_a_late_client_of_a_waiting_run_gets_its_present_position() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds)) as service:
            for seconds in ("5", "5", "100"):
                await send(service, seconds)
            last = await send(service, "1")
            await asyncio.sleep(20.0)  # nobody listens while it comes nearer
            events = (await service.stream(ANONYMOUS, last.run_id)).subscribe()
            assert [each.event for each in events.ready()] == [
                RunQueued(3, None, Why(Reason.BEHIND, "3 runs are ahead of it in its session"))
            ]
            (moved,) = await events.next(5.0)
            assert isinstance(moved.event, RunPosition)
            assert moved.event.position == 1

    play(main)


def test_a_client_that_reads_late_gets_the_changed_position() -> None:
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


def test_no_position_is_published_of_a_run_that_began_during_the_look_up() -> None:
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
            seen = [each.event async for each in last.stream.subscribe()]
            kinds = [type_of(each) for each in seen]
            assert "run.position" not in kinds[kinds.index("run.started") :]

    play(main)


def test_the_end_of_a_run_that_an_older_process_accepted_reaches_all_subscribers() -> None:
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


def test_a_client_back_too_late_gets_the_gap_in_a_feed_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(for_seconds), journal) as service:
            feed = service.changes(ANONYMOUS)
            await send(service, "1")
            await until_idle(service)
            last = feed.ready()[-1].number or 0
        async with serving(clock, Played(for_seconds), journal) as service:
            for _ in range(2):  # the second finds the feed of the first
                back = service.changes(ANONYMOUS, last, types=["run.finished"])
                (gap,) = await back.next(1.0)
                assert isinstance(gap.event, StreamGap)
                assert (gap.event.first, gap.number) == (last + 1, None)
                assert abs(gap.at - clock.now()) < 5.0
                assert await back.next(1.0) == [], "it is published once"
            assert service.changes(ANONYMOUS).ready() == [], "who has just come has missed nothing"
            await service.pause(key())
            assert [type_of(each.event) for each in service.changes(ANONYMOUS, last).ready()] == [
                "stream.gap",
                "session.paused",
            ]

    play(main)


def test_a_feed_stays_as_long_as_somebody_listens_however_long_nothing_changes() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds), stream_retention_s=60.0) as service:
            await send(service, "1")
            await until_idle(service)
            changes = service.changes(ANONYMOUS)
            waiting = asyncio.create_task(changes.next())
            await asyncio.sleep(600.0)
            assert not changes.is_over
            await service.pause(key())
            assert [type_of(each.event) for each in await waiting] == ["session.paused"]

    play(main)


def test_a_feed_stays_for_a_client_that_is_slow_and_never_seen_to_wait() -> None:
    """What it has read is still being sent to it whenever somebody looks."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(for_seconds), stream_retention_s=5.0) as service:
            await send(service, "1")
            await until_idle(service)
            changes = service.changes(ANONYMOUS)
            for pause in (service.pause, service.resume) * 3:
                await pause(key())
                assert len(changes.ready()) == 1
                await asyncio.sleep(4.0)
            assert not changes.is_over
            await asyncio.sleep(4.0)
            assert changes.is_over, "it has read nothing for so long"

    play(main)


def test_a_run_that_waited_over_a_restart_publishes_its_position_first() -> None:
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


def test_what_an_attempt_records_after_the_next_one_has_begun_is_not_published() -> None:
    run = RunStream(RunId("r"), key())
    recorder = EventRecorder(run, lambda flush: None, StillClock(), cut=1000)
    recorder.record(TextDelta("first"))
    run.begin(1.0, RunRestarted(2, []))
    recorder.record(TextDelta("late"))
    assert [type_of(each.event) for each in run.subscribe().ready()] == ["text.delta", "run.restarted"]


def test_the_first_text_of_a_run_is_noted_once_when_its_events_are_taken_in() -> None:
    noted: list[float] = []
    run, clock = RunStream(RunId("r"), key()), StillClock()
    run.begin(1.0, RunStarted(1), on_first_text=noted.append)
    recorder = EventRecorder(run, lambda flush: None, clock, cut=1000)
    first = clock.now()
    recorder.record(TextDelta("a"))
    clock.at += 1.0
    recorder.record(TextDelta("b"))
    assert noted == []
    run.flush()
    recorder.record(TextDelta("c"))
    run.finish(Outcome(status=RunStatus.SUCCEEDED), 4.0)
    assert noted == [first]


def test_what_is_recorded_while_events_are_taken_in_is_published_next() -> None:
    class Busy(list[tuple[float, Event]]):
        """An inbox in which the agent records more when it is first looked into."""

        late = (2.0, TextDelta("more"))

        def __getitem__(self, wanted: Any) -> Any:
            found = super().__getitem__(wanted)
            if self.late not in found:
                self.append(self.late)
            return found

    run = RunStream(RunId("r"), key())
    run.inbox = Busy([(1.0, TextDelta("first"))])
    assert [each.event for each in run.subscribe().ready()] == [TextDelta("first"), TextDelta("more")]


def test_the_events_of_an_ended_run_take_no_memory_after_their_retention() -> None:
    clock = StillClock()
    kept = streams(clock)
    kept.accepted(RunId("r"), key())
    kept.ended(RunId("r"), key(), Outcome(status=RunStatus.SUCCEEDED), None)
    kept.evict()
    assert kept.found(ANONYMOUS, RunId("r")) is not None
    clock.at += Options().stream_retention_s
    kept.evict()
    assert len(kept._replay) == 0


def test_feed_subscribers_get_events_at_once_of_runs_without_other_subscribers() -> None:
    clock = StillClock()
    feeds = ChangeFeed(clock, bounds=Bounds(), retention_s=60.0)
    changes = feeds.subscribe(ANONYMOUS, 0, (), ())
    run = RunStream(RunId("r"), key(), changes=feeds)

    def brought_over(arrive: Callable[[], object]) -> None:
        arrive()

    EventRecorder(run, brought_over, clock, cut=1000).record(ToolStarted("t", "look", {}))
    assert [type_of(each.event) for each in changes.ready()] == ["tool.started"]


def claim_of(attempt: int = 1, lane: int = Lane.NORMAL) -> Claim:
    run = Run(
        run_id=RunId("r"),
        key=key(),
        input="go",
        metadata={},
        lane=lane,
        priority=3,
        resumable=True,
        sequence=1,
        status=RunStatus.RUNNING,
        attempt=attempt,
        created_at=0.0,
    )
    return Claim(token=FencingToken(run.run_id, 1), run=run)


def streams(clock: Clock | None = None) -> Streams:
    found = Streams(
        Options(),
        clock or StillClock(),
        is_waiting=lambda run_id: True,
        is_live=lambda run_id: True,
        host_of=lambda run_id: None,
        post=lambda flush: None,
        epoch_of=lambda key: 7,
    )
    found.begin(7)
    return found


@pytest.mark.parametrize(
    ("attempt", "lane", "seen"),
    [
        (1, Lane.NORMAL, "run.started"),
        (2, Lane.NORMAL, "run.restarted"),
        (1, Lane.REQUEUED, "run.restarted"),  # which is not counted
    ],
)
def test_only_a_run_that_has_never_begun_starts(attempt: int, lane: int, seen: str) -> None:
    kept, claim = streams(), claim_of(attempt, lane)
    kept.started(claim, fold([]))
    stream = kept.of(claim.run.run_id, key())
    assert stream is not None
    assert [type_of(each.event) for each in stream.subscribe().ready()] == [seen]


def test_a_run_that_is_accepted_when_all_streams_were_ended_goes_on_later() -> None:
    async def main(clock: VirtualClock) -> None:
        kept = streams()
        kept.stop()
        end = await asyncio.wait_for(kept.accepted(RunId("r"), key()).outcome(), 1.0)
        assert (end, len(kept)) == (Later.LATER, 0)

    play(main)


def test_numbers_go_on_rising_however_often_a_claim_is_lost_in_one_process() -> None:
    kept = streams()
    kept.accepted(RunId("r"), key())
    last = 0
    for attempt in range(1, 4):
        kept.started(claim_of(attempt), fold([]))
        stream = kept.of(RunId("r"), key())
        assert stream is not None
        stream.publish(1.0, TextDelta("x"))
        seen = stream.subscribe(last).ready()
        assert [type_of(each.event) for each in seen][-2:] == ["run.restarted" if last else "run.started", "text.delta"]
        assert all(each.number is not None and each.number > last for each in seen)
        last = seen[-1].number or 0
        kept.later(RunId("r"))
        assert stream.subscribe(last).is_over


def test_the_time_to_the_first_piece_is_that_of_the_first_one_of_each_call() -> None:
    clock, run = StillClock(), RunStream(RunId("r"), key())
    recorder, nowhere = EventRecorder(run, lambda arrive: None, clock, cut=1000), MemoryJournal(clock)
    attempt = LiveAttempt(claim_of(), fold([]), nowhere, Flag(), "/nowhere", clock, recorder, Retries(clock))

    async def call_twice() -> None:
        for first_s in (2.0, 1.0):
            attempt.begin_model()
            clock.at += first_s
            attempt.add_text("a")
            clock.at += 3.0
            attempt.add_text("b")
            attempt.add_usage({})

    asyncio.run(call_twice())
    used = [each.event for each in run.subscribe().ready() if isinstance(each.event, Usage)]
    assert [(each.first_text_s, each.model_s) for each in used] == [(2.0, 5.0), (1.0, 4.0)]


def test_what_was_done_before_somebody_listens_is_no_change_from_now_on() -> None:
    async def behaviour(attempt: Attempt) -> str:
        attempt.begin_tool("t", "look", {})
        await asyncio.sleep(10.0)
        return "done"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour)) as service:
            await send(service, "go")
            await asyncio.sleep(5.0)
            changes = service.changes(ANONYMOUS)
            await until_idle(service)
            assert [type_of(each.event) for each in changes.ready()] == ["message.added", "run.finished"]

    play(main)

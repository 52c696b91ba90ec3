"""The events of one run: numbered, kept in bounds, read by any number of subscribers at any pace."""

import asyncio
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine_support import key, publish_all
from strandline._encoding import encode_messages
from strandline._engine.events import (
    Event,
    MessageAdded,
    Numbered,
    RunFinished,
    RunPosition,
    RunStarted,
    StreamGap,
    TextDelta,
    ToolStarted,
)
from strandline._engine.streams import LARGE, EventRecorder, Later, RunStream, Subscription
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import AT_ONCE, PACE_S, Bounds, size_of
from strandline._engine.streams.replay import ENTRY_BYTES, ReplayBuffer
from strandline._engine.streams.run_stream import MANY
from strandline._engine.streams.truncation import truncate_arguments, truncate_message, truncate_result
from strandline._http.exchange.sse import framed
from strandline._model import Message, Outcome, RunId, RunStatus
from strandline.testing._virtual import VirtualClock, VirtualLoop

ENDED = Outcome(status=RunStatus.SUCCEEDED, output="done")


def stream(first: int = 1, bounds: Bounds | None = None) -> RunStream:
    return RunStream(RunId("r"), key(), first=first, bounds=bounds or Bounds())


def texts(events: list[Numbered]) -> list[str]:
    return [each.event.text for each in events if isinstance(each.event, TextDelta)]


def numbers(events: list[Numbered]) -> list[int | None]:
    return [each.number for each in events]


async def read(subscription: Subscription) -> list[Numbered]:
    return [each async for each in subscription]


def test_a_late_client_gets_all_and_a_returning_one_only_new_events() -> None:
    async def play() -> None:
        run = stream()
        run.publish(1.0, RunStarted(1))
        early = run.subscribe()
        run.publish(2.0, TextDelta("a"))
        assert numbers(early.ready()) == [1, 2]
        run.publish(3.0, TextDelta("b"))
        late = run.subscribe()
        back = run.subscribe(after=2)
        run.finish(ENDED, 4.0)
        assert numbers(await read(early)) == [3, 4]
        assert numbers(await read(late)) == [1, 2, 3, 4]
        seen = await read(back)
        assert numbers(seen) == [3, 4]
        assert [each.at for each in seen] == [3.0, 4.0]
        assert isinstance(seen[-1].event, RunFinished)

    asyncio.run(play())


def test_a_subscriber_that_waits_is_woken_by_what_comes_and_by_the_end() -> None:
    async def play() -> None:
        run = stream()
        waiting = [asyncio.ensure_future(read(run.subscribe())) for _ in range(3)]
        await asyncio.sleep(0)
        assert run.readers
        run.publish(1.0, TextDelta("a"))
        await asyncio.sleep(0)
        run.finish(ENDED, 2.0)
        async with asyncio.timeout(5):
            for seen in await asyncio.gather(*waiting):
                assert numbers(seen) == [1, 2]
        assert not run.readers

    asyncio.run(play())


def test_a_client_that_reads_nothing_costs_only_its_place_and_gets_a_gap() -> None:
    run = stream(bounds=Bounds(events=10))
    slow = run.subscribe()
    for n in range(25):
        run.publish(float(n), TextDelta(str(n)))
    seen = slow.ready()
    assert seen[0].number is None
    assert seen[0].event == StreamGap(1, 15)
    assert texts(seen) == [str(n) for n in range(15, 25)]
    assert slow.ready() == []
    run.finish(ENDED, 26.0)
    (end,) = slow.ready()
    assert isinstance(end.event, RunFinished)
    assert run.is_read(26)
    assert not run.is_read(25)


def test_a_place_within_the_buffer_has_no_gap() -> None:
    run = stream(bounds=Bounds(events=10))
    for n in range(25):
        run.publish(float(n), TextDelta(str(n)))
    assert texts(run.subscribe(after=15).ready()) == [str(n) for n in range(15, 25)]
    assert run.subscribe(after=14).ready()[0].event == StreamGap(15, 15)


def test_the_bytes_that_are_kept_are_bounded_too_but_the_last_event_is_always_there() -> None:
    run = stream(bounds=Bounds(events=1000, size=10_000))
    for _ in range(50):
        run.publish(0.0, TextDelta("x" * 1000))
    kept = run.stored()
    assert 5 <= len(kept) <= 10
    run.publish(0.0, TextDelta("y" * 20_000))
    assert [len(text) for text in texts(run.stored())] == [20_000]


def test_much_is_handed_out_in_portions_in_order_and_whole() -> None:
    run = stream()
    publish_all(run, ((0.0, TextDelta(str(n))) for n in range(3 * AT_ONCE + 7)))
    subscription, seen = run.subscribe(), []
    while portion := subscription.ready():
        assert len(portion) <= AT_ONCE
        seen += portion
    assert texts(seen) == [str(n) for n in range(3 * AT_ONCE + 7)]


def test_no_portion_is_large_unless_one_event_is() -> None:
    run = stream()
    publish_all(run, ((0.0, TextDelta(size * "x")) for size in (*[1000] * 100, 2 * LARGE, *[1000] * 100)))
    subscription, portions = run.subscribe(), []
    while portion := subscription.ready():
        portions.append(portion)
    assert all(len(each) == 1 or sum(size_of(seen.event) for seen in each) <= LARGE for each in portions)
    assert numbers([seen for each in portions for seen in each]) == list(range(1, 202))
    assert len(portions) == 5


def test_transient_events_have_no_number_and_only_the_last_counts() -> None:
    run = stream()
    subscription = run.subscribe()
    run.publish_transient(1.0, RunPosition(3, None))
    run.publish_transient(2.0, RunPosition(2, 1.5))
    (seen,) = subscription.ready()
    assert seen == Numbered(None, 2.0, RunPosition(2, 1.5))
    assert subscription.ready() == []
    assert run.subscribe().ready() == [seen], "a later client gets its position"
    run.publish(3.0, RunStarted(1))
    assert numbers(subscription.ready()) == [1]
    assert numbers(run.subscribe().ready()) == [1], "it does not wait any more"


def test_nothing_is_published_after_the_end_and_the_first_end_counts() -> None:
    run = stream()
    run.finish(ENDED, 1.0)
    run.publish(2.0, TextDelta("late"))
    run.finish(Later.LATER, 3.0)
    assert numbers(run.subscribe().ready()) == [1]


@pytest.mark.parametrize("is_followed", [True, False])
def test_the_end_comes_last_though_the_agent_never_stops_to_speak(is_followed: bool) -> None:
    class Busy(list[tuple[float, Event]]):
        """An inbox in which the agent records more whenever it is looked into."""

        def __getitem__(self, wanted: Any) -> Any:
            found = super().__getitem__(wanted)
            self.append((1.0, TextDelta("more")))
            return found

    async def play() -> None:
        run = stream()
        run.inbox = Busy([(1.0, TextDelta("first"))])
        if is_followed:
            run.await_next()
        run.finish(ENDED, 2.0)
        seen = run.subscribe().ready()
        assert [type(each.event) for each in seen] == [TextDelta, RunFinished]
        assert run.stored() == seen

    asyncio.run(play())


def test_events_that_nobody_reads_are_bounded_too(loop: VirtualLoop) -> None:
    run = stream(bounds=Bounds(events=10))
    for number in range(3 * MANY):
        run.publish(1.0, RunStarted(number))
        assert len(run.inbox) < MANY
    assert numbers(run.stored()) == list(range(3 * MANY - 9, 3 * MANY + 1))


@pytest.mark.parametrize("bounds", [Bounds(events=3), Bounds(size=1500)])
def test_no_more_is_kept_of_an_ended_run_than_the_bounds_say(loop: VirtualLoop, bounds: Bounds) -> None:
    run = stream(bounds=bounds)
    publish_all(run, [(1.0, TextDelta("x" * 300))] * 10)
    run.finish(ENDED, 2.0)
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=100_000)
    buffer.put(run)
    kept = buffer.get(RunId("r"))
    assert kept is not None
    assert 1 < len(kept.stored()) < 5
    assert kept.stored()[-1].number == 11
    assert kept.stored() == run.stored()


def test_a_feed_that_begins_after_the_end_of_a_run_has_none_of_its_events(loop: VirtualLoop) -> None:
    feeds = ChangeFeed(VirtualClock(loop), bounds=Bounds(), retention_s=5.0)
    run = RunStream(RunId("r"), key(), changes=feeds)
    run.publish(1.0, RunStarted(1))
    run.finish(ENDED, 2.0)
    feed = feeds.subscribe(key().principal, 0, (), ())
    assert numbers(run.subscribe().ready()) == [1, 2]
    assert feed.ready() == []


def test_a_run_that_goes_on_elsewhere_ends_the_stream_and_is_not_over() -> None:
    run = stream()
    run.publish(1.0, RunStarted(1))
    subscription = run.subscribe()
    subscription.ready()
    run.finish(Later.LATER)
    assert subscription.is_over
    assert not run.is_read(1)


def test_a_subscriber_that_is_busy_when_a_run_ends_is_not_over_before_it_has_the_end() -> None:
    run = stream()
    run.publish(1.0, RunStarted(1))
    subscription = run.subscribe()
    assert numbers(subscription.ready()) == [1]
    run.finish(ENDED, 2.0)
    assert not subscription.is_over
    assert numbers(subscription.ready()) == [2]
    assert subscription.is_over


def test_numbers_of_another_process_are_no_gap() -> None:
    run = stream(first=(3 << 32) + 1)
    run.publish(1.0, RunStarted(2))
    assert numbers(run.subscribe(after=57).ready()) == [(3 << 32) + 1]
    assert numbers(run.subscribe(after=(2 << 32) + 9).ready()) == [(3 << 32) + 1]


def test_fast_text_is_published_in_portions_and_the_first_piece_and_all_else_at_once(loop: VirtualLoop) -> None:
    heard: list[tuple[float, list[int | None]]] = []

    async def listen(subscription: Subscription) -> None:
        while events := await subscription.next():
            heard.append((round(loop.time() - began, 6), numbers(events)))

    async def play() -> None:
        run = stream()
        listening = asyncio.create_task(listen(run.subscribe()))
        await asyncio.sleep(0)
        for _ in range(4):
            run.publish(0.0, TextDelta("x"))
            await asyncio.sleep(PACE_S / 4)
        await asyncio.sleep(PACE_S / 4)
        run.finish(ENDED, 0.0)
        await listening

    began = loop.time()
    loop.run_until_complete(play())
    assert heard == [(0.0, [1]), (PACE_S, [2, 3, 4]), (1.25 * PACE_S, [5])]


def test_thick_text_takes_no_way_over_of_its_own_and_is_never_later_than_a_pace(loop: VirtualLoop) -> None:
    late: list[float] = []
    ways = 0

    def over(flush: Callable[[], object]) -> None:
        nonlocal ways
        ways += 1
        loop.call_soon(flush)

    async def listen(subscription: Subscription) -> None:
        while events := await subscription.next():
            late.extend(loop.time() - each.at for each in events if isinstance(each.event, TextDelta))

    async def play() -> None:
        run = stream()
        recorder = EventRecorder(run, over, Elapsed(), cut=1000)
        listening = asyncio.create_task(listen(run.subscribe()))
        await asyncio.sleep(0)
        for _ in range(100):
            recorder.record(TextDelta("x"))
            await asyncio.sleep(PACE_S / 5)
        assert ways < 5
        await asyncio.sleep(3 * PACE_S)
        before = ways
        recorder.record(TextDelta("after a pause"))
        await asyncio.sleep(PACE_S / 10)
        recorder.record(ToolStarted("t", "look", {}))
        await asyncio.sleep(PACE_S / 10)
        assert ways == before + 2
        run.finish(ENDED, loop.time())
        await listening

    class Elapsed(VirtualClock):
        def __init__(self) -> None:
            super().__init__(loop)

        def now(self) -> float:
            return loop.time()

    loop.run_until_complete(play())
    assert len(late) == 101
    assert max(late) <= PACE_S + 1e-6
    assert late[0] == late[-1] == 0.0


def test_text_that_comes_during_the_last_paced_flush_is_published(loop: VirtualLoop) -> None:
    heard: list[str] = []
    recorder: Any = None

    def over(flush: Callable[[], object]) -> None:
        loop.call_soon(flush)

    class Watched(list[tuple[float, Event]]):
        """An inbox into which the agent says one thing more right after it was found empty by the timer."""

        def __len__(self) -> int:
            found = super().__len__()
            if not found and heard == ["a", "b"] and loop.time() > began + 1.5 * PACE_S:
                heard.append("(looked)")
                recorder.record(TextDelta("c"))
            return found

    async def listen(subscription: Subscription) -> None:
        while events := await subscription.next():
            heard.extend(texts(events))

    async def play() -> None:
        nonlocal recorder
        run = stream()
        run.inbox = Watched()
        recorder = EventRecorder(run, over, VirtualClock(loop), cut=1000)
        listening = asyncio.create_task(listen(run.subscribe()))
        await asyncio.sleep(0)
        for text in ("a", "b"):
            recorder.record(TextDelta(text))
            await asyncio.sleep(PACE_S / 4)
        await asyncio.sleep(4 * PACE_S)
        assert heard == ["a", "b", "(looked)", "c"]
        run.finish(ENDED, loop.time())
        await listening

    began = loop.time()
    loop.run_until_complete(play())


def test_one_timer_serves_many_waits(loop: VirtualLoop) -> None:
    async def play() -> None:
        run = stream()
        subscription = run.subscribe()
        for number in range(3):
            loop.call_later(0.6, run.publish, 0.0, RunStarted(number))
            assert await subscription.next(1.0)
        began = loop.time()
        assert await subscription.next(1.0) == []
        assert loop.time() - began == pytest.approx(1.0)
        subscription.close()

    loop.run_until_complete(play())


def test_one_that_is_closed_or_cancelled_leaves_nothing_behind() -> None:
    async def play() -> None:
        run = stream()
        closed, cancelled = run.subscribe(), run.subscribe()
        waiting = [asyncio.ensure_future(closed.next()), asyncio.ensure_future(cancelled.next())]
        await asyncio.sleep(0)
        closed.close()
        waiting[1].cancel()
        await asyncio.wait(waiting)
        assert waiting[0].result() == []
        assert closed.is_over
        assert not run.readers

    asyncio.run(play())


def test_a_wait_that_is_bounded_ends_without_events() -> None:
    async def play() -> None:
        run = stream()
        subscription = run.subscribe()
        assert await subscription.next(15.0) == []
        assert asyncio.get_running_loop().time() >= 15.0
        assert not subscription.is_over

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())


# -- what is kept of runs that have ended --------------------------------------------------------------


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop()
    yield made
    made.close()


def ended(name: str, text: str = "a") -> RunStream:
    run = RunStream(RunId(name), key())
    run.publish(1.0, TextDelta(text))
    run.publish(2.0, MessageAdded({"role": "assistant", "content": [{"text": text}]}))
    run.finish(ENDED, 3.0)
    return run


def test_replayed_events_equal_the_published_ones(loop: VirtualLoop) -> None:
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=100_000)
    run = ended("r")
    buffer.put(run)
    again = buffer.get(RunId("r"))
    assert again is not None
    assert again.stored() == run.stored()
    assert again.is_read(3)
    assert numbers(again.subscribe(after=1).ready()) == [2, 3]
    assert buffer.get(RunId("other")) is None


def test_it_is_kept_for_so_long(loop: VirtualLoop) -> None:
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=100_000)
    buffer.put(ended("r"))
    loop.advance(299.0)
    buffer.evict()
    assert buffer.get(RunId("r")) is not None
    loop.advance(1.0)
    assert buffer.get(RunId("r")) is None
    assert len(buffer) == 1
    buffer.evict()
    assert len(buffer) == 0


def test_it_takes_so_much_memory_and_the_oldest_go_first(loop: VirtualLoop) -> None:
    clock = VirtualClock(loop)
    one = len(encode_messages(ended("r10", "x" * 400).stored())) + ENTRY_BYTES
    buffer = ReplayBuffer(clock, retention_s=300.0, memory=20 * one)
    for n in range(100):
        buffer.put(ended(f"r{n}", "x" * 400))
    assert len(buffer) == 20
    assert buffer.get(RunId("r80")) is not None
    assert buffer.get(RunId("r79")) is None


def test_what_was_forgotten_with_its_session_takes_no_memory_from_others(loop: VirtualLoop) -> None:
    one = len(encode_messages(ended("r0").stored())) + ENTRY_BYTES
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=2 * one)
    for name in ("r0", "r1"):
        buffer.put(ended(name))
    buffer.forget(key())
    assert len(buffer) == 0
    for name in ("r2", "r3"):
        buffer.put(ended(name))
    assert len(buffer) == 2


@pytest.mark.parametrize(("retention_s", "memory"), [(0.0, 10_000), (300.0, 0)])
def test_nothing_is_kept_if_nobody_wants_it(loop: VirtualLoop, retention_s: float, memory: int) -> None:
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=retention_s, memory=memory)
    buffer.put(ended("r"))
    assert len(buffer) == 0


# -- truncation ---------------------------------------------------------------------------------------


def test_texts_are_published_whole_and_arguments_and_results_are_cut() -> None:
    message: Message = {
        "role": "assistant",
        "content": [
            {"text": "t" * 1000},
            {"toolUse": {"toolUseId": "1", "name": "look", "input": {"at": "x" * 1000}}},
            {"toolResult": {"toolUseId": "0", "status": "success", "content": [{"text": "r" * 1000}]}},
            {"image": {"format": "png", "source": {"bytes": b"\0" * 1000}}},
        ],
    }
    seen, cut = truncate_message(message, 100)
    assert cut
    text, use, result, image = seen["content"]
    assert text == {"text": "t" * 1000}
    assert use == {"toolUse": {"toolUseId": "1", "name": "look", "input": None}}
    assert result == {"toolResult": {"toolUseId": "0", "status": "success", "content": [{"text": "r" * 100}]}}
    assert "image" in image["text"]
    assert truncate_message(message, 10_000)[1] is False


def test_published_messages_are_copies() -> None:
    message: Message = {"role": "user", "content": [{"text": "before"}]}
    seen, cut = truncate_message(message, 100)
    message["content"][0]["text"] = "after"
    assert seen == {"role": "user", "content": [{"text": "before"}]}
    assert not cut


def test_small_arguments_and_results_are_published_whole() -> None:
    assert truncate_arguments({"n": 1}, 100) == ({"n": 1}, False)
    assert truncate_arguments({"n": "x" * 100}, 100) == (None, True)
    result = {"toolUseId": "1", "status": "error", "content": [{"json": {"n": [1, 2]}}]}
    assert truncate_result(result, 1000) == (result, False)
    seen, cut = truncate_result(result, 10)
    assert cut
    assert seen["status"] == "error"
    assert seen["content"] == [{"text": '[{"json":{'}]


def test_what_was_made_of_an_event_goes_with_it() -> None:
    run = stream(bounds=Bounds(events=2))
    made: list[int | None] = []

    def make(seen: Numbered) -> bytes:
        made.append(seen.number)
        return b"x" * (LARGE + 1)

    run.publish(1.0, TextDelta("a"))
    (first,) = run.stored()
    assert run.encode_once(first, make) is run.encode_once(first, make)
    for _ in range(2):
        run.publish(2.0, TextDelta("b"))
    run.flush()
    run.encode_once(first, make)
    run.encode_once(first, make)
    assert made == [1, 1, 1], "it is not kept any more, nor what was made of it"


def test_an_id_that_was_never_published_counts_as_the_last() -> None:
    run = stream()
    run.publish(1.0, TextDelta("a"))
    astray = run.subscribe(after=1000)
    run.publish(2.0, TextDelta("b"))
    run.finish(ENDED, 3.0)
    assert numbers(astray.ready()) == [2, 3]


def test_one_that_wants_little_does_not_stop_at_a_portion_of_what_it_does_not_want() -> None:
    run = stream()
    publish_all(run, ((0.0, TextDelta(str(n))) for n in range(3 * AT_ONCE)))
    run.finish(ENDED, 1.0)
    picky = Subscription(run, 0, lambda seen: isinstance(seen.event, RunFinished))
    assert numbers(picky.ready()) == [3 * AT_ONCE + 1]
    assert picky.is_over


def test_all_who_read_what_is_kept_of_a_run_read_it_from_one_place(loop: VirtualLoop) -> None:
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=100_000)
    buffer.put(ended("r"))
    readers = [buffer.get(RunId("r")) for _ in range(3)]
    assert readers[0] is readers[1] is readers[2]
    kept = weakref.ref(readers[0])
    readers.clear()
    gc.collect()
    assert buffer.get(RunId("r")) is kept(), "who comes at once after another has the same"
    buffer.evict()
    gc.collect()
    assert kept() is None, "it is kept as bytes when nobody reads it"


def test_bytes_are_published_in_the_form_of_history_live_and_replayed(loop: VirtualLoop) -> None:
    picture = {"image": {"format": "png", "source": {"bytes": b"\x00\x01"}}}
    message: Message = {"role": "assistant", "content": [picture]}
    run = stream()
    run.publish(1.0, MessageAdded(*truncate_message(message, 1000)))
    run.finish(Outcome(status=RunStatus.SUCCEEDED, output="", message=message), 2.0)
    buffer = ReplayBuffer(VirtualClock(loop), retention_s=300.0, memory=100_000)
    buffer.put(run)
    kept = buffer.get(RunId("r"))
    assert kept is not None
    for each in (run, kept):
        for seen in each.stored():
            data = json.loads(framed(seen, RunId("r")).split(b"data: ")[1])
            assert data["message"] == json.loads(encode_messages(message))
        assert each._end == Outcome(status=RunStatus.SUCCEEDED, output="", message=message)


def test_what_is_said_just_before_somebody_waits_for_it_is_not_waited_for() -> None:
    """The recorder looks whether anybody waits; a client that begins to wait right after that has to look once more."""

    class Late(RunStream):
        def await_next(self) -> "asyncio.Future[None]":
            self.inbox.append((1.0, TextDelta("in between")))  # nobody waited: it is not brought over
            return super().await_next()

    async def play() -> None:
        run = Late(RunId("r"), key())
        async with asyncio.timeout(10):
            (heard,) = await run.subscribe().next()
        assert heard.event == TextDelta("in between")
        assert not run.readers, "nothing is left behind"

    asyncio.run(play())


def test_a_transient_event_comes_after_all_earlier_ones() -> None:
    run = RunStream(RunId("r"), key())
    for number in range(AT_ONCE + 1):
        run.publish(1.0, TextDelta(str(number)))
    run.publish_transient(2.0, RunPosition(1, None))
    events = run.subscribe()
    assert [each.number for each in events.ready()] == list(range(1, AT_ONCE + 1))
    assert [each.number for each in events.ready()] == [AT_ONCE + 1, None]


def test_fast_text_is_published_within_its_pace() -> None:
    async def play() -> None:
        run = RunStream(RunId("r"), key())
        events = run.subscribe()
        async with asyncio.timeout(10):
            for number in range(3):
                waiting = asyncio.ensure_future(events.next())
                await asyncio.sleep(0)
                run.publish(1.0, TextDelta(str(number)))
                assert [each.event for each in await waiting] == [TextDelta(str(number))]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play())

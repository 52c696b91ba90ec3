"""What the service publishes of executing runs: what agents do as events, where runs stand, what changes anywhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine_support import (
    Played,
    key,
    play_round,
    prompt_of,
    send,
    serving,
    silent_recorder,
    tool_result,
    tool_round,
    until_idle,
)
from strandline._agents.port import Attempt
from strandline._engine.events import (
    Event,
    MessageAdded,
    Numbered,
    RunFinished,
    RunPosition,
    RunQueued,
    RunRestarted,
    RunStalled,
    StreamGap,
    TextDelta,
    ToolFinished,
    Usage,
    type_of,
)
from strandline._engine.execution import LiveAttempt, Retries
from strandline._engine.loops import Flag
from strandline._engine.service import Service
from strandline._engine.streams import LAST
from strandline._history import fold
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Change
from strandline._model import ANONYMOUS, Claim, FencingToken, Lane, Principal, Run, RunId, RunStatus, SessionId
from strandline.errors import Draining, NotFound
from strandline.testing._virtual import InlineLoops, VirtualClock, VirtualLoop


def play(main: Callable[[VirtualClock], Awaitable[None]]) -> None:
    async def played() -> None:
        async with asyncio.timeout(10_000):
            await main(VirtualClock(asyncio.get_running_loop()))

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(played())


def kinds(events: list[Event]) -> list[str]:
    return [type_of(each) for each in events]


async def numbered(service: Service, run_id: RunId, after: int = 0) -> list[Numbered]:
    """Return the events of an ended run after a number."""
    stream = await service.stream(ANONYMOUS, run_id)
    return [each async for each in stream.subscribe(after)]


async def events_of(service: Service, run_id: RunId) -> list[Event]:
    return [each.event for each in await numbered(service, run_id)]


def test_an_attempt_is_published_as_it_executes() -> None:
    async def behaviour(attempt: Attempt) -> str:
        attempt.begin_model()
        await asyncio.sleep(2.0)
        attempt.add_reasoning("hm")
        attempt.add_text("first tr")
        attempt.begin_model()  # the call starts over
        await asyncio.sleep(1.0)
        attempt.add_text("again")
        await asyncio.sleep(1.0)
        attempt.add_usage({"totalTokens": 7})

        async def work() -> str:
            attempt.begin_tool("t", "work", {"n": 1})
            await asyncio.sleep(3.0)
            return "done"

        await play_round(attempt, "t", work)
        attempt.add_text("bye")
        return "bye"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour)) as service:
            ticket = await send(service, "hi")
            events = await events_of(service, ticket.run_id)
            assert kinds(events) == [
                "run.started", "message.added", "reasoning.delta", "text.delta", "text.reset", "text.delta", "usage",
                "message.added", "tool.started", "tool.finished", "message.added", "text.delta", "message.added",
                "run.finished",
            ]  # fmt: skip
            (usage,) = [each for each in events if isinstance(each, Usage)]
            assert usage.tokens == {"totalTokens": 7}
            assert usage.model_s == pytest.approx(2.0)
            assert usage.first_text_s == pytest.approx(1.0)
            (ended,) = [each for each in events if isinstance(each, ToolFinished)]
            assert (ended.name, ended.status) == ("work", "success")
            assert ended.duration_s == pytest.approx(3.0)
            assert isinstance(events[-1], RunFinished)
            assert (events[-1].status, events[-1].output) == (RunStatus.SUCCEEDED, "bye")

    play(main)


def test_a_stopped_run_that_still_executes_publishes_nothing_more() -> None:
    async def behaviour(attempt: Attempt) -> str:
        try:
            await asyncio.sleep(1000.0)
        except asyncio.CancelledError:
            attempt.add_text("too late")
            await asyncio.sleep(1000.0)
        return ""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour), cancel_grace_s=1.0) as service:
            ticket = await send(service, "hi")
            await asyncio.sleep(1.0)
            await service.cancel(ANONYMOUS, ticket.run_id)
            before = await numbered(service, ticket.run_id)
            await asyncio.sleep(2000.0)
            after = await numbered(service, ticket.run_id)
            assert [each.event for each in after][-1] == before[-1].event

    play(main)


def test_a_frozen_attempt_leaves_its_published_messages() -> None:
    async def main(clock: VirtualClock) -> None:
        run = Run(
            run_id=RunId("r"),
            key=key(),
            input="go",
            metadata={},
            lane=Lane.NORMAL,
            priority=3,
            resumable=True,
            sequence=1,
            status=RunStatus.RUNNING,
            attempt=1,
            created_at=clock.now(),
        )
        claim = Claim(token=FencingToken(run.run_id, 1), run=run)
        attempt = LiveAttempt(
            claim, fold([]), MemoryJournal(clock), Flag(), "/nowhere", clock, silent_recorder(clock), Retries(clock)
        )
        attempt.add_text("told")
        attempt.freeze()
        attempt.add_text(" too late")
        assert attempt.so_far()[-1]["content"] == [{"text": "told"}]
        attempt.reset_text()
        assert attempt.so_far()[-1]["content"] == [{"text": "told"}]

    play(main)


def test_what_tools_give_back_is_cut_where_the_setting_says() -> None:
    async def behaviour(attempt: Attempt) -> str:
        async def work() -> str:
            attempt.begin_tool("t", "work", {"n": "x" * 500})
            return "y" * 500

        await play_round(attempt, "t", work)
        return "z" * 500

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour), stream_cut=100) as service:
            ticket = await send(service, "hi")
            events = await events_of(service, ticket.run_id)
            (ended,) = [each for each in events if isinstance(each, ToolFinished)]
            assert ended.truncated
            assert ended.result["content"] == [{"text": "y" * 100}]
            messages = [each for each in events if isinstance(each, MessageAdded)]
            assert [each.truncated for each in messages] == [False, False, True, False]
            assert isinstance(events[-1], RunFinished)
            assert events[-1].output == "z" * 500
            kept = await service.history(key(), include_tool_messages=True)
            assert kept[2]["content"][0]["toolResult"]["content"] == [{"text": "y" * 500}]

    play(main)


async def gated(attempt: Attempt) -> str:
    """Take 10 s, or as many as the question says."""
    question = prompt_of(attempt)
    await asyncio.sleep(float(question) if question.isdigit() else 10.0)
    return question


def test_positions_are_published_when_they_change_and_at_most_once_a_second() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated)) as service:
            for _ in range(4):
                await send(service, "10")
            last = await send(service, "last")
            stream = await service.stream(ANONYMOUS, last.run_id)
            places: list[tuple[float, int]] = []
            async for each in stream.subscribe():
                match each.event:
                    case RunQueued(position) | RunPosition(position):
                        places.append((each.at - clock.now() + asyncio.get_running_loop().time(), position))
            assert [place for _, place in places] == [4, 3, 2, 1]
            for n, (at, _) in enumerate(places):
                assert 10.0 * n <= at <= 10.0 * n + 1.1

    play(main)


def test_runs_without_subscribers_cause_no_reads_of_the_journal() -> None:
    class Counting(MemoryJournal):
        reads = 0

        async def read(self, query):  # type: ignore[no-untyped-def]
            self.reads += 1
            return await super().read(query)

    async def main(clock: VirtualClock) -> None:
        journal = Counting(clock)
        async with serving(clock, Played(gated), journal) as service:
            for _ in range(10):
                await send(service, "10")
            before = journal.reads
            await until_idle(service)
            assert journal.reads == before

    play(main)


def test_a_run_without_a_sign_of_life_is_reported_once() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), stall_after_s=5.0) as service:
            ticket = await send(service, "60")
            stalled = [each for each in await events_of(service, ticket.run_id) if isinstance(each, RunStalled)]
            assert len(stalled) == 1
            assert 5.0 <= stalled[0].quiet_s <= 7.0
            assert stalled[0].phase == "model"

    play(main)


def test_a_run_resumed_by_the_next_process_publishes_its_progress_with_rising_numbers() -> None:
    async def behaviour(attempt: Attempt) -> str:
        if attempt.context.attempt == 1:
            await play_round(attempt, "t", lambda: asyncio.sleep(0, "done"))
            attempt.add_text("partial")
            await asyncio.sleep(1000.0)
        return "end"

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(behaviour), journal) as service:
            ticket = await send(service, "hi")
            waiting = await send(service, "next")
            await asyncio.sleep(5.0)
            first = (await service.stream(ANONYMOUS, ticket.run_id)).subscribe().ready()
        async with serving(clock, Played(behaviour), journal) as service:
            second = await numbered(service, ticket.run_id, after=first[-1].number or 0)
            restarted = second[0].event
            assert isinstance(restarted, RunRestarted)
            assert restarted.attempt == 2
            assert [message["role"] for message in restarted.messages] == ["user", "assistant", "user"]
            assert (second[0].number or 0) > (first[-1].number or 0)
            assert "text.delta" not in kinds([each.event for each in second])
            assert isinstance(second[-1].event, RunFinished)
            (before, *_) = await numbered(service, waiting.run_id)
            assert type_of(before.event) in ("run.queued", "run.started")
            assert (before.number or 0) > 1 << 32

    play(main)


def test_a_run_resumed_after_its_tools_publishes_their_results_too() -> None:
    """What is kept and what comes after it are all that the run leaves."""

    async def behaviour(attempt: Attempt) -> str:
        if attempt.context.attempt == 1:
            attempt.add(tool_round("tool", "t"))
            await attempt.begin_round()
            await attempt.end_tool("t", tool_result("t"))
            await asyncio.sleep(1000.0)
        return "end"

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(behaviour), journal) as service:
            ticket = await send(service, "hi")
            await asyncio.sleep(5.0)
        async with serving(clock, Played(behaviour), journal) as service:
            restarted, *after = await events_of(service, ticket.run_id)
            assert isinstance(restarted, RunRestarted)
            said = restarted.messages + [each.message for each in after if isinstance(each, MessageAdded)]
            assert said == await service.history(key(), include_tool_messages=True)
            assert len(said) == 4

    play(main)


def test_deleted_events_are_a_gap_and_the_end_from_the_journal() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), stream_retention_s=5.0) as service:
            ticket = await send(service, "1")
            whole = await numbered(service, ticket.run_id)
            assert await numbered(service, ticket.run_id) == whole
            await asyncio.sleep(6.0)
            gap, end = await numbered(service, ticket.run_id, after=2)
            assert gap.event == StreamGap(3, LAST - 1)
            assert end.event == whole[-1].event
            assert end.at == pytest.approx(whole[-1].at, abs=0.1), "when it ended, not when it was requested"
            assert end.number == LAST
            assert (await service.stream(ANONYMOUS, ticket.run_id)).is_read(LAST)

    play(main)


def test_a_run_of_another_principal_is_not_there() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated)) as service:
            ticket = await send(service, "1", principal="ann")
            for _ in range(2):  # while it executes, and of its stored events
                with pytest.raises(NotFound):
                    await service.stream(Principal("bob"), ticket.run_id)
                await until_idle(service)
            assert await service.stream(Principal("ann"), ticket.run_id)

    play(main)


def test_a_drain_ends_the_streams_of_what_goes_on_later_and_they_are_not_over() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(gated), journal, drain_grace_s=1.0) as service:
            await send(service, "100")
            waiting = await send(service, "next")
            reading = asyncio.create_task(numbered(service, waiting.run_id))
            await asyncio.sleep(0.5)
            await service.drain()
            assert kinds([each.event for each in await reading]) == ["run.queued"]

    play(main)


# -- what changes anywhere -----------------------------------------------------------------------------


def test_a_principal_hears_of_all_its_runs_and_sessions_and_of_no_others() -> None:
    async def behaviour(attempt: Attempt) -> str:
        attempt.add_text("text")
        return "text"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour)) as service:
            all_ = service.changes(Principal("ann"))
            some = service.changes(Principal("ann"), sessions=[SessionId("b")], types=["run.finished"])
            first = await send(service, "1", "a", "ann")
            second = await send(service, "2", "b", "ann")
            await send(service, "3", "b", "bob")
            await until_idle(service)
            await service.pause(key("b", "ann"))
            await service.resume(key("b", "ann"))
            await service.delete(key("b", "ann"))
            heard = all_.ready()
            assert {each.run_id for each in heard} == {first.run_id, second.run_id, None}
            of_b = [each.event for each in heard if each.session_id == "b"]
            assert kinds(of_b) == [
                "run.started", "message.added", "message.added", "run.finished", "session.paused", "session.resumed",
                "session.deleted",
            ]  # fmt: skip
            assert [(type_of(each.event), each.run_id) for each in some.ready()] == [("run.finished", second.run_id)]
            numbers = [each.number for each in heard]
            assert numbers == sorted(set(numbers))  # type: ignore[type-var]

    play(main)


def test_a_client_back_in_time_has_missed_nothing_in_a_feed_and_later_gets_a_gap() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), stream_retention_s=60.0, stream_buffer=1000) as service:
            first = service.changes(ANONYMOUS)
            await send(service, "1")
            await until_idle(service)
            last = first.ready()[-1].number or 0
            first.close()
            await send(service, "1")
            await until_idle(service)
            back = service.changes(ANONYMOUS, last)
            assert kinds([each.event for each in back.ready()])[0] == "run.started"
            await asyncio.sleep(100.0)
            assert back.is_over, "its feed is gone, and it has to come again"
            await send(service, "1")
            await until_idle(service)
            again = service.changes(ANONYMOUS, last)
            await send(service, "1")
            await until_idle(service)
            events = [each.event for each in again.ready()]
            assert isinstance(events[0], StreamGap)
            assert kinds(events)[1] == "run.started"

    play(main)


def test_no_run_ends_unheard_while_the_service_stops() -> None:
    """An end that is on its way when the feed is to end is in it, and none comes later."""

    class Slow(MemoryJournal):
        async def change(self, change: Change) -> Any:
            await asyncio.sleep(2)
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), journal=Slow(clock)) as service:
            await send(service, "1")
            await until_idle(service)
            await service.pause(key())
            runs = [await send(service, "1") for _ in range(2)]
            feed = service.changes(ANONYMOUS, types=["run.finished"])
            under_way = asyncio.ensure_future(service.cancel(ANONYMOUS, runs[0].run_id))
            await asyncio.sleep(1)
            await service.drain(close=False)
            with pytest.raises(Draining):
                await service.cancel(ANONYMOUS, runs[1].run_id)
            assert (await under_way).run.status == "cancelled"
            assert [each.run_id for each in feed.ready()] == [runs[0].run_id]
            assert (await service.run(ANONYMOUS, runs[1].run_id)).run.status == "queued"

    play(main)


def test_a_feed_stores_a_bounded_number_of_events_and_reports_gaps() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), stream_buffer=10) as service:
            slow = service.changes(ANONYMOUS)
            for _ in range(10):
                await send(service, "1")
            await until_idle(service)
            events = [each.event for each in slow.ready()]
            assert isinstance(events[0], StreamGap)
            assert len(events) == 11

    play(main)


def test_nothing_is_kept_for_those_who_do_not_listen() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated)) as service:
            await send(service, "1")
            await until_idle(service)
            assert service.changes(ANONYMOUS).ready() == []

    play(main)


def test_a_client_that_had_all_of_a_dropped_feed_gets_a_gap() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated), stream_retention_s=60.0) as service:
            first = service.changes(ANONYMOUS)
            await send(service, "1")
            await until_idle(service)
            last = first.ready()[-1].number or 0
            first.close()
            await asyncio.sleep(100.0)
            await send(service, "1")  # nobody listens: nothing of it is numbered
            await until_idle(service)
            back = service.changes(ANONYMOUS, last)
            await service.pause(key())
            assert kinds([each.event for each in back.ready()]) == ["stream.gap", "session.paused"]

    play(main)


def test_a_stopping_server_ends_all_feeds_and_new_ones() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated)) as service:
            before = service.changes(ANONYMOUS)
            waiting = asyncio.create_task(before.next())
            await asyncio.sleep(0)
            await service.drain()
            assert await waiting == []
            assert before.is_over
            assert service.changes(ANONYMOUS).is_over

    play(main)


def test_events_of_a_session_are_deleted_with_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(gated)) as service:
            gone, stays = await send(service, "1", "a"), await send(service, "1", "b")
            await until_idle(service)
            await service.delete(key("a"))
            with pytest.raises(NotFound):
                await service.stream(ANONYMOUS, gone.run_id)
            assert await events_of(service, stays.run_id)

    play(main)


def test_nothing_is_brought_over_for_a_run_to_which_nobody_listens_but_when_it_is_much() -> None:
    class Counting(InlineLoops):
        events_of = 0

        def post_back(self, work: Callable[[], object]) -> None:
            self.events_of += 1
            super().post_back(work)

    async def behaviour(attempt: Attempt) -> str:
        for n in range(int(prompt_of(attempt))):
            attempt.add_text(f"{n} ")
            await asyncio.sleep(0.01)
        return "end"

    async def main(clock: VirtualClock) -> None:
        loops = Counting()
        async with serving(clock, Played(behaviour), loops=loops) as service:
            quiet = await send(service, "100")
            await until_idle(service)
            assert loops.events_of == 0
            assert len(await numbered(service, quiet.run_id)) == 1 + 1 + 100 + 1 + 1
            await send(service, "1000")
            await until_idle(service)
            assert 3 <= loops.events_of <= 6, "what gathers is bounded"
            heard = await send(service, "100")
            events = await numbered(service, heard.run_id)
            assert loops.events_of >= 100
            assert [each.event.text for each in events if isinstance(each.event, TextDelta)] == [
                f"{n} " for n in range(100)
            ]

    play(main)


def test_a_late_subscriber_gets_the_earlier_events_at_once_and_all_that_follow() -> None:
    async def behaviour(attempt: Attempt) -> str:
        attempt.add_text("before")
        await asyncio.sleep(10.0)
        attempt.add_text("after")
        await asyncio.sleep(10.0)
        return "end"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour)) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1.0)
            subscription = (await service.stream(ANONYMOUS, ticket.run_id)).subscribe()
            heard = await subscription.next()
            assert [each.event for each in heard][-1] == TextDelta("before")
            (after,) = await subscription.next()
            assert after.event == TextDelta("after")
            assert after.at == pytest.approx(clock.now(), abs=0.1)
            every = service.changes(ANONYMOUS)
            await until_idle(service)
            kinds_heard = kinds([each.event for each in every.ready()])
            assert kinds_heard == ["message.added", "run.finished"], "nothing that was before"

    play(main)

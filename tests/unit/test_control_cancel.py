"""Runs that somebody cancels, wherever they are: waiting, executing, held, requeued, about to end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from engine_support import (
    Played,
    Stubborn,
    echo,
    history,
    key,
    outcome,
    play_round,
    prompt_of,
    send,
    serving,
    texts,
    tool_texts,
    until_idle,
)
from strandline._agents.port import Attempt
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._history import UNKNOWN_OUTCOME
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AcceptAnswer, Bounds, Change, ChangeAnswer, ClaimResult, SessionQuery
from strandline._model import ANONYMOUS, Completion, FencingToken, NewRun, Principal, RunId, RunStatus, SessionKey
from strandline.errors import AlreadyEnded, JournalUnavailable, NotFound
from strandline.testing._checker import check_history
from strandline.testing._virtual import VirtualClock, run_virtual

EARLY = "(This run ended early: cancelled.)"


class Desk:
    """A target: `wait` waits to be let go or for the signal, `tool` does so in a tool, `hang` heeds nothing."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.began: list[str] = []
        self.work = Stubborn()
        self.target = Played(self.behaviour)

    async def behaviour(self, attempt: Attempt) -> str:
        text = prompt_of(attempt)
        self.began.append(text)
        if text.startswith("wait"):
            await self.until(attempt)
        elif text.startswith("tool"):
            await play_round(attempt, "t1", self.did(attempt))
            await play_round(attempt, "t2", self.tool(attempt))
        elif text.startswith("hang"):
            self.work.leave()
            await asyncio.sleep(100_000)
        return f"answer to {text}"

    def did(self, attempt: Attempt) -> Callable[[], Awaitable[str]]:
        async def tool() -> str:
            return "did it"

        return tool

    def tool(self, attempt: Attempt) -> Callable[[], Awaitable[str]]:
        async def tool() -> str:
            await asyncio.sleep(100_000)
            return "never"

        return tool

    async def until(self, attempt: Attempt) -> None:
        while not (self.go_on.is_set() or attempt.signal.is_set()):
            await asyncio.sleep(0.01)
        if attempt.signal.is_set():
            raise RuntimeError("told to end")


async def executes(desk: Desk, text: str) -> None:
    while text not in desk.began:
        await asyncio.sleep(0.01)


def nothing_is_left(service: Service) -> None:
    assert len(service._queues) == 0
    assert len(service._streams) == 0
    assert service._runner._wanted == set()
    assert service._holds._forced == {}
    assert service._journal.sessions.next_due is None


def test_a_waiting_run_ends_at_once_and_those_behind_it_move_up() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target) as service:
            first, second, third = [await send(service, text) for text in ("wait", "b", "c")]
            view = await service.cancel(ANONYMOUS, second.run_id)
            assert (view.run.status, view.phase, view.run.started_at) == (RunStatus.CANCELLED, None, None)
            assert (await outcome(second)).status is RunStatus.CANCELLED
            assert (await service.run(ANONYMOUS, third.run_id)).run.position == 1
            assert service.health().queue_depth == 1
            desk.go_on.set()
            assert (await outcome(first)).output == "answer to wait"
            assert (await outcome(third)).output == "answer to c"
            assert texts(await history(service)) == ["wait", "answer to wait", "c", "answer to c"]
            nothing_is_left(service)

    run_virtual(main)


def test_an_executing_run_is_signalled_and_ends_as_cancelled_with_its_work() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, cancel_grace_s=5) as service:
            first, second = await send(service, "tool"), await send(service, "b")
            await executes(desk, "tool")
            await asyncio.sleep(0.1)
            view = await service.cancel(ANONYMOUS, first.run_id)
            assert (view.run.status, view.run.cancel_requested) == (RunStatus.RUNNING, True)
            at = clock.monotonic()
            end = await outcome(first)
            assert clock.monotonic() - at <= 5.01
            assert (end.status, end.error) == (RunStatus.CANCELLED, None)
            assert (await outcome(second)).output == "answer to b"
            messages = await history(service)
            assert tool_texts(messages) == ["did it", UNKNOWN_OUTCOME]
            assert texts(messages) == ["tool", EARLY, "b", "answer to b"]
            assert check_history(messages) == []
            nothing_is_left(service)

    run_virtual(main)


def test_a_run_that_came_to_its_good_end_after_the_cancel_was_accepted_is_cancelled_all_the_same() -> None:
    """The first of the two wins: an acknowledged cancel is never followed by a success."""

    async def main(clock: VirtualClock) -> None:
        desk = Desk()

        async def deaf(attempt: Attempt) -> str:
            await desk.go_on.wait()
            return "all the same"

        played = Played(deaf)
        async with serving(clock, played, cancel_grace_s=100) as service:
            first = await send(service, "x")
            await asyncio.sleep(1)
            await service.cancel(ANONYMOUS, first.run_id)
            desk.go_on.set()
            end = await outcome(first)
            assert end.status is RunStatus.CANCELLED
            assert texts(await history(service)) == ["x", "all the same", EARLY]
            assert (await outcome(await send(service, "y"))).output == "all the same"
            assert texts(played.built[1][1].messages) == ["x", "all the same", EARLY], "its agent knows how it ended"
            nothing_is_left(service)

    run_virtual(main)


def test_a_run_that_has_ended_cannot_be_cancelled_any_more() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            ticket = await send(service, "x")
            await outcome(ticket)
            for force in (False, True):
                with pytest.raises(AlreadyEnded):
                    await service.cancel(ANONYMOUS, ticket.run_id, force=force)
            for principal, run_id in (("other", ticket.run_id), (ANONYMOUS, RunId("none"))):
                with pytest.raises(NotFound):
                    await service.cancel(Principal(principal), run_id)
            with pytest.raises(NotFound):
                await service.cancel_session(key("none"))
            assert (await service.run(ANONYMOUS, ticket.run_id)).run.status is RunStatus.SUCCEEDED

    run_virtual(main)


def test_a_repeated_cancel_is_answered_with_the_run_that_the_first_has_cancelled() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target) as service:
            executing, waiting = [await send(service, text) for text in ("wait", "b")]
            for ticket in (waiting, executing):
                await service.cancel(ANONYMOUS, ticket.run_id)
                end = await outcome(ticket)
                for force in (False, True):
                    view = await service.cancel(ANONYMOUS, ticket.run_id, force=force)
                    assert (view.run.status, view.run.outcome) == (RunStatus.CANCELLED, end)
            nothing_is_left(service)

    run_virtual(main)


def test_a_forced_cancel_that_may_have_ended_the_lock_before_is_answered_as_the_first() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, timeout_s=1, cancel_grace_s=1, hold_limit_s=1000) as service:
            held = await send(service, "hang")
            assert (await outcome(held)).status is RunStatus.FAILED
            with pytest.raises(AlreadyEnded, match="with `force`"):
                await service.cancel(ANONYMOUS, held.run_id, again=True)
            first = await service.cancel(ANONYMOUS, held.run_id, force=True)
            assert (await service.cancel(ANONYMOUS, held.run_id, force=True, again=True)).run == first.run
            with pytest.raises(AlreadyEnded):
                await service.cancel(ANONYMOUS, held.run_id, force=True)
            desk.work.end()

    run_virtual(main)


def test_a_session_is_cancelled_with_or_without_what_executes() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target) as service:
            first, second, third = [await send(service, text) for text in ("wait", "b", "c")]
            other = await send(service, "d", "other session")
            stopped = await service.cancel_session(key())
            assert (list(stopped.ended), stopped.cancelling) == ([second.run_id, third.run_id], [])
            assert [(await outcome(each)).status for each in (second, third)] == [RunStatus.CANCELLED] * 2
            fourth = await send(service, "e")
            stopped = await service.cancel_session(key(), running=True)
            assert (list(stopped.ended), stopped.cancelling) == ([fourth.run_id], [first.run_id])
            fifth = await send(service, "f")
            assert (await outcome(first)).status is RunStatus.CANCELLED
            assert (await outcome(fifth)).output == "answer to f"
            assert (await outcome(other)).output == "answer to d"
            assert texts(await history(service)) == ["wait", EARLY, "f", "answer to f"]
            nothing_is_left(service)

    run_virtual(main)


def test_a_run_that_is_cancelled_before_its_claim_has_come_does_not_begin() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        journal = MemoryJournal(clock)
        async with serving(clock, desk.target, journal) as service:
            accept = asyncio.ensure_future(send(service, "never"))
            ticket = None
            while ticket is None:  # the claim is in the feed, and nobody has fetched it
                await asyncio.sleep(0)
                session = await journal.read(SessionQuery(key()))
                if session is not None and session.claimed is not None:
                    view = await service.cancel(ANONYMOUS, session.claimed)
                    assert view.run.cancel_requested
                    ticket = await accept
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            assert desk.began == []
            await until_idle(service)
            nothing_is_left(service)

    run_virtual(main)


def test_a_cancelled_run_whose_thread_works_on_is_held_and_a_forced_one_is_not() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, cancel_grace_s=1, hold_limit_s=1000) as service:
            held = await send(service, "hang")
            await executes(desk, "hang")
            await service.cancel(ANONYMOUS, held.run_id)
            assert (await outcome(held)).status is RunStatus.CANCELLED
            assert (await service.run(ANONYMOUS, held.run_id)).run.held
            behind = await send(service, "hang on")
            await asyncio.sleep(10)
            assert desk.began == ["hang"]
            view = await service.cancel(ANONYMOUS, held.run_id)
            assert (view.run.held, view.run.status) == (True, RunStatus.CANCELLED)
            view = await service.cancel(ANONYMOUS, held.run_id, force=True)
            assert (view.run.held, view.run.status) == (False, RunStatus.CANCELLED)
            await executes(desk, "hang on")
            assert len(service._holds.lingering_calls()) == 1
            await service.cancel(ANONYMOUS, behind.run_id, force=True)
            last = await send(service, "last")
            at = clock.monotonic()
            assert (await outcome(last)).output == "answer to last"
            assert clock.monotonic() - at < 1.2
            assert len(service._holds.lingering_calls()) == 2
            desk.work.end()
            await until_idle(service)
            nothing_is_left(service)

    run_virtual(main)


def test_a_session_that_is_held_is_freed_by_a_forced_cancel_of_it() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, cancel_grace_s=1, hold_limit_s=1000) as service:
            held = await send(service, "hang")
            await executes(desk, "hang")
            await service.cancel(ANONYMOUS, held.run_id)
            await outcome(held)
            await service.cancel_session(key(), running=True)
            assert (await service.run(ANONYMOUS, held.run_id)).run.held
            await service.cancel_session(key(), running=True, force=True)
            assert not (await service.run(ANONYMOUS, held.run_id)).run.held
            assert (await outcome(await send(service, "next"))).output == "answer to next"
            desk.work.end()

    run_virtual(main)


def test_a_client_that_cancels_may_leave_before_the_journal_has_answered() -> None:
    """The books are kept all the same: nothing waits for ever that has ended."""

    class Slow(MemoryJournal):
        async def change(self, change: Change) -> ChangeAnswer:
            answer = await super().change(change)
            await asyncio.sleep(1)
            return answer

    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, Slow(clock)) as service:
            first, second = await send(service, "wait"), await send(service, "b")
            for ticket in (second, first):
                asking = asyncio.ensure_future(service.cancel(ANONYMOUS, ticket.run_id))
                await asyncio.sleep(0.5)
                asking.cancel()
            assert [(await outcome(each)).status for each in (first, second)] == [RunStatus.CANCELLED] * 2
            await until_idle(service)
            nothing_is_left(service)

    run_virtual(main)


def test_a_forced_cancel_of_a_run_that_leaves_nothing_behind_leaves_nothing_behind() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target) as service:
            ticket = await send(service, "wait")
            await executes(desk, "wait")
            await service.cancel(ANONYMOUS, ticket.run_id, force=True)
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            nothing_is_left(service)

    run_virtual(main)


def test_a_cancel_of_a_run_that_this_process_cannot_end_leaves_nothing_behind() -> None:
    class Broken(MemoryJournal):
        async def finish(self, token: FencingToken, completion: Completion, **more: Any) -> ClaimResult:
            raise RuntimeError("a defect")

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Broken(clock)) as service:
            ticket = await send(service, "x")
            assert await ticket.outcome() is Later.LATER
            await service.cancel(ANONYMOUS, ticket.run_id, force=True)
            nothing_is_left(service)

    run_virtual(main)


def test_an_accepted_cancel_wins_over_an_earlier_timeout() -> None:
    async def main(clock: VirtualClock) -> None:
        desk = Desk()
        async with serving(clock, desk.target, timeout_s=10, cancel_grace_s=5) as service:
            ticket = await send(service, "tool")
            await asyncio.sleep(12)
            await service.cancel(ANONYMOUS, ticket.run_id)
            at = clock.monotonic()
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            assert clock.monotonic() - at < 3.1, "the grace does not begin anew"

    run_virtual(main)


def test_a_cancelled_run_is_not_given_back_by_a_server_that_stops() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)

        async def model(attempt: Attempt) -> str:
            await asyncio.sleep(100_000)
            return "never"

        async with serving(clock, Played(model), journal, cancel_grace_s=50, drain_grace_s=3) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(1)
            view = await service.cancel(ANONYMOUS, ticket.run_id)
            assert view.run.cancel_requested
            end = await outcome(ticket)
            await draining
            assert end.status is RunStatus.CANCELLED
        async with serving(clock, Played(echo), journal) as service:
            assert texts(await history(service)) == ["x", EARLY]
            assert (await outcome(await send(service, "y"))).output == "echo y"

    run_virtual(main)


def test_a_run_cancelled_during_a_stop_has_its_work_in_history() -> None:
    """It could have resumed later, and was about to be requeued."""

    async def main(clock: VirtualClock) -> None:
        async def model(attempt: Attempt) -> str:
            async def tool() -> str:
                return "did it"

            await play_round(attempt, "t1", tool)
            await asyncio.sleep(100_000)
            return "never"

        journal = MemoryJournal(clock)
        async with serving(clock, Played(model), journal, drain_grace_s=0, stop_grace_s=1) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(0.5)
            assert (await service.cancel(ANONYMOUS, ticket.run_id)).run.cancel_requested
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            await draining
        async with serving(clock, Played(echo), journal) as service:
            messages = await history(service)
            assert (tool_texts(messages), texts(messages)) == (["did it"], ["x", EARLY])

    run_virtual(main)


def test_a_run_that_is_cancelled_while_it_is_returned_by_a_server_that_stops_has_ended_there() -> None:
    """Its claim came when nothing was to start any more."""

    class Slow(MemoryJournal):
        async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
            await asyncio.sleep(1)
            return await super().accept(new, bounds, claim_next=claim_next)

        async def release(self, token: FencingToken, *, counted: bool) -> None:
            await asyncio.sleep(1)
            await super().release(token, counted=counted)

    async def main(clock: VirtualClock) -> None:
        journal, desk = Slow(clock), Desk()
        async with serving(clock, desk.target, journal, drain_grace_s=5) as service:
            sending = asyncio.ensure_future(send(service, "x"))
            await asyncio.sleep(0.5)
            draining = asyncio.ensure_future(service.drain())
            ticket = await sending
            assert (await service.cancel(ANONYMOUS, ticket.run_id)).run.cancel_requested
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            await draining
            assert desk.began == []
            nothing_is_left(service)

    run_virtual(main)


def test_a_cancel_that_was_answered_is_the_ending_after_a_crash() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        desk = Desk()
        async with serving(clock, desk.target, journal, cancel_grace_s=50) as service:
            ticket = await send(service, "tool")
            waits = await send(service, "waits")
            await executes(desk, "tool")
            await asyncio.sleep(0.1)
            await service.cancel(ANONYMOUS, ticket.run_id)
        async with serving(clock, Played(echo), journal) as service:
            run = (await service.run(ANONYMOUS, ticket.run_id)).run
            assert (run.status, run.outcome and run.outcome.error) == (RunStatus.CANCELLED, None)
            await until_idle(service)
            messages = await history(service)
            assert tool_texts(messages) == ["did it", UNKNOWN_OUTCOME]
            assert texts(messages)[:2] == ["tool", EARLY]
            assert (await service.run(ANONYMOUS, waits.run_id)).run.status is RunStatus.SUCCEEDED

    run_virtual(main)


def test_a_requeued_run_is_cancelled_at_once_and_history_has_its_work() -> None:
    class SlowTakes(MemoryJournal):
        take_s = 0.0

        async def claim_next(self, key: SessionKey) -> ClaimResult:
            await asyncio.sleep(self.take_s)
            return await super().claim_next(key)

    async def main(clock: VirtualClock) -> None:
        journal = SlowTakes(clock)

        async def model(attempt: Attempt) -> str:
            async def tool() -> str:
                return "did it"

            await play_round(attempt, "t1", tool)
            await asyncio.sleep(100_000)
            return "never"

        async with serving(clock, Played(model), journal) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            await service.drain()
        journal.take_s = 1.0
        async with serving(clock, Played(echo), journal) as service:
            view = await service.cancel(ANONYMOUS, ticket.run_id)
            assert (view.run.status, view.run.attempt) == (RunStatus.CANCELLED, 0)
            await until_idle(service)
            await asyncio.sleep(2)
            assert texts(await history(service)) == ["x", EARLY]
            assert tool_texts(await history(service)) == ["did it"]
            nothing_is_left(service)

    run_virtual(main)


def test_a_cancel_that_the_journal_could_not_keep_changes_nothing() -> None:
    class Failing(MemoryJournal):
        fails = False

        async def change(self, change: Change) -> ChangeAnswer:
            if self.fails:
                raise JournalUnavailable("no room")
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        journal, desk = Failing(clock), Desk()
        async with serving(clock, desk.target, journal) as service:
            first, second = await send(service, "wait"), await send(service, "b")
            journal.fails = True
            for ticket in (first, second):
                with pytest.raises(JournalUnavailable):
                    await service.cancel(ANONYMOUS, ticket.run_id)
            desk.go_on.set()
            assert [(await outcome(each)).status for each in (first, second)] == [RunStatus.SUCCEEDED] * 2
            nothing_is_left(service)

    run_virtual(main)


def test_a_completion_on_its_way_when_a_cancel_comes_is_before_it_or_after_it() -> None:
    """The journal's first one wins: all clients get the same answer."""

    class Slow(MemoryJournal):
        finish_s = 0.0
        change_s = 0.0

        async def finish(
            self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
        ) -> ClaimResult:
            await asyncio.sleep(self.finish_s)
            return await super().finish(token, completion, claim_next=claim_next, hold=hold)

        async def change(self, change: Change) -> ChangeAnswer:
            await asyncio.sleep(self.change_s)
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        ends = []
        for finish_s, change_s in ((1.0, 2.0), (2.0, 1.0)):
            journal = Slow(clock)
            journal.finish_s, journal.change_s = finish_s, change_s
            async with serving(clock, Played(echo), journal) as service:
                ticket = await send(service, "x")
                await asyncio.sleep(0.5)
                try:
                    await service.cancel(ANONYMOUS, ticket.run_id)
                    shown = "cancelled"
                except AlreadyEnded:
                    shown = "ended"
                end = await outcome(ticket)
                ends.append((shown, end.status))
                assert (await outcome(await send(service, "y"))).output == "echo y" or shown == "cancelled"
                nothing_is_left(service)
        assert ends == [("ended", RunStatus.SUCCEEDED), ("cancelled", RunStatus.CANCELLED)]

    run_virtual(main)

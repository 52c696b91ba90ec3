"""Runs that take, or wait, too long. All on virtual time: an hour takes no time at all."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from engine_support import (
    Behaviour,
    Played,
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
from strandline._engine.streams import Later
from strandline._history import UNKNOWN_OUTCOME, ended_early
from strandline._journal.live import LiveSessions
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Change, ChangeAnswer, EndOverdue
from strandline._model import ANONYMOUS, ErrorCode, RunStatus
from strandline.errors import Invalid
from strandline.testing._checker import check_history
from strandline.testing._virtual import VirtualClock, run_virtual

GRACE_S = 5.0
LONG_S = 100_000.0


async def silent(attempt: Attempt) -> str:
    """The model says nothing for long."""
    await asyncio.sleep(LONG_S)
    return "too late"


async def chunks(attempt: Attempt) -> str:
    """The model streams, and the agent looks at the signal between chunks."""
    while not attempt.signal.is_set():
        attempt.add_text("word ")
        await asyncio.sleep(1)
    return "polite"


async def in_a_tool(attempt: Attempt) -> str:
    async def tool() -> str:
        await asyncio.sleep(LONG_S)
        return "too late"

    await play_round(attempt, "t1", tool)
    return "too late"


async def swallows_a_cancel(attempt: Attempt) -> str:
    async def tool() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG_S)
        await asyncio.sleep(LONG_S)
        return "too late"

    await play_round(attempt, "t1", tool)
    return "too late"


@pytest.mark.parametrize(
    ("behaviour", "ends_after_s"),
    [
        (silent, GRACE_S - 0.2),
        (in_a_tool, GRACE_S - 0.2),
        (swallows_a_cancel, GRACE_S - 0.1),
    ],
    ids=["in the model", "in a tool", "in a tool that swallows a cancel"],
)
def test_a_run_ends_within_its_grace_whatever_it_does(behaviour: Behaviour, ends_after_s: float) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(behaviour), timeout_s=60, cancel_grace_s=GRACE_S) as service:
            ticket = await send(service, "x")
            end = await outcome(ticket)
            assert clock.monotonic() == pytest.approx(60 + ends_after_s)
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            assert "60 s" in end.error.detail
            messages = await history(service)
            assert check_history(messages) == []
            assert texts(messages)[-2:] == [ended_early("timeout"), end.error.detail]
            if behaviour is not silent:
                assert tool_texts(messages) == [UNKNOWN_OUTCOME]
            service._pool._target = Played(echo)
            assert (await outcome(await send(service, "next"))).output == "echo next"
            assert service.health().held == 0

    run_virtual(main)


def test_a_run_that_comes_to_its_own_end_within_the_grace_has_succeeded() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(chunks), timeout_s=60, cancel_grace_s=GRACE_S) as service:
            end = await outcome(await send(service, "x"))
            assert end.status is RunStatus.SUCCEEDED
            assert end.output == "polite"
            assert 60 <= clock.monotonic() <= 61

    run_virtual(main)


def test_a_task_that_never_ends_is_left_at_the_end_of_the_grace_and_its_text_is_kept() -> None:
    async def main(clock: VirtualClock) -> None:
        async def immortal(attempt: Attempt) -> str:
            attempt.add_text("so far")
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(LONG_S)

        async with serving(clock, Played(immortal), timeout_s=60, cancel_grace_s=GRACE_S, hold_limit_s=7) as service:
            end = await outcome(await send(service, "x"))
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            assert clock.monotonic() == pytest.approx(60 + GRACE_S)
            assert texts(await history(service)) == [
                "x",
                "so far",
                ended_early("timeout"),
                "the run took longer than 60 s",
            ]
            assert service.health().held == 1

    run_virtual(main)


def test_a_request_may_ask_for_less_time_and_not_for_more() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(silent), timeout_s=60, queue_timeout_s=30, cancel_grace_s=0) as service:
            for wrong in ({"timeout_s": 61}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"queue_timeout_s": 30.5}):
                with pytest.raises(Invalid, match="at most"):
                    await send(service, "x", **wrong)
            ticket = await send(service, "x", timeout_s=2)
            assert (await outcome(ticket)).status is RunStatus.FAILED
            assert clock.monotonic() == pytest.approx(2)

    run_virtual(main)


def test_a_deadline_counts_from_the_first_start_over_restarts() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(silent), journal, timeout_s=100, cancel_grace_s=0) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(40)
        async with serving(clock, Played(silent), journal, timeout_s=100, cancel_grace_s=0) as service:
            view = await service.wait(ANONYMOUS, ticket.run_id, 1000)
            assert view.run.outcome is not None
            assert view.run.outcome.error is not None
            assert view.run.outcome.error.code is ErrorCode.TIMEOUT
            assert clock.monotonic() == pytest.approx(100)
            assert view.run.attempt == 2

    run_virtual(main)


def test_a_run_whose_deadline_passed_while_no_server_ran_ends_as_timed_out() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(in_a_tool), journal, timeout_s=100) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(40)
        await asyncio.sleep(61)
        target = Played(echo)
        async with serving(clock, target, journal, timeout_s=100) as service:
            run = (await service.run(ANONYMOUS, ticket.run_id)).run
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert run.outcome.error.code is ErrorCode.TIMEOUT
            assert target.built == []
            messages = await history(service)
            assert check_history(messages) == []
            assert tool_texts(messages) == [UNKNOWN_OUTCOME]

    run_virtual(main)


def test_a_run_that_was_given_back_and_whose_deadline_passed_is_not_started_again() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(silent), journal, timeout_s=100, drain_grace_s=0) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            await service.drain()
        await asyncio.sleep(200)
        target = Played(echo)
        async with serving(clock, target, journal, timeout_s=100) as service:
            await until_idle(service)
            run = (await service.run(ANONYMOUS, ticket.run_id)).run
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert run.outcome.error.code is ErrorCode.TIMEOUT
            assert target.built == []
            assert texts(await history(service)) == ["x", ended_early("timeout"), "the run took longer than 100 s"]

    run_virtual(main)


def test_a_run_that_waits_again_is_answered_at_its_timeout_although_it_cannot_start() -> None:
    """Its session is paused when its server dies. It has used its time, wherever it spent it."""

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(silent), journal, timeout_s=100) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(40)
            await service.pause(key())
        target = Played(echo)
        async with serving(clock, target, journal, timeout_s=100) as service:
            await asyncio.sleep(20)
            assert (await service.run(ANONYMOUS, ticket.run_id)).run.status is RunStatus.QUEUED
            view = await service.wait(ANONYMOUS, ticket.run_id, 1000)
            assert view.run.outcome is not None
            assert view.run.outcome.error is not None
            assert view.run.outcome.error.code is ErrorCode.TIMEOUT
            assert clock.monotonic() == pytest.approx(100)
            assert target.built == []
            assert texts(await history(service)) == ["x", ended_early("timeout"), "the run took longer than 100 s"]

    run_virtual(main)


# -- waiting too long ---------------------------------------------------------------------------------


def test_a_run_that_waits_too_long_ends_on_time_and_leaves_no_trace() -> None:
    async def main(clock: VirtualClock) -> None:
        async def slow(attempt: Attempt) -> str:
            await asyncio.sleep(50)
            return f"answer to {prompt_of(attempt)}"

        async with serving(clock, Played(slow), queue_timeout_s=40) as service:
            first = await send(service, "first")
            second = await send(service, "second")
            third = await send(service, "third", queue_timeout_s=10)
            end = await outcome(third)
            assert clock.monotonic() == pytest.approx(10)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            run = (await service.run(ANONYMOUS, third.run_id)).run
            assert run.status is RunStatus.FAILED
            assert run.started_at is None
            assert (await outcome(second)).error is not None
            assert clock.monotonic() == pytest.approx(40)
            assert service.health().queue_depth == 0
            assert (await outcome(first)).output == "answer to first"
            assert (await outcome(await send(service, "fourth"))).output == "answer to fourth"
            assert texts(await history(service)) == ["first", "answer to first", "fourth", "answer to fourth"]
            assert len(service._queues) == 0

    run_virtual(main)


def test_what_waited_too_long_while_no_server_ran_is_not_started() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(silent), journal, queue_timeout_s=100) as service:
            await send(service, "first")
            late = await send(service, "second", queue_timeout_s=20)
            in_time = await send(service, "third")
        await asyncio.sleep(50)
        async with serving(clock, Played(echo), journal, queue_timeout_s=100) as service:
            assert (await service.wait(ANONYMOUS, in_time.run_id, 50)).run.status is RunStatus.SUCCEEDED
            run = (await service.wait(ANONYMOUS, late.run_id, 50)).run
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert run.outcome.error.code is ErrorCode.QUEUE_TIMEOUT
            assert "echo second" not in texts(await history(service))

    run_virtual(main)


def test_nobody_is_given_up_once_the_server_stops() -> None:
    """The journal may be closed when the time of a run is up; the next server ends it."""

    class Requested(MemoryJournal):
        overdue = 0

        async def change(self, change: Change) -> ChangeAnswer:
            self.overdue += isinstance(change, EndOverdue)
            return await super().change(change)

    async def slow(attempt: Attempt) -> str:
        await asyncio.sleep(10)
        return "done"

    async def main(clock: VirtualClock) -> None:
        journal = Requested(clock)
        async with serving(clock, Played(slow), journal, drain_grace_s=30) as service:
            await send(service, "executes")
            waits = await send(service, "waits", queue_timeout_s=2)
            began = clock.monotonic()
            await service.drain()
            assert clock.monotonic() - began > 5, "its time was up while the server stopped"
            assert isinstance(await waits.outcome(), Later)
            assert journal.overdue == 0

    run_virtual(main)


def test_what_is_known_of_waiting_runs_does_not_grow_with_those_that_have_gone() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), max_running=1) as service:
            for _ in range(40):
                tickets = [await send(service, "x", f"s{n}") for n in range(10)]
                for ticket in tickets:
                    await outcome(ticket)
            sessions = service._journal.sessions
            assert isinstance(sessions, LiveSessions)
            assert len(sessions._deadlines) == 0
            assert len(sessions._deadlines._heap) < 200

    run_virtual(main)


def test_a_run_whose_wait_was_over_while_no_server_ran_is_not_even_begun_though_its_session_is_free() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(silent), journal, max_running=1) as service:
            await send(service, "holds the slot", "other")
            late = await send(service, "late", queue_timeout_s=20)
        await asyncio.sleep(50)
        target = Played(echo)
        async with serving(clock, target, journal) as service:
            run = (await service.wait(ANONYMOUS, late.run_id, 50)).run
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert run.outcome.error.code is ErrorCode.QUEUE_TIMEOUT
            assert key() not in [built for built, _, _ in target.built]
            await until_idle(service)
            assert len(service._queues) == 0

    run_virtual(main)


def test_of_many_runs_whose_wait_was_over_while_no_server_ran_none_is_begun() -> None:
    """Not even those that become the next of their sessions as the others end, each a commit later."""

    class OnDisk(MemoryJournal):
        async def change(self, change: Change) -> ChangeAnswer:
            await asyncio.sleep(0.001)
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        journal = OnDisk(clock)
        async with serving(clock, Played(silent), journal, max_running=1) as service:
            await send(service, "executes", "other")
            for _ in range(4):
                await send(service, "late", queue_timeout_s=20)
        await asyncio.sleep(50)
        begun: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            begun.append(prompt_of(attempt))
            return "done"

        async with serving(clock, Played(behaviour), journal) as service:
            await until_idle(service)
        assert begun == ["executes"]

    run_virtual(main)


def test_a_clock_that_is_set_ends_what_has_waited_too_long_by_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(silent), timeout_s=10_000, queue_timeout_s=3600) as service:
            await send(service, "first")
            second = await send(service, "second")
            clock._epoch += 4000  # the machine slept, or its clock was wrong
            assert (await outcome(second)).error is not None
            assert clock.monotonic() <= 1.01

    run_virtual(main)


def test_a_factory_that_swallows_its_cancel_begins_no_run_that_has_ended() -> None:
    async def main(clock: VirtualClock) -> None:
        began: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            began.append(attempt.context.run_id)
            return "fine"

        class Slow(Played):
            async def build(self, *args: Any) -> Any:
                end = clock.monotonic() + 100
                while (left_s := end - clock.monotonic()) > 0:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(left_s)
                return await super().build(*args)

        async with serving(clock, Slow(behaviour), timeout_s=10, cancel_grace_s=1, hold_limit_s=1000) as service:
            end = await outcome(await send(service, "late"))
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            await asyncio.sleep(200)
            assert began == []
            assert service.health().held == 0

    run_virtual(main)

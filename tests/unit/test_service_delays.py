"""Runs with a `not_before`, behind the service and on virtual time: when they start, and what is shown of them."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, echo, key, outcome, send, serving, until_idle
from strandline._engine.events import Reason, RunQueued, RunStarted
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, ErrorCode, IfBusy, OnQuestion, RunStatus
from strandline.errors import Invalid
from strandline.testing._virtual import VirtualClock, run_virtual

DELAY_S = 7_200.0


def test_a_delayed_run_starts_at_its_time_and_lets_others_pass() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            at = clock.now() + DELAY_S
            late = await send(service, "late", not_before=at)
            assert late.position == 1
            assert late.estimated_wait_s == pytest.approx(DELAY_S, abs=0.2)
            assert (await outcome(await send(service, "now"))).output == "echo now"
            assert clock.now() < at
            assert (await outcome(late)).output == "echo late"
            assert clock.now() == pytest.approx(at, abs=0.2)
            run = (await service.run(ANONYMOUS, late.run_id)).run
            assert run.not_before == at
            assert run.started_at == pytest.approx(at, abs=0.2)

    run_virtual(main)


def test_a_delayed_run_says_why_it_waits() -> None:
    """To its subscribers, when it is read, and in its session; from its time on it waits like any other."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            at = clock.now() + DELAY_S
            late = await send(service, "late", not_before=at)
            view = await service.run(ANONYMOUS, late.run_id)
            assert view.run.status is RunStatus.QUEUED
            assert view.why is not None
            assert view.why.code is Reason.DELAYED
            assert view.estimated_wait_s == pytest.approx(DELAY_S, abs=0.2)
            why = service.why(await service.session(key()))
            assert why is not None
            assert why.code is Reason.DELAYED
            assert (service.health().queue_depth, service.health().delayed) == (0, 1)
            assert service.health().oldest_wait_s == 0.0
            seen = [numbered.event async for numbered in late.stream.subscribe(0)]
            queued, *others = seen
            assert isinstance(queued, RunQueued)
            assert queued.why == view.why
            assert any(isinstance(each, RunStarted) for each in others)
            assert (service.health().queue_depth, service.health().delayed) == (0, 0)

    run_virtual(main)


def test_a_run_whose_time_came_without_a_server_starts_with_the_next_one() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(echo), journal=journal) as service:
            late = await send(service, "late", not_before=clock.now() + 60.0)
        await asyncio.sleep(100)
        async with serving(clock, Played(echo), journal=journal) as service:
            await until_idle(service)
            run = (await service.run(ANONYMOUS, late.run_id)).run
            assert run.status is RunStatus.SUCCEEDED
            assert run.started_at == pytest.approx(clock.now(), abs=1.0)

    run_virtual(main)


def test_the_time_in_the_queue_counts_from_the_time_of_a_delayed_run() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            at = clock.now() + DELAY_S
            late = await send(service, "late", not_before=at, queue_timeout_s=30.0)
            await service.pause(key())
            await service.resume(key())
            await service.pause(key())
            await asyncio.sleep(DELAY_S + 100)
            await service.resume(key())
            assert (await outcome(late)).output == "echo late"
            busy = await send(service, "busy", "t", not_before=clock.now() + 60.0, queue_timeout_s=30.0)
            service._queues.stop()  # (no run starts any more)
            end = await outcome(busy)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            assert clock.now() == pytest.approx(at + 100 + 90, abs=0.2)

    run_virtual(main)


def test_a_key_stands_for_a_delayed_run_from_its_acceptance_on() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            at = clock.now() + DELAY_S
            first, again = [await send(service, "x", not_before=at, idempotency_key="k") for _ in range(2)]
            assert (first.run_id, again.attached) == (again.run_id, True)
            await outcome(first)
            assert (await send(service, "x", not_before=at, idempotency_key="k")).replayed

    run_virtual(main)


@pytest.mark.parametrize(
    "more",
    [
        {"if_busy": IfBusy.INTERRUPT},
        {"if_busy": IfBusy.ROLLBACK},
        {"if_busy": IfBusy.REJECT},
        {"on_question": OnQuestion.ANSWER},
        {"on_question": OnQuestion.DISMISS},
        {"answers": {"i": "yes"}},
    ],
)
def test_a_delayed_run_does_nothing_to_its_session_before_its_time(more: dict[str, Any]) -> None:
    """What a policy would do is refused; a policy of the server does not apply."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), on_question=OnQuestion.DISMISS) as service:
            with pytest.raises(Invalid, match="not_before"):
                await send(service, "x", not_before=clock.now() + 1, **more)
            ticket = await send(service, "x", not_before=clock.now() + 1)
            assert ticket.new is not None
            assert ticket.new.on_question is OnQuestion.WAIT
            await outcome(ticket)

    run_virtual(main)


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1.0, 1e12, "2026-12-03T09:00:00Z"])
def test_a_time_that_never_comes_is_refused(at: Any) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            with pytest.raises(Invalid, match="not_before"):
                await send(service, "x", not_before=at)

    run_virtual(main)

"""A full queue that is hammered refuses without the journal, and takes runs again as soon as there is room."""

import asyncio

import pytest

from engine_support import Played, key, send, serving
from strandline._agents.port import Attempt
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AcceptAnswer, Bounds, Refused
from strandline._model import ANONYMOUS, IfBusy, NewRun
from strandline.errors import QueueFull, SessionBusy
from strandline.testing._virtual import VirtualClock, run_virtual


class Requested(MemoryJournal):
    """A journal that counts what it has to refuse."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.refused = 0

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        answer = await super().accept(new, bounds, claim_next=claim_next)
        self.refused += isinstance(answer, Refused)
        return answer


async def slow(attempt: Attempt) -> str:
    await asyncio.sleep(10)
    return "done"


async def refused_at(service: Service, priority: int | None = None) -> int:
    with pytest.raises(QueueFull) as full:
        await send(service, "x", priority=priority)
    return full.value.position


def test_a_full_queue_that_is_hammered_costs_the_journal_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Requested(clock)
        async with serving(clock, Played(slow), journal, max_queued_per_session=2) as service:
            for _ in range(3):
                await send(service, "x")
            assert [await refused_at(service) for _ in range(50)] == [3] * 50
            assert [await refused_at(service, priority=1) for _ in range(50)] == [1] * 50, "it would go first"
            assert journal.refused == 0

    run_virtual(main)


def test_a_queue_is_not_full_any_more_when_a_run_has_begun_or_was_cancelled() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=2) as service:
            first, *_ = [await send(service, "x") for _ in range(3)]
            assert await refused_at(service) == 3
            await first.stream.outcome()
            await asyncio.sleep(0.1)
            last = await send(service, "x")
            assert await refused_at(service) == 3
            await service.cancel(ANONYMOUS, last.run_id)
            assert (await send(service, "x")).position == 2
            assert await refused_at(service) == 3
            await service.cancel_session(key())
            assert (await send(service, "x")).position == 1

    run_virtual(main)


def test_a_queue_is_not_full_any_more_when_a_run_has_waited_too_long() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            await send(service, "x")
            await send(service, "x", queue_timeout_s=2)
            assert await refused_at(service) == 2
            await asyncio.sleep(3)
            assert (await send(service, "x")).position == 1

    run_virtual(main)


def test_a_refusal_has_the_position_after_a_run_was_moved() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=3) as service:
            await send(service, "x")
            moved = await send(service, "x", priority=5)
            await send(service, "x")
            await send(service, "x")
            assert await refused_at(service) == 3
            await service.move(ANONYMOUS, moved.run_id, 1)
            assert await refused_at(service) == 4

    run_virtual(main)


def test_a_session_in_which_nothing_may_wait_is_free_when_its_run_has_ended() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=0) as service:
            ticket = await send(service, "x")
            assert await refused_at(service) == 1
            await ticket.stream.outcome()
            await asyncio.sleep(0.1)
            assert (await send(service, "x")).position == 0

    run_virtual(main)


def test_what_a_full_queue_refuses_by_key_or_policy_is_decided_by_the_journal() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            running = await send(service, "x", idempotency_key="k", fingerprint=bytes(32))
            await send(service, "x")
            assert await refused_at(service) == 2
            again = await send(service, "x", idempotency_key="k", fingerprint=bytes(32))
            assert again.run_id == running.run_id
            with pytest.raises(SessionBusy):
                await send(service, "x", if_busy=IfBusy.REJECT)

    run_virtual(main)

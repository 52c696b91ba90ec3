"""Sessions that are paused, and runs that are moved while they wait."""

import asyncio

import pytest

from engine_support import Played, Stubborn, history, key, outcome, prompt_of, send, serving, texts, until_idle
from strandline._agents.port import Attempt
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, ErrorCode, IfBusy, RunId, RunStatus
from strandline.errors import AlreadyEnded, Invalid, NotFound, TooLate
from strandline.testing._virtual import VirtualClock, run_virtual


class Gated:
    """A target whose first run waits to be let go; one that is asked to `leave` leaves work behind."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.began: list[str] = []
        self.work = Stubborn()
        self.target = Played(self.behaviour)

    async def behaviour(self, attempt: Attempt) -> str:
        self.began.append(prompt_of(attempt))
        if prompt_of(attempt) == "leave":
            self.work.leave()
        await self.go_on.wait()
        return f"answer to {prompt_of(attempt)}"


def nothing_is_left(service: Service) -> None:
    assert len(service._queues) == 0
    assert service._queues.slots.free == service.options.max_running
    assert len(service._streams) == 0
    assert service._journal.sessions.next_due is None


def test_a_paused_session_lets_what_executes_end_and_starts_nothing_until_it_is_resumed() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            first, second = await send(service, "a"), await send(service, "b")
            assert (await service.pause(key())).paused
            gated.go_on.set()
            assert (await outcome(first)).output == "answer to a"
            third = await send(service, "c")
            assert third.position == 2
            assert (await outcome(await send(service, "other", "other session"))).output == "answer to other"
            await asyncio.sleep(1000)
            assert gated.began == ["a", "other"]
            session = await service.session(key())
            assert (session.waiting, session.claimed, session.paused) == (2, None, True)
            assert not (await service.resume(key())).paused
            assert [(await outcome(each)).output for each in (second, third)] == ["answer to b", "answer to c"]
            nothing_is_left(service)

    run_virtual(main)


def test_a_resumed_session_continues_at_once() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target) as service:
            await outcome(await send(service, "a"))
            await service.pause(key())
            waiting = await send(service, "b")
            await asyncio.sleep(10.3)
            at = clock.monotonic()
            await service.resume(key())
            await outcome(waiting)
            assert clock.monotonic() == at, "not with the next look at deadlines, which comes every second"

    run_virtual(main)


def test_a_pause_outlives_the_server_and_so_does_the_time_that_stands_still() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, journal) as service:
            await outcome(await send(service, "before"))
            await service.pause(key())
            patient = await send(service, "patient", queue_timeout_s=20)
            await asyncio.sleep(15)
        await asyncio.sleep(50)
        async with serving(clock, gated.target, journal) as service:
            await asyncio.sleep(10)
            assert service.health().queue_depth == 1
            await outcome(await send(service, "as long as this", "other session"))
            waits_s = (await service.run(ANONYMOUS, patient.run_id)).estimated_wait_s
            assert waits_s is None, "for somebody to resume it"
            hasty = await send(service, "hasty", queue_timeout_s=3)
            await asyncio.sleep(10)
            blocker = asyncio.Event()

            async def behaviour(attempt: Attempt) -> str:
                await blocker.wait()
                return f"answer to {prompt_of(attempt)}"

            gated.target.behaviour = behaviour
            await service.resume(key())
            await asyncio.sleep(2)
            assert (await service.run(ANONYMOUS, hasty.run_id)).run.status is RunStatus.QUEUED
            end = await outcome(hasty)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            blocker.set()
            await until_idle(service)
            assert (await service.run(ANONYMOUS, patient.run_id)).run.status is RunStatus.SUCCEEDED
            nothing_is_left(service)

    run_virtual(main)


def test_after_a_restart_a_run_gets_all_the_time_that_its_session_was_paused() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, journal) as service:
            await outcome(await send(service, "before"))
            await service.pause(key())
            await asyncio.sleep(5)
            ticket = await send(service, "waits", queue_timeout_s=20)
            await asyncio.sleep(50)
        gated.go_on.clear()
        async with serving(clock, gated.target, journal, max_running=1) as service:
            await send(service, "blocker", "other session")
            await asyncio.sleep(50)
            await service.resume(key())
            at = clock.monotonic()
            while (run := (await service.run(ANONYMOUS, ticket.run_id)).run).outcome is None:
                await asyncio.sleep(0.1)
            assert clock.monotonic() - at == pytest.approx(20, abs=0.5)
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert run.outcome.error.code is ErrorCode.QUEUE_TIMEOUT

    run_virtual(main)


def test_a_session_that_was_paused_when_nothing_waited_in_it_is_so_after_a_restart() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, journal) as service:
            await outcome(await send(service, "before"))
            await service.pause(key())
        async with serving(clock, gated.target, journal) as service:
            ticket = await send(service, "waits", queue_timeout_s=20)
            assert (ticket.position, ticket.estimated_wait_s) == (1, None)
            await asyncio.sleep(100)
            assert service.health().queue_depth == 1
            await service.resume(key())
            assert (await outcome(ticket)).output == "answer to waits"
            nothing_is_left(service)

    run_virtual(main)


def test_a_queue_timeout_counts_the_time_in_which_a_session_is_open() -> None:
    """Whether it is held or paused or both, and in whatever order that ends."""

    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, hold_limit_s=1000, max_running=1) as service:
            await outcome(await send(service, "leave"))
            waits = await send(service, "waits", queue_timeout_s=20)
            await asyncio.sleep(10)
            await service.pause(key())
            await asyncio.sleep(10)
            gated.work.end()
            await asyncio.sleep(10)
            assert service.health().queue_depth == 1
            gated.go_on.clear()
            blocker = await send(service, "blocker", "other session")
            await service.resume(key())
            at = clock.monotonic()
            end = await outcome(waits)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            assert clock.monotonic() - at == pytest.approx(20, abs=0.1)
            gated.go_on.set()
            await outcome(blocker)
            await asyncio.sleep(1)  # its slot is offered to the session once more
            nothing_is_left(service)

    run_virtual(main)


def test_a_run_cancelled_during_a_pause_has_no_deadline_left() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            first = await send(service, "first")
            waits = [await send(service, "waits", queue_timeout_s=10) for _ in range(2)]
            await service.pause(key())
            await asyncio.sleep(20)

            sessions = service._journal.sessions
            assert sessions.next_due is None
            for each in waits:
                await service.cancel(ANONYMOUS, each.run_id)
            await service.resume(key())
            assert sessions.next_due is None
            gated.go_on.set()
            await outcome(first)

    run_virtual(main)


def test_an_interrupt_of_a_paused_session_waits_in_front() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target, cancel_grace_s=1) as service:
            first, second = await send(service, "a"), await send(service, "b")
            await service.pause(key())
            third = await send(service, "c", if_busy=IfBusy.INTERRUPT)
            assert (await outcome(first)).status is RunStatus.CANCELLED
            await asyncio.sleep(10)
            assert gated.began == ["a"]
            gated.go_on.set()
            await service.resume(key())
            assert [(await outcome(each)).output for each in (second, third)] == ["answer to b", "answer to c"]
            assert gated.began == ["a", "c", "b"]
            nothing_is_left(service)

    run_virtual(main)


def test_a_paused_session_can_be_cancelled_and_deleted_and_is_not_paused_afterwards() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        gated.go_on.set()
        async with serving(clock, gated.target) as service:
            for change in (service.pause, service.resume):
                with pytest.raises(NotFound):
                    await change(key())
            await outcome(await send(service, "a"))
            await service.pause(key())
            await send(service, "b")
            await service.cancel_session(key())
            assert await service.delete(key())
            assert (await outcome(await send(service, "c"))).output == "answer to c"
            nothing_is_left(service)

    run_virtual(main)


def test_a_drain_leaves_a_paused_session_as_it_is() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, gated = MemoryJournal(clock), Gated()
        gated.go_on.set()
        async with serving(clock, gated.target, journal) as service:
            await outcome(await send(service, "a"))
            await service.pause(key())
            await send(service, "b")
            await service.drain()
        async with serving(clock, gated.target, journal) as service:
            await asyncio.sleep(10)
            assert gated.began == ["a"]
            await service.resume(key())
            await until_idle(service)
            assert texts(await history(service))[2:] == ["b", "answer to b"]

    run_virtual(main)


def test_a_run_is_moved_while_it_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        gated = Gated()
        async with serving(clock, gated.target) as service:
            tickets = [await send(service, text) for text in "abcde"]
            assert (await service.move(ANONYMOUS, tickets[3].run_id, 1)).run.position == 1
            assert (await service.move(ANONYMOUS, tickets[1].run_id, 5)).run.priority == 5
            assert (await service.move(ANONYMOUS, tickets[4].run_id, None)).run.position == 1
            with pytest.raises(TooLate):
                await service.move(ANONYMOUS, tickets[0].run_id, None)
            with pytest.raises(Invalid):
                await service.move(ANONYMOUS, tickets[2].run_id, 6)
            with pytest.raises(NotFound):
                await service.move(ANONYMOUS, RunId("none"), 1)
            gated.go_on.set()
            for ticket in tickets:
                await outcome(ticket)
            assert gated.began == ["a", "e", "d", "c", "b"]
            with pytest.raises(AlreadyEnded):
                await service.move(ANONYMOUS, tickets[0].run_id, None)
            nothing_is_left(service)

    run_virtual(main)

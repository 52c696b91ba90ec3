"""Why a run waits: each reason that there is, as a code and in words, in runs, sessions and events alike."""

import asyncio
from typing import Any

from asking_support import Asking, asked
from engine_support import Played, Stubborn, key, outcome, play_round, send, serving
from strandline.agents.port import Attempt
from strandline.engine.asked import Ticket
from strandline.engine.events import RunPosition, RunQueued
from strandline.engine.reasons import of_others
from strandline.engine.service import Service
from strandline.engine.why import Reason, Why
from strandline.errors import JournalUnavailable, NoWorker
from strandline.journal.memory import MemoryJournal
from strandline.model import ANONYMOUS, Principal, SessionId, SessionKey
from strandline.testing.virtual import InlineLoops, VirtualClock, run_virtual

SLOW = 1000.0


async def slow(attempt: Attempt) -> str:
    await asyncio.sleep(SLOW)
    return "done"


async def why(service: Service, ticket: Ticket) -> Why | None:
    """Return why a run waits; its place in the list of its session says the same."""
    view = await service.run(ticket.key.principal, ticket.run_id)
    listed = await service.runs(ticket.key)
    assert view.why == next(each.why for each in listed.runs if each.run.run_id == ticket.run_id)
    return view.why


async def of_session(service: Service, session: str = "s", principal: str = ANONYMOUS) -> Why | None:
    return service.why(await service.session(SessionKey(Principal(principal), SessionId(session))))


def code(found: Why | None) -> Reason | None:
    return None if found is None else found.code


def test_behind_others_of_its_session_it_says_how_many_are_ahead() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            first, second, third = [await send(service, text) for text in ("a", "b", "c")]
            assert await why(service, first) is None
            assert await why(service, second) == Why(Reason.BEHIND, "1 run is ahead of it in its session")
            assert await why(service, third) == Why(Reason.BEHIND, "2 runs are ahead of it in its session")
            assert await of_session(service) == Why(Reason.BEHIND, f"2 runs are behind {first.run_id}, which executes")
            await send(service, "alone", "other")
            assert await of_session(service, "other") is None, "what executes does not wait"

    run_virtual(main)


def test_a_paused_session_says_so_whatever_else_is_ahead() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            await send(service, "a")
            waits = [await send(service, text) for text in ("b", "c")]
            await service.pause(key())
            for each in waits:
                assert await why(service, each) == Why(Reason.PAUSED, "the session is paused")
            assert code(await of_session(service)) is Reason.PAUSED
            await service.resume(key())
            assert code(await why(service, waits[0])) is Reason.BEHIND

    run_virtual(main)


def test_a_held_session_names_the_tool_that_still_works_and_since_when() -> None:
    async def main(clock: VirtualClock) -> None:
        work = Stubborn()

        async def behaviour(attempt: Attempt) -> str:
            async def tool() -> str:
                attempt.begin_tool("t1", "lookup", {})
                work.leave()
                await asyncio.sleep(100_000)
                return "never"

            await play_round(attempt, "t1", tool)
            return "never"

        async with serving(clock, Played(behaviour), timeout_s=10, cancel_grace_s=1) as service:
            hangs, waits = await send(service, "hang"), await send(service, "next")
            await outcome(hangs)
            await asyncio.sleep(5)
            told = await why(service, waits)
            assert told is not None
            assert told.code is Reason.HELD
            assert told.text.endswith(f" by tool lookup of {hangs.run_id}, which has ended and still works")
            assert told.text.startswith("held since ")
            assert await why(service, hangs) == told, "the run that holds it says so too"
            assert await of_session(service) == told
            plain = of_others(told)
            assert plain == Why(Reason.HELD, "something of a run that has ended still works, and holds the session")
            work.end()
            await asyncio.sleep(1)
            assert await why(service, hangs) is None

    run_virtual(main)


def test_times_are_told_in_utc_with_their_day_unless_that_is_today() -> None:
    async def main(clock: VirtualClock) -> None:
        clock._epoch = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
        async with serving(clock, Asking(), input_timeout_s=60) as service:
            await asked(service)
            told = await of_session(service)
            assert told is not None
            assert told.text.endswith(", until 22:14:20 UTC")
        async with serving(clock, Asking(), input_timeout_s=86400) as service:
            end = await asked(service)
            told = await of_session(service)
            assert told is not None
            assert told.text.endswith(", until 2023-11-15 22:13 UTC")
            assert end is not None

    run_virtual(main)


def test_a_session_that_has_asked_waits_for_input_until_then_and_so_does_the_run_that_asked() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), input_timeout_s=300) as service:
            asks = await send(service, "ask")
            await outcome(asks)
            assert code(await why(service, asks)) is Reason.WAITS_FOR_INPUT
            waits = await send(service, "next")
            await asyncio.sleep(1)
            told = await why(service, waits)
            assert told is not None
            assert told.code is Reason.WAITS_FOR_INPUT
            assert told.text.startswith("the session waits for an answer to its question, until ")
            assert await of_session(service) == told
            await service.cancel(ANONYMOUS, asks.run_id)
            await asyncio.sleep(1)
            assert await why(service, asks) is None, "it is not asked any more"

    run_virtual(main)


def test_without_a_slot_it_says_whose_slots_are_taken() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_running=2, max_running_per_principal=1) as service:
            await send(service, "a", "1", "ada")
            sated = await send(service, "b", "2", "ada")
            assert await why(service, sated) == Why(
                Reason.PRINCIPAL_BUSY, "ada has as many runs that execute as it may have at once: 1"
            )
            assert code(await of_session(service, "2", "ada")) is Reason.PRINCIPAL_BUSY
            await send(service, "c", "3", "bob")
            late = await send(service, "d", "4", "eve")
            assert await why(service, late) == Why(
                Reason.SERVER_BUSY, "the server executes as many runs as it may at once: 2"
            )
            assert code(await of_session(service, "4", "eve")) is Reason.SERVER_BUSY

    run_virtual(main)


def test_a_last_attempt_that_waits_for_that_of_another_session_says_so() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        tickets: list[Ticket] = []
        for _ in range(2):  # killed twice: what executed is on its last attempt now
            async with serving(clock, Played(slow), journal) as service:
                if not tickets:
                    tickets = [await send(service, text, text) for text in ("a", "b")]
                await asyncio.sleep(1)
                assert [await why(service, each) for each in tickets] == [None, None], "they execute"
        async with serving(clock, Played(slow), journal) as service:
            await asyncio.sleep(1)
            found = [code(await why(service, each)) for each in tickets]
            assert sorted(found, key=str) == [None, Reason.LAST_ATTEMPT]

    run_virtual(main)


def test_a_server_that_cannot_go_on_says_what_is_wrong() -> None:
    class Full(MemoryJournal):
        hindrance: str | None = None

        @property
        def trouble(self) -> str | None:
            return self.hindrance

        async def take(self, key: SessionKey) -> Any:
            if self.hindrance is not None:
                raise JournalUnavailable(self.hindrance)
            return await super().take(key)

    async def main(clock: VirtualClock) -> None:
        journal, loops = Full(clock), InlineLoops()
        async with serving(clock, Played(slow), journal, loops=loops, max_running=1) as service:
            running = await send(service, "a", "1")
            waits = await send(service, "b", "2")
            assert code(await why(service, waits)) is Reason.SERVER_BUSY
            journal.hindrance = "the disk is full"
            await service.cancel(ANONYMOUS, running.run_id)
            await asyncio.sleep(0.5)
            assert code(await why(service, waits)) is Reason.JOURNAL_UNAVAILABLE == JournalUnavailable.code
            journal.hindrance = None
            loops.takes_calls = False
            assert code(await why(service, waits)) is Reason.NO_WORKER == NoWorker.code

    run_virtual(main)


def test_a_server_that_stops_says_so_to_what_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), drain_grace_s=50) as service:
            await send(service, "a")
            waits = await send(service, "b")
            stopping = asyncio.create_task(service.drain())
            await asyncio.sleep(1)
            assert code(await why(service, waits)) is Reason.SERVER_STOPPING
            assert code(await of_session(service)) is Reason.SERVER_STOPPING
            await stopping

    run_virtual(main)


def test_those_who_listen_are_told_why_it_waits_and_of_another_reason_within_a_second() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            await send(service, "a")
            waits = await send(service, "b")
            events = waits.stream.subscribe()
            (queued,) = await events.next()
            assert isinstance(queued.event, RunQueued)
            assert code(queued.event.why) is Reason.BEHIND
            await service.pause(key())
            (told,) = await asyncio.wait_for(events.next(), 2.1)
            assert isinstance(told.event, RunPosition)
            assert (told.event.position, code(told.event.why)) == (1, Reason.PAUSED)
            assert told.number is None
            again = asyncio.create_task(events.next())
            await asyncio.sleep(10)
            assert not again.done(), "the same reason is told once"
            await service.resume(key())
            (told,) = await asyncio.wait_for(again, 2.1)
            assert isinstance(told.event, RunPosition)
            assert code(told.event.why) is Reason.BEHIND

    run_virtual(main)

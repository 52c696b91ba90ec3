"""Why a run waits: each reason that there is, as a code and in words, in runs, sessions and events alike."""

import asyncio
from typing import Any

import pytest

from asking_support import Asking, answer, ask
from engine_support import Played, Stubborn, key, outcome, play_round, send, serving
from strandline._agents.port import Attempt
from strandline._engine.admission import Ticket
from strandline._engine.events import Reason, RunFinished, RunPosition, RunQueued, RunStarted, Why
from strandline._engine.reading import of_others
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._engine.streams import Subscription
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, OnQuestion, Principal, SessionId, SessionKey
from strandline.errors import JournalUnavailable, NoWorker
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual

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
            reason = await why(service, waits)
            assert reason is not None
            assert reason.code is Reason.HELD
            assert reason.text.endswith(f" by tool lookup of {hangs.run_id}, which has ended and is still executing")
            assert reason.text.startswith("locked since ")
            assert await why(service, hangs) == reason, "the run that holds it says so too"
            assert await of_session(service) == reason
            plain = of_others(reason)
            assert plain == Why(Reason.HELD, "a tool of an ended run is still executing and locks the session")
            await service.pause(key())
            assert code(await why(service, waits)) is Reason.PAUSED, "that needs a person; the hold ends by itself"
            assert code(await of_session(service)) is Reason.PAUSED
            await service.resume(key())
            work.end()
            await asyncio.sleep(1)
            assert await why(service, hangs) is None

    run_virtual(main)


def test_times_are_shown_in_utc_with_their_day_unless_that_is_today() -> None:
    async def main(clock: VirtualClock) -> None:
        clock._epoch = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
        async with serving(clock, Asking(), input_timeout_s=60) as service:
            await ask(service)
            reason = await of_session(service)
            assert reason is not None
            assert reason.text.endswith(", until 22:14:20 UTC")
        async with serving(clock, Asking(), input_timeout_s=86400) as service:
            end = await ask(service)
            reason = await of_session(service)
            assert reason is not None
            assert reason.text.endswith(", until 2023-11-15 22:13 UTC")
            assert end is not None

    run_virtual(main)


def test_a_session_and_its_run_wait_for_input_until_its_deadline() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), input_timeout_s=300) as service:
            pending = await send(service, "ask")
            await outcome(pending)
            assert code(await why(service, pending)) is Reason.WAITS_FOR_INPUT
            waits = await send(service, "next")
            await asyncio.sleep(1)
            reason = await why(service, waits)
            assert reason is not None
            assert reason.code is Reason.WAITS_FOR_INPUT
            assert reason.text.startswith("the session waits for an answer to its question, until ")
            assert await of_session(service) == reason
            await service.cancel(ANONYMOUS, pending.run_id)
            await asyncio.sleep(1)
            assert await why(service, pending) is None, "it is not asked any more"

    run_virtual(main)


def test_without_a_slot_it_says_whose_slots_are_taken() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_running=2, max_running_per_principal=1) as service:
            await send(service, "a", "1", "ada")
            sated = await send(service, "b", "2", "ada")
            assert await why(service, sated) == Why(
                Reason.PRINCIPAL_BUSY, "ada executes as many runs as it may at once: 1"
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

        async def claim_next(self, key: SessionKey) -> Any:
            if self.hindrance is not None:
                raise JournalUnavailable(self.hindrance)
            return await super().claim_next(key)

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
            loops.accepts_calls = False
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


def test_subscribers_get_the_reason_and_another_reason_within_a_second() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            await send(service, "a")
            waits = await send(service, "b")
            events = waits.stream.subscribe()
            (queued,) = await events.next()
            assert isinstance(queued.event, RunQueued)
            assert code(queued.event.why) is Reason.BEHIND
            await service.pause(key())
            (reason,) = await asyncio.wait_for(events.next(), 2.1)
            assert isinstance(reason.event, RunPosition)
            assert (reason.event.position, code(reason.event.why)) == (1, Reason.PAUSED)
            assert reason.number is None
            again = asyncio.create_task(events.next())
            await asyncio.sleep(10)
            assert not again.done(), "the same reason is published once"
            await service.resume(key())
            (reason,) = await asyncio.wait_for(again, 2.1)
            assert isinstance(reason.event, RunPosition)
            assert code(reason.event.why) is Reason.BEHIND

    run_virtual(main)


async def reason(events: Subscription) -> RunQueued | RunPosition:
    """Return the next event of a run that waits, which must come within two seconds."""
    (each,) = await asyncio.wait_for(events.next(), 2.1)
    assert isinstance(each.event, RunQueued | RunPosition), each
    return each.event


def test_subscribers_get_the_open_question_and_the_next_one() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Asking(), journal) as service:
            first = await ask(service, "ask twice")
            waits = await send(service, "next")
            events = waits.stream.subscribe()
            queued = await reason(events)
            assert (code(queued.why), queued.input_requests) == (Reason.WAITS_FOR_INPUT, first.input_requests)
            again = await outcome(await answer(service, first))
            assert again.input_requests != first.input_requests
            moved = await reason(events)
            assert (code(moved.why), moved.input_requests) == (Reason.WAITS_FOR_INPUT, again.input_requests)
            nothing = asyncio.create_task(events.next())
            await asyncio.sleep(10)
            assert not nothing.done(), "the same question is published once"
            nothing.cancel()
        async with serving(clock, Asking(), journal) as service:
            await asyncio.sleep(1)
            late = (await service.stream(ANONYMOUS, waits.run_id)).subscribe()
            assert (await reason(late)).input_requests == again.input_requests, "also who comes after a restart"
            await answer(service, again)
            assert isinstance((await asyncio.wait_for(late.next(), 2.1))[-1].event, RunStarted | RunFinished)

    run_virtual(main)


def test_a_reason_too_large_for_an_event_is_in_the_session() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), stream_cut=8) as service:
            (request,) = (await ask(service)).input_requests
            assert request.reason == "really?"
            waits = await send(service, "next")
            (shown,) = (await reason(waits.stream.subscribe())).input_requests
            assert (shown.id, shown.name, shown.reason) == (request.id, request.name, None)
            assert (await service.session(key())).input_requests == [request]

    run_virtual(main)


@pytest.mark.parametrize("on_question", [OnQuestion.ANSWER, OnQuestion.DISMISS])
def test_what_waits_behind_a_text_that_answers_or_dismisses_waits_for_no_person_any_more(
    on_question: OnQuestion,
) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), max_running=1) as service:
            await ask(service)
            slow = await outcome(await send(service, "ask slow", session="busy"))
            answers = {each.id: "yes" for each in slow.input_requests}
            await service.submit(Request(key=key("busy"), answers=answers))
            waits = await send(service, "next", queue_timeout_s=50)
            await asyncio.sleep(10)
            text = await send(service, "stop", on_question=on_question)
            first, second = (text, waits) if on_question is OnQuestion.ANSWER else (waits, text)
            assert code(await why(service, first)) is Reason.SERVER_BUSY
            assert code(await why(service, second)) is Reason.BEHIND
            late = await outcome(waits)
            assert late.error is not None, "its time stood still while it waited for a person, and runs again"
            assert late.error.code == "queue_timeout"
            assert (await outcome(text)).output in ("done: stop", "answer to stop")

    run_virtual(main)

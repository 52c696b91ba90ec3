"""Input requests in the engine, on virtual time: who waits, who goes first, who wins, and what history says."""

import asyncio
from functools import partial
from typing import Any

import pytest

from asking_support import Asking, answer, ask, whole
from engine_support import history, key, outcome, send, serving, until_idle
from strandline._engine.admission import Ticket
from strandline._engine.requests import Request
from strandline._history import DISMISSED, NOT_ANSWERED, UNKNOWN_OUTCOME
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import RunsQuery
from strandline._model import (
    ANONYMOUS,
    INTERRUPTS,
    IfBusy,
    OnQuestion,
    RunStatus,
)
from strandline.errors import (
    AlreadyAnswered,
    AlreadyEnded,
    Dismissed,
    Draining,
    Invalid,
    NotFound,
    QueueFull,
    SessionBusy,
)
from strandline.testing._virtual import VirtualClock, run_virtual


def test_others_wait_for_the_answer_and_the_answer_for_nobody() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), max_running=1) as service:
            end = await ask(service)
            waits = [await send(service, f"w{n}", priority=1) for n in range(3)]
            await asyncio.sleep(500)
            assert [ticket.stream._end for ticket in waits] == [None] * 3
            ticket = await answer(service, end)
            assert (await outcome(ticket)).output == "done: yes"
            assert [(await outcome(each)).output for each in waits] == [f"answer to w{n}" for n in range(3)]
            assert (await whole(service))[1:3] == ["done: yes", "w0"]
            assert len(service._queues) == 0

    run_virtual(main)


def test_of_two_answers_at_once_one_wins_and_the_tool_goes_on_once() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Asking()
        async with serving(clock, target) as service:
            end = await ask(service)
            given = await asyncio.gather(*(answer(service, end, n) for n in range(20)), return_exceptions=True)
            won = [each for each in given if isinstance(each, Ticket)]
            assert len(won) == 1
            assert sum(isinstance(each, AlreadyAnswered) for each in given) == 19
            assert (await outcome(won[0])).output.startswith("done: ")
            assert len(target.started) == 1
            await whole(service)

    run_virtual(main)


@pytest.mark.parametrize("early_s", [0.5, 0.0, -0.5, -1.5])
def test_an_answer_against_the_dismissal_has_one_winner(early_s: float) -> None:
    """Waiting runs continue a second after the time at the latest; the answer comes just before, then or after."""

    async def main(clock: VirtualClock) -> None:
        target = Asking()
        async with serving(clock, target, input_timeout_s=60) as service:
            end = await ask(service)
            waits = await send(service, "next")
            await asyncio.sleep(60 - early_s)
            try:
                assert (await outcome(await answer(service, end))).output == "done: yes"
            except Dismissed:
                assert early_s <= 0
                assert target.started == []
                assert {NOT_ANSWERED, DISMISSED} <= set(await whole(service))
            else:
                assert early_s > -1.1
                assert DISMISSED not in await whole(service)
            assert (await outcome(waits)).output == "answer to next"
            assert clock.monotonic() < 63
            await whole(service)

    run_virtual(main)


def test_the_time_of_those_that_wait_stands_still() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), input_timeout_s=600) as service:
            end = await ask(service)
            waits = await send(service, "w", queue_timeout_s=30)
            await asyncio.sleep(300)
            slow = await answer(service, end)
            assert (await outcome(slow)).output == "done: yes"
            assert (await outcome(waits)).output == "answer to w"
            end = await ask(service, "ask slow")
            waits = await send(service, "w", queue_timeout_s=30)
            await asyncio.sleep(300)
            await answer(service, end)
            late = await outcome(waits)
            assert late.error is not None, "its time runs again while the answer executes"
            assert late.error.code == "queue_timeout"
            await until_idle(service)

    run_virtual(main)


@pytest.mark.parametrize("restarted", [False, True])
def test_what_waits_goes_on_when_the_time_is_over_also_after_a_restart(restarted: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Asking(), journal, input_timeout_s=60) as service:
            await ask(service)
            waits = await send(service, "next", queue_timeout_s=10)
            if not restarted:
                assert (await outcome(waits)).output == "answer to next"
        if restarted:
            async with serving(clock, Asking(), journal) as service:
                await asyncio.sleep(59)
                assert service.health().queue_depth == 1
                await asyncio.sleep(3)
                view = await service.run(ANONYMOUS, waits.run_id)
                assert view.run.status is RunStatus.SUCCEEDED
                assert DISMISSED in await whole(service)

    run_virtual(main)


def test_a_tool_can_ask_twice() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            first = await ask(service, "ask twice")
            second = await outcome(await answer(service, first))
            assert second.status is RunStatus.NEEDS_INPUT
            assert second.input_requests != first.input_requests
            with pytest.raises(AlreadyAnswered):
                await answer(service, first)
            assert (await outcome(await answer(service, second, "again"))).output == "done: again"
            assert await whole(service) == ["ask twice", "done: again", "paid: again"]

    run_virtual(main)


def test_an_answer_that_fails_or_is_rolled_back_closes_the_round() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), cancel_grace_s=1) as service:
            end = await outcome(await answer(service, await ask(service, "ask fail")))
            assert end.error is not None
            assert (await whole(service))[-1] == UNKNOWN_OUTCOME
            ticket = await answer(service, await ask(service, "ask slow"))
            await asyncio.sleep(10)
            goes_on = await send(service, "next", if_busy=IfBusy.ROLLBACK)
            assert (await outcome(goes_on)).output == "answer to next"
            assert (await outcome(ticket)).status is RunStatus.CANCELLED
            shown = await whole(service)
            assert NOT_ANSWERED in shown
            assert shown[-2:] == [UNKNOWN_OUTCOME] * 2

    run_virtual(main)


def test_policies_and_cancels_against_an_open_question() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            await ask(service)
            with pytest.raises(SessionBusy):
                await send(service, "no", if_busy=IfBusy.REJECT)
            for if_busy in (IfBusy.INTERRUPT, IfBusy.ROLLBACK):
                assert (await outcome(await send(service, "now", if_busy=if_busy))).output == "answer to now"
                await whole(service)
                await ask(service)
            run_id = (await service.runs(key())).runs[0].run.run_id
            waits = await send(service, "waits")
            view = await service.cancel(ANONYMOUS, run_id)
            assert view.run.status is RunStatus.NEEDS_INPUT
            assert (await service.cancel(ANONYMOUS, run_id)).run == view.run, "repeated, it is answered as before"
            assert (await outcome(waits)).output == "answer to waits"
            end = await ask(service)
            answered = (await service.runs(key())).runs[0].run.run_id
            await outcome(await answer(service, end))
            with pytest.raises(AlreadyEnded):
                await service.cancel(ANONYMOUS, answered)
            end = await ask(service)
            waits = await send(service, "waits")
            await service.cancel_session(key(), running=True)
            assert (await outcome(waits)).status is RunStatus.CANCELLED
            with pytest.raises(Dismissed):
                await answer(service, end)
            await whole(service)
            await ask(service)
            assert await service.delete(key())
            assert await history(service) == []
            assert (await outcome(await send(service, "new"))).output == "answer to new"

    run_virtual(main)


def test_a_pause_holds_an_answer_too_and_keys_stand_for_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            end = await ask(service)
            await service.pause(key())
            keyed = {"idempotency_key": "k", "fingerprint": b"f" * 32}
            ticket = await answer(service, end, **keyed)
            assert (await answer(service, end, **keyed)).run_id == ticket.run_id
            await asyncio.sleep(5)
            assert service.health().queue_depth == 1
            await service.resume(key())
            assert (await outcome(ticket)).output == "done: yes"
            assert (await answer(service, end, **keyed)).replayed

    run_virtual(main)


@pytest.mark.parametrize("by_text", [False, True])
def test_an_answer_that_is_refused_while_the_server_stops_is_not_kept(by_text: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        other: dict[str, Any] = {"idempotency_key": "other", "fingerprint": b"o" * 32}
        async with serving(clock, Asking(), journal, drain_grace_s=100) as service:
            end = await ask(service)
            executes = await send(service, "ask slow", session="busy")
            await service.submit(Request(key=key("busy"), answers=await requests_of(executes)))
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(1)
            answers = (
                partial(send, service, "yes", on_question=OnQuestion.ANSWER)
                if by_text
                else partial(answer, service, end)
            )
            with pytest.raises(Draining):
                await answers(**other)
            await draining
        async with serving(clock, Asking(), journal) as service:
            assert [each.status for each in (await journal.read(RunsQuery(key()))).runs] == [RunStatus.NEEDS_INPUT]
            assert (await outcome(await answer(service, end))).output == "done: yes"

    run_virtual(main)


async def requests_of(ticket: Ticket) -> dict[str, Any]:
    return {each.id: "yes" for each in (await outcome(ticket)).input_requests}


def test_what_cannot_be_answered_is_refused() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            end = await ask(service)
            with pytest.raises(NotFound):
                await service.submit(Request(key=key(), answers={"x": 1}))
            with pytest.raises(NotFound):
                await service.submit(Request(key=key("other"), answers={end.input_requests[0].id: 1}))
            for given in ({}, {end.input_requests[0].id: None}):
                with pytest.raises(Invalid):
                    await service.submit(Request(key=key(), answers=given))
            with pytest.raises(Invalid):
                await answer(service, end, if_busy=IfBusy.INTERRUPT)
            assert (await outcome(await answer(service, end))).output == "done: yes"
            assert len(service._streams) == 0

    run_virtual(main)


def test_a_text_answers_the_question_and_a_second_one_waits() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Asking()
        async with serving(clock, target, on_question=OnQuestion.ANSWER, max_queued_per_session=1) as service:
            await ask(service)
            waits = await send(service, "w", on_question=OnQuestion.WAIT)
            with pytest.raises(QueueFull):
                await send(service, "another", on_question=OnQuestion.WAIT)
            with pytest.raises(QueueFull):
                await service.submit(Request(key=key(), input=[{"text": "blocks"}]))
            first = await send(service, "no, stop!")
            with pytest.raises(QueueFull):
                await send(service, "yes")
            assert (await outcome(first)).output == "done: no, stop!"
            assert (await outcome(waits)).output == "answer to w"
            assert (await outcome(await send(service, "next"))).output == "answer to next"
            assert len(target.started) == 1
            assert (await whole(service))[:3] == ["ask", "done: no, stop!", "w"]
            assert len(service._queues) == 0

    run_virtual(main)


def test_of_twenty_texts_at_once_one_answers_and_the_others_wait_for_input() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Asking()
        async with serving(clock, target, max_running=1) as service:
            await ask(service)
            texts = [send(service, f"t{n}", on_question=OnQuestion.ANSWER) for n in range(20)]
            ends = [(await outcome(ticket)).output for ticket in await asyncio.gather(*texts)]
            assert sorted(ends) == sorted(["done: t0", *(f"answer to t{n}" for n in range(1, 20))])
            assert len(target.started) == 1
            await whole(service)

    run_virtual(main)


def test_a_run_that_dismisses_has_all_go_on_that_waited_for_the_answer() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), max_running=1) as service:
            end = await ask(service)
            waits = await send(service, "w", queue_timeout_s=30)
            await asyncio.sleep(100)
            then = await send(service, "then", on_question=OnQuestion.DISMISS, queue_timeout_s=30)
            assert (await outcome(waits)).output == "answer to w"
            assert (await outcome(then)).output == "answer to then"
            assert clock.monotonic() < 101, "nothing has waited for the time to answer"
            with pytest.raises(Dismissed):
                await answer(service, end)
            assert {NOT_ANSWERED, DISMISSED} <= set(await whole(service))
            assert len(service._queues) == 0

    run_virtual(main)


@pytest.mark.parametrize("on_question", OnQuestion)
def test_who_is_not_to_wait_is_let_in_if_it_answers_or_dismisses(on_question: OnQuestion) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            await ask(service)
            options: dict[str, Any] = {"if_busy": IfBusy.REJECT, "on_question": on_question}
            if on_question is OnQuestion.WAIT:
                with pytest.raises(SessionBusy):
                    await send(service, "now", **options)
                return
            end = await outcome(await send(service, "now", **options))
            assert end.output == ("done: now" if on_question is OnQuestion.ANSWER else "answer to now")
            await whole(service)

    run_virtual(main)


def test_policies_that_exclude_each_other_are_refused_and_an_interrupt_dismisses_whatever_the_default() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), on_question=OnQuestion.ANSWER) as service:
            end = await ask(service)
            with pytest.raises(Invalid, match="on_question does not go with responses"):
                await answer(service, end, on_question=OnQuestion.ANSWER)
            for if_busy in INTERRUPTS:
                with pytest.raises(Invalid, match="on_question cannot be answer"):
                    await send(service, "x", if_busy=if_busy, on_question=OnQuestion.ANSWER)
            assert (await service.session(key())).input_requests == end.input_requests
            goes_on = await send(service, "next", if_busy=IfBusy.INTERRUPT)
            assert (await outcome(goes_on)).output == "answer to next"
            assert NOT_ANSWERED in await whole(service)
            assert (await outcome(await answer(service, await ask(service)))).output == "done: yes"

    run_virtual(main)


def test_an_answer_by_text_is_the_same_run_under_its_key_whatever_became_of_the_question() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking()) as service:
            await ask(service)
            keyed: dict[str, Any] = {"idempotency_key": "k", "fingerprint": b"f" * 32, "on_question": OnQuestion.ANSWER}
            first = await send(service, "yes", **keyed)
            assert (await outcome(first)).output == "done: yes"
            await ask(service)
            again = await send(service, "yes", **keyed)
            assert (again.run_id, again.replayed) == (first.run_id, True)
            assert (await service.session(key())).input_requests, "the next question is still open"

    run_virtual(main)

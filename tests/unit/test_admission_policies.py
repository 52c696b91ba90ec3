"""What a run does to a busy session: wait, be refused, interrupt it, roll it back."""

import asyncio

import pytest

from engine_support import (
    Played,
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
from strandline._engine.admission import Ticket
from strandline._engine.service import Service
from strandline._history import UNKNOWN_OUTCOME
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, IfBusy, RunStatus
from strandline.errors import Invalid, QueueFull, SessionBusy
from strandline.testing._checker import check_history
from strandline.testing._virtual import VirtualClock, run_virtual

FAILED = "(This run ended early: agent_error.)"
EARLY = "(This run ended early: cancelled.)"


async def slow(attempt: Attempt) -> str:
    """Do a tool, and then another one that takes for ever, if the question begins with `slow`."""
    text = prompt_of(attempt)

    async def done() -> str:
        return f"did {text}"

    async def never() -> str:
        await asyncio.sleep(100_000)
        return "never"

    if text.startswith("slow"):
        await play_round(attempt, f"{text}-1", done)
        await play_round(attempt, f"{text}-2", never)
    return f"answer to {text}"


async def ask(service: Service, text: str, if_busy: IfBusy, session: str = "s") -> Ticket:
    return await send(service, text, session, if_busy=if_busy)


def test_an_interrupt_ends_what_executes_keeps_what_it_did_and_goes_next() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), cancel_grace_s=3) as service:
            first, waits = await send(service, "slow"), await send(service, "waits")
            await asyncio.sleep(1)
            at = clock.monotonic()
            second = await ask(service, "now", IfBusy.INTERRUPT)
            assert second.position == 1
            assert (await outcome(second)).output == "answer to now"
            assert clock.monotonic() - at < 3.1
            assert (await outcome(first)).status is RunStatus.CANCELLED
            assert (await outcome(waits)).output == "answer to waits"
            messages = await history(service)
            assert texts(messages) == ["slow", EARLY, "now", "answer to now", "waits", "answer to waits"]
            assert tool_texts(messages) == ["did slow", UNKNOWN_OUTCOME]
            assert check_history(messages) == []
            assert len(service._queues) == 0
            assert service._runner._wanted == set()

    run_virtual(main)


def test_a_rollback_takes_what_it_ends_out_of_the_conversation() -> None:
    """The next run's agent is built without it; the journal keeps it, flagged."""

    async def main(clock: VirtualClock) -> None:
        played = Played(slow)
        async with serving(clock, played, cancel_grace_s=3) as service:
            await outcome(await send(service, "before"))
            first = await send(service, "slow")
            await asyncio.sleep(1)
            second = await ask(service, "now", IfBusy.ROLLBACK)
            assert (await outcome(second)).output == "answer to now"
            assert (await outcome(first)).status is RunStatus.CANCELLED
            assert texts(await history(service)) == ["before", "answer to before", "now", "answer to now"]
            _, record, _ = played.built[-1]
            assert texts(record.messages) == ["before", "answer to before"]
            page = await service.history_page(key(), discarded=True)
            assert texts(page.messages)[2:4] == ["slow", EARLY]
            assert page.discarded
            view = await service.run(ANONYMOUS, first.run_id)
            assert (view.run.discarded, view.run.discard) == (True, True)

    run_virtual(main)


def test_a_rollback_of_a_run_that_is_being_interrupted_discards_it_too() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), cancel_grace_s=3) as service:
            first = await send(service, "slow")
            await asyncio.sleep(1)
            second = await ask(service, "now", IfBusy.INTERRUPT)
            third = await ask(service, "then", IfBusy.ROLLBACK)
            assert [(await outcome(each)).output for each in (second, third)] == ["answer to now", "answer to then"]
            assert (await outcome(first)).status is RunStatus.CANCELLED
            assert texts(await history(service)) == ["now", "answer to now", "then", "answer to then"]

    run_virtual(main)


@pytest.mark.parametrize(("on_failure", "left"), [("drop", []), ("keep", ["break", FAILED, "RuntimeError: no luck"])])
def test_what_a_failed_run_said_leaves_the_conversation_where_the_setting_says_so(
    on_failure: str, left: list[str]
) -> None:
    async def breaks(attempt: Attempt) -> str:
        if prompt_of(attempt) == "break":
            raise RuntimeError("no luck")
        return f"answer to {prompt_of(attempt)}"

    async def main(clock: VirtualClock) -> None:
        played = Played(breaks)
        async with serving(clock, played, on_failure=on_failure) as service:
            await outcome(await send(service, "before"))
            failed = await send(service, "break")
            assert (await outcome(failed)).status is RunStatus.FAILED
            before = ["before", "answer to before"]
            assert (await outcome(await send(service, "after"))).output == "answer to after"
            assert texts(await history(service)) == [*before, *left, "after", "answer to after"]
            _, record, _ = played.built[-1]
            assert texts(record.messages) == [*before, *left]
            assert (await service.run(ANONYMOUS, failed.run_id)).run.discarded == (on_failure == "drop")

    run_virtual(main)


def test_a_run_that_may_not_wait_is_refused_and_changes_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_running=1) as service:
            assert (await outcome(await ask(service, "free", IfBusy.REJECT))).output == "answer to free"
            first = await send(service, "slow")
            with pytest.raises(SessionBusy):
                await ask(service, "no", IfBusy.REJECT)
            other = await ask(service, "yes", IfBusy.REJECT, "other session")
            assert other.position == 1, "that session is free; the server is not"
            await service.cancel(ANONYMOUS, first.run_id)
            assert (await outcome(other)).output == "answer to yes"
            await until_idle(service)
            assert len(service._streams) == 0

    run_virtual(main)


def test_an_interrupt_over_a_limit_is_refused_and_interrupts_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            first, waits = await send(service, "slow"), await send(service, "waits")
            with pytest.raises(QueueFull):
                await ask(service, "no", IfBusy.INTERRUPT)
            await asyncio.sleep(100)
            assert not (await service.run(ANONYMOUS, first.run_id)).run.cancel_requested
            await service.cancel(ANONYMOUS, first.run_id)
            assert (await outcome(waits)).output == "answer to waits"

    run_virtual(main)


def test_a_run_that_was_given_back_is_interrupted_before_it_goes_on() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)

        async def rounds(attempt: Attempt) -> str:
            async def done() -> str:
                return "did it"

            await play_round(attempt, "t1", done)
            await asyncio.sleep(100_000)
            return "never"

        async with serving(clock, Played(rounds), journal) as service:
            first = await send(service, "given back")
            await asyncio.sleep(1)
            await service.drain()
        async with serving(clock, Played(slow), journal, max_running=1) as service:
            blocker = await send(service, "slow", "other session")
            second = await ask(service, "now", IfBusy.INTERRUPT)
            await service.cancel(ANONYMOUS, blocker.run_id)
            assert (await outcome(second)).output == "answer to now"
            await until_idle(service)
            assert (await service.run(ANONYMOUS, first.run_id)).run.status is RunStatus.CANCELLED
            assert tool_texts(await history(service)) == ["did it"]
            assert check_history(await history(service)) == []

    run_virtual(main)


def test_an_accepted_interrupt_survives_a_crash_with_its_policy() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(slow), journal, cancel_grace_s=50) as service:
            first = await send(service, "slow")
            await asyncio.sleep(1)
            second = await ask(service, "now", IfBusy.ROLLBACK)
        async with serving(clock, Played(slow), journal) as service:
            await until_idle(service)
            runs = [(await service.run(ANONYMOUS, each.run_id)).run for each in (first, second)]
            assert [run.status for run in runs] == [RunStatus.CANCELLED, RunStatus.SUCCEEDED]
            assert texts(await history(service)) == ["now", "answer to now"]

    run_virtual(main)


def test_what_an_agent_keeps_itself_cannot_be_rolled_back() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Played(slow, resumable=False)
        played.self_managed = True
        async with serving(clock, played, cancel_grace_s=1) as service:
            with pytest.raises(Invalid):
                await ask(service, "no", IfBusy.ROLLBACK)
            first = await send(service, "slow")
            second = await ask(service, "now", IfBusy.INTERRUPT)
            assert (await outcome(second)).output == "answer to now"
            assert (await outcome(first)).status is RunStatus.CANCELLED
            assert await history(service) == []

    run_virtual(main)

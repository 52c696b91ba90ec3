"""The time of runs that wait while their session waits for input, is paused or held, or all of that at once."""

import asyncio

import pytest

from asking_support import Asking, answer, ask
from engine_support import key, outcome, send, serving, until_idle
from strandline._engine.admission import Ticket
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, ErrorCode, OnQuestion
from strandline.errors import QueueFull
from strandline.testing._virtual import VirtualClock, run_virtual

LIMIT_S = 20.0


@pytest.mark.parametrize("restarted", [False, True])
def test_what_waits_goes_on_in_the_moment_in_which_the_time_is_over(restarted: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Asking(), journal, input_timeout_s=60.4) as service:
            await ask(service)
            until = (await service.session(key())).input_until
            assert until is not None
            waits = (await send(service, "next")).run_id
            if not restarted:
                await until_idle(service)
            started_at = (await service.run(ANONYMOUS, waits)).run.started_at
        if restarted:
            async with serving(clock, Asking(), journal) as service:
                await until_idle(service)
                started_at = (await service.run(ANONYMOUS, waits)).run.started_at
        assert started_at == pytest.approx(until, abs=0.02)

    run_virtual(main)


@pytest.mark.parametrize(
    ("steps", "left_s"),
    [
        ("ask 0 | send 10 | pause 30 | answer 50 | resume 80", 20),
        ("ask 0 | send 10 | pause 30 | resume 50 | withdraw 80", 20),
        ("ask 0 | send 10 | pause 30 | resume 150", 20),
        ("ask later 0 | send 0 | pause 5 | go 20 | answer 50 | resume 80", 15),
        ("ask later 0 | send 0 | pause 5 | go 20 | resume 50 | withdraw 80", 15),
        ("ask leave 0 | send 10 | end 30 | withdraw 50", 20),
        ("ask leave 0 | send 10 | withdraw 30 | end 50", 20),
        ("ask leave 0 | pause 5 | send 10 | withdraw 30 | end 50 | resume 60", 20),
    ],
)
def test_a_minute_that_stands_still_for_two_reasons_counts_once(steps: str, left_s: float) -> None:
    """A run that waits has what is `left_s` of its `queue_timeout` from the moment on in which its session is open."""

    async def main(clock: VirtualClock) -> None:
        target = Asking()
        async with serving(clock, target, input_timeout_s=100, hold_limit_s=1000, max_running=1) as service:
            began = clock.monotonic()
            first, *most, last = steps.split(" | ")
            sent: list[Ticket] = []
            pending = await send(service, first.removesuffix(" 0"))
            if "later" not in first:
                await outcome(pending)
            for step in (*most, "block", last):
                what, _, at = step.rpartition(" ")
                if at.isdecimal():
                    await asyncio.sleep(began + float(at) - clock.monotonic())
                match what or step:
                    case "pause":
                        await service.pause(key())
                    case "resume":
                        await service.resume(key())
                    case "send":
                        sent.append(await send(service, "w", queue_timeout_s=LIMIT_S))
                    case "answer":
                        await answer(service, await outcome(pending))
                    case "withdraw":
                        await service.cancel(ANONYMOUS, pending.run_id)
                    case "end":
                        target.work.end()
                    case "go":
                        target.gate.set()
                        await outcome(pending)
                        target.gate.clear()
                    case "block":  # from now on the only slot is another session's: nothing of ours starts
                        await send(service, "ask later", "other")
            opened = clock.monotonic()
            ended = await outcome(sent[0])
            assert ended.error is not None
            assert ended.error.code is ErrorCode.QUEUE_TIMEOUT
            assert clock.monotonic() - opened == pytest.approx(left_s, abs=0.1)

    run_virtual(main)


def test_nobody_knows_how_long_runs_wait_for_an_answer() -> None:
    """Neither a ticket, nor a run that is read, nor a refusal says that it will be soon."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), max_queued_per_session=1, retry_after_s=7) as service:
            await outcome(await send(service, "before"))
            end = await ask(service)
            waits = await send(service, "w")
            assert (waits.position, waits.estimated_wait_s) == (1, None)
            assert (await service.run(ANONYMOUS, waits.run_id)).estimated_wait_s is None
            with pytest.raises(QueueFull) as refused:
                await send(service, "v")
            assert (refused.value.position, refused.value.estimated_wait_s, refused.value.retry_after_s) == (2, None, 7)
            await service.pause(key())
            await answer(service, end)
            await service.resume(key())
            assert (await service.run(ANONYMOUS, waits.run_id)).estimated_wait_s is not None
            await until_idle(service)

    run_virtual(main)


def test_a_full_queue_lets_in_what_answers_a_question() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Asking(), max_queued_per_session=1) as service:
            await outcome(await send(service, "before"))
            await ask(service)
            waits = await send(service, "w")
            with pytest.raises(QueueFull):
                await send(service, "v")
            answers = await send(service, "yes", on_question=OnQuestion.ANSWER)
            assert answers.position <= 1
            await outcome(answers)
            await outcome(waits)
            await until_idle(service)

    run_virtual(main)

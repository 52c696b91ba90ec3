"""The estimated wait of a run."""

import asyncio

import pytest

from engine_support import Played, key, outcome, prompt_of, send, serving
from strandline._agents.port import Attempt
from strandline._engine.queues import RunTimes, estimates
from strandline._model import ANONYMOUS
from strandline.errors import QueueFull
from strandline.testing._virtual import VirtualClock, run_virtual


async def as_long_as_requested(attempt: Attempt) -> str:
    await asyncio.sleep(float(prompt_of(attempt)))
    return "done"


def test_the_recent_runs_of_a_session_say_how_long_its_next_ones_take() -> None:
    times = RunTimes()
    assert (times.mean_s(key()), times.wait_s(key(), 2), times.wait_s(key(), 0)) == (None, None, 0.0)
    times.ended(key(), 10.0)
    times.ended(key("other"), 1.0)
    assert times.wait_s(key(), 2) == 20.0
    assert times.wait_s(key("other"), 2) == 2.0
    assert times.wait_s(key("new"), 1) == pytest.approx(8.2), "one that has had none goes by all"
    for _ in range(50):
        times.ended(key(), 1.0)
    assert times.wait_s(key(), 3) == pytest.approx(3.0, abs=0.01), "what was long ago does not count"


def test_sessions_of_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "KNOWN_SESSIONS", 2)
    times = RunTimes()
    for name in ("a", "b", "a", "c"):
        times.ended(key(name), 1.0 if name == "a" else 9.0)
    assert list(times._of) == [key("a"), key("c")]


def test_a_wait_is_estimated_from_the_times_of_its_session() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(as_long_as_requested), max_queued_per_session=2) as service:
            await outcome(await send(service, "10"))
            await outcome(await send(service, "1", "other session"))
            tickets = [await send(service, "10") for _ in range(3)]
            assert [ticket.position for ticket in tickets] == [0, 1, 2]
            assert [ticket.estimated_wait_s for ticket in tickets] == [0.0, pytest.approx(10.0), pytest.approx(20.0)]
            with pytest.raises(QueueFull) as refused:
                await send(service, "10")
            assert refused.value.position == 3
            assert refused.value.estimated_wait_s == pytest.approx(30.0)
            assert refused.value.retry_after_s == pytest.approx(10.0), "then one of them has ended"
            view = await service.run(ANONYMOUS, tickets[2].run_id)
            assert view.estimated_wait_s == pytest.approx(20.0)
            await service.pause(key())
            assert (await service.run(ANONYMOUS, tickets[2].run_id)).estimated_wait_s is None
            with pytest.raises(QueueFull) as refused:
                await send(service, "10")
            assert refused.value.estimated_wait_s is None

    run_virtual(main)


def test_what_the_run_that_executes_has_taken_already_is_not_waited_for_again() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(as_long_as_requested), max_queued_per_session=2) as service:
            await outcome(await send(service, "10"))
            tickets = [await send(service, text) for text in ("30", "10", "10")]

            async def waits() -> list[float | None]:
                return [(await service.run(ANONYMOUS, each.run_id)).estimated_wait_s for each in tickets]

            await asyncio.sleep(4)
            assert await waits() == [0.0, pytest.approx(6.0), pytest.approx(16.0)]
            with pytest.raises(QueueFull) as refused:
                await send(service, "10")
            assert refused.value.estimated_wait_s == pytest.approx(26.0)
            assert refused.value.retry_after_s == pytest.approx(6.0)
            await asyncio.sleep(16)
            assert await waits() == [0.0, pytest.approx(0.0), pytest.approx(10.0)], "it may end at any time"
            await outcome(tickets[0])
            await asyncio.sleep(5)
            assert await waits() == [0.0, 0.0, pytest.approx(14.0 - 5.0)], "the next one has begun"
            await outcome(tickets[2])
            assert len(service._queues) == 0

    run_virtual(main)


def test_a_full_session_is_tried_again_after_a_second_at_the_earliest() -> None:
    async def main(clock: VirtualClock) -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def behaviour(attempt: Attempt) -> str:
            if prompt_of(attempt) == "held":
                started.set()
                await go_on.wait()
            else:
                await asyncio.sleep(float(prompt_of(attempt)))
            return "done"

        async with serving(clock, Played(behaviour), max_queued_per_session=1) as service:

            async def retry_after_s() -> float:
                started.clear()
                running, waiting = await send(service, "held"), await send(service, "0")
                await started.wait()
                with pytest.raises(QueueFull) as refused:
                    await send(service, "0")
                go_on.set()
                await outcome(running)
                await outcome(waiting)
                go_on.clear()
                return refused.value.retry_after_s

            assert await retry_after_s() == 1.0, "no run has ended yet"
            assert await retry_after_s() == 1.0, "runs take no time"
            for _ in range(9):
                await outcome(await send(service, "10"))
            assert await retry_after_s() > 5.0

    run_virtual(main)


def test_a_run_that_no_other_one_executes_before_is_not_waited_for_less() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(as_long_as_requested), max_running=1) as service:
            await outcome(await send(service, "10"))
            blocker = await send(service, "100", "other session")
            waiting = await send(service, "10")
            assert waiting.position == 1
            assert waiting.estimated_wait_s == pytest.approx(10.0)
            await outcome(blocker)

    run_virtual(main)

"""Observers follow every run: its acceptance or refusal, its start, its first text and its one outcome."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, echo, key, outcome, send, serving, until_idle
from strandline._agents.port import Attempt, Finished, SessionAgent
from strandline._engine.maintenance import measure_lag
from strandline._engine.maintenance.background import EVERY_S
from strandline._engine.observers import Observer
from strandline._history import Progress, prompt_message
from strandline._journal.memory import MemoryJournal
from strandline._model import AgentRecord, ErrorCode, InputRequest, NeedsInput, Outcome, SessionKey
from strandline._telemetry.recorder import REFUSALS
from strandline.errors import QueueFull, TooManySchedules, Unavailable
from strandline.testing._virtual import VirtualClock, run_virtual


class Noted(Observer):
    """Records the calls of an observer."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.lags: list[float] = []

    def accepted(self) -> None:
        self.calls.append(("accepted",))

    def refused(self, reason: str) -> None:
        self.calls.append(("refused", reason))

    def started(self, wait_s: float) -> None:
        self.calls.append(("started", round(wait_s, 1)))

    def first_text(self, after_s: float) -> None:
        self.calls.append(("first text", round(after_s, 1)))

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        code = None if outcome.error is None else outcome.error.code
        self.calls.append(("ended", outcome.status.value, code, duration_s and round(duration_s, 1)))

    def lagged(self, lag_s: float) -> None:
        self.lags.append(lag_s)

    @property
    def ends(self) -> list[tuple[Any, ...]]:
        return [each[1:] for each in self.calls if each[0] == "ended"]


async def works(attempt: Attempt) -> str:
    """Work for as many seconds as the question says; then answer, fail or never end."""
    seconds, *then = attempt.messages[0]["content"][0]["text"].split()
    await asyncio.sleep(float(seconds))
    if then == ["fail"]:
        raise ValueError("no")
    if then == ["speak"]:
        attempt.add_text("one ")
        await asyncio.sleep(1.0)
        attempt.add_text("two")
    return "done"


def test_a_run_is_observed_from_its_acceptance_to_its_end() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted) as service:
            await asyncio.gather(*(map(outcome, [await send(service, "2"), await send(service, "3 speak")])))

    run_virtual(main)
    assert sorted(noted.calls[:2]) == [
        ("accepted",),
        ("started", 0.0),
    ]  # a claim may come before its accept has returned
    assert noted.calls[2:] == [
        ("accepted",),
        ("ended", "succeeded", None, 2.0),
        ("started", 2.0),
        ("first text", 5.0),
        ("ended", "succeeded", None, 4.0),
    ]


def test_no_wait_is_below_nothing_though_the_clock_was_set_back() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted) as service:
            first, second = await send(service, "2"), await send(service, "3 speak")
            clock._epoch -= 1000
            await asyncio.gather(outcome(first), outcome(second))

    run_virtual(main)
    assert noted.calls[-3:-1] == [("started", 0.0), ("first text", 0.0)]


def test_a_run_that_fails_or_takes_too_long() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted, cancel_grace_s=1.0) as service:
            await outcome(await send(service, "1 fail"))
            await outcome(await send(service, "9", timeout_s=2.0))

    run_virtual(main)
    assert noted.ends == [
        ("failed", ErrorCode.AGENT_ERROR, 1.0),
        ("failed", ErrorCode.TIMEOUT, pytest.approx(2.8, abs=0.2)),
    ]


def test_runs_that_end_while_they_wait_never_took_any_time() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted) as service:
            first = await send(service, "9")
            cancelled = await send(service, "1")
            await send(service, "1", queue_timeout_s=3.0)
            await service.cancel(key().principal, cancelled.run_id)
            await outcome(first)

    run_virtual(main)
    assert noted.ends == [
        ("cancelled", None, None),
        ("failed", ErrorCode.QUEUE_TIMEOUT, None),
        ("succeeded", None, 9.0),
    ]
    assert [each for each in noted.calls if each[0] == "started"] == [("started", 0.0)]


def test_a_run_that_is_cancelled_while_it_executes() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted) as service:
            run = await send(service, "9")
            await asyncio.sleep(1.0)
            await service.cancel(key().principal, run.run_id)
            await outcome(run)

    run_virtual(main)
    [(status, code, took_s)] = noted.ends
    assert (status, code) == ("cancelled", None)
    assert 1.0 <= took_s < 9.0


class AskingTarget:
    """A target whose agents ask a person."""

    resumable, singleton, self_managed = True, False, False
    description = "asks"

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        return AskingAgent()


class AskingAgent:
    async def run(self, attempt: Attempt) -> Finished:
        assert attempt.prompt is not None
        attempt.add(prompt_message(attempt.prompt))
        use = {"toolUseId": "t1", "name": "pay", "input": {}}
        attempt.add({"role": "assistant", "content": [{"toolUse": use}]})
        await attempt.begin_round()
        requests = [InputRequest(id="i1", name="pay", reason="may I?")]
        return Finished(ending=NeedsInput(requests=requests, state={}))

    def compact(self) -> None:
        """Keep nothing."""


def test_a_run_that_asks_a_person() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, AskingTarget(), observer=noted) as service:
            await outcome(await send(service, "may I?"))

    run_virtual(main)
    assert noted.ends == [("needs_input", None, 0.0)]


def test_a_request_that_is_refused() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), observer=noted, max_queued_per_session=1) as service:
            runs = [await send(service, "1"), await send(service, "1")]
            for _ in range(2):  # the second is known without the journal
                with pytest.raises(QueueFull):
                    await send(service, "1")
            await asyncio.gather(*map(outcome, runs))
            assert service.health().refused_runs == 2

    run_virtual(main)
    assert [each for each in noted.calls if each[0] == "refused"] == [("refused", "queue_full")] * 2
    assert noted.calls.count(("accepted",)) == 2


def test_a_run_whose_server_died() -> None:
    """A resumed run is not reported as started again; one that ends by the restart is reported with its outcome."""
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(works), journal, observer=noted) as service:
            await send(service, "5 speak")
            await asyncio.sleep(1.0)
        async with serving(clock, Played(works), journal, observer=noted) as service:
            await until_idle(service)
        async with serving(clock, Played(works, resumable=False), journal, observer=noted) as service:
            await send(service, "5")
            await asyncio.sleep(1.0)
        async with serving(clock, Played(works, resumable=False), journal, observer=noted) as service:
            await until_idle(service)

    run_virtual(main)
    assert noted.ends == [("succeeded", None, 6.0), ("failed", ErrorCode.CRASHED, None)]
    assert [each[0] for each in noted.calls].count("started") == 2
    assert "first text" not in [each[0] for each in noted.calls]


def test_stalls_holds_and_listeners_are_in_the_vitals() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(works), stall_after_s=2.0) as service:
            waiter = asyncio.create_task(outcome(await send(service, "5")))
            await asyncio.sleep(4.0)
            vitals = service.vitals()
            assert (vitals.stalls, vitals.subscribers, vitals.health.stalled, vitals.holds) == (1, 1, 1, 0)
            await waiter
            vitals = service.vitals()
            assert (vitals.stalls, vitals.subscribers, vitals.health.stalled) == (1, 0, 0)

    run_virtual(main)


def test_the_lag_of_the_loop_is_measured_every_second() -> None:
    noted = Noted()

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), observer=noted):
            await asyncio.sleep(3.5 * EVERY_S)

    run_virtual(main)
    assert noted.lags == pytest.approx([0.0] * 3)


def test_a_late_loop_reports_by_how_much() -> None:
    class LateClock:
        def __init__(self) -> None:
            self.times = iter([100.0, 100.0 + EVERY_S + 0.25, 200.0])

        def now(self) -> float:
            raise NotImplementedError

        def monotonic(self) -> float:
            return next(self.times)

        def boottime(self) -> float:
            raise NotImplementedError

    async def main(clock: VirtualClock) -> None:
        calls: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(measure_lag(LateClock(), calls.set_result))
        assert await calls == pytest.approx(0.25)
        task.cancel()

    run_virtual(main)


def test_every_reason_of_a_refusal_is_counted_from_the_start() -> None:
    """Only requests for runs count: a connection beyond the limit is none, and neither is a schedule."""

    def codes(kind: type[Unavailable]) -> set[str]:
        ours = [each for each in kind.__subclasses__() if each.__module__ == Unavailable.__module__]
        return {kind.code}.union(*map(codes, ours))

    assert codes(Unavailable) - {Unavailable.code, TooManySchedules.code} == set(REFUSALS)

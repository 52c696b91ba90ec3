"""Schedules behind the service, on virtual time: what fires when, and what becomes of what could not."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, echo, history, key, prompt_of, send, serving, texts, until_idle
from strandline._agents.port import Attempt
from strandline._engine.schedules import Missed, Overlap, Schedule, ScheduleChange, ScheduleRequest
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import AcceptAnswer, AddSchedule, Bounds, ScheduleTimesQuery
from strandline._model import ANONYMOUS, IfBusy, NewRun, OnQuestion, Principal, RunStatus
from strandline.errors import Invalid, JournalUnavailable, NotFound, TooManySchedules
from strandline.testing._virtual import VirtualClock, run_virtual


async def make(service: Service, text: str = "tick", session: str = "s", **more: Any) -> Schedule:
    """Make a schedule, by default for every minute."""
    if not more.keys() & {"cron", "at", "every_s"}:
        more["every_s"] = 60.0
    return await service.schedules.create(ScheduleRequest(key=key(session), input=text, **more))


async def read(service: Service, schedule: Schedule) -> Schedule:
    return await service.schedules.read(ANONYMOUS, schedule.schedule_id)


async def runs(service: Service, session: str = "s") -> list[Any]:
    """Return the runs of a session, the first one first."""
    page = await service.runs(key(session))
    return sorted((view.run for view in page.runs), key=lambda run: run.sequence)


def test_a_schedule_fires_at_each_of_its_times() -> None:
    """Its runs are runs like others, and name it; what comes next is shown."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            began = clock.now()
            made = await make(service, metadata={"k": 1}, priority=2)
            assert made.upcoming == [pytest.approx(began + 60 * number, abs=0.2) for number in range(1, 6)]
            await asyncio.sleep(185)
            await until_idle(service)
            done = await runs(service)
            assert [run.created_at - began for run in done] == [pytest.approx(60 * n, abs=0.1) for n in (1, 2, 3)]
            assert [run.metadata["schedule"]["at"] - began for run in done] == [60, 120, 180]
            assert {run.metadata["schedule"]["schedule_id"] for run in done} == {made.schedule_id}
            assert {(run.priority, run.metadata["k"], run.status) for run in done} == {(2, 1, RunStatus.SUCCEEDED)}
            now = await read(service, made)
            assert (now.past.last_run, now.past.last_error, now.past.missed) == (done[-1].run_id, None, 0)
            assert now.next_at == pytest.approx(began + 240, abs=0.2)

    run_virtual(main)


def test_a_single_time_fires_once_and_is_over() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            made = await make(service, at=clock.now() + 5.5)
            await asyncio.sleep(1_000)
            (run,) = await runs(service)
            assert run.created_at == pytest.approx(made.spec.when.at, abs=0.2)
            assert ((await read(service, made)).next_at, (await read(service, made)).upcoming) == (None, [])

    run_virtual(main)


def test_a_paused_schedule_fires_nothing_and_goes_on_from_when_it_is_resumed() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            made = await make(service, cron="0 * * * *")
            paused = await service.schedules.change(ANONYMOUS, made.schedule_id, ScheduleChange(paused=True))
            assert (paused.past.paused, paused.next_at) == (True, None)
            await asyncio.sleep(10_000)
            assert await runs(service) == []
            resumed = await service.schedules.change(ANONYMOUS, made.schedule_id, ScheduleChange(paused=False))
            assert resumed.next_at is not None
            assert clock.now() < resumed.next_at <= clock.now() + 3_600
            await asyncio.sleep(3_601)
            assert len(await runs(service)) == 1

    run_virtual(main)


def test_a_changed_schedule_fires_at_its_new_times_with_its_new_input() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            made = await make(service, cron="0 0 1 1 *", timezone="Europe/Berlin")
            change = ScheduleChange(every_s=10.0, input="new")
            changed = await service.schedules.change(ANONYMOUS, made.schedule_id, change)
            assert changed.spec.when.timezone == "UTC"
            await asyncio.sleep(11)
            await until_idle(service)
            assert texts(await history(service)) == ["new", "echo new"]
            with pytest.raises(Invalid):
                await service.schedules.change(ANONYMOUS, made.schedule_id, ScheduleChange(every_s=0.1))
            with pytest.raises(NotFound):
                await service.schedules.change(Principal("bob"), made.schedule_id, change)

    run_virtual(main)


def test_a_deleted_schedule_or_session_fires_no_more() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            one, other = await make(service), await make(service, session="t")
            await service.schedules.delete(ANONYMOUS, one.schedule_id)
            assert await service.delete(key("t"))
            await asyncio.sleep(200)
            assert await runs(service) == []
            for each in (one, other):
                with pytest.raises(NotFound):
                    await read(service, each)
            assert len(service.schedules) == 0

    run_virtual(main)


def test_a_run_now_is_beside_the_times() -> None:
    """Also of a schedule that is paused."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            made = await make(service, paused=True)
            run_id = await service.schedules.run_now(ANONYMOUS, made.schedule_id)
            await until_idle(service)
            (run,) = await runs(service)
            assert (run.run_id, run.metadata["schedule"]["at"]) == (run_id, None)
            after = await read(service, made)
            assert (after.next_at, after.past.last_run) == (None, run_id)
            with pytest.raises(NotFound):
                await service.schedules.run_now(Principal("bob"), made.schedule_id)

    run_virtual(main)


async def slow(attempt: Attempt) -> str:
    """Take two and a half minutes."""
    await asyncio.sleep(150)
    return f"echo {prompt_of(attempt)}"


@pytest.mark.parametrize(
    ("overlap", "statuses"),
    [
        (Overlap.ENQUEUE, ["running", "queued", "queued"]),
        (Overlap.SKIP, ["running"]),
        (Overlap.REPLACE, ["running", "cancelled", "queued"]),
    ],
)
def test_what_happens_while_the_run_before_has_not_ended(overlap: Overlap, statuses: list[str]) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            made = await make(service, overlap=overlap)
            await asyncio.sleep(190)
            assert [str(run.status) for run in await runs(service)] == statuses
            vitals = service.vitals()
            assert (vitals.schedules, vitals.schedules_fired) == (1, len(statuses))
            assert vitals.schedules_missed == (2 if overlap is Overlap.SKIP else 0)
            if overlap is Overlap.SKIP:
                assert (await read(service, made)).past.missed == 2
                await asyncio.sleep(60)  # (the first one has ended)
                assert [str(run.status) for run in await runs(service)] == ["succeeded", "running"]

    run_virtual(main)


@pytest.mark.parametrize(("missed", "fired", "passed"), [(Missed.ONCE, 1, 0), (Missed.SKIP, 0, 1), (Missed.ALL, 5, 0)])
def test_times_without_a_server_are_treated_as_it_says(missed: Missed, fired: int, passed: int) -> None:
    """So are those of a backup that was restored. The times go on as if nothing had happened."""

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(echo), journal=journal) as service:
            made = await make(service, missed=missed)
        await asyncio.sleep(330)
        async with serving(clock, Played(echo), journal=journal) as service:
            await asyncio.sleep(10)
            await until_idle(service)
            assert len(await runs(service)) == fired
            now = await read(service, made)
            assert now.past.missed == passed
            assert now.next_at == pytest.approx(made.spec.when.since + 360, abs=0.2)
            await asyncio.sleep(60)
            assert len(await runs(service)) == fired + 1

    run_virtual(main)


def test_a_short_restart_misses_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)
        async with serving(clock, Played(echo), journal=journal) as service:
            await make(service, missed=Missed.SKIP, every_s=3_600.0)
        await asyncio.sleep(3_630)
        async with serving(clock, Played(echo), journal=journal) as service:
            await asyncio.sleep(5)
            assert len(await runs(service)) == 1

    run_virtual(main)


def test_a_refused_run_is_tried_until_the_next_time_and_missed_then() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), max_queued_per_session=1) as service:
            await service.pause((await send(service, "first")).key)
            made = await make(service)
            waits = await send(service, "second")
            await asyncio.sleep(90)
            refused = await read(service, made)
            assert "runs of session s wait already" in (refused.past.last_error or "")
            assert (refused.past.missed, refused.next_at) == (0, made.next_at)
            assert service.vitals().schedule_late_s == pytest.approx(30, abs=1)
            await asyncio.sleep(90)
            missed = (await read(service, made)).past.missed
            assert missed >= 1
            assert service.vitals().schedules_missed == missed
            await service.cancel(ANONYMOUS, waits.run_id)
            await asyncio.sleep(60)
            assert service.vitals().schedule_late_s == 0
            now = await read(service, made)
            assert now.past.last_error is None
            assert now.past.last_run is not None

    run_virtual(main)


def test_schedules_of_a_caller_without_a_key_stop() -> None:
    """Its times pass; with a key they go on."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            made = await make(service)
            service.schedules.has_key = lambda principal: False
            await asyncio.sleep(130)
            assert await runs(service) == []
            assert (await read(service, made)).past.last_error == "its caller has no API key any more"
            service.schedules.has_key = lambda principal: True
            await asyncio.sleep(60)
            assert len(await runs(service)) == 1

    run_virtual(main)


def test_no_default_of_its_session_has_a_schedule_interrupt_anything() -> None:
    """Others count: the default priority does."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            first = await send(service, "first")
            options = {"if_busy": IfBusy.INTERRUPT, "on_question": OnQuestion.DISMISS, "priority": 1}
            await service.set_options(key(), options)
            await make(service)
            await asyncio.sleep(70)
            waits = (await runs(service))[-1]
            assert (waits.status, waits.if_busy, waits.priority) == (RunStatus.QUEUED, IfBusy.ENQUEUE, 1)
            assert (await service.run(ANONYMOUS, first.run_id)).run.status is RunStatus.RUNNING

    run_virtual(main)


def test_a_caller_has_so_many_schedules_at_most() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), max_schedules_per_caller=2) as service:
            made, _ = [await make(service) for _ in range(2)]
            with pytest.raises(TooManySchedules, match="max_schedules_per_caller"):
                await make(service)
            await service.schedules.delete(ANONYMOUS, made.schedule_id)
            await make(service)

    run_virtual(main)


@pytest.mark.parametrize(
    "more",
    [
        {"text": "x" * 70_000},
        {"text": [{"toolUse": {}}]},
        {"timeout_s": 1e9},
        {"priority": 6},
        {"cron": "never"},
        {"metadata": {"k": "x" * 20_000}},
    ],
)
def test_what_no_run_could_be_accepted_for_is_no_schedule(more: dict[str, Any]) -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            with pytest.raises(Invalid):
                await make(service, **more)

    run_virtual(main)


class Failing(MemoryJournal):
    """Its accepts fail for a while; one of them was made all the same."""

    failures = 3

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        """Accept, or fail."""
        if new.fires is not None and self.failures:
            self.failures -= 1
            if self.failures == 1:
                await super().accept(new, bounds, claim_next=claim_next)
            raise JournalUnavailable("the disk has gone")
        return await super().accept(new, bounds, claim_next=claim_next)


def test_a_time_fires_once_although_the_journal_fails() -> None:
    """Also where nobody knows whether the run was stored."""

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), journal=Failing(clock)) as service:
            began = clock.now()
            await make(service, every_s=100.0)
            await asyncio.sleep(190)
            await until_idle(service)
            assert [run.metadata["schedule"]["at"] - began for run in await runs(service)] == [100]
            await asyncio.sleep(100)
            assert len(await runs(service)) == 2

    run_virtual(main)


class Unclear(MemoryJournal):
    """Once, it reads the times of schedules slowly, and stores a new schedule meanwhile without saying so."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.is_read = asyncio.Event()
        self.reads = 0

    async def read(self, query: Any) -> Any:
        found = await super().read(query)
        if isinstance(query, ScheduleTimesQuery):
            self.reads += 1
            await self.is_read.wait()
        return found

    async def change(self, change: Any) -> Any:
        answer = await super().change(change)
        if isinstance(change, AddSchedule):
            raise JournalUnavailable("the connection was lost")
        return answer


def test_a_schedule_of_which_nobody_knows_whether_it_was_stored_fires() -> None:
    """Also if all were being read at that moment, without it."""

    async def main(clock: VirtualClock) -> None:
        journal = Unclear(clock)
        async with serving(clock, Played(echo), journal=journal) as service:
            await asyncio.sleep(2)
            with pytest.raises(JournalUnavailable):
                await make(service)
            journal.is_read.set()
            await asyncio.sleep(130)
            assert (len(await runs(service)), journal.reads) == (2, 2)

    run_virtual(main)

"""Schedules: their next time moves in the transaction that accepts their run, so that each time fires once."""

from typing import Any

from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    AddSchedule,
    Bounds,
    Busy,
    Changed,
    ChangeSchedule,
    Delete,
    DropSchedule,
    Overlaps,
    Refused,
    RestingQuery,
    ScheduleMoved,
    ScheduleQuery,
    SchedulesFull,
    SchedulesQuery,
    ScheduleTimesQuery,
    StoredSchedule,
)
from strandline._model import ANONYMOUS, Firing, Principal, RunId, RunStatus, ScheduleId, SessionId, SessionKey
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, key

SPEC, STATE, FIRED, SKIPPED = b'{"a":1}', b'{"b":1}', b'{"b":2}', b'{"b":3}'
AT, NEXT = 2_000.0, 3_000.0


class SchedulesContract(Contract):
    """What becomes of schedules."""

    async def _add(self, desk: Desk, name: str = "x", at: float | None = AT, of: SessionKey | None = None) -> None:
        added = AddSchedule(of or key(), ScheduleId(name), at, SPEC, STATE, most=10)
        assert await desk.journal.change(added) == Changed(existed=True)

    async def _read(self, desk: Desk, name: str = "x", principal: str = ANONYMOUS) -> StoredSchedule | None:
        return await desk.journal.read(ScheduleQuery(Principal(principal), ScheduleId(name)))

    async def _fire(self, desk: Desk, run_id: str, at: float | None = AT, **more: Any) -> AcceptAnswer:
        bounds = more.pop("bounds", Bounds(10, 10))
        firing = Firing(schedule_id=ScheduleId("x"), at=at, next_at=NEXT, state=FIRED, **more)
        return await desk.accept(run_id, fires=firing, bounds=bounds)

    @scenario
    async def test_a_schedule_is_stored_as_it_was_given(self, desk: Desk) -> None:
        """Also one of a session that did not exist; over a restart; another caller sees none of it."""
        await self._add(desk)
        stored = StoredSchedule(ScheduleId("x"), key(), AT, SPEC, STATE)
        assert await self._read(desk) == stored
        assert await self._read(desk, principal="bob") is None
        await desk.restart()
        assert await self._read(desk) == stored
        change = ChangeSchedule(key(), ScheduleId("x"), AT, None, FIRED, b'{"a":2}')
        assert await desk.journal.change(change) == Changed(existed=True)
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), None, b'{"a":2}', FIRED)
        assert await desk.journal.change(DropSchedule(key(), ScheduleId("x"))) == Changed(existed=True)
        assert await desk.journal.change(DropSchedule(key(), ScheduleId("x"))) == Changed(existed=False)
        assert await self._read(desk) is None

    @scenario
    async def test_a_time_fires_once(self, desk: Desk) -> None:
        """The next one is stored with its run; another attempt for the same time stores nothing, also after a crash."""
        await self._add(desk)
        assert await self._fire(desk, "a") == Accepted(0)
        claim = await desk.claim(of="a")
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), NEXT, SPEC, FIRED)
        assert await self._fire(desk, "b") == ScheduleMoved()
        await desk.restart()
        assert await self._fire(desk, "b") == ScheduleMoved()
        assert not await desk.exists("b")
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), NEXT, SPEC, FIRED)
        (claim,) = desk.orphans
        await desk.finish(claim)

    @scenario
    async def test_a_refused_run_moves_no_schedule(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._add(desk)
        assert await self._fire(desk, "b", bounds=Bounds(0, 10)) == Refused("queue_full", 1)
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), AT, SPEC, STATE)
        assert await self._fire(desk, "b") == Accepted(1)
        await desk.cancel("b")
        await desk.finish(claim)

    @scenario
    async def test_a_run_of_a_deleted_schedule_or_of_another_session_is_stale(self, desk: Desk) -> None:
        await self._add(desk, of=key("other"))
        assert await self._fire(desk, "a") == ScheduleMoved()
        await desk.start("first")
        assert await self._fire(desk, "a") == ScheduleMoved()
        await desk.journal.change(DropSchedule(key("other"), ScheduleId("x")))
        assert await self._fire(desk, "a") == ScheduleMoved()
        await desk.restart()
        (claim,) = desk.orphans
        await desk.finish(claim)

    @scenario
    async def test_a_time_passes_while_the_run_before_has_not_ended(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._add(desk)
        assert await self._fire(desk, "b", before=RunId("a"), skipped=SKIPPED) == Overlaps()
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), NEXT, SPEC, SKIPPED)
        assert not await desk.exists("b")
        await desk.finish(claim)
        assert await self._fire(desk, "b", at=NEXT, before=RunId("a"), skipped=SKIPPED) == Accepted(0)
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_a_run_replaces_one_that_waits_and_none_that_executes(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._add(desk)
        assert await self._fire(desk, "b", before=RunId("a"), replaces=True) == Accepted(1)
        answer = await self._fire(desk, "c", at=NEXT, before=RunId("b"), replaces=True, bounds=Bounds(1, 1))
        assert isinstance(answer, Accepted)
        assert answer.position == 1
        assert answer.stopped is not None
        assert list(answer.stopped.ended) == ["b"]
        assert (await desk.run("b")).status is RunStatus.CANCELLED
        assert await desk.drain(claim) == ["a", "c"]

    @scenario
    async def test_a_refused_run_replaces_nothing(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await self._add(desk)
        assert await self._fire(desk, "b") == Accepted(1)
        refused = await self._fire(desk, "c", at=NEXT, before=RunId("b"), replaces=True, bounds=Bounds(0, 9))
        assert isinstance(refused, Refused)
        assert await desk.drain(claim) == ["a", "b"]

    @scenario
    async def test_a_change_for_another_next_time_is_not_made(self, desk: Desk) -> None:
        await self._add(desk)
        for was in (NEXT, None):
            change = ChangeSchedule(key(), ScheduleId("x"), was, NEXT, FIRED)
            assert await desk.journal.change(change) == Busy()
        gone = ChangeSchedule(key(), ScheduleId("y"), AT, NEXT, FIRED)
        assert await desk.journal.change(gone) == Changed(existed=False)
        assert await self._read(desk) == StoredSchedule(ScheduleId("x"), key(), AT, SPEC, STATE)

    @scenario
    async def test_a_caller_has_so_many_schedules_at_most(self, desk: Desk) -> None:
        for number in range(2):
            added = AddSchedule(key(str(number)), ScheduleId(str(number)), AT, SPEC, STATE, most=2)
            assert await desk.journal.change(added) == Changed(existed=True)
        more = AddSchedule(key("2"), ScheduleId("2"), AT, SPEC, STATE, most=2)
        assert await desk.journal.change(more) == SchedulesFull()
        other = AddSchedule(SessionKey(Principal("bob"), SessionId("s")), ScheduleId("3"), AT, SPEC, STATE, most=2)
        assert await desk.journal.change(other) == Changed(existed=True)
        await desk.journal.change(DropSchedule(key("0"), ScheduleId("0")))
        assert await desk.journal.change(more) == Changed(existed=True)

    @scenario
    async def test_a_session_takes_its_schedules_with_it_and_is_kept_for_them(self, desk: Desk) -> None:
        """Deleting it deletes them; while it has one, it does not count as at rest."""
        await desk.finish(await desk.start("a"))
        await self._add(desk)
        await self._add(desk, "y", of=key("other"))
        desk.clock.at = 9_000.0
        assert (await desk.journal.read(RestingQuery(8_000.0))).keys == []
        assert await desk.journal.change(Delete(key(), 8_000.0)) == Busy()
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._read(desk) is None
        assert await self._read(desk, "y") is not None
        assert await self._fire(desk, "b") == ScheduleMoved()

    @scenario
    async def test_schedules_are_listed_by_id(self, desk: Desk) -> None:
        """Of a caller, of one session, page by page; and the times of all that have one."""
        for name, session in (("b", "s"), ("a", "t"), ("d", "s"), ("c", "s")):
            await self._add(desk, name, of=key(session))
        await self._add(desk, "e", of=SessionKey(Principal("bob"), SessionId("s")))
        await self._add(desk, "f", None)
        page = await desk.journal.read(SchedulesQuery(ANONYMOUS, None, None, 3))
        assert ([each.schedule_id for each in page.schedules], page.after) == (["a", "b", "c"], "c")
        page = await desk.journal.read(SchedulesQuery(ANONYMOUS, None, page.after, 3))
        assert ([each.schedule_id for each in page.schedules], page.after) == (["d", "f"], None)
        page = await desk.journal.read(SchedulesQuery(ANONYMOUS, SessionId("t"), None, 3))
        assert ([each.schedule_id for each in page.schedules], page.after) == (["a"], None)
        times = await desk.journal.read(ScheduleTimesQuery(ScheduleId("a"), 3))
        assert [(name, of.session_id, at) for name, of, at in times] == [("b", "s", AT), ("c", "s", AT), ("d", "s", AT)]
        times = await desk.journal.read(ScheduleTimesQuery(ScheduleId("d"), 3))
        assert [(name, of.principal) for name, of, _ in times] == [("e", "bob")]

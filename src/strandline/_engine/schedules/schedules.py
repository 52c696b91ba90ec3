"""Fires schedules when they are due, and makes, shows, changes and deletes them for callers.

It knows the next time of each schedule of this server's sessions, in a heap: while none is due, nothing is looked
through. The journal has the truth: a run of a schedule is accepted together with the move to its next time, and only if
the time that it is for is still the next one. So whatever this module knows too late, or twice, fires nothing twice;
and what another server had before is read when its partition comes.

Belongs to the serving loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from strandline._clock import Clock
from strandline._encoding import encode_messages
from strandline._engine.admission import Admission, Ticket
from strandline._engine.files import Files
from strandline._engine.maintenance import Readiness
from strandline._engine.ownership import Ownership
from strandline._engine.requests import RunBuilder
from strandline._engine.schedules.instants import Missed, Overlap
from strandline._engine.schedules.schedule import Past, Schedule, ScheduleChange, ScheduleRequest, Spec, schedule_of
from strandline._journal.deadlines import Deadlines, Due
from strandline._journal.partitions import PARTITIONS
from strandline._journal.port import (
    AddSchedule,
    ChangeAnswer,
    Changed,
    ChangeSchedule,
    DropSchedule,
    Journal,
    Overlaps,
    ScheduleQuery,
    SchedulesFull,
    SchedulesQuery,
    ScheduleTimesQuery,
)
from strandline._model import Firing, Principal, RunId, ScheduleId, SessionId, SessionKey
from strandline.errors import NotFound, NotOwner, StrandlineError, TooManySchedules, Unavailable

T = TypeVar("T")

_log = logging.getLogger("strandline.schedules")

GRACE_S: Final = 60.0
"""How late a time may be fired that no server has fired: after that it was missed."""
LEAST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 30.0
"""When a time is tried again whose run was refused, at the earliest and at the latest."""
FULL_RETRY_S: Final = 60.0
AT_ONCE: Final = 32
"""How many schedules are fired at once."""
PAGE: Final = 1000
POLICIES: Final = frozenset({"if_busy", "on_question", "on_disconnect"})
"""Run options that no default of a session changes: a run of a schedule waits in the queue."""
NO_KEY: Final = "its caller has no API key any more"
TRIES: Final = 8
"""How often a change is tried while the schedule fires at the same moment."""


class Entry(Struct, eq=False):
    """A schedule that is to fire at `at`. `refused`: why its run was refused, and is to be tried again."""

    schedule_id: ScheduleId
    key: SessionKey
    at: float
    due: Due | None = None
    refused: str | None = None


class SchedulePage(Struct, frozen=True):
    """Some schedules, and the id before the next page, None at the end. `damaged` cannot be read."""

    schedules: list[Schedule]
    after: ScheduleId | None
    damaged: list[ScheduleId] = []


class Schedules:
    """The schedules of this server's sessions."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        admission: Admission,
        builder: RunBuilder,
        readiness: Readiness,
        ownership: Ownership,
        *,
        new_id: Callable[[SessionKey], ScheduleId],
        most: int,
        spawn: Callable[[Coroutine[Any, Any, object]], object],
        files: Files,
    ) -> None:
        self._files = files
        self._journal = journal
        self._clock = clock
        self._admission = admission
        self._builder = builder
        self._readiness = readiness
        self._ownership = ownership
        self._new_id = new_id
        self._most = most
        self._spawn = spawn
        self.has_key: Callable[[Principal], bool] = lambda principal: True
        """Whether a caller may still come: schedules of one who may not stop."""
        self.fired = 0
        """How many runs were accepted at their times, since the start."""
        self.missed = 0
        """How many times have passed without a run, since the start."""
        self._entries: dict[ScheduleId, Entry] = {}
        self._heap: Deadlines[Entry] = Deadlines()
        self._due: deque[Entry] = deque()
        self._firing = 0
        self._requested = 0
        """How often all were to be read anew."""
        self._known: tuple[frozenset[int], int] | None = None
        """The partitions whose schedules are known, and how often these were to be read by then."""
        self._is_reading = False
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def late_s(self) -> float:
        """For how many seconds the earliest time has been due; 0 if none is."""
        earliest = min((entry.at for entry in self._entries.values()), default=None)
        return 0.0 if earliest is None else max(0.0, self._clock.now() - earliest)

    # -- firing ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Fire what is due, and read what has come to this server; to be called every second."""
        if self._readiness.stopping or not self._readiness.started:
            return
        if self._known != (self._ours(), self._requested) and not self._is_reading:
            self._is_reading = True
            self._spawn(self._read_all())
        self._pump()

    def _ours(self) -> frozenset[int]:
        if not self._ownership.is_shared:
            return frozenset((0,))
        return frozenset(filter(self._ownership.others().owns, range(PARTITIONS)))

    def read_anew(self) -> None:
        """Have all times be read at the next tick, also if they are being read now."""
        self._requested += 1

    async def _read_all(self) -> None:
        """Read the times of all schedules of this server's sessions."""
        read, after = (self._ours(), self._requested), ScheduleId("")
        try:
            while True:
                page = await self._journal.read(ScheduleTimesQuery(after, PAGE))
                for schedule_id, key, at in page:
                    known = self._entries.get(schedule_id)
                    if self._ownership.owns(key) and (known is None or at < known.at):
                        self._watch(schedule_id, key, at)
                if len(page) < PAGE:
                    break
                after = page[-1][0]
            self._known = read
        except StrandlineError as error:
            _log.warning("schedules cannot be read yet: %s", error)
        finally:
            self._is_reading = False
        self._pump()

    def _watch(self, schedule_id: ScheduleId, key: SessionKey, at: float | None) -> None:
        """Have a schedule fire at a time; None: not at all."""
        if (known := self._entries.pop(schedule_id, None)) is not None:
            self._heap.forget(known)
        if at is not None:
            entry = self._entries[schedule_id] = Entry(schedule_id, key, at)
            self._heap.watch(entry, at)
            self._arm()

    def _pump(self) -> None:
        """Fire what is due, some at once."""
        self._timer = None
        if self._readiness.stopping:
            return
        self._due.extend(self._heap.pop(self._clock.now()))
        while self._due and self._firing < AT_ONCE:
            self._firing += 1
            self._spawn(self._fire_some())
        self._arm()

    def _arm(self) -> None:
        """Set the timer to the next time, if that is within the next second: a tick sees all others."""
        if self._timer is None and (at := self._heap.next) is not None:
            in_s = at - self._clock.now()
            if in_s < 1.0:
                self._timer = asyncio.get_running_loop().call_later(max(0.0, in_s), self._pump)

    async def _fire_some(self) -> None:
        try:
            while self._due and not self._readiness.stopping:
                await self._fire(self._due.popleft())
        finally:
            self._firing -= 1

    async def _fire(self, entry: Entry) -> None:
        """Fire a schedule whose time has come, and know its next time."""
        if self._entries.get(entry.schedule_id) is not entry:
            return  # (it was changed meanwhile)
        try:
            await self._fired(entry)
        except NotOwner:
            self._entries.pop(entry.schedule_id, None)  # (its new owner fires it)
        except Unavailable as error:
            retry_s = min(max(LEAST_RETRY_S, error.retry_after_s), LONGEST_RETRY_S)
            self._heap.watch(entry, self._clock.now() + retry_s)
            if entry.refused is None:
                _log.warning("schedule %s cannot fire yet: %s", entry.schedule_id, error)
                entry.refused = str(error)
                await self._note_refusal(entry)
        except StrandlineError as error:
            _log.error("schedule %s cannot fire, and is tried again: %s", entry.schedule_id, error)
            self._heap.watch(entry, self._clock.now() + LONGEST_RETRY_S)
        except Exception:
            _log.exception("schedule %s cannot fire, and is tried again", entry.schedule_id)
            self._heap.watch(entry, self._clock.now() + LONGEST_RETRY_S)
        self._arm()

    async def _fired(self, entry: Entry) -> None:
        stored = await self._journal.read(ScheduleQuery(entry.key.principal, entry.schedule_id))
        if stored is None or stored.next_at != entry.at:
            self._watch(entry.schedule_id, entry.key, None if stored is None else stored.next_at)
            return
        schedule, at, now = schedule_of(stored), entry.at, self._clock.now()
        when, missed = schedule.spec.when, schedule.spec.missed
        following = when.after(at)
        if not self.has_key(entry.key.principal):
            await self._pass(schedule, when.after(max(at, now)), NO_KEY)
        elif entry.refused is not None and following is not None and following <= now:
            await self._pass(schedule, following, entry.refused)
        elif missed is Missed.SKIP and entry.refused is None and now - at > GRACE_S:
            await self._pass(schedule, when.after(now), "no server fired it at its time")
        else:
            next_at = following if missed is Missed.ALL else when.after(max(at, now))
            try:
                await self._accept(schedule, at, next_at)
            except (Unavailable, NotFound):
                raise
            except StrandlineError as error:  # (what the settings allow has changed since)
                await self._pass(schedule, when.after(max(at, now)), str(error))

    async def _accept(self, schedule: Schedule, at: float | None, next_at: float | None) -> Ticket | None:
        """Accept a run of a schedule, and move it to its next time; None if it has changed meanwhile, or passes."""
        spec, past, key = schedule.spec, schedule.past, schedule.key
        new = self._builder.build(spec.request(key, schedule.schedule_id, at), None)
        last_at = past.last_at if at is None else at
        fired = replace(past, last_at=last_at, last_run=new.run_id, last_error=None)
        skipped = None
        if at is not None and spec.overlap is Overlap.SKIP:
            skipped = encode_messages(
                replace(past, last_at=at, missed=past.missed + 1, last_error="its run before had not ended")
            )
        firing = Firing(
            schedule_id=schedule.schedule_id,
            at=schedule.next_at,
            next_at=next_at,
            state=encode_messages(fired),
            before=past.last_run,
            skipped=skipped,
            replaces=at is not None and spec.overlap is Overlap.REPLACE,
        )
        answer = await self._admission.fire(replace(new, fires=firing, own_options=new.own_options | POLICIES))
        if isinstance(answer, Ticket | Overlaps):
            self._watch(schedule.schedule_id, key, next_at)
            if at is not None:
                self.fired += isinstance(answer, Ticket)
                self.missed += isinstance(answer, Overlaps)
            return answer if isinstance(answer, Ticket) else None
        await self._look_again(schedule.key, schedule.schedule_id)
        return None

    async def _pass(self, schedule: Schedule, next_at: float | None, why: str) -> None:
        """Let a time pass without a run."""
        past = schedule.past
        then = replace(past, last_at=schedule.next_at, missed=past.missed + 1, last_error=why)
        change = ChangeSchedule(schedule.key, schedule.schedule_id, schedule.next_at, next_at, encode_messages(then))
        _log.info("schedule %s does not fire: %s", schedule.schedule_id, why)
        if await self._journal.change(change) == Changed(existed=True):
            self.missed += 1
            self._watch(schedule.schedule_id, schedule.key, next_at)
        else:
            await self._look_again(schedule.key, schedule.schedule_id)

    async def _note_refusal(self, entry: Entry) -> None:
        """Store why a run was refused, for its caller."""
        try:
            stored = await self._journal.read(ScheduleQuery(entry.key.principal, entry.schedule_id))
            if stored is None:
                return
            schedule = schedule_of(stored)
            then = replace(schedule.past, last_error=entry.refused)
            await self._journal.change(
                ChangeSchedule(entry.key, entry.schedule_id, stored.next_at, stored.next_at, encode_messages(then))
            )
        except StrandlineError:
            pass  # (it is tried again)

    async def _look_again(self, key: SessionKey, schedule_id: ScheduleId) -> None:
        stored = await self._journal.read(ScheduleQuery(key.principal, schedule_id))
        self._watch(schedule_id, key, None if stored is None else stored.next_at)

    # -- for callers -----------------------------------------------------------------------------------

    async def create(self, request: ScheduleRequest) -> Schedule:
        """Make a schedule; it is durable on return. Raises `Invalid`, `TooManySchedules`, and an `Unavailable`."""
        now = self._clock.now()
        request = replace(request, input=await self._files.resolved(request.key, request.input))
        spec = Spec.of(request, now)
        schedule_id = self._new_id(request.key)
        self._builder.build(spec.request(request.key, schedule_id, None), None)  # (or no run could be accepted)
        self._ownership.check_known(("schedules",) if spec.webhook is None else ("schedules", "webhook"))
        self._ownership.check(request.key)
        self._readiness.admit()
        next_at = None if request.paused else spec.when.first
        past = Past(paused=request.paused)
        added = AddSchedule(request.key, schedule_id, next_at, encode_messages(spec), encode_messages(past), self._most)
        answer = await self._decided(added)
        if isinstance(answer, SchedulesFull):
            raise TooManySchedules(
                f"{request.key.principal} has {self._most} schedules (setting max_schedules_per_caller); delete some",
                retry_after_s=FULL_RETRY_S,
            )
        self._watch(schedule_id, request.key, next_at)
        return Schedule(schedule_id=schedule_id, key=request.key, next_at=next_at, spec=spec, past=past)

    async def read(self, principal: Principal, schedule_id: ScheduleId) -> Schedule:
        """Return a schedule. Raises `NotFound`, also for one of another principal."""
        self._readiness.note_request()
        stored = await self._journal.read(ScheduleQuery(principal, schedule_id))
        if stored is None:
            raise NotFound(f"there is no schedule {schedule_id}")
        return schedule_of(stored)

    async def page(
        self, principal: Principal, *, session: SessionId | None, after: ScheduleId | None, limit: int
    ) -> SchedulePage:
        """Return a page of a principal's schedules, of one session or of all, in the order of their ids."""
        self._readiness.note_request()
        page = await self._journal.read(SchedulesQuery(principal, session, after, limit))
        return SchedulePage([schedule_of(each) for each in page.schedules], page.after, page.damaged)

    async def change(self, principal: Principal, schedule_id: ScheduleId, change: ScheduleChange) -> Schedule:
        """Change a schedule and return it; one that is resumed, or has other times, continues from now.

        Raises `NotFound`, `Invalid`, `NotOwner`.
        """
        return await self._tried(principal, schedule_id, partial(self._changed, change=change))

    async def _changed(self, schedule: Schedule, change: ScheduleChange) -> Schedule | None:
        now, was = self._clock.now(), schedule.past
        if isinstance(change.input, list):
            given = await self._files.resolved(schedule.key, change.input, schedule.spec.input)
            change = replace(change, input=given)
        spec = schedule.spec.changed(change, now)
        paused = was.paused if not isinstance(change.paused, bool) else change.paused
        self._builder.build(spec.request(schedule.key, schedule.schedule_id, None), None)
        next_at = schedule.next_at
        if paused:
            next_at = None
        elif was.paused or change.moves:
            next_at = spec.when.at if change.moves and spec.when.at is not None else spec.when.after(now)
        past = replace(was, paused=paused, last_error=None if change.moves else was.last_error)
        wanted = ChangeSchedule(
            schedule.key, schedule.schedule_id, schedule.next_at, next_at, encode_messages(past), encode_messages(spec)
        )
        if await self._decided(wanted) != Changed(existed=True):
            return None
        self._watch(schedule.schedule_id, schedule.key, next_at)
        return replace(schedule, next_at=next_at, spec=spec, past=past)

    async def delete(self, principal: Principal, schedule_id: ScheduleId) -> Schedule:
        """Delete a schedule, and return it; its runs stay. Raises `NotFound`, `NotOwner`."""
        schedule = await self.read(principal, schedule_id)
        self._ownership.check(schedule.key)
        if await self._decided(DropSchedule(schedule.key, schedule_id)) != Changed(existed=True):
            raise NotFound(f"there is no schedule {schedule_id}")
        self._watch(schedule_id, schedule.key, None)
        return schedule

    async def run_now(self, principal: Principal, schedule_id: ScheduleId) -> RunId:
        """Accept a run of a schedule now, beside its times; return its id. Raises `NotFound`, and as `submit` does."""
        ticket = await self._tried(principal, schedule_id, lambda found: self._accept(found, None, found.next_at))
        return ticket.run_id

    async def _tried(
        self, principal: Principal, schedule_id: ScheduleId, act: Callable[[Schedule], Coroutine[Any, Any, T | None]]
    ) -> T:
        """Return what `act` returns for a schedule, once it has not changed meanwhile."""
        for _ in range(TRIES):
            schedule = await self.read(principal, schedule_id)
            self._ownership.check(schedule.key)
            self._readiness.admit()
            if (found := await act(schedule)) is not None:
                return found
        raise Unavailable(f"schedule {schedule_id} fires all the time; try again", retry_after_s=LEAST_RETRY_S)

    async def _decided(self, change: AddSchedule | ChangeSchedule | DropSchedule) -> ChangeAnswer:
        """Have the journal make a change; whatever it cannot answer is read again."""
        try:
            return await self._journal.change(change)
        except Unavailable:
            self.read_anew()
            raise

"""The records of schedules: as requested, as stored, and as shown. Values only."""

import secrets
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from strandline._encoding import decoder, encode_messages
from strandline._engine.requests import Request, check_key
from strandline._engine.schedules.instants import Missed, Overlap, When
from strandline._journal.partitions import suffix_of
from strandline._journal.port import StoredSchedule
from strandline._model import Input, OnQuestion, RunId, ScheduleId, Sender, SessionKey, Webhook
from strandline.errors import Invalid

MOST_BYTES: Final = 64 * 1024
"""How large a stored schedule may be: it is read whenever it fires."""


def new_schedule_id(key: SessionKey) -> ScheduleId:
    """Return the id of a new schedule: `sch_`, random digits, and two of its partition."""
    return ScheduleId(f"sch_{secrets.token_hex(10)}{suffix_of(key)}")


class ScheduleRequest(Struct, frozen=True, kw_only=True):
    """A request for a schedule: one of `cron`, `every_s` and `at`, and what its runs are."""

    key: SessionKey
    input: Input
    cron: str | None = None
    every_s: float | None = None
    at: float | None = None
    timezone: str = "UTC"
    overlap: Overlap = Overlap.ENQUEUE
    missed: Missed = Missed.ONCE
    priority: int | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    metadata: dict[str, Any] = {}
    sender: Sender | None = None
    webhook: Webhook | None = None
    paused: bool = False


class ScheduleChange(Struct, frozen=True, kw_only=True):
    """What to change of a schedule: only the fields that are set."""

    input: Input | UnsetType = UNSET
    cron: str | UnsetType = UNSET
    every_s: float | UnsetType = UNSET
    at: float | UnsetType = UNSET
    timezone: str | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    missed: Missed | UnsetType = UNSET
    priority: int | UnsetType | None = UNSET
    timeout_s: float | UnsetType | None = UNSET
    queue_timeout_s: float | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    sender: Sender | UnsetType | None = UNSET
    webhook: Webhook | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET

    @property
    def moves(self) -> bool:
        """Whether it fires at other times from now on."""
        return any(each is not UNSET for each in (self.cron, self.every_s, self.at, self.timezone))


class Spec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a schedule does, as stored."""

    when: When
    input: Input
    overlap: Overlap = Overlap.ENQUEUE
    missed: Missed = Missed.ONCE
    priority: int | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    metadata: dict[str, Any] = {}
    sender: Sender | None = None
    webhook: Webhook | None = None

    @classmethod
    def of(cls, request: ScheduleRequest, now: float) -> "Spec":
        """Return a new schedule. Raises `Invalid`."""
        check_key(request.key)
        if not isinstance(request.paused, bool):
            raise Invalid(f"paused is {request.paused!r}; it must be True or False")
        when = When(since=now, cron=request.cron, every_s=request.every_s, at=request.at, timezone=request.timezone)
        named = {name: getattr(request, name) for name in _SHARED}
        return cls(when=when, **named).checked()

    def changed(self, change: ScheduleChange, now: float) -> "Spec":
        """Return it with changes; other times count from now on. Raises `Invalid`."""
        named = {name: getattr(change, name) for name in _SHARED if getattr(change, name) is not UNSET}
        when = self.when
        if change.moves:
            given = {name: each for name in _TIMES if (each := getattr(change, name)) is not UNSET}
            zone = when.timezone if when.cron is not None else "UTC"
            given.setdefault("timezone", zone if "every_s" not in given and "at" not in given else "UTC")
            if not given.keys() & {"cron", "every_s", "at"}:
                given |= {"cron": when.cron, "every_s": when.every_s, "at": when.at}
            when = When(since=now, **given)
        return replace(self, when=when, **named).checked()

    def checked(self) -> "Spec":
        """Return it. Raises `Invalid` if it never fires, is too large, or could be stored and not be read."""
        encoded = encode_messages(self)
        try:
            decode_spec(encoded)
        except msgspec.ValidationError as error:
            raise Invalid(f"the schedule cannot be stored: {error}") from None
        self.when.check()
        if len(encoded) > MOST_BYTES:
            raise Invalid(f"a schedule may take at most {MOST_BYTES} bytes as JSON, with its input and metadata")
        return self

    def request(self, key: SessionKey, schedule_id: ScheduleId, at: float | None) -> Request:
        """Return the request for one of its runs, `at` a time; None: it is run now."""
        return Request(
            key=key,
            input=self.input,
            priority=self.priority,
            timeout_s=self.timeout_s,
            queue_timeout_s=self.queue_timeout_s,
            on_question=OnQuestion.WAIT,  # (a schedule never dismisses or answers one)
            sender=self.sender,
            webhook=self.webhook,
            metadata={**self.metadata, OF_SCHEDULE: {"schedule_id": schedule_id, "at": at}},
        )


_SHARED: Final = (
    "input", "overlap", "missed", "priority", "timeout_s", "queue_timeout_s", "metadata", "sender", "webhook",
)  # fmt: skip
_TIMES: Final = ("cron", "every_s", "at", "timezone")
OF_SCHEDULE: Final = "schedule"
"""The key of a run's metadata for the schedule that it is of, and its time."""


class Past(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has become of a schedule, as stored. `missed` is how often a time passed without a run."""

    paused: bool = False
    last_at: float | None = None
    last_run: RunId | None = None
    last_error: str | None = None
    missed: int = 0


class Schedule(Struct, frozen=True, kw_only=True):
    """A schedule as it is stored. `next_at` is None while it is paused, and once no time is left."""

    schedule_id: ScheduleId
    key: SessionKey
    next_at: float | None
    spec: Spec
    past: Past

    @property
    def upcoming(self) -> list[float]:
        """The next five times at which it fires."""
        return self.spec.when.upcoming(self.next_at, 5)


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule as programs see it. Times are seconds since the epoch.

    `next` are its next five times, none while it is paused, and once none is left. `last_at` is the last time that
    fired, or passed; `last_error` says why it passed, or why its run is refused.
    """

    schedule_id: ScheduleId
    key: SessionKey
    input: Input
    cron: str | None
    every_s: float | None
    at: float | None
    timezone: str
    overlap: Overlap
    missed: Missed
    paused: bool
    next: list[float]
    last_at: float | None
    last_run: RunId | None
    last_error: str | None
    missed_count: int
    priority: int | None
    timeout_s: float | None
    queue_timeout_s: float | None
    metadata: dict[str, Any]
    sender: Sender | None
    webhook: Webhook | None
    created_at: float


class ScheduleViews(Struct, frozen=True, kw_only=True):
    """A page of schedules, and the id before the next page, None at the end. `damaged` cannot be read."""

    schedules: list[ScheduleView]
    after: ScheduleId | None
    damaged: list[ScheduleId] = []


decode_spec: Final = decoder(Spec)
decode_past: Final = decoder(Past)


def schedule_of(stored: StoredSchedule) -> Schedule:
    """Return a stored schedule."""
    return Schedule(
        schedule_id=stored.schedule_id,
        key=stored.key,
        next_at=stored.next_at,
        spec=decode_spec(stored.spec),
        past=decode_past(stored.state),
    )


def view_of(schedule: Schedule) -> ScheduleView:
    """Return a schedule as programs see it."""
    spec, past, when = schedule.spec, schedule.past, schedule.spec.when
    return ScheduleView(
        schedule_id=schedule.schedule_id,
        key=schedule.key,
        input=spec.input,
        cron=when.cron,
        every_s=when.every_s,
        at=when.at,
        timezone=when.timezone,
        overlap=spec.overlap,
        missed=spec.missed,
        paused=past.paused,
        next=schedule.upcoming,
        last_at=past.last_at,
        last_run=past.last_run,
        last_error=past.last_error,
        missed_count=past.missed,
        priority=spec.priority,
        timeout_s=spec.timeout_s,
        queue_timeout_s=spec.queue_timeout_s,
        metadata=spec.metadata,
        sender=spec.sender,
        webhook=spec.webhook,
        created_at=when.since,
    )

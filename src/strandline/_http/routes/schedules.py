"""The schedule API: make, list, read, change and delete schedules, and run one now."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.schedules import Missed, Overlap, Schedule, ScheduleChange, ScheduleRequest
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of, session_of
from strandline._http.exchange.run_request import Priority, SenderBody, WebhookBody, seconds, whole_number
from strandline._http.forwardable import only_once
from strandline._http.routes.runs import run_body
from strandline._model import Block, RunId, ScheduleId, Sender, SessionId, session_id
from strandline._settings import AppSettings
from strandline.errors import Invalid

READS: Final = "The body is an object with `session_id`, `input`, and one of `cron`, `every` and `at`"
READS_CHANGES: Final = "The body is an object with the fields to change"

_Input = Annotated[str | list[Block], Meta(description="The input of its runs: a text, or content blocks")]
_Cron = Annotated[str, Meta(description="A cron expression with five fields: `0 9 * * MON-FRI`", max_length=100)]
_Every = Annotated[float, Meta(description="Seconds from one time to the next", ge=1, le=316_224_000)]
_At = Annotated[wire.Timestamp, Meta(description="A single time")]
_Zone = Annotated[str, Meta(description="The time zone of `cron`, such as `Europe/Berlin`; default: UTC")]
_Overlap = Annotated[
    Overlap,
    Meta(
        description="If its run before has not ended: its run waits (`enqueue`), this time passes (`skip`),"
        " or a run before that has not begun is cancelled (`replace`)"
    ),
]
_Missed = Annotated[
    Missed,
    Meta(description="What happens to times at which no server fired it: one run for all (`once`), none, or each"),
]
_Paused = Annotated[bool, Meta(description="Whether it fires nothing")]
_Sender = Annotated[
    SenderBody,
    Meta(description="Who sends its runs; only where the setting `trusted_senders` is on. Default: the API key"),
]
_Webhook = Annotated[WebhookBody, Meta(description="Where events of its runs are sent; default: as its session says")]
_Metadata = Annotated[dict[str, Any], Meta(description="Stored with each run, and passed to its tools")]


class NewScheduleBody(Struct, frozen=True, kw_only=True):
    """A new schedule. Null means absent."""

    session_id: SessionId
    input: _Input
    cron: _Cron | None = None
    every: _Every | None = None
    at: _At | None = None
    timezone: _Zone | None = None
    overlap: _Overlap = Overlap.ENQUEUE
    missed: _Missed = Missed.ONCE
    priority: Annotated[Priority | None, Meta(description="Priority in the queue, 1 to 5, 1 first")] = None
    timeout: Annotated[float | None, Meta(description="Seconds that a run may take")] = None
    queue_timeout: Annotated[float | None, Meta(description="Seconds that a run may wait for its turn")] = None
    metadata: _Metadata | None = None
    sender: _Sender | None = None
    webhook: _Webhook | None = None
    paused: _Paused = False


class ChangeScheduleBody(Struct, frozen=True, kw_only=True):
    """What to change of a schedule: the fields that are present. With other times it continues from now."""

    input: _Input | UnsetType = UNSET
    cron: _Cron | UnsetType = UNSET
    every: _Every | UnsetType = UNSET
    at: _At | UnsetType = UNSET
    timezone: _Zone | UnsetType = UNSET
    overlap: _Overlap | UnsetType = UNSET
    missed: _Missed | UnsetType = UNSET
    priority: Priority | UnsetType | None = UNSET
    timeout: float | UnsetType | None = UNSET
    queue_timeout: float | UnsetType | None = UNSET
    metadata: _Metadata | UnsetType = UNSET
    sender: _Sender | UnsetType | None = UNSET
    webhook: _Webhook | UnsetType | None = UNSET
    paused: _Paused | UnsetType = UNSET


class ScheduleBody(Struct, frozen=True, kw_only=True):
    """A schedule."""

    schedule_id: ScheduleId
    session_id: SessionId
    input: _Input
    cron: str | None
    every: float | None
    at: wire.Timestamp | None
    timezone: str
    overlap: Overlap
    missed: Missed
    paused: bool
    next: Annotated[list[wire.Timestamp], Meta(description="The next five times at which it fires")]
    last_at: Annotated[wire.Timestamp | None, Meta(description="The last time that fired, or passed")]
    last_run: Annotated[RunId | None, Meta(description="Its last run")]
    last_error: Annotated[str | None, Meta(description="Why the last time passed, or its run is refused")]
    missed_count: Annotated[int, Meta(description="How often a time passed without a run")]
    priority: int | None
    timeout: float | None
    queue_timeout: float | None
    metadata: dict[str, Any]
    sender: Annotated[Sender | None, Meta(description="Who sends its runs, if it says so")]
    webhook: Annotated[WebhookBody | None, Meta(description="Where events of its runs are sent, if it says so")]
    created_at: wire.Timestamp | None


class SchedulesBody(Struct, frozen=True, kw_only=True):
    """A page of schedules."""

    schedules: list[ScheduleBody]
    damaged: Annotated[list[ScheduleId], Meta(description="Schedules of this page whose records are damaged")]
    next_cursor: str | None


def schedule_body(schedule: Schedule) -> ScheduleBody:
    """Return a schedule in wire format."""
    spec, past, when = schedule.spec, schedule.past, schedule.spec.when
    return ScheduleBody(
        schedule_id=schedule.schedule_id,
        session_id=schedule.key.session_id,
        input=spec.input,
        cron=when.cron,
        every=when.every_s,
        at=wire.timestamp(when.at),
        timezone=when.timezone,
        overlap=spec.overlap,
        missed=spec.missed,
        paused=past.paused,
        next=[datetime.fromtimestamp(each, UTC) for each in schedule.upcoming],
        last_at=wire.timestamp(past.last_at),
        last_run=past.last_run,
        last_error=past.last_error,
        missed_count=past.missed,
        priority=spec.priority,
        timeout=spec.timeout_s,
        queue_timeout=spec.queue_timeout_s,
        metadata=spec.metadata,
        sender=spec.sender,
        webhook=WebhookBody.of(spec.webhook),
        created_at=wire.timestamp(when.since),
    )


class ScheduleRoutes:
    """The routes of schedules."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._schedules = service.schedules
        self._settings = settings
        self._decode_new = decoder(NewScheduleBody)
        self._decode_change = decoder(ChangeScheduleBody)

    async def create(self, request: Request) -> Response:
        """Make a schedule of a session, which need not exist yet."""
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_new, READS)
        only_once(request)
        key = session_of(request, body.session_id)
        schedule = await self._schedules.create(
            ScheduleRequest(
                key=key,
                input=body.input,
                cron=body.cron,
                every_s=body.every,
                at=seconds(body.at),
                timezone="UTC" if body.timezone is None else body.timezone,
                overlap=body.overlap,
                missed=body.missed,
                priority=whole_number(body.priority),
                timeout_s=body.timeout,
                queue_timeout_s=body.queue_timeout,
                metadata=body.metadata or {},
                sender=None if body.sender is None else body.sender.named(),
                webhook=None if body.webhook is None else body.webhook.named(),
                paused=body.paused,
            )
        )
        changed(request, f"made schedule {schedule.schedule_id} of session {key.session_id}")
        path = wire.client_path(request.scope, f"/v1/schedules/{schedule.schedule_id}")
        return wire.answer(schedule_body(schedule), wire.CREATED, {"Location": path})

    async def all(self, request: Request) -> Response:
        """Return the caller's schedules by id, of one session or of all."""
        query = request.query_params
        named = query.get("session_id")
        page = await self._schedules.page(
            principal_of(request),
            session=None if named is None else session_id(named),
            after=_after(query.get("cursor")),
            limit=wire.page_limit(request),
        )
        shown = []
        for each in page.schedules:
            shown.append(schedule_body(each))
            await asyncio.sleep(0)  # (times of a cron expression can take milliseconds: others are answered meanwhile)
        return wire.answer(SchedulesBody(schedules=shown, damaged=page.damaged, next_cursor=page.after))

    async def read(self, request: Request) -> Response:
        """Return a schedule."""
        return wire.answer(schedule_body(await self._schedules.read(principal_of(request), _id(request))))

    async def change(self, request: Request) -> Response:
        """Change a schedule: pause or resume it, or give it other times or contents."""
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_change, READS_CHANGES)
        given = msgspec.structs.asdict(body)
        change = ScheduleChange(
            at=UNSET if isinstance(body.at, UnsetType) else seconds(body.at) or 0.0,
            every_s=given.pop("every"),
            timeout_s=given.pop("timeout"),
            queue_timeout_s=given.pop("queue_timeout"),
            priority=UNSET if isinstance(body.priority, UnsetType) else whole_number(body.priority),
            sender=body.sender.named() if isinstance(body.sender, SenderBody) else body.sender,
            webhook=body.webhook.named() if isinstance(body.webhook, WebhookBody) else body.webhook,
            **{name: each for name, each in given.items() if name not in ("at", "priority", "sender", "webhook")},
        )
        schedule = await self._schedules.change(principal_of(request), _id(request), change)
        changed(request, f"changed schedule {schedule.schedule_id} of session {schedule.key.session_id}")
        return wire.answer(schedule_body(schedule))

    async def delete(self, request: Request) -> Response:
        """Delete a schedule. Its runs stay."""
        only_once(request)
        schedule = await self._schedules.delete(principal_of(request), _id(request))
        changed(request, f"deleted schedule {schedule.schedule_id} of session {schedule.key.session_id}")
        return Response(status_code=wire.NO_CONTENT)

    async def run(self, request: Request) -> Response:
        """Accept a run of a schedule now, beside its times."""
        principal, schedule_id = principal_of(request), _id(request)
        only_once(request)
        run_id = await self._schedules.run_now(principal, schedule_id)
        changed(request, f"ran schedule {schedule_id} now, as {run_id}")
        path = wire.client_path(request.scope, f"/v1/runs/{run_id}")
        return wire.answer(run_body(await self._service.run(principal, run_id)), wire.ACCEPTED, {"Location": path})


def _id(request: Request) -> ScheduleId:
    return ScheduleId(request.path_params["schedule_id"])


def _after(cursor: str | None) -> ScheduleId | None:
    if cursor is not None and not (cursor.isascii() and cursor.isprintable() and len(cursor) <= 64):
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return None if cursor is None else ScheduleId(cursor)

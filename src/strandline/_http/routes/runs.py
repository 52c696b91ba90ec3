"""The run API: read, wait for, move and cancel runs."""

import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.events import Why
from strandline._engine.reading import RunPage, RunView, Superseded
from strandline._engine.requests import RunEdit, without_client_options
from strandline._engine.service import Service
from strandline._history import effective_sender
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import check_no_token, principal_of
from strandline._http.exchange.exchange import Exchange
from strandline._http.exchange.run_request import Priority, WebhookBody, whole_number
from strandline._http.exchange.sse import RunEvents, last_event_id
from strandline._http.forwardable import counts_client, forwardable, only_once
from strandline._model import (
    Block,
    IfBusy,
    InputRequest,
    JoinState,
    Message,
    RunError,
    RunId,
    RunStatus,
    Sender,
    SessionId,
)
from strandline._older_names import field_note
from strandline._settings import AppSettings
from strandline.errors import Invalid

MAX_WAIT_S: Final = 300
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


_TAG: Final = re.compile(r'(?:^|,)\s*"([^"]*)"\s*(?=,|$)')
AgentStateThen = Literal["restored", "forgotten"]


class EffectBody(Struct, frozen=True):
    """A tool call of a superseded run; `run_id` is null if that run is deleted."""

    run_id: RunId | None
    tool_use_id: str
    name: str


class RestoredBody(Struct, frozen=True, kw_only=True):
    """A session whose superseded messages are in its conversation again."""

    session_id: SessionId
    changed: Annotated[bool, Meta(description="False: the run was in the conversation already")]
    superseded: Annotated[list[RunId], Meta(description="The runs that are superseded now")]
    effects: Annotated[
        list[EffectBody] | None, Meta(description="Their tools that have acted, or perhaps; null: they cannot be seen")
    ]
    agent_state: AgentStateThen


class RunBody(Struct, frozen=True, kw_only=True):
    """A run."""

    run_id: RunId
    session_id: SessionId
    status: RunStatus
    phase: str | None
    attempt: int
    priority: int
    if_busy: IfBusy
    joined: Annotated[
        RunId | None, Meta(description="The run that it joins or has joined, which has its turn and its outcome")
    ]
    join: Annotated[
        JoinState | None,
        Meta(
            description="Of a run with `if_busy` `steer`: it waits for the next model call (`pending`), has reached the"
            " agent (`applied`), or is a run of its own (`became_next_run`). Of one with `collect`: `applied` once it"
            " is part of the turn of another one, else null"
        ),
    ]
    position: int | None
    estimated_wait_s: float | None
    why: Why | None
    created_at: wire.Timestamp | None
    not_before: wire.Timestamp | None
    started_at: wire.Timestamp | None
    ended_at: wire.Timestamp | None
    output: str
    message: Message | None
    error: RunError | None
    input_requests: list[InputRequest]
    usage: dict[str, int] | None
    locks_session: Annotated[bool, Meta(description="It has ended, and a tool of it still executes")]
    held: Annotated[bool, Meta(description=field_note("RunBody", "held"))]
    cancel_requested: bool
    metadata: dict[str, Any]
    sender: Annotated[
        Sender | None, Meta(description="Who sent it: who its request names, else the API key; null without keys")
    ]
    webhook: Annotated[
        WebhookBody | UnsetType, Meta(description="Where events of the run are sent, if its request or session says so")
    ] = UNSET
    after: Annotated[
        RunId | UnsetType | None,
        Meta(description="The run after which the conversation continues with this one; null: it begins anew"),
    ] = UNSET
    again: Annotated[RunId | UnsetType, Meta(description="The run that this one replaces")] = UNSET
    superseded: Annotated[
        list[RunId] | UnsetType, Meta(description="If it goes back and is read alone: the runs that it supersedes")
    ] = UNSET
    effects: Annotated[
        list[EffectBody] | UnsetType | None,
        Meta(description="The tools of those runs that have acted, or perhaps; null: they cannot be seen"),
    ] = UNSET
    agent_state: Annotated[
        AgentStateThen | UnsetType,
        Meta(
            description="Whether the agent's context window and state as they were then are there again (`restored`),"
            " or were not kept (`forgotten`): it has the whole history, and no state"
        ),
    ] = UNSET


class RunsBody(Struct, frozen=True, kw_only=True):
    """A page of runs."""

    runs: list[RunBody]
    damaged: Annotated[list[RunId], Meta(description="Runs of this page whose records are damaged")]
    next_cursor: str | None


class MoveBody(Struct, frozen=True):
    """Where to move a run: to another priority, or to the front."""

    priority: Annotated[Priority | None, Meta(description="1 to 5, 1 first")] = None
    front: Annotated[bool, Meta(description="Before all queued runs, after those moved there earlier")] = False


class EditBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to replace of a run that waits. What is absent, or null, stays."""

    input: Annotated[str | list[Block] | None, Meta(description="Text, or content blocks in Strands' form")] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="All metadata of the run from now on")] = None
    priority: Annotated[Priority | None, Meta(description="1 to 5, 1 first")] = None


class OpenToolBody(Struct, frozen=True):
    """A tool call whose outcome is unknown."""

    tool_use_id: str
    name: str
    input: Any


class UnresolvedBody(Struct, frozen=True):
    """What a person has to find out before a crashed run can continue."""

    tools: list[OpenToolBody]


class CancelBody(Struct, frozen=True):
    """Options of a run's cancel."""

    force: Annotated[bool, Meta(description="Unlock the session without waiting for a tool that still executes")] = (
        False
    )


def run_body(view: RunView) -> RunBody:
    """Return a run in wire format."""
    body = _run_body(view)
    if (back := view.run.back) is None:
        return body
    body = replace(body, after=back.after) if back.again is None else replace(body, again=back.again)
    if (gone := view.superseded) is None:
        return body
    return replace(body, superseded=gone.runs, effects=effects_of(gone), agent_state=state_of(gone))


def effects_of(gone: Superseded) -> list[EffectBody] | None:
    if gone.effects is None:
        return None
    return [EffectBody(each.run_id, each.tool_use_id, each.name) for each in gone.effects]


def state_of(gone: Superseded) -> AgentStateThen:
    return "forgotten" if gone.forgotten else "restored"


def _run_body(view: RunView) -> RunBody:
    run, outcome = view.run, view.run.outcome
    return RunBody(
        run_id=run.run_id,
        session_id=run.key.session_id,
        status=run.status,
        phase=view.phase,
        attempt=run.attempt,
        priority=run.priority,
        if_busy=run.if_busy,
        joined=run.joined,
        join=run.join,
        position=run.position,
        estimated_wait_s=wire.rounded(view.estimated_wait_s) if run.position else None,
        why=view.why,
        created_at=wire.timestamp(run.created_at),
        not_before=wire.timestamp(run.not_before),
        started_at=wire.timestamp(run.started_at),
        ended_at=wire.timestamp(run.ended_at),
        output=outcome.output if outcome else "",
        message=outcome.message if outcome else None,
        error=outcome.error if outcome else None,
        input_requests=outcome.input_requests if outcome else [],
        usage=outcome.usage if outcome else None,
        locks_session=run.locks_session,
        held=run.locks_session,
        cancel_requested=run.cancel_requested,
        metadata=without_client_options(run.metadata),
        sender=effective_sender(run.sender, run.key.principal),
        webhook=WebhookBody.of(run.webhook) or UNSET,
    )


def runs_body(page: RunPage) -> RunsBody:
    """Return a page of runs in wire format."""
    return RunsBody(runs=[run_body(view) for view in page.runs], damaged=page.damaged, next_cursor=page.after)


class Runs:
    """The routes of runs."""

    def __init__(self, service: Service, exchange: Exchange, settings: AppSettings) -> None:
        self._service = service
        self._exchange = exchange
        self._settings = settings
        self._decode_move = msgspec.json.Decoder(MoveBody).decode
        self._decode_edit = decoder(EditBody)
        self._decode_cancel = msgspec.json.Decoder(CancelBody).decode

    async def read(self, request: Request) -> Response:
        """Return a run; with `Prefer: wait=N`, once it has ended or after N seconds, at most 300."""
        wait_s = preferred_wait_s(request)
        view = await self._exchange.run(request, RunId(request.path_params["run_id"]), wait_s)
        applied = {} if wait_s is None else {"Preference-Applied": f"wait={wait_s}"}
        return wire.answer(run_body(view), headers={**applied, **_edition(view)})

    async def edit(self, request: Request) -> Response:
        """Edit a run that waits; 409 if it has begun, 412 if it is not as `If-Match` says."""
        run_id, principal = RunId(request.path_params["run_id"]), principal_of(request)
        reads = "`input`, `metadata` and `priority` are those of a new run"
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_edit, reads)
        expected = _expected(request)
        if expected is None:
            only_once(request)  # (else what somebody else has edited since then would be lost)
        edit = RunEdit(
            input=body.input, metadata=body.metadata, priority=whole_number(body.priority), expected=expected
        )
        view = await self._service.edit(principal, run_id, edit)
        changed(request, f"edited run {run_id} of session {view.run.key.session_id}")
        return wire.answer(run_body(view), headers=_edition(view))

    async def unresolved(self, request: Request) -> Response:
        """Return the tools of a crashed run whose outcome is unknown; 409 if it cannot continue."""
        tools = await self._service.unresolved(principal_of(request), RunId(request.path_params["run_id"]))
        shown = [OpenToolBody(each.tool_use_id, each.name, each.input) for each in tools]
        return wire.answer(UnresolvedBody(shown))

    async def all(self, request: Request) -> Response:
        """Return the runs of all the caller's sessions, last accepted first, filtered by status."""
        query = request.query_params
        named = [each for text in query.getlist("status") for each in text.split(",")]
        if unknown := sorted(set(named) - set(RunStatus)):
            raise Invalid(f"status cannot be {', '.join(unknown)!r}; it must be among {', '.join(RunStatus)}")
        page = await self._service.runs_of(
            principal_of(request),
            statuses=[RunStatus(each) for each in named],
            cursor=query.get("cursor"),
            limit=wire.page_limit(request),
        )
        return wire.answer(runs_body(page))

    async def events(self, request: Request) -> Response:
        """Return the events of a run after `Last-Event-ID`; 204 once the client has read all."""
        counts_client(request)
        stream = await self._service.stream(principal_of(request), RunId(request.path_params["run_id"]))
        return self._exchange.stream(stream, RunEvents(stream, request.scope), {}, after=last_event_id(request))

    async def move(self, request: Request) -> Response:
        """Move a queued run; 409 if it has started or ended."""
        run_id = RunId(request.path_params["run_id"])
        reads = "`priority` is 1 to 5, or `front` is true"
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_move, reads)
        priority = whole_number(body.priority)
        if (priority is None) is not body.front:
            raise Invalid(f"the body needs one of two fields: {reads}")
        only_once(request)
        view = await self._service.move(principal_of(request), run_id, priority)
        where = "to the front" if priority is None else f"to priority {priority}"
        changed(request, f"moved run {run_id} of session {view.run.key.session_id} {where}")
        return wire.answer(run_body(view), headers=_edition(view))

    async def restore(self, request: Request) -> Response:
        """Have the conversation continue where it ended when a superseded run was last in it."""
        run_id = RunId(request.path_params["run_id"])
        done = await self._service.restore(principal_of(request), run_id)
        if done.changed:
            changed(request, f"restored run {run_id} of session {done.key.session_id}")
        gone = done.superseded
        return wire.answer(
            RestoredBody(
                session_id=done.key.session_id,
                changed=done.changed,
                superseded=gone.runs,
                effects=effects_of(gone),
                agent_state=state_of(gone),
            )
        )

    async def cancel(self, request: Request) -> Response:
        """Cancel a run: 200 if it is cancelled now, 202 if it executes and will end; 409 if it had ended otherwise."""
        run_id = RunId(request.path_params["run_id"])
        body, _ = await wire.read_json(
            request, self._settings.max_body_bytes, self._decode_cancel, "`force` is true or false"
        )
        if body.force:
            check_no_token(request, "cancel by force")
        passed = forwardable(request.scope)
        again = passed is not None and passed.again
        view = await self._service.cancel(principal_of(request), run_id, force=body.force, again=again)
        forced = " by force" if body.force else ""
        changed(request, f"cancelled run {run_id} of session {view.run.key.session_id}{forced}")
        return wire.answer(run_body(view), wire.OK if view.run.outcome else wire.ACCEPTED)


def _edition(view: RunView) -> dict[str, str]:
    """Return the header that names the edition of a run that can be edited."""
    return {} if view.edition is None else {"ETag": f'"{view.edition}"'}


def _expected(request: Request) -> frozenset[str] | None:
    """Return the editions that `If-Match` names; None without it, or for `*`. Weak ones never match."""
    given = ",".join(request.headers.getlist("if-match"))
    if not given or given.strip() == "*":
        return None
    return frozenset(_TAG.findall(given))


def preferred_wait_s(request: Request) -> int | None:
    """Return the seconds of `Prefer: wait=N`, at most 300; None if the client does not wait."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return min(int(found.group(1)), MAX_WAIT_S) if found else None

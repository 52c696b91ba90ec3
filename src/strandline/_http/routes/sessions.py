"""The session API: list, read, cancel, pause, resume and delete sessions."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder
from strandline._engine.events import Why
from strandline._engine.service import Service
from strandline._history import sender_of
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import Caller, caller_of, check_no_token, session_of
from strandline._http.exchange.run_request import CollectBody, Priority, SenderBody, WebhookBody, whole_number
from strandline._http.forwardable import only_once
from strandline._http.routes.runs import runs_body
from strandline._journal.port import HistoryPage
from strandline._model import (
    NO_DEFAULTS,
    Block,
    ForkedFrom,
    IfBusy,
    InputRequest,
    OnDisconnect,
    OnQuestion,
    Principal,
    RunDefaults,
    RunId,
    Sender,
    SessionId,
    SessionKey,
    SessionView,
    session_id,
)
from strandline._older_names import field_note
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound


class CancelSessionBody(Struct, frozen=True):
    """Options of a session's cancel."""

    running: Annotated[bool, Meta(description="Also cancel the executing run")] = False
    force: Annotated[bool, Meta(description="Unlock the session without waiting for a tool that still executes")] = (
        False
    )


class CancelledBody(Struct, frozen=True):
    """The result of a session's cancel: runs that it has ended, and executing runs that will end.

    `dismissed`: whether an input request was dismissed.
    """

    cancelled: list[RunId]
    cancelling: list[RunId]
    dismissed: bool


class DefaultOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options for all later runs of a session whose requests do not set them. Null removes one."""

    if_busy: Annotated[IfBusy | UnsetType | None, Meta(description="As in a request for a run")] = UNSET
    on_question: Annotated[OnQuestion | UnsetType | None, Meta(description="As in a request for a run")] = UNSET
    priority: Annotated[Priority | UnsetType | None, Meta(description="1 to 5, 1 first")] = UNSET
    timeout: Annotated[float | UnsetType | None, Meta(description="Seconds that a run may take")] = UNSET
    queue_timeout: Annotated[float | UnsetType | None, Meta(description="Seconds that a run may wait")] = UNSET
    on_disconnect: Annotated[OnDisconnect | UnsetType | None, Meta(description="As in a request for a run")] = UNSET
    metadata: Annotated[
        dict[str, Any] | UnsetType | None,
        Meta(description="Stored with each run, beside the `metadata` of its request, whose names win"),
    ] = UNSET
    sender: Annotated[
        SenderBody | UnsetType | None, Meta(description="Only where the setting `trusted_senders` is on")
    ] = UNSET
    webhook: Annotated[WebhookBody | UnsetType | None, Meta(description="Where events of its runs are sent")] = UNSET
    collect: Annotated[
        CollectBody | UnsetType | None, Meta(description="For runs with `if_busy` `collect`, as in a request for one")
    ] = UNSET

    def given(self) -> dict[str, Any]:
        """Return the options that are set or removed, as the service takes them."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not UNSET}
        if isinstance(sender := given.get("sender"), SenderBody):
            given["sender"] = sender.named()
        if isinstance(webhook := given.get("webhook"), WebhookBody):
            given["webhook"] = webhook.named()
        if isinstance(collect := given.get("collect"), CollectBody):
            given["collect"] = collect.named()
        if (priority := given.get("priority")) is not None:
            given["priority"] = whole_number(priority)
        return given


class SessionChangeBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a session."""

    options: Annotated[DefaultOptions | None, Meta(description="Default options of its runs; null removes all")]


class SessionBody(Struct, frozen=True, kw_only=True):
    """A session."""

    session_id: SessionId
    messages: int
    queue_depth: int
    running: RunId | None
    locked_by: Annotated[RunId | None, Meta(description="The ended run that locks it: a tool of it still executes")]
    held: Annotated[RunId | None, Meta(description=field_note("SessionBody", "held"))]
    paused: bool
    input_requests: list[InputRequest]
    input_until: datetime | None
    why: Why | None
    options: Annotated[RunDefaults, Meta(description="Default options of its runs, those that are set")]
    forked_from: Annotated[
        ForkedFrom | UnsetType,
        Meta(description="The session whose history it began with, and the last run of that; only of forked sessions"),
    ] = UNSET
    caller: Annotated[str | UnsetType, Meta(description="Its caller; shown to operators only")] = UNSET
    principal: Annotated[str | UnsetType, Meta(description=field_note("SessionBody", "principal"))] = UNSET


class SessionsBody(Struct, frozen=True, kw_only=True):
    """A page of sessions."""

    sessions: list[SessionBody]
    damaged: Annotated[list[SessionId], Meta(description="Sessions of this page whose records are damaged")]
    next_cursor: str | None


class MessageBody(Struct, frozen=True, kw_only=True):
    """A message of history. If `discarded` or `superseded`, it is hidden from the agent, and shown only on request.

    If `pending`, its tools wait for input, or execute after it, and have no results yet.
    """

    index: Annotated[int, Meta(description="Its place in the whole history, from 0, which never changes")]
    run_id: Annotated[
        RunId | None,
        Meta(description="The run that left it; null if that is deleted, or if it closes a dismissed question"),
    ]
    sender: Annotated[Sender | None, Meta(description="Who said it, if that is known; null for the agent's")]
    role: str
    content: list[Block]
    discarded: bool
    superseded: Annotated[bool, Meta(description="Whether the conversation continued from before it")]
    pending: bool


class HistoryBody(Struct, frozen=True, kw_only=True):
    """A page of history, oldest message first; the next page has older messages."""

    messages: list[MessageBody]
    next_cursor: str | None


class Sessions:
    """The routes of sessions."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode_cancel = msgspec.json.Decoder(CancelSessionBody).decode
        self._decode_change = decoder(SessionChangeBody)

    # -- runs --------------------------------------------------------------------------------------

    async def runs(self, request: Request) -> Response:
        """Return the runs of a session: queued ones, last in the queue first, the executing one, ended ones."""
        limit = wire.page_limit(request)
        page = await self._service.runs(_key(request), cursor=request.query_params.get("cursor"), limit=limit)
        return wire.answer(runs_body(page))

    async def cancel(self, request: Request) -> Response:
        """Cancel a session's queued runs, with `running` the executing one too: then 202, else 200."""
        reads = "`running` and `force` are true or false"
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_cancel, reads)
        key = _key(request)
        if body.force:
            check_no_token(request, "cancel by force")
        stopped = await self._service.cancel_session(key, running=body.running, force=body.force)
        forced = " by force" if body.force else ""
        runs = ", ".join((*stopped.ended, *stopped.cancelling)) or "no run"
        changed(request, f"cancelled the runs of session {key.session_id}{forced}: {runs}")
        shown = CancelledBody(cancelled=list(stopped.ended), cancelling=stopped.cancelling, dismissed=stopped.dismissed)
        return wire.answer(shown, wire.ACCEPTED if stopped.cancelling else wire.OK)

    # -- sessions ----------------------------------------------------------------------------------

    async def sessions(self, request: Request) -> Response:
        """Return the caller's sessions by id; those of all callers to an operator."""
        caller, limit = caller_of(request), wire.page_limit(request)
        after = _after(request.query_params.get("cursor"), caller.principal)
        own = None if caller.operator else caller.principal
        page = await self._service.sessions(own, after=after, limit=limit)
        shown = [self._listed(each, caller) for each in page.sessions]
        cursor = page.after and ("/".join(page.after) if caller.operator else page.after.session_id)
        return wire.answer(
            SessionsBody(sessions=shown, damaged=[each.session_id for each in page.damaged], next_cursor=cursor)
        )

    def _listed(self, session: SessionView, caller: Caller) -> SessionBody:
        """Return a session for a list; to an operator with its caller.

        Other callers' input requests are left out, even their names and ids, which agents may make of any text; so are
        the options of their sessions, and where these were forked from.
        """
        if not caller.operator:
            return self._body(session)
        principal = session.key.principal
        if principal == caller.principal:
            return replace(self._body(session), caller=principal, principal=principal)
        shown = self._body(session, of_another=True)
        return replace(
            shown, caller=principal, principal=principal, input_requests=[], options=NO_DEFAULTS, forked_from=UNSET
        )

    async def read(self, request: Request) -> Response:
        """Return a session."""
        return wire.answer(self._body(await self._service.session(_key(request))))

    async def change(self, request: Request) -> Response:
        """Change the default options of a session's runs."""
        key = _key(request)
        reads = 'The body is an object with `options`, such as `{"priority": 2}`; null removes an option'
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_change, reads)
        given = None if body.options is None else body.options.given()
        session = await self._service.set_options(key, given)
        names = "all removed" if given is None else ", ".join(given) or "none"
        changed(request, f"changed the options of session {key.session_id}: {names}")
        return wire.answer(self._body(session))

    async def pause(self, request: Request) -> Response:
        """Pause a session: accept runs, start none."""
        key = _key(request)
        paused = await self._service.pause(key)
        changed(request, f"paused session {key.session_id}")
        return wire.answer(self._body(paused))

    async def resume(self, request: Request) -> Response:
        """Resume a paused session."""
        key = _key(request)
        resumed = await self._service.resume(key)
        changed(request, f"resumed session {key.session_id}")
        return wire.answer(self._body(resumed))

    async def delete(self, request: Request) -> Response:
        """Delete a session and its history; 409 while a run of it waits or executes."""
        key = _key(request)
        only_once(request)
        if not await self._service.delete(key):
            raise NotFound(f"there is no session {key.session_id}")
        changed(request, f"deleted session {key.session_id}")
        return Response(status_code=wire.NO_CONTENT)

    def _body(self, session: SessionView, *, of_another: bool = False) -> SessionBody:
        return session_body(session, self._service.why(session, of_another=of_another))

    async def history(self, request: Request) -> Response:
        """Return a session's last messages before the cursor, oldest first; on request with hidden ones."""
        query = request.query_params
        key = _key(request)
        page = await self._service.history_page(
            key,
            before=_before(query.get("cursor")),
            limit=wire.page_limit(request),
            discarded=wire.flag("discarded", query.get("discarded", "false")),
            superseded=wire.flag("superseded", query.get("superseded", "false")),
        )
        shown = message_bodies(page, key)
        return wire.answer(HistoryBody(messages=shown, next_cursor=str(page.first) if page.first else None))


def message_bodies(page: HistoryPage, key: SessionKey) -> list[MessageBody]:
    """Return the messages of a page of history in wire format."""
    replaced, hidden = frozenset(page.superseded), frozenset(page.discarded)
    return [
        MessageBody(
            index=page.indices[number],
            run_id=page.runs[number],
            sender=sender_of(message, key.principal),
            role=message["role"],
            content=message["content"],
            discarded=number in hidden,
            superseded=number in replaced,
            pending=page.pending and number == len(page.messages) - 1,
        )
        for number, message in enumerate(page.messages)
    ]


def session_body(session: SessionView, why: Why | None) -> SessionBody:
    """Return a session in wire format."""
    return SessionBody(
        session_id=session.key.session_id,
        messages=session.messages,
        queue_depth=session.waiting,
        running=None if session.held else session.claimed,
        locked_by=session.locked_by,
        held=session.locked_by,
        paused=session.paused,
        input_requests=session.input_requests,
        input_until=wire.timestamp(session.input_until),
        why=why,
        options=session.options,
        forked_from=UNSET if session.forked_from is None else session.forked_from,
    )


def _key(request: Request) -> SessionKey:
    return session_of(request, request.path_params["session_id"])


def _after(cursor: str | None, own: Principal) -> SessionKey | None:
    """Return the session that a cursor names: the caller's, unless the cursor has a caller. Raises `Invalid`.

    So a cursor keeps its meaning if the caller has become an operator since the previous page.
    """
    if cursor is None:
        return None
    principal, slash, name = cursor.rpartition("/")
    if slash and not principal:
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return SessionKey(Principal(principal) if slash else own, session_id(name))


def _before(cursor: str | None) -> int | None:
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 16):
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return None if cursor is None else int(cursor)

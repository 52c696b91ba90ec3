"""The session API: its runs, its history; all are cancelled, all is forgotten."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from strandline._engine.events import Why
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import Caller, caller_of, session_of
from strandline._http.routes.runs import runs_body
from strandline._model import (
    Block,
    InputRequest,
    Principal,
    RunId,
    SessionId,
    SessionKey,
    SessionView,
    session_id,
)
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound


class CancelSessionBody(Struct, frozen=True):
    """What a cancel of a session reads."""

    running: Annotated[bool, Meta(description="Cancel the run that executes, too")] = False
    force: Annotated[bool, Meta(description="Do not wait for what still works of it")] = False


class CancelledBody(Struct, frozen=True):
    """What a cancel of a session has done: runs that have ended by it, and those that execute and were asked to end.

    `dismissed`: what the session waited to be answered is not asked any more.
    """

    cancelled: list[RunId]
    cancelling: list[RunId]
    dismissed: bool


class SessionBody(Struct, frozen=True, kw_only=True):
    """A session on the wire."""

    session_id: SessionId
    messages: int
    queue_depth: int
    running: RunId | None
    held: RunId | None
    paused: bool
    input_requests: list[InputRequest]
    input_until: datetime | None
    why: Why | None
    principal: Annotated[str | UnsetType, Meta(description="Whose it is; told to operators only")] = UNSET


class SessionsBody(Struct, frozen=True, kw_only=True):
    """A page of sessions."""

    sessions: list[SessionBody]
    damaged: Annotated[list[SessionId], Meta(description="Sessions of this page that cannot be read any more")]
    next_cursor: str | None


class MessageBody(Struct, frozen=True, kw_only=True):
    """A message of history; `discarded`: it is hidden from the agent, and shown only to those who ask for it.

    `pending`: its tools wait for input, or go on with it, and have no results yet.
    """

    role: str
    content: list[Block]
    discarded: bool
    pending: bool


class HistoryBody(Struct, frozen=True, kw_only=True):
    """A page of history, oldest message first; the next page has older ones."""

    messages: list[MessageBody]
    next_cursor: str | None


class Sessions:
    """The routes of sessions."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode_cancel = msgspec.json.Decoder(CancelSessionBody).decode

    # -- runs --------------------------------------------------------------------------------------

    async def runs(self, request: Request) -> Response:
        """Return runs of a session: those that wait, the last in line first, the one that executes, the ended ones."""
        limit = wire.page_limit(request)
        page = await self._service.runs(_key(request), cursor=request.query_params.get("cursor"), limit=limit)
        return wire.answer(runs_body(page))

    async def cancel(self, request: Request) -> Response:
        """Cancel what waits in a session, with `running` what executes too: 202 if that was asked to end, else 200."""
        reads = "`running` and `force` are true or false"
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_cancel, reads)
        key = _key(request)
        stopped = await self._service.cancel_session(key, running=body.running, force=body.force)
        forced = " by force" if body.force else ""
        runs = ", ".join((*stopped.ended, *stopped.cancelling)) or "no run"
        changed(request, f"cancelled what was in session {key.session_id}{forced}: {runs}")
        shown = CancelledBody(cancelled=list(stopped.ended), cancelling=stopped.cancelling, dismissed=stopped.dismissed)
        return wire.answer(shown, wire.ACCEPTED if stopped.cancelling else wire.OK)

    # -- sessions ----------------------------------------------------------------------------------

    async def sessions(self, request: Request) -> Response:
        """Return the sessions of whoever asks, in the order of their ids; those of all principals for an operator."""
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
        """Return a session as a list shows it: to an operator with whose it is.

        What one of another asks is not told, not even its name or id: agents make both of whatever they like.
        """
        if not caller.operator:
            return self._body(session)
        principal = session.key.principal
        if principal == caller.principal:
            return replace(self._body(session), principal=principal)
        return replace(self._body(session, of_another=True), principal=principal, input_requests=[])

    async def read(self, request: Request) -> Response:
        """Return a session."""
        return wire.answer(self._body(await self._service.session(_key(request))))

    async def pause(self, request: Request) -> Response:
        """Let nothing more of a session start."""
        key = _key(request)
        paused = await self._service.pause(key)
        changed(request, f"paused session {key.session_id}")
        return wire.answer(self._body(paused))

    async def resume(self, request: Request) -> Response:
        """Let a paused session go on."""
        key = _key(request)
        resumed = await self._service.resume(key)
        changed(request, f"resumed session {key.session_id}")
        return wire.answer(self._body(resumed))

    async def delete(self, request: Request) -> Response:
        """Forget a session and its history; 409 while a run of it waits or executes."""
        key = _key(request)
        if not await self._service.delete(key):
            raise NotFound(f"there is no session {key.session_id}")
        changed(request, f"deleted session {key.session_id}")
        return Response(status_code=wire.NO_CONTENT)

    def _body(self, session: SessionView, *, of_another: bool = False) -> SessionBody:
        return session_body(session, self._service.why(session, of_another=of_another))

    async def history(self, request: Request) -> Response:
        """Return the last messages of a session before the cursor, oldest first; with `discarded` hidden ones too."""
        query = request.query_params
        page = await self._service.history_page(
            _key(request),
            before=_before(query.get("cursor")),
            limit=wire.page_limit(request),
            discarded=wire.flag("discarded", query.get("discarded", "false")),
        )
        hidden = frozenset(page.discarded)
        shown = [
            MessageBody(
                role=message["role"],
                content=message["content"],
                discarded=place in hidden,
                pending=page.pending and place == len(page.messages) - 1,
            )
            for place, message in enumerate(page.messages)
        ]
        return wire.answer(HistoryBody(messages=shown, next_cursor=str(page.first) if page.first else None))


def session_body(session: SessionView, why: Why | None) -> SessionBody:
    """Return a session as it looks on the wire."""
    return SessionBody(
        session_id=session.key.session_id,
        messages=session.messages,
        queue_depth=session.waiting,
        running=None if session.held else session.claimed,
        held=session.claimed if session.held else None,
        paused=session.paused,
        input_requests=session.input_requests,
        input_until=wire.timestamp(session.input_until),
        why=why,
    )


def _key(request: Request) -> SessionKey:
    return session_of(request, request.path_params["session_id"])


def _after(cursor: str | None, own: Principal) -> SessionKey | None:
    """Return the session that a cursor names: one of whoever asks, unless it says whose. Raises `Invalid`.

    So a cursor means the same whoever shows it: a key may have become an operator's since the page before.
    """
    if cursor is None:
        return None
    principal, slash, name = cursor.rpartition("/")
    if slash and not principal:
        raise Invalid("cursor must be one that a page of this list has named as its next")
    return SessionKey(Principal(principal) if slash else own, session_id(name))


def _before(cursor: str | None) -> int | None:
    if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 16):
        raise Invalid("cursor must be one that a page of this list has named as its next")
    return None if cursor is None else int(cursor)

"""Forks: sessions that begin with the history of another one."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from strandline._encoding import decoder, encode
from strandline._engine.admission import ForkRequest
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import session_of
from strandline._http.exchange.idempotency import REPLAYED, fingerprint, idempotency_key
from strandline._http.forwardable import forwardable
from strandline._model import ForkedFrom, SessionId, SessionKey
from strandline._settings import AppSettings

_READS = 'The body is an object such as `{"session_id": "plan-b", "after": "run_..."}`'


class AfterMessage(Struct, frozen=True, forbid_unknown_fields=True):
    """A message of history, in place of the run that left it."""

    message: Annotated[int, Meta(ge=0, le=(1 << 53) - 1, description="Its `index`")]


class ForkBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new session that begins with the history of another one."""

    session_id: Annotated[str | None, Meta(description="The id of the new session; without one it gets one")] = None
    after: Annotated[
        str | AfterMessage | None,
        Meta(description="The run after which the copy ends, or a message of it; without one it ends with history"),
    ] = None
    workspace: Annotated[
        Literal["empty", "copy"],
        Meta(description="What its workspace begins with: nothing, or a copy of this session's as it is now"),
    ] = "empty"


class ForkedBody(Struct, frozen=True, kw_only=True):
    """A session that begins with the history of another one."""

    session_id: SessionId
    forked_from: Annotated[ForkedFrom, Meta(description="The session, and the last run that was copied, if it is kept")]
    messages: Annotated[int, Meta(description="How many messages its history began with")]
    agent_state: Annotated[
        Literal["restored", "forgotten"],
        Meta(
            description="Whether its agent has context window and state as they were there (`restored`), or has all of"
            " its history and no state, since they were not kept"
        ),
    ]
    workspace: Annotated[
        Literal["copied", "kept"] | UnsetType,
        Meta(
            description="With `copy`: whether its workspace is a copy, or there was one for a session of this id, which"
            " stays as it is"
        ),
    ] = UNSET


class Forks:
    """The route that forks a session."""

    def __init__(self, service: Service, settings: AppSettings) -> None:
        self._service = service
        self._settings = settings
        self._decode = decoder(ForkBody)

    async def fork(self, request: Request) -> Response:
        """Make a session that begins with the history of this one."""
        source = session_of(request, request.path_params["session_id"])
        key = idempotency_key(request)
        body, sent = await wire.read_json(request, self._settings.max_body_bytes, self._decode, _READS)
        made = await self._service.fork(
            ForkRequest(
                source=source,
                to=body.session_id,
                after=body.after.message if isinstance(body.after, AfterMessage) else body.after,
                copies_workspace=body.workspace == "copy",
                token=self._sent_as(request, source) if key is None else f"key {key}",
                fingerprint=fingerprint(b'{"fork":' + encode(source.session_id) + b',"body":' + (sent or b"{}") + b"}"),
            )
        )
        session_id = made.key.session_id
        if not made.replayed:
            changed(request, f"forked session {source.session_id} as {session_id}")
        path = wire.client_path(request.scope, f"/v1/sessions/{session_id}")
        shown = ForkedBody(
            session_id=session_id,
            forked_from=made.origin,
            messages=made.messages,
            agent_state="forgotten" if made.forgotten else "restored",
            workspace=made.workspace or UNSET,
        )
        replayed = REPLAYED if made.replayed and key is not None else {}
        return wire.answer(shown, wire.CREATED, {"Location": path, **replayed})

    def _sent_as(self, request: Request, source: SessionKey) -> str:
        """Return what identifies a request without a key, wherever and however often it is sent."""
        passed = forwardable(request.scope)
        if passed is None:
            return self._service.new_run_id(source)
        if passed.run_id is None:
            passed.run_id = self._service.new_run_id(source)
        return passed.run_id

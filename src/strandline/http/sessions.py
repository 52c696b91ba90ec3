"""The session API: a session is cancelled, forgotten."""

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline.engine.service import Service
from strandline.errors import NotFound
from strandline.http import wire
from strandline.model import ANONYMOUS, RunId, SessionKey, session_id


class CancelSessionBody(Struct, frozen=True):
    """What a cancel of a session reads."""

    running: bool = False
    force: bool = False


class CancelledBody(Struct, frozen=True):
    """What a cancel of a session has done: runs that have ended by it, and those that execute and were asked to end."""

    cancelled: list[RunId]
    cancelling: list[RunId]


class Sessions:
    """The routes of sessions."""

    def __init__(self, service: Service, *, max_body_bytes: int) -> None:
        self._service = service
        self._max_body_bytes = max_body_bytes
        self._cancel = msgspec.json.Decoder(CancelSessionBody)

    async def delete(self, request: Request) -> Response:
        """Forget a session and its history; 409 while a run of it waits or executes."""
        key = _key(request)
        if not await self._service.delete(key):
            raise NotFound(f"there is no session {key.session_id}")
        return Response(status_code=wire.NO_CONTENT)

    async def cancel(self, request: Request) -> Response:
        """Cancel what waits in a session, with `running` what executes too: 202 if that was asked to end, else 200."""
        reads = "`running` and `force` are true or false"
        body, _ = await wire.read_json(request, self._max_body_bytes, self._cancel, reads)
        stopped = await self._service.cancel_session(_key(request), running=body.running, force=body.force)
        shown = CancelledBody(cancelled=list(stopped.ended), cancelling=stopped.asked)
        return wire.answer(shown, wire.ACCEPTED if stopped.asked else wire.OK)


def _key(request: Request) -> SessionKey:
    return SessionKey(ANONYMOUS, session_id(request.path_params["session_id"]))

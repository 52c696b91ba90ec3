"""The session API: `DELETE /v1/sessions/{session_id}`."""

from starlette.requests import Request
from starlette.responses import Response

from strandline.engine.service import Service
from strandline.errors import NotFound
from strandline.http import wire
from strandline.model import ANONYMOUS, SessionKey, session_id


class Sessions:
    """The routes of sessions."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def delete(self, request: Request) -> Response:
        """Forget a session and its history; 409 while a run of it waits or executes."""
        key = SessionKey(ANONYMOUS, session_id(request.path_params["session_id"]))
        if not await self._service.delete(key):
            raise NotFound(f"there is no session {key.session_id}")
        return Response(status_code=wire.NO_CONTENT)

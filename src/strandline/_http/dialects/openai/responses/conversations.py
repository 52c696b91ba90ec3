"""Sessions as conversations: `/v1/conversations`, and the session of a response that names none.

A new conversation is a name: nothing is stored before its first response.
"""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from strandline._clock import Clock
from strandline._encoding import decoder
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import session_of
from strandline._http.dialects.openai.responses.wire import (
    ConversationDeleted,
    ConversationObject,
    ConversationRequest,
)
from strandline._http.exchange.session_naming import new_session
from strandline._http.forwardable import only_once
from strandline._model import SessionId, SessionKey
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound

MADE: Final = "conv_"
"""What the ids of sessions begin with that no client has named."""
_DRAWN: Final = re.compile(rf"{MADE}([0-9a-f]{{12}})[0-9a-f]{{16}}")
"""Such an id has the time at which it was made, in milliseconds."""
_READS: Final = "The body is empty, or an object"


class Conversations:
    """The routes of conversations."""

    def __init__(self, service: Service, clock: Clock, settings: AppSettings) -> None:
        self._service = service
        self._clock = clock
        self._settings = settings
        self._decode = decoder(ConversationRequest)

    async def create(self, request: Request) -> Response:
        """Return a conversation that nobody has."""
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode, _READS)
        for name, given in (("items", body.items), ("metadata", body.metadata)):
            if given:
                raise Invalid(f"Nothing is stored before the first response: send it there - at `$.{name}`")
        key = await new_session(self._service, request, MADE)
        return wire.answer(ConversationObject(id=key.session_id, created_at=int(self._clock.now())))

    async def read(self, request: Request) -> Response:
        """Return a conversation that has a response."""
        session = await self._service.session(_key(request))
        return wire.answer(ConversationObject(id=session.key.session_id, created_at=_made_at(session.key.session_id)))

    async def delete(self, request: Request) -> Response:
        """Delete a session and its history; 409 while a run of it waits or executes."""
        key = _key(request)
        only_once(request)
        if not await self._service.delete(key):
            raise NotFound(f"there is no conversation {key.session_id}")
        changed(request, f"deleted session {key.session_id}")
        return wire.answer(ConversationDeleted(id=key.session_id))


def _key(request: Request) -> SessionKey:
    return session_of(request, request.path_params["conversation_id"])


def _made_at(session_id: SessionId) -> int:
    """Return when a session got its id, in seconds since the epoch; 0 if that is not known."""
    found = _DRAWN.fullmatch(session_id)
    return 0 if found is None else int(found[1], 16) // 1000

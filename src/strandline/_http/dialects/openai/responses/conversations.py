"""Sessions as conversations: `/v1/conversations`, and the session of a response that names none.

A new conversation is a name: nothing is stored before its first response.
"""

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from strandline._clock import Clock
from strandline._encoding import decoder
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import session_of
from strandline._http.dialects.openai.responses.items import Page, items_of, of_history, page_of
from strandline._http.dialects.openai.responses.wire import (
    ConversationChange,
    ConversationDeleted,
    ConversationObject,
    ConversationRequest,
)
from strandline._http.exchange.session_naming import new_session
from strandline._http.forwardable import only_once
from strandline._journal.port import HistoryPage
from strandline._model import SessionId, SessionKey, SessionView
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotFound

MADE: Final = "conv_"
"""What the ids of sessions begin with that no client has named."""
_DRAWN: Final = re.compile(rf"{MADE}([0-9a-f]{{12}})[0-9a-f]{{16}}")
"""Such an id has the time at which it was made, in milliseconds."""
_READS: Final = "The body is empty, or an object"
_CHANGES: Final = "The body is an object with `metadata`"


class Conversations:
    """The routes of conversations."""

    def __init__(self, service: Service, clock: Clock, settings: AppSettings) -> None:
        self._service = service
        self._clock = clock
        self._settings = settings
        self._decode = decoder(ConversationRequest)
        self._decode_change = decoder(ConversationChange)

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
        return wire.answer(_shown(await self._service.session(_key(request))))

    async def change(self, request: Request) -> Response:
        """Set the metadata of a conversation that has a response: the default metadata of its session's runs."""
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode_change, _CHANGES)
        session = await self._service.set_options(_key(request), {"metadata": body.metadata or None})
        changed(request, f"set the metadata of session {session.key.session_id}")
        return wire.answer(_shown(session))

    async def items(self, request: Request) -> Response:
        """Return the messages of history as items, the latest first unless `order` is `asc`."""
        page, key = page_of(request), _key(request)
        await self._service.session(key)
        found, more = await (self._oldest(key, page) if page.is_ascending else self._latest(key, page))
        return wire.answer(page.of(found, more=more))

    async def _latest(self, key: SessionKey, page: Page) -> tuple[list[dict[str, Any]], bool]:
        """Return items from where a page begins on, the latest first, and whether there are older ones."""
        after = page.after_index
        before = None if after is None else after + 1
        found: list[dict[str, Any]] = []
        while True:
            read = await self._service.history_page(key, before=before, limit=page.limit + 1)
            found += [item for number in reversed(range(len(read.messages))) for item in _items(read, number)[::-1]]
            before = read.first
            if not before or page.of(found).data:
                return found, before > 0

    async def _oldest(self, key: SessionKey, page: Page) -> tuple[list[dict[str, Any]], bool]:
        """Return items from where a page begins on, the oldest first, and whether there are later ones."""
        end = await self._service.history_page(key, limit=1)
        last = end.indices[-1] if end.indices else -1
        start, step = page.after_index or 0, page.limit + 1
        found: list[dict[str, Any]] = []
        while start <= last and len(page.of(found).data) < page.limit:
            read = await self._service.history_page(key, before=start + step, limit=step)
            if step > 1 and start < read.first and len(read.messages) < step:  # (large ones: it does not reach back)
                step //= 2
                continue
            inside = [number for number, index in enumerate(read.indices) if index >= start]
            found += [item for number in inside for item in _items(read, number)]
            start, step = start + step, step if inside else step * 2
        return found, start <= last

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


def _items(page: HistoryPage, number: int) -> list[dict[str, Any]]:
    message = page.messages[number]
    return items_of(message["role"], message["content"], of_history(page.indices[number]))


def _shown(session: SessionView) -> ConversationObject:
    name = session.key.session_id
    return ConversationObject(id=name, created_at=_made_at(name), metadata=session.options.metadata or {})


def _made_at(session_id: SessionId) -> int:
    """Return when a session got its id, in seconds since the epoch; 0 if that is not known."""
    found = _DRAWN.fullmatch(session_id)
    return 0 if found is None else int(found[1], 16) // 1000

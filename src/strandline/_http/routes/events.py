"""The events of all the caller's sessions."""

from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from strandline._engine.events import RunEvent, SessionEvent
from strandline._engine.service import Service
from strandline._engine.streams import NOT_IN_FEED
from strandline._http.caller import caller_of, principal_of, session_of
from strandline._http.exchange.sse import EventResponse, framed_change, last_event_id
from strandline._http.forwardable import forwardable
from strandline._model import session_id
from strandline.errors import Invalid

TYPES: Final = frozenset(
    str(kind.__struct_config__.tag)
    for kind in (*get_args(RunEvent), *get_args(SessionEvent))
    if kind not in NOT_IN_FEED
)
"""The types of events in `/v1/events`."""
MOST_SESSIONS: Final = 100
"""Maximum of sessions in the filter of one client."""


class Changes:
    """The route of all events."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def events(self, request: Request) -> Response:
        """Return the events from now on, or after `Last-Event-ID`, filtered by session and type."""
        query = request.query_params
        types = [each for text in query.getlist("type") for each in text.split(",")]
        if unknown := sorted(set(types) - TYPES):
            raise Invalid(f"type cannot be {', '.join(unknown)}; it must be among {', '.join(sorted(TYPES))}")
        sessions = {session_id(text) for text in query.getlist("session_id")}
        if len(sessions) > MOST_SESSIONS:
            raise Invalid(f"at most {MOST_SESSIONS} session_id can be named; name none for the events of all")
        if (token := caller_of(request).token) is not None:
            sessions = sessions or set(token.sessions)
            for each in sessions:
                session_of(request, each)
        events = self._service.changes(principal_of(request), last_event_id(request), sessions=sessions, types=types)
        if (passed := forwardable(request.scope)) is not None:
            passed.feed_after = events.after
        return EventResponse(events, lambda numbered: framed_change(numbered, request.scope), lambda lost: None)

"""The events of a run as the progress and the result of a call, framed as server-sent events.

Whole texts and tools are reported, and while a text grows how long it is, at most once a second: programs show progress
as one line. `progress` counts.
"""

from typing import Final

from strandline._engine import events
from strandline._engine.events import Event, Numbered, RunFinished
from strandline._http.dialects.mcp.places import Place
from strandline._http.dialects.mcp.results import continues_later, ended
from strandline._http.dialects.mcp.wire import (
    Notification,
    Progress,
    Reply,
    ToolResult,
    framed,
)
from strandline._http.dialects.sent_text import text_of
from strandline._model import Message, SessionId

GROWS_S: Final = 1.0
"""How often it is reported that a text has grown."""
RETRY_MS: Final = 3000
"""After how long a client comes back. The official ones try twice, so a server has this long twice to restart."""
SHOWN: Final = 500
"""Characters of a message that progress shows."""


class CallEvents:
    """Encodes one run for one client, from its `place` on. `resumes`: whether that comes back if the stream is cut."""

    def __init__(self, session_id: SessionId, place: Place, reply: Reply, *, resumes: bool) -> None:
        self._session_id = session_id
        self._place = place
        self._reply = reply
        self._resumes = resumes
        self._length = 0
        self._shown_at = 0.0
        self._result: ToolResult | None = None

    def opening(self) -> bytes:
        """Return an event without data, after which a client can resume; nothing for one that cannot."""
        return b"retry: %d\nid: %b\ndata:\n\n" % (RETRY_MS, self._place.encoded().encode()) if self._resumes else b""

    def of(self, numbered: Numbered) -> bytes:
        """Return the progress that an event is, often none."""
        event = numbered.event
        if isinstance(event, RunFinished):
            self._result = ended(self._session_id, self._place.run_id, event)
            return b""
        if self._place.token is None:
            return b""
        if isinstance(event, events.TextDelta):
            self._length += len(event.text)
            if numbered.at - self._shown_at < GROWS_S:
                return b""
            self._shown_at = numbered.at
            return self._progress(numbered, f"answering: {self._length} characters")
        return b"" if (said := self._said(event)) is None else self._progress(numbered, said)

    def closing(self) -> bytes:
        """Return the result. A client that comes back gets it then, if the server stops before the end."""
        if self._result is None and self._resumes:
            return b""
        result = self._result or continues_later(self._session_id, self._place.run_id)
        return framed(self._reply.of(result))

    def _progress(self, numbered: Numbered, message: str) -> bytes:
        place = self._place
        number = place.number if numbered.number is None else numbered.number
        self._place = place = Place(place.run_id, number, place.count + 1, place.request_id, place.token)
        assert place.token is not None
        notification = Notification("notifications/progress", Progress(place.token, place.count, message))
        return framed(notification, place.encoded() if self._resumes else "")

    def _said(self, event: Event) -> str | None:
        match event:
            case events.RunQueued() | events.RunPosition():
                return _waiting(event)
            case events.RunStarted():
                return "started"
            case events.RunRestarted():
                self._length = 0
                return "started again after an interruption"
            case events.RunJoined():
                return "joined the turn that executes"
            case events.TextReset():
                self._length = 0
                return "the model starts over"
            case events.ToolStarted(name=name):
                return f"tool {name} started"
            case events.ToolFinished(name=name, status=status):
                return f"tool {name} ended" if status == "success" else f"tool {name} failed"
            case events.MessageAdded(message=message) if message["role"] == "assistant":
                self._length = 0
                return _beginning(message) or None
            case events.RunStalled(quiet_s=quiet_s):
                return f"silent for {quiet_s:.0f} s"
        return None


def _waiting(event: events.RunQueued | events.RunPosition) -> str:
    """Return the place of a run in its queue."""
    place = f"waiting at place {event.position}" if event.position else "waiting"
    return place if event.why is None else f"{place}: {event.why.text}"


def _beginning(message: Message) -> str:
    text = text_of(message).strip()
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

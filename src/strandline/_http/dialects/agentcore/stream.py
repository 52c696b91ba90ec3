"""The events of a run in AgentCore's stream format: `data: ` and a line of JSON, as if the agent yielded text.

A piece of text is a string. An object is the last event: the run waits for a person, or has no answer.
"""

from strandline._encoding import encode, encode_messages
from strandline._engine.events import Numbered, RunFinished
from strandline._http.dialects.agentcore.wire import InputNeeded, StreamFailure
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.sent_text import SentText
from strandline._http.dialects.waiting import Waiting
from strandline._model import RunId, RunStatus, SessionId


class Pieces:
    """Encodes one run for one client. `later` is the text if the run continues after the stream."""

    def __init__(self, run_id: RunId, session_id: SessionId, *, waiting: Waiting, later: str) -> None:
        self._run_id = run_id
        self._session_id = session_id
        self._waiting = waiting
        self._later = later
        self._sent = SentText()
        self._has_ended = False

    def opening(self) -> bytes:
        """Return a comment: the contract has no event for an accepted run."""
        return b": accepted\n\n"

    def of(self, numbered: Numbered) -> bytes:
        """Return the bytes of an event, often none: reasoning and tools are not part of an answer."""
        if isinstance(numbered.event, RunFinished):
            return self._end(numbered.event)
        return _text(self._waiting.heard(numbered.event) or self._sent.heard(numbered.event))

    def closing(self) -> bytes:
        """Return the bytes after the last event."""
        return b"" if self._has_ended else self._failed("goes_on_later", self._later, RunStatus.QUEUED)

    def _end(self, end: RunFinished) -> bytes:
        self._has_ended = True
        if (reason := reason_of(end)) is not None:
            return self._failed(*reason, end.status)
        text = _text(self._sent.end(end.output))
        if end.status is not RunStatus.NEEDS_INPUT:
            return text
        needed = InputNeeded(
            run_id=self._run_id, session_id=self._session_id, status=end.status, input_requests=end.input_requests
        )
        return text + _event(encode_messages(needed))

    def _failed(self, code: str, text: str, status: RunStatus) -> bytes:
        failure = StreamFailure(
            error=text,
            error_type=code,
            message="The run has no answer" if status is not RunStatus.QUEUED else "The run has no answer yet",
            run_id=self._run_id,
            session_id=self._session_id,
            status=status,
        )
        return _event(encode(failure))


def _text(text: str) -> bytes:
    return _event(encode(text)) if text else b""


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data

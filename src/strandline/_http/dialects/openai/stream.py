"""The events of a run as chunks of a chat completion, framed as server-sent events."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import to_builtins

from strandline._encoding import encode
from strandline._engine.events import Numbered, ReasoningDelta, RunFinished, RunPosition, RunQueued
from strandline._http.dialects.openai.answer import NoAnswer, answer_of
from strandline._http.dialects.openai.wire import ErrorBody, ErrorDetail, Extension, tokens
from strandline._http.dialects.sent_text import BREAK, SentText
from strandline._http.dialects.waiting import Waiting
from strandline._model import RunId, RunStatus, SessionId

_DONE: Final = b"data: [DONE]\n\n"


class Chunks:
    """Encodes one run for one client. `later` is the error if the run continues after the stream.

    `as_whole`: nothing of the text is sent before the end, since what the model says before its answer is not of the
    form that the client reads.
    """

    def __init__(
        self,
        run_id: RunId,
        session_id: SessionId,
        *,
        model: str,
        created: int,
        with_usage: bool,
        waiting: Waiting,
        later: ErrorDetail,
        went_back: Mapping[str, Any] = MappingProxyType({}),
        as_whole: bool = False,
    ) -> None:
        self._run_id = run_id
        self._session_id = session_id
        self._with_usage = with_usage
        self._waiting = waiting
        self._later = later
        self._went_back = went_back
        self._frame = {
            "id": run_id,
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        # Encoded once, because there are many chunks of text.
        head, _, tail = self._chunk({"content": "?"}).rpartition(b'"?"')
        self._around = head, tail
        self._sent = SentText()
        self._has_ended = False
        self._as_whole = as_whole

    def opening(self) -> bytes:
        """Return the first chunk: the run is accepted."""
        if not self._went_back:
            return self._chunk({"role": "assistant", "content": ""})
        extension = Extension(self._session_id, RunStatus.QUEUED, [], **self._went_back)
        return self._chunk({"role": "assistant", "content": ""}, strandline=extension)

    def of(self, numbered: Numbered) -> bytes:
        """Return the chunks of an event, often none: the agent's tool calls are not the client's to answer."""
        match numbered.event:
            case RunFinished():
                return self._end(numbered.event)
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text})
            case RunQueued() | RunPosition():
                return self._waits(numbered.event)
        if self._as_whole:
            return b""
        return self._content(self._sent.heard(numbered.event))

    def closing(self) -> bytes:
        """Return the bytes after the last event."""
        return _DONE if self._has_ended else _event(ErrorBody(self._later)) + _DONE

    def _waits(self, event: RunQueued | RunPosition) -> bytes:
        if not (text := self._waiting.heard(event)):
            return b""
        extension = Extension(self._session_id, RunStatus.QUEUED, event.input_requests)
        return self._chunk({} if self._as_whole else {"content": text}, strandline=extension)

    def _end(self, end: RunFinished) -> bytes:
        self._has_ended = True
        answer = answer_of(end, self._run_id)
        if isinstance(answer, NoAnswer):
            return _event(ErrorBody(answer.error))
        text = "" if self._as_whole and answer.calls else answer.text
        data = self._content(self._sent.end(text)) if text else b""
        if answer.question:
            data += self._content(BREAK + answer.question if text else answer.question)
        if answer.calls:
            calls = [{"index": index, **to_builtins(each)} for index, each in enumerate(answer.calls)]
            data += self._chunk({"tool_calls": calls})
        extension = Extension(self._session_id, end.status, end.input_requests, **self._went_back)
        data += self._chunk({}, answer.finish_reason, strandline=extension)
        if self._with_usage and (usage := tokens(end.usage)):
            data += _event({**self._frame, "choices": [], "usage": usage})
        return data

    def _content(self, text: str) -> bytes:
        return self._around[0] + encode(text) + self._around[1] if text else b""

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._with_usage else {}
        return _event({**self._frame, "choices": [choice], **usage, **more})


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % encode(value)

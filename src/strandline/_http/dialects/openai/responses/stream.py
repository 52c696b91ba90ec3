"""The events of a run as those of a response, framed as server-sent events.

`sequence_number` counts the events of a response from 0. It follows from the run's own events alone, so a client that
comes back (`starting_after`) gets the same bytes. Events of an earlier process of the server are gone, so they begin
anew there, with `response.created` and above all numbers that were given before (`EPOCH`).
"""

from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from strandline._encoding import encode
from strandline._engine.events import (
    MessageAdded,
    Numbered,
    ReasoningDelta,
    RunFinished,
    RunQueued,
    RunRestarted,
    RunStarted,
    StreamGap,
    TextDelta,
    TextReset,
)
from strandline._engine.streams import LAST, RunStream
from strandline._http.dialects.openai.responses.ending import (
    Ending,
    ending_of,
    message_item,
    questions_of,
    reasoning_item,
)
from strandline._http.dialects.openai.responses.wire import (
    AboutRun,
    FunctionCall,
    Item,
    ItemStatus,
    ResponseStatus,
    response_of,
)
from strandline._http.dialects.openai.wire import ErrorDetail
from strandline._http.dialects.sent_text import text_of
from strandline._http.exchange.sse import ALIVE
from strandline._model import InputRequest, Outcome, RunStatus

EPOCH: Final = 1 << 32
"""The numbers of one process of the server; run events are numbered like that (`RunStream`)."""
GAP: Final = 64
"""Not fewer events than one event of a run becomes: numbers after a gap are above those before it."""
_OF_TEXT: Final = (TextDelta, MessageAdded, TextReset)
NOTHING: Final = -1
"""After no event: all are sent."""


class _Open(Struct):
    """An item whose text arrives."""

    kind: Literal["output_text", "reasoning_text"]
    item_id: str
    index: int
    pieces: list[str]
    around: tuple[bytes, bytes]
    """What is before and after a piece in its event, from the item's id on."""


class ResponseEvents:
    """Encodes one run for one client, which has the events up to number `after`. `later` is the error if the run
    continues after the stream."""

    def __init__(self, run: AboutRun, stream: RunStream, *, after: int = NOTHING, later: ErrorDetail) -> None:
        self._run = run
        self._later = later
        epoch, number = divmod(stream.first, EPOCH)
        has_all = number == 1 or stream.first == LAST
        self._base = epoch * EPOCH
        self._next = self._base + (0 if has_all else number * GAP)
        self._after = after
        self._index = 0
        self._text: _Open | None = None
        self._reasoning: _Open | None = None
        self._said: tuple[str, str] | None = None
        """The id and text of the last whole message."""
        self._thought: str | None = None
        """The id of the last whole reasoning."""
        self._has_begun = False
        self._is_deaf = False
        """Whether pieces are missing, so that none is sent until the message is whole."""
        self._has_ended = False

    def opening(self) -> bytes:
        """Return the first event: the run is accepted. A client that has it gets a comment."""
        return self._lifecycle("response.created", "queued", RunStatus.QUEUED) or ALIVE

    def of(self, numbered: Numbered) -> bytes:
        """Return the events that an event of the run becomes, often none."""
        event = numbered.event
        if self._run.has_format and isinstance(event, _OF_TEXT):  # (what is said before the answer is not of its form)
            return b""
        match event:
            case TextDelta(text):
                return b"" if self._is_deaf else self._piece(text)
            case ReasoningDelta(text):
                return b"" if self._is_deaf else self._thinks(text)
            case MessageAdded(message) if message["role"] == "assistant":
                return self._whole(text_of(message))
            case TextReset():
                return self._withdrawn()
            case StreamGap(_, last):
                data = self._withdrawn()
                self._is_deaf = True
                self._next = max(self._next, self._base + last % EPOCH * GAP)
                return data
            case RunQueued(input_requests=waits_for) if numbered.number is not None:
                return self._lifecycle("response.queued", "queued", RunStatus.QUEUED, waits_for=waits_for)
            case RunStarted():
                return self._begin()
            case RunRestarted(messages=messages):
                if self._has_begun:  # (its client has them)
                    return self._withdrawn()
                texts = (text_of(message) for message in messages if message["role"] == "assistant")
                if self._run.has_format:
                    return self._begin()
                return self._begin() + b"".join(map(self._whole, texts))
            case RunFinished():
                return self._end(event)
        return b""

    def closing(self) -> bytes:
        """Return the bytes after the last event: an error if the run continues, where its client may resume."""
        if self._has_ended:
            return b""
        error = self._later
        said = {"code": error.code, "message": error.message, "param": None, "error": error}
        return _framed("error", encode(said), self._next)

    # -- the response ---------------------------------------------------------------------------------

    def _begin(self) -> bytes:
        self._has_begun = True
        return self._lifecycle("response.in_progress", "in_progress", RunStatus.RUNNING)

    def _lifecycle(
        self,
        kind: str,
        status: ResponseStatus,
        run_status: RunStatus,
        *,
        output: list[Item] | None = None,
        end: Outcome | None = None,
        error: str | None = None,
        waits_for: list[InputRequest] | None = None,
    ) -> bytes:
        if self._skips():
            return b""
        said = response_of(
            self._run, status, run_status=run_status, output=output, end=end, error=error, waits_for=waits_for
        )
        return self._event(kind, b'"response":' + encode(said))

    def _end(self, end: RunFinished) -> bytes:
        self._has_ended = True
        ending = ending_of(end, self._run)
        data, output = b"", list[Item]()
        if ending.error is not None:
            data = self._withdrawn()
        else:
            data, output = self._output(ending)
        kind = "failed" if ending.status == "cancelled" else ending.status  # (there is no event for that)
        outcome = Outcome(status=end.status, error=end.error, usage=end.usage, input_requests=end.input_requests)
        return data + self._lifecycle(
            f"response.{kind}", ending.status, run_status=end.status, output=output, end=outcome, error=ending.error
        )

    def _output(self, ending: Ending) -> tuple[bytes, list[Item]]:
        """Close what is open; return the events for that, and the output with the ids that were sent."""
        output: list[Item] = []
        data = self._close_reasoning()
        if ending.reasoning:
            output.append(reasoning_item(self._thought or f"rs_{self._run.run_id}", ending.reasoning))
        if ending.has_message:
            data += self._whole(ending.text, is_last=True)
            assert self._said is not None
            output.append(message_item(self._said[0], ending.text))
        else:
            data += self._withdrawn()
        questions = questions_of(ending, self._run)
        return data + b"".join(map(self._question, questions)), output + questions

    # -- items ----------------------------------------------------------------------------------------

    def _piece(self, text: str) -> bytes:
        """Take a piece of the model's text."""
        if self._text is not None:
            return self._delta(self._text, text)
        data = self._close_reasoning()
        self._text, opened = self._open("output_text")
        return data + opened + self._delta(self._text, text)

    def _thinks(self, text: str) -> bytes:
        """Take a piece of the model's reasoning."""
        data = b""
        if self._reasoning is None:
            self._reasoning, data = self._open("reasoning_text")
        return data + self._delta(self._reasoning, text)

    def _withdrawn(self) -> bytes:
        """Close what is open as incomplete: the model call starts over."""
        data = self._close_reasoning(is_complete=False)
        if (item := self._text) is not None:
            self._text = None
            data += self._close(item, is_complete=False)
        return data

    def _whole(self, text: str, *, is_last: bool = False) -> bytes:
        """Take the text of a whole message, whose pieces may have been sent; `is_last`: that of the end."""
        self._is_deaf = False
        data = self._close_reasoning()
        item = self._text
        if item is None and is_last and self._said is not None and _squeezed(self._said[1]) == _squeezed(text):
            self._said = self._said[0], text
            return data
        if item is not None:
            self._text = None
            shown = "".join(item.pieces)
            if text.startswith(shown):
                data += self._delta(item, text[len(shown) :]) if len(text) > len(shown) else b""
                self._said = item.item_id, text
                return data + self._close(item)
            if _squeezed(shown) == _squeezed(text):  # (pieces and whole messages separate blocks differently)
                self._said = item.item_id, text
                return data + self._close(item)
            data += self._close(item, is_complete=False)
        if not text.strip() and not is_last:
            return data
        item, opened = self._open("output_text")
        self._said = item.item_id, text
        said = self._delta(item, text) if text else b""
        return data + opened + said + self._close(item)

    def _question(self, item: Item) -> bytes:
        """Return the events of a question."""
        index, self._index = self._index, self._index + 1
        begun = replace(item, arguments="", status="in_progress") if isinstance(item, FunctionCall) else item
        data = self._event("response.output_item.added", b'"output_index":%d,"item":%b' % (index, encode(begun)))
        if isinstance(item, FunctionCall):
            where, text = b'"item_id":%b,"output_index":%d' % (encode(item.id), index), encode(item.arguments)
            data += self._event("response.function_call_arguments.delta", where + b',"delta":' + text)
            done = where + b',"name":%b,"arguments":%b' % (encode(item.name), text)
            data += self._event("response.function_call_arguments.done", done)
        return data + self._event("response.output_item.done", b'"output_index":%d,"item":%b' % (index, encode(item)))

    def _close_reasoning(self, *, is_complete: bool = True) -> bytes:
        if (item := self._reasoning) is None:
            return b""
        self._reasoning = None
        if is_complete:
            self._thought = item.item_id
        return self._close(item, is_complete=is_complete)

    def _open(self, kind: Literal["output_text", "reasoning_text"]) -> tuple[_Open, bytes]:
        index, self._index = self._index, self._index + 1
        prefix, shape = ("msg", "message") if kind == "output_text" else ("rs", "reasoning")
        item_id = f"{prefix}_{self._run.run_id}_{index}"
        where = b'"item_id":%b,"output_index":%d,"content_index":0' % (encode(item_id), index)
        item = _Open(kind, item_id, index, [], (where, b',"logprobs":[]' if kind == "output_text" else b""))
        added: dict[str, Any] = {"id": item_id, "type": shape, "status": "in_progress", "content": []}
        if kind == "output_text":
            added["role"] = "assistant"
        else:
            added["summary"] = []
        data = self._event("response.output_item.added", b'"output_index":%d,"item":%b' % (index, encode(added)))
        return item, data + self._event("response.content_part.added", where + b',"part":' + encode(_part(item, "")))

    def _delta(self, item: _Open, text: str) -> bytes:
        item.pieces.append(text)
        if self._skips():
            return b""
        where, logprobs = item.around
        return self._event(f"response.{item.kind}.delta", where + b',"delta":' + encode(text) + logprobs)

    def _close(self, item: _Open, *, is_complete: bool = True) -> bytes:
        text = "".join(item.pieces)
        status: ItemStatus = "completed" if is_complete else "incomplete"
        make = message_item if item.kind == "output_text" else reasoning_item
        encoded = encode(make(item.item_id, text, status))
        where, logprobs = item.around
        return (
            self._event(f"response.{item.kind}.done", where + b',"text":' + encode(text) + logprobs)
            + self._event("response.content_part.done", where + b',"part":' + encode(_part(item, text)))
            + self._event("response.output_item.done", b'"output_index":%d,"item":%b' % (item.index, encoded))
        )

    # -- events ---------------------------------------------------------------------------------------

    def _skips(self) -> bool:
        """Count an event that its client has."""
        if self._next > self._after:
            return False
        self._next += 1
        return True

    def _event(self, kind: str, fields: bytes) -> bytes:
        if self._skips():
            return b""
        number, self._next = self._next, self._next + 1
        return _framed(kind, b"{%b}" % fields, number)


def _framed(kind: str, fields: bytes, number: int) -> bytes:
    name = kind.encode()
    return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b\n\n' % (name, name, number, fields[1:])


def _part(item: _Open, text: str) -> dict[str, Any]:
    if item.kind == "reasoning_text":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _squeezed(text: str) -> str:
    return "".join(text.split())

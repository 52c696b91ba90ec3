"""The events of a run, one record for each kind, as on the wire.

A server may be newer than its client: additional fields are ignored, and an event of an unknown kind, or with other
fields, is `Unknown`, with its data. So a program that handles the kinds that it knows keeps working.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from strandline._encoding import decoder
from strandline._model import Block, InputRequest, Message, RunStatus, Sender, ToolResult
from strandline.client._answers import Problem, Why
from strandline.client._errors import NotStrandline


class EventBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The fields of every event. `id` is where to resume: the last number so far, None before the first."""

    run_id: str = ""
    at: datetime | None = None
    id: int | None = None


class RunQueued(EventBase, frozen=True, tag="run.queued"):
    """The run waits; `position` is 1 for the next to start.

    If the session waits for answers first, `input_requests` are the questions: `answer` takes their ids with the id of
    any run of that session, including this one.
    """

    position: int
    estimated_wait_s: float | None = None
    why: Why | None = None
    input_requests: list[InputRequest] = []
    sender: Sender | None = None


class RunPosition(EventBase, frozen=True, tag="run.position"):
    """The run waits at another position now, or for another reason; `input_requests` as in `RunQueued`."""

    position: int
    estimated_wait_s: float | None = None
    why: Why | None = None
    input_requests: list[InputRequest] = []


class RunStarted(EventBase, frozen=True, tag="run.started"):
    """The run executes."""

    attempt: int
    sender: Sender | None = None


class RunRestarted(EventBase, frozen=True, tag="run.restarted"):
    """The run executes again: earlier events no longer count, except for `messages`, its stored messages so far."""

    attempt: int
    messages: list[Message] = []


class RunJoined(EventBase, frozen=True, tag="run.joined"):
    """The run `joining` has reached the agent of the run `joined`, whose events and end are its own from here on.

    `content` is what it says, as the agent sees it. `truncated`: a block of it is cut.
    """

    joining: str
    joined: str
    content: list[Block] = []
    truncated: bool = False


class RunChanged(EventBase, frozen=True, tag="run.changed"):
    """The run, which waits, was edited: `changed` names what of it (`input`, `metadata`, `priority`)."""

    changed: list[str] = []
    priority: int = 3


class TextDelta(EventBase, frozen=True, tag="text.delta"):
    """A piece of the model's text."""

    text: str


class TextReset(EventBase, frozen=True, tag="text.reset"):
    """The model's call starts over: the text since the last message no longer counts."""


class ReasoningDelta(EventBase, frozen=True, tag="reasoning.delta"):
    """A piece of the model's reasoning."""

    text: str


class ToolStarted(EventBase, frozen=True, tag="tool.started"):
    """A tool starts. `truncated`: its arguments are too large for an event, and `input` is None."""

    tool_use_id: str
    name: str
    input: Any = None
    truncated: bool = False


class ToolFinished(EventBase, frozen=True, tag="tool.finished"):
    """A tool has ended with `status` `success` or `error`. `truncated`: the event has only a part of its result.

    `duration_s` is None if its start was not seen.
    """

    tool_use_id: str
    name: str
    status: str
    duration_s: float | None
    result: ToolResult
    truncated: bool = False


class MessageAdded(EventBase, frozen=True, tag="message.added"):
    """The run has a new message. `truncated`: a block of it is cut; texts are whole."""

    message: Message
    truncated: bool = False
    sender: Sender | None = None


class RunStalled(EventBase, frozen=True, tag="run.stalled"):
    """The run has shown no sign of life for `quiet_s`, in `phase`."""

    quiet_s: float
    phase: str


class StreamGap(EventBase, frozen=True, tag="stream.gap"):
    """The events `first` to `last` are no longer stored; `RunFinished` will have the whole last message."""

    first: int
    last: int


class Usage(EventBase, frozen=True, tag="usage"):
    """The cost of one model call: tokens, and seconds to its end and to its first text."""

    tokens: dict[str, int]
    model_s: float | None = None
    first_text_s: float | None = None


class RunFinished(EventBase, frozen=True, tag="run.finished"):
    """The run has ended: its last event. `output` is the text of its answer; `status` one of `RunStatus`."""

    status: str
    output: str = ""
    message: Message | None = None
    error: Problem | None = None
    input_requests: list[InputRequest] = []
    usage: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        """Whether the run has succeeded."""
        return self.status == RunStatus.SUCCEEDED


class Unknown(EventBase, frozen=True, tag="unknown"):
    """An event that this client does not know; `kind` is its type, `data` all of its fields."""

    kind: str
    data: dict[str, Any] = {}


_KnownEvent = (
    RunQueued
    | RunPosition
    | RunStarted
    | RunRestarted
    | RunJoined
    | RunChanged
    | TextDelta
    | TextReset
    | ReasoningDelta
    | ToolStarted
    | ToolFinished
    | MessageAdded
    | RunStalled
    | StreamGap
    | Usage
    | RunFinished
)
Event = _KnownEvent | Unknown
LAST: Final = "run.finished"

_decode_known: Final = decoder(_KnownEvent)
_decode_any: Final = decoder(dict[str, Any])


def read(data: str, number: str) -> Event:
    """Return the event with this data and id. Raises `NotStrandline` for anything else, and for an unknown end."""
    after = int(number) if number.isascii() and number.isdecimal() else None
    sent = data.encode()
    try:
        event: Event = replace(_decode_known(sent), id=after)
    except msgspec.ValidationError as error:
        fields = _decode_any(sent) if data.startswith("{") else {}
        kind = str(fields.get("type", ""))
        if not kind or kind == LAST:
            raise NotStrandline(f"it sent an event of the run that this client does not know: {error}") from None
        run_id = fields.get("run_id")
        return Unknown(kind=kind, data=fields, run_id=run_id if isinstance(run_id, str) else "", id=after)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotStrandline(f"it sent an event of the run that is not JSON: {error}") from None
    return event

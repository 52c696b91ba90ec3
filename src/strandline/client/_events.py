"""What a client is told of a run while it goes on: one record for each kind of event, as the wire has it.

A server may be newer than its client: further fields are left out, and an event of a kind that is not known here, or
whose fields are others, is `Unknown`, with its data. So a program that looks at the kinds it knows goes on working.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from strandline._encoding import decoder
from strandline._model import InputRequest, Message, RunStatus, ToolResult
from strandline.client._answers import Problem, Why
from strandline.client._errors import NotStrandline


class EventBase(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What every event has. `id` is the number after which to come back; None if nothing numbered was told before."""

    run_id: str = ""
    at: datetime | None = None
    id: int | None = None


class RunQueued(EventBase, frozen=True, tag="run.queued"):
    """It waits; `position` is 1 for the next to start.

    `input_requests` are what its session waits to be answered first, if that is why: `answer` takes their ids with the
    id of any run of that session, this one's too.
    """

    position: int
    estimated_wait_s: float | None = None
    why: Why | None = None
    input_requests: list[InputRequest] = []


class RunPosition(EventBase, frozen=True, tag="run.position"):
    """It waits at another place now, or for another reason; `input_requests` as of `RunQueued`."""

    position: int
    estimated_wait_s: float | None = None
    why: Why | None = None
    input_requests: list[InputRequest] = []


class RunStarted(EventBase, frozen=True, tag="run.started"):
    """It executes."""

    attempt: int


class RunRestarted(EventBase, frozen=True, tag="run.restarted"):
    """It executes again: what was told before counts no more, except what is kept in `messages`, its own so far."""

    attempt: int
    messages: list[Message] = []


class TextDelta(EventBase, frozen=True, tag="text.delta"):
    """A piece of the model's text."""

    text: str


class TextReset(EventBase, frozen=True, tag="text.reset"):
    """The model's call starts over: the text since the last message counts no more."""


class ReasoningDelta(EventBase, frozen=True, tag="reasoning.delta"):
    """A piece of the model's reasoning."""

    text: str


class ToolStarted(EventBase, frozen=True, tag="tool.started"):
    """A tool begins. `truncated`: its arguments are too large to be told, and `input` is None."""

    tool_use_id: str
    name: str
    input: Any = None
    truncated: bool = False


class ToolFinished(EventBase, frozen=True, tag="tool.finished"):
    """A tool has ended with `status` `success` or `error`. `truncated`: its result is larger than what is told of it.

    `duration_s` is None for one whose beginning was not seen.
    """

    tool_use_id: str
    name: str
    status: str
    duration_s: float | None
    result: ToolResult
    truncated: bool = False


class MessageAdded(EventBase, frozen=True, tag="message.added"):
    """A message has joined the run's own. `truncated`: a block of it is larger than what is told; texts are whole."""

    message: Message
    truncated: bool = False


class RunStalled(EventBase, frozen=True, tag="run.stalled"):
    """It has given no sign of life for `quiet_s`, in `phase`."""

    quiet_s: float
    phase: str


class StreamGap(EventBase, frozen=True, tag="stream.gap"):
    """The events `first` to `last` are not kept any more; the run's end will have its whole last message."""

    first: int
    last: int


class Usage(EventBase, frozen=True, tag="usage"):
    """What one call of the model took: tokens, and seconds until its first piece and until its end."""

    tokens: dict[str, int]
    model_s: float | None = None
    first_text_s: float | None = None


class RunFinished(EventBase, frozen=True, tag="run.finished"):
    """It has ended: the last event of every run. `output` is the text of its answer; `status` one of `RunStatus`."""

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
    """An event that this client does not know; `kind` is its type, `data` all that it has."""

    kind: str
    data: dict[str, Any] = {}


_KnownEvent = (
    RunQueued
    | RunPosition
    | RunStarted
    | RunRestarted
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
    """Return the event with this data and id. Raises `NotStrandline` if it is no event, or an end that is not known."""
    after = int(number) if number.isascii() and number.isdecimal() else None
    sent = data.encode()
    try:
        event: Event = replace(_decode_known(sent), id=after)
    except msgspec.ValidationError as error:
        fields = _decode_any(sent) if data.startswith("{") else {}
        kind = str(fields.get("type", ""))
        if not kind or kind == LAST:
            raise NotStrandline(f"what it tells of the run is no event that is known here: {error}") from None
        run_id = fields.get("run_id")
        return Unknown(kind=kind, data=fields, run_id=run_id if isinstance(run_id, str) else "", id=after)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotStrandline(f"what it tells of the run is no JSON: {error}") from None
    return event

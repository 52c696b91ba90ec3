"""Events of runs and sessions: one record for each kind, and the reasons for which a run waits. Values only.

Each event belongs to one run or session and one instant; the stream that publishes it numbers it. Durations are
seconds; messages and results are in Strands' form. Parts that a tool or a model can make arbitrarily large are
truncated first (`streams`): history has them whole. Everything is plain JSON: `strandline._encoding` encodes bytes.
"""

from enum import StrEnum
from typing import Any

from msgspec import UNSET, Struct, UnsetType

from strandline._model import Block, InputRequest, Message, RunError, RunId, RunStatus, Sender, SessionId, ToolResult


class Reason(StrEnum):
    """Why a run does not start yet."""

    SERVER_STOPPING = "server_stopping"
    PAUSED = "paused"
    HELD = "held"
    WAITS_FOR_INPUT = "waits_for_input"
    DELAYED = "delayed"
    BEHIND = "behind"
    JOINS = "joins"
    COLLECTS = "collects"
    JOURNAL_UNAVAILABLE = "journal_unavailable"
    NO_WORKER = "no_worker"
    HOLDS_FULL = "holds_full"
    LAST_ATTEMPT = "last_attempt"
    PRINCIPAL_BUSY = "principal_busy"
    SERVER_BUSY = "server_busy"


class Why(Struct, frozen=True):
    """The reason, as a code for programs and as text for people."""

    code: Reason
    text: str


class _Waits(Struct, frozen=True):
    position: int
    estimated_wait_s: float | None
    why: Why | None = None
    input_requests: list[InputRequest] = []


class RunQueued(_Waits, frozen=True, tag="run.queued", tag_field="type"):
    """The run waits. `position` is 1 for the next to start. `estimated_wait_s` is null until a first run has ended.

    `why` says what it waits for, and is null once nothing keeps it from starting. If its session waits for input,
    `input_requests` are the open ones; a `reason` that is too large for an event is null. `sender` is who sent it, if
    that is known.
    """

    sender: Sender | UnsetType = UNSET


class RunPosition(_Waits, frozen=True, tag="run.position", tag_field="type"):
    """The position of the run, or the reason why it waits, has changed.

    Sent at most once a second, to current subscribers, without a number. `input_requests` as in `run.queued`.
    """


class RunStarted(Struct, frozen=True, tag="run.started", tag_field="type"):
    """The run executes. `sender` is who sent it, if that is known."""

    attempt: int
    sender: Sender | UnsetType = UNSET


class RunRestarted(Struct, frozen=True, tag="run.restarted", tag_field="type"):
    """The run executes again: discard its earlier events and begin from `messages`, its own so far."""

    attempt: int
    messages: list[Message]


class RunJoined(Struct, frozen=True, tag="run.joined", tag_field="type"):
    """The run `joining` has reached the run `joined`, before its next model call: that has its turn and will have its
    outcome. Both have this event; the events of the first continue with those of the second.

    `content` is what it says, as the agent sees it, added to the last message. If `truncated`, only history has it
    whole. It is empty if both were collected into one turn: the first message has what both say.
    """

    joining: RunId
    joined: RunId
    content: list[Block]
    truncated: bool = False


class RunChanged(Struct, frozen=True, tag="run.changed", tag_field="type"):
    """The run, which waits, was edited: `changed` names what of it (`input`, `metadata`, `priority`)."""

    changed: list[str]
    priority: int


class TextDelta(Struct, frozen=True, tag="text.delta", tag_field="type", gc=False):
    """A piece of the model's text."""

    text: str


class TextReset(Struct, frozen=True, tag="text.reset", tag_field="type", gc=False):
    """The model call starts over: discard the text since the last message."""


class ReasoningDelta(Struct, frozen=True, tag="reasoning.delta", tag_field="type", gc=False):
    """A piece of the model's reasoning."""

    text: str


class ToolStarted(Struct, frozen=True, tag="tool.started", tag_field="type"):
    """A tool starts. `input` is null and `truncated` true if its arguments are too large for an event."""

    tool_use_id: str
    name: str
    input: Any
    truncated: bool = False


class ToolFinished(Struct, frozen=True, tag="tool.finished", tag_field="type"):
    """A tool has ended, with `status` `success` or `error`. If `truncated`, only history has the whole `result`.

    `duration_s` is null if its start was not observed.
    """

    tool_use_id: str
    name: str
    status: str
    duration_s: float | None
    result: ToolResult
    truncated: bool = False


class MessageAdded(Struct, frozen=True, tag="message.added", tag_field="type"):
    """The run has a new message. If `truncated`, only history has it whole. `sender` said it, if that is known."""

    message: Message
    truncated: bool = False
    sender: Sender | UnsetType = UNSET


class RunStalled(Struct, frozen=True, tag="run.stalled", tag_field="type"):
    """The run has given no sign of life for `quiet_s` seconds, in `phase`."""

    quiet_s: float
    phase: str


class StreamGap(Struct, frozen=True, tag="stream.gap", tag_field="type"):
    """The events `first` to `last` are no longer stored. `run.finished` has the whole last message."""

    first: int
    last: int


class Usage(Struct, frozen=True, tag="usage", tag_field="type"):
    """The cost of one model call: tokens, and seconds until its first piece and until its end."""

    tokens: dict[str, int]
    model_s: float | None
    first_text_s: float | None


class RunFinished(Struct, frozen=True, tag="run.finished", tag_field="type"):
    """The run has ended, and its outcome is stored. The last event of every run."""

    status: RunStatus
    output: str
    message: Message | None
    error: RunError | None
    input_requests: list[InputRequest]
    usage: dict[str, int] | None


class SessionPaused(Struct, frozen=True, tag="session.paused", tag_field="type"):
    """The session is paused: none of its runs starts until it is resumed."""


class SessionResumed(Struct, frozen=True, tag="session.resumed", tag_field="type"):
    """The session is resumed."""


class SessionDeleted(Struct, frozen=True, tag="session.deleted", tag_field="type"):
    """The session and its history are deleted."""


RunEvent = (
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


SessionEvent = SessionPaused | SessionResumed | SessionDeleted
Event = RunEvent | SessionEvent


class Numbered(Struct, frozen=True, gc=False, array_like=True):
    """An event with its rising number in the log that publishes it; `at` in seconds since the epoch.

    `number` is None for a transient event: it is not stored, and no client can resume after it. In the change feed it
    has its run and session.
    """

    number: int | None
    at: float
    event: Event
    run_id: RunId | None = None
    session_id: SessionId | None = None


def type_of(event: Event) -> str:
    """Return an event's type on the wire."""
    return str(event.__struct_config__.tag)

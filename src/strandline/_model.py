"""The nouns: what a session, a run, a message, an outcome is. Values only; knows no other module but errors.

All records are frozen. Times are seconds since the epoch (`*_at`), durations are seconds (`*_s`). Messages
are in the form of Strands Agents: `{"role": "user" | "assistant", "content": [block, ...]}`, where a block is
a dict with one of the keys `text`, `toolUse`, `toolResult`, `image`, ...
"""

import re
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, NewType, NotRequired, TypedDict

from msgspec import Struct, field

from strandline.errors import Invalid

Principal = NewType("Principal", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)

ANONYMOUS: Final = Principal("anonymous")
DEFAULT_SESSION: Final = SessionId("default")

_SESSION_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,256}")


def session_id(text: str) -> SessionId:
    """Return `text` as a session id. Raises `Invalid` unless it is 1-256 of `A-Za-z0-9._:@-`, not `.` or `..`."""
    if _SESSION_ID.fullmatch(text) is None or text in (".", ".."):
        raise Invalid("session_id must be 1 to 256 characters of A-Z a-z 0-9 . _ : @ - and not '.' or '..'")
    return SessionId(text)


class SessionKey(NamedTuple):
    """A session belongs to one principal; the same id of another principal is another session."""

    principal: Principal
    session_id: SessionId


def session_key(id: str = DEFAULT_SESSION, *, principal: str = ANONYMOUS) -> SessionKey:  # noqa: A002
    """Return the key of a session. Raises `Invalid` if `id` cannot be a session's."""
    return SessionKey(Principal(principal), session_id(id))


Block = dict[str, Any]


class Message(TypedDict):
    """One message in Strands' form; further keys (`metadata`, `tracking_id`) are kept as they are."""

    role: Literal["user", "assistant"]
    content: list[Block]
    metadata: NotRequired[dict[str, Any]]
    tracking_id: NotRequired[str]


Input = str | list[Block]
ToolResult = dict[str, Any]
StateRecord = dict[str, Any]


class RunStatus(StrEnum):
    """Where a run stands. Everything after `running` is an end and never changes again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEEDS_INPUT = "needs_input"


class ErrorCode(StrEnum):
    """Why a run failed, stable on the wire and in history."""

    AGENT_ERROR = "agent_error"
    TIMEOUT = "timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    CRASHED = "crashed"
    STOPPED = "stopped"


class Lane:
    """The lanes of a queue, served in this order; priority counts within `NORMAL` only."""

    REQUEUED: Final = 0
    ANSWER: Final = 1
    FRONT: Final = 2
    NORMAL: Final = 3


DEFAULT_PRIORITY: Final = 3
HIGHEST_PRIORITY: Final = 1
LOWEST_PRIORITY: Final = 5
"""Of 1 to 5, 1 first."""


# -- how a run ended ----------------------------------------------------------------------------------


class Succeeded(Struct, frozen=True, tag="succeeded"):
    """The agent returned. `text` answers a tail that has no answer (the JSON of a structured output);
    `limit` says that a limit of the agent's own ended the run."""

    text: str | None = None
    limit: bool = False


class Raised(Struct, frozen=True):
    """What user code has raised: the name of its class, and its text, which may quote messages and secrets."""

    kind: str
    text: str

    @property
    def is_out_of_tokens(self) -> bool:
        """Whether the model may say no more (`strands.types.exceptions`)."""
        return self.kind == "MaxTokensReachedException"


class Failed(Struct, frozen=True, tag="failed"):
    """The run did not return. `detail` says why, to callers and in history.

    The text of an exception is not in `detail` but in `raised`, until it is decided how much of it is told. What the
    error is for programs (`out_of_tokens`: the model may say no more) is known before that.
    """

    code: ErrorCode
    detail: str = ""
    raised: Raised | None = None
    out_of_tokens: bool = False


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """Somebody asked for the end; `discard`: and that what the run did is hidden."""

    discard: bool = False


class InputRequest(Struct, frozen=True):
    """What a run asks a person. `id` is unique in its session; `reason` is whatever the tool or hook gave."""

    id: str
    name: str
    reason: Any = None


class NeedsInput(Struct, frozen=True, tag="needs_input"):
    """The agent stopped in the middle of a round, to go on when all `requests` are answered; `state` is how it does."""

    requests: list[InputRequest]
    state: StateRecord


Ending = Succeeded | Failed | Cancelled | NeedsInput


class RunError(Struct, frozen=True, omit_defaults=True):
    """The error of a failed run, as its caller sees it. `out_of_tokens`: the model may say no more."""

    code: ErrorCode
    detail: str
    out_of_tokens: bool = False


class Outcome(Struct, frozen=True, kw_only=True):
    """How a run ended, as a value. `message` is the last assistant message of the run, if it has one."""

    status: RunStatus
    output: str = ""
    message: Message | None = None
    error: RunError | None = None
    usage: dict[str, int] | None = None
    input_requests: list[InputRequest] = []


# -- the window ---------------------------------------------------------------------------------------


class Range(Struct, frozen=True, tag="range", array_like=True):
    """Messages `start` to `end` (exclusive) of history; `end` None is the end of history, whatever is added."""

    start: int
    end: int | None


class Inline(Struct, frozen=True, tag="inline", array_like=True):
    """A message that is not (or no longer) in history as it stands here: a summary, a shortened result."""

    message: Message


Window = tuple[Range | Inline, ...]
WHOLE_HISTORY: Final[Window] = (Range(0, None),)


class AgentRecord(Struct, frozen=True, kw_only=True):
    """What an agent is rebuilt from. `origins[i]` is the history index of `messages[i]`, None for an inline one."""

    messages: list[Message]
    origins: list[int | None]
    window: Window
    length: int
    """How many messages history has."""
    state: StateRecord | None


# -- what a running run has done so far ---------------------------------------------------------------


class RoundStarted(Struct, frozen=True, tag="round_started"):
    """The messages since the last fact; the last of them asks for tools, none of which has started."""

    messages: list[Message]


class ToolDone(Struct, frozen=True, tag="tool_done"):
    """One tool of the open round has ended with this toolResult."""

    tool_use_id: str
    result: ToolResult


class RoundDone(Struct, frozen=True, tag="round_done"):
    """The round is closed by `messages` (one user message of toolResults); the agent's state as it is then."""

    messages: list[Message]
    state: StateRecord | None


Checkpoint = RoundStarted | ToolDone | RoundDone


# -- input requests -----------------------------------------------------------------------------------


class Question(Struct, frozen=True, kw_only=True):
    """What a run has put to a person, and what it takes to go on: the open round's message, the results of its tools
    that have ended, the agent's `state`.
    """

    requests: list[InputRequest]
    message: Message
    results: dict[str, ToolResult]
    state: StateRecord


def responses(answers: dict[str, Any]) -> list[Block]:
    """Return the input of a run that answers input requests, by their ids: in the form that Strands takes."""
    return [{"interruptResponse": {"interruptId": each, "response": given}} for each, given in answers.items()]


def answered(prompt: Input) -> list[str]:
    """Return the ids of the input requests that a run's input answers."""
    blocks = [] if isinstance(prompt, str) else prompt
    return [block["interruptResponse"]["interruptId"] for block in blocks if "interruptResponse" in block]


# -- runs ---------------------------------------------------------------------------------------------


class IfBusy(StrEnum):
    """What a run does to a session in which others wait or execute."""

    ENQUEUE = "enqueue"
    """Wait."""
    REJECT = "reject"
    """Be refused."""
    INTERRUPT = "interrupt"
    """Cancel what has begun, keep what that did, and go next."""
    ROLLBACK = "rollback"
    """Cancel what has begun, discard what that did, and go next."""


class OnQuestion(StrEnum):
    """What a run does to the question that its session waits to be answered, unless it interrupts or answers it."""

    WAIT = "wait"
    """Wait until it is answered, or that has taken too long."""
    ANSWER = "answer"
    """Be the answer, if the input is a text and exactly one input request is open; else wait."""
    DISMISS = "dismiss"
    """End it, and wait for nothing but what is ahead."""


class OnDisconnect(StrEnum):
    """What becomes of a run whose clients have all been lost."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    CANCEL_IF_QUEUED = "cancel_if_queued"
    """Cancel it as long as it has not begun."""


INTERRUPTS: Final = frozenset({IfBusy.INTERRUPT, IfBusy.ROLLBACK})


class Keyed(Struct, frozen=True):
    """A request that may be sent again: its `key`, unique in its session, and the SHA-256 of what it asks for.

    A key whose run ended before `ended_before` (seconds since the epoch) stands for nothing any more.
    """

    key: str
    fingerprint: bytes
    ended_before: float


Carrier = dict[str, str]
"""What joins a run to the trace that its request belongs to: headers by name. Opaque, but to who made it."""


class NewRun(Struct, frozen=True, kw_only=True):
    """A run to accept. Not `resumable`: its tools cannot be seen, so one counts as executing from its start.

    One that interrupts (`if_busy`) is in `Lane.FRONT`, one whose input is `responses` in `Lane.ANSWER`; of those in
    `Lane.NORMAL` alone `on_question` counts. `timeout_s` counts from the run's first start; at `queue_deadline`
    (seconds since the epoch) it waits no longer.
    """

    run_id: RunId
    key: SessionKey
    input: Input
    lane: int = Lane.NORMAL
    priority: int = DEFAULT_PRIORITY
    resumable: bool = True
    timeout_s: float | None = None
    queue_deadline: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: float
    keyed: Keyed | None = None
    if_busy: IfBusy = IfBusy.ENQUEUE
    on_question: OnQuestion = OnQuestion.WAIT
    trace: Carrier | None = None

    @property
    def dismisses(self) -> bool:
        """Whether it ends the question that its session waits to be answered."""
        return self.if_busy in INTERRUPTS or (self.lane == Lane.NORMAL and self.on_question is OnQuestion.DISMISS)

    @property
    def may_answer(self) -> bool:
        """Whether it becomes the answer if exactly one input request is open."""
        plain = self.lane == Lane.NORMAL and isinstance(self.input, str)
        return plain and self.on_question is OnQuestion.ANSWER


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run as lists show it: all but its input. `position` is 1 for the next to start, None unless it waits.

    `held`: it has ended, and its session waits for a thread of it that still works. `discarded`: what it left in
    history is flagged, hidden, and no part of the window. `cancel_requested`: it can only end as cancelled, and with
    `discard` also discarded; both stay as they were when it ended.
    """

    run_id: RunId
    key: SessionKey
    lane: int
    priority: int
    resumable: bool
    metadata: dict[str, Any]
    sequence: int
    status: RunStatus
    attempt: int
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    timeout_s: float | None = None
    queue_deadline: float | None = None
    position: int | None = None
    outcome: Outcome | None = None
    held: bool = False
    discarded: bool = False
    cancel_requested: bool = False
    discard: bool = False
    if_busy: IfBusy = IfBusy.ENQUEUE
    trace: Carrier | None = None

    @property
    def deadline(self) -> float | None:
        """When it has to have ended, in seconds since the epoch: `timeout_s` after its first start."""
        if self.timeout_s is None or self.started_at is None:
            return None
        return self.started_at + self.timeout_s


class Run(RunSummary, frozen=True, kw_only=True):
    """A run as the journal knows it."""

    input: Input

    def summary(self) -> RunSummary:
        """Return the run without its input."""
        return RunSummary(**{name: getattr(self, name) for name in RunSummary.__struct_fields__})


class SessionView(Struct, frozen=True, kw_only=True):
    """A session as the journal knows it: how many messages its history has, how many runs wait, which one is claimed.

    `held`: that one has ended, and something of it still works. While the session waits for input, `input_requests` are
    what it is asked for, and a run that is not an answer is started at `input_until` at the earliest.
    """

    key: SessionKey
    messages: int
    waiting: int
    claimed: RunId | None
    held: bool
    paused: bool = False
    input_requests: list[InputRequest] = []
    input_until: float | None = None


class FencingToken(NamedTuple):
    """The right to write for one claimed run; stale as soon as a larger fence was given for it."""

    run_id: RunId
    fence: int


class Claim(Struct, frozen=True, kw_only=True):
    """The exclusive right to execute `run`, what earlier attempts of it have staged, and the question it answers.

    Of a `damaged` one not all could be read: it is only to be ended.
    """

    token: FencingToken
    run: Run
    checkpoints: tuple[Checkpoint, ...] = ()
    question: Question | None = None
    damaged: bool = False

    @property
    def resumes(self) -> bool:
        """Whether the run has begun before."""
        return self.run.attempt > 1 or self.run.lane == Lane.REQUEUED or len(self.checkpoints) > 0


class Completion(Struct, frozen=True, kw_only=True):
    """All that a finished run leaves: its outcome, and its own messages from its input on, closed.

    `window` and `state` are None where they did not change (a window's open end does not count as a change).
    `discarded`: the messages stay in history, flagged, and are never in the window. `question` comes with an outcome
    of `needs_input`: the last message of history is then the one whose round is open, and the session waits for the
    answer for `answer_within_s` seconds.
    """

    outcome: Outcome
    messages: list[Message]
    window: Window | None = None
    state: StateRecord | None = None
    discarded: bool = False
    question: Question | None = None
    answer_within_s: float = 0.0

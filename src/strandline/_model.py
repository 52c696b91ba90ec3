"""The values that all modules share: sessions, runs, messages, outcomes. Imports only `errors`.

All records are frozen. Times are seconds since the epoch (`*_at`), durations are seconds (`*_s`). Messages
are in the form of Strands Agents: `{"role": "user" | "assistant", "content": [block, ...]}`, where a block is
a dict with one of the keys `text`, `toolUse`, `toolResult`, `image`, ...
"""

import re
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, NewType, NotRequired, TypedDict

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from strandline.errors import Invalid

Principal = NewType("Principal", str)
SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
ScheduleId = NewType("ScheduleId", str)
FileId = NewType("FileId", str)

ANONYMOUS: Final = Principal("anonymous")
DEFAULT_SESSION: Final = SessionId("default")

_SESSION_ID: Final = re.compile(r"[A-Za-z0-9._:@-]{1,256}")


def session_id(text: str) -> SessionId:
    """Return `text` as a session id. Raises `Invalid` unless it is 1-256 of `A-Za-z0-9._:@-`, not `.` or `..`."""
    if _SESSION_ID.fullmatch(text) is None or text in (".", ".."):
        raise Invalid("session_id must be 1 to 256 characters of A-Z a-z 0-9 . _ : @ - and not '.' or '..'")
    return SessionId(text)


class SessionKey(NamedTuple):
    """A session belongs to one principal; another principal's session may have the same id."""

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
    """The status of a run. Everything after `running` is an end and never changes again."""

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
    """The lanes of a queue, in the order in which they are served. Priority counts in `NORMAL` only.

    Runs in `DELAYED` are behind all others, and do not start: each moves to `NORMAL` at its `not_before`.
    """

    REQUEUED: Final = 0
    ANSWER: Final = 1
    FRONT: Final = 2
    NORMAL: Final = 3
    DELAYED: Final = 4


DEFAULT_PRIORITY: Final = 3
HIGHEST_PRIORITY: Final = 1
LOWEST_PRIORITY: Final = 5
"""Of 1 to 5, 1 first."""


# -- how a run ended ----------------------------------------------------------------------------------


class Succeeded(Struct, frozen=True, tag="succeeded"):
    """The agent returned. `text` is the answer if its messages have none (the JSON of a structured output); `limit`: a
    limit of the agent ended the run."""

    text: str | None = None
    limit: bool = False


class Raised(Struct, frozen=True):
    """An exception of user code: the name of its class, and its text, which may quote messages and secrets."""

    kind: str
    text: str

    @property
    def is_out_of_tokens(self) -> bool:
        """Whether the model may say no more (`strands.types.exceptions`)."""
        return self.kind == "MaxTokensReachedException"


class Failed(Struct, frozen=True, tag="failed"):
    """The run did not return. `detail` says why, to callers and in history.

    The text of an exception is in `raised`, not in `detail`, until `error_text` decides how much of it is shown.
    `out_of_tokens`: the model may say no more.
    """

    code: ErrorCode
    detail: str = ""
    raised: Raised | None = None
    out_of_tokens: bool = False


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The run was cancelled; `discard`: and its messages are hidden."""

    discard: bool = False


class InputRequest(Struct, frozen=True):
    """A question to a person. `id` is unique in its session; `reason` is the value that the tool or hook gave."""

    id: str
    name: str
    reason: Any = None
    client_tool: Literal[True] | UnsetType = UNSET
    """It is a call of a tool of the run's client: `name` is the tool, `reason` its arguments, the answer its result."""


class NeedsInput(Struct, frozen=True, tag="needs_input"):
    """The agent stopped in the middle of a round, and resumes with `state` when all `requests` are answered."""

    requests: list[InputRequest]
    state: StateRecord


Ending = Succeeded | Failed | Cancelled | NeedsInput


class RunError(Struct, frozen=True, omit_defaults=True):
    """The error of a failed run, as its caller sees it. `out_of_tokens`: the model may say no more."""

    code: ErrorCode
    detail: str
    out_of_tokens: bool = False


class Outcome(Struct, frozen=True, kw_only=True):
    """How a run ended. `message` is the last assistant message of the run, if it has one."""

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
    """A message that history does not have in this form: a summary, a shortened result."""

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
    """The messages since the last checkpoint. The last one calls tools, of which none has started."""

    messages: list[Message]


class ToolDone(Struct, frozen=True, tag="tool_done"):
    """A tool of the open round ended with this toolResult."""

    tool_use_id: str
    result: ToolResult


class RoundDone(Struct, frozen=True, tag="round_done"):
    """`messages` (one user message of toolResults) close the round; `state` is the agent's state after it."""

    messages: list[Message]
    state: StateRecord | None


class JoinedInput(Struct, frozen=True, omit_defaults=True):
    """A run that joined another, what it said, as the agent reads it, and who sent it, if its request says so."""

    run_id: RunId
    input: Input
    sender: "Sender | None" = None


class RunsJoined(Struct, frozen=True, tag="runs_joined", omit_defaults=True):
    """The messages since the last checkpoint, to the last of which (the user's) these runs were added.

    `ended`: they have ended with a crashed run that this one continues.
    """

    messages: list[Message]
    runs: list[JoinedInput]
    ended: bool = False


class ToolNotDone(Struct, frozen=True, tag="tool_not_done"):
    """A tool of the open round had done nothing, as `by` has found out after a crash: it starts again."""

    tool_use_id: str
    by: str


class RunsCollected(Struct, frozen=True, tag="runs_collected", omit_defaults=True):
    """What these runs said as well is part of the run's input: they were collected when it was claimed.

    `ended` as in `RunsJoined`.
    """

    runs: list[JoinedInput]
    ended: bool = False


Checkpoint = RoundStarted | ToolDone | RoundDone | RunsJoined | ToolNotDone | RunsCollected


# -- input requests -----------------------------------------------------------------------------------


class Question(Struct, frozen=True, kw_only=True):
    """A run's question to a person, with all that it needs to resume: the open round's message, the results of its
    tools that have ended, the agent's `state`.
    """

    requests: list[InputRequest]
    message: Message
    results: dict[str, ToolResult]
    state: StateRecord

    @property
    def is_of_client(self) -> bool:
        """Whether it only calls tools of the run's client: no person is waited for."""
        return bool(self.requests) and all(each.client_tool is True for each in self.requests)


def responses(answers: dict[str, Any]) -> list[Block]:
    """Return the input, in Strands' form, of a run that answers input requests; `answers` are by their ids."""
    return [{"interruptResponse": {"interruptId": each, "response": given}} for each, given in answers.items()]


def answered(prompt: Input) -> list[str]:
    """Return the ids of the input requests that a run's input answers."""
    blocks = [] if isinstance(prompt, str) else prompt
    return [block["interruptResponse"]["interruptId"] for block in blocks if "interruptResponse" in block]


# -- runs ---------------------------------------------------------------------------------------------


class Sender(Struct, frozen=True):
    """The person or program that sent a run's input: an `id` for programs, a `name` for people."""

    id: str
    name: str


class IfBusy(StrEnum):
    """What a run does if others wait or execute in its session."""

    ENQUEUE = "enqueue"
    """Wait."""
    REJECT = "reject"
    """Be refused."""
    INTERRUPT = "interrupt"
    """Cancel what has begun, keep its messages, and run next."""
    ROLLBACK = "rollback"
    """Cancel what has begun, discard its messages, and run next."""
    STEER = "steer"
    """Join the run that executes: reach its agent before the next model call; run next if there is none."""
    COLLECT = "collect"
    """Wait, a moment also for further ones of this kind: those next to each other start together, as one turn."""


class JoinState(StrEnum):
    """Where a run that joins another stands."""

    PENDING = "pending"
    """It waits for the next model call of its host."""
    APPLIED = "applied"
    """Its message has reached the host's agent, and the host's outcome is its own."""
    BECAME_NEXT_RUN = "became_next_run"
    """Nothing executed, or no model call came any more: it is a run of its own."""


class Collect(Struct, frozen=True, kw_only=True):
    """When runs that collect start, and how many of them together.

    The first one waits for `quiet` seconds without a further one, for `max_wait` at most. At most `max_items` start
    together, with at most `max_bytes` of input as stored; the first one counts, however large it is.
    """

    quiet: float
    max_wait: float
    max_items: int
    max_bytes: int


LEAST_COLLECTED: Final = Collect(quiet=0.0, max_wait=0.0, max_items=1, max_bytes=1)
MOST_COLLECTED: Final = Collect(quiet=60.0, max_wait=600.0, max_items=100, max_bytes=1024 * 1024)


class CollectOptions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request or a session says of it; None: the service's default."""

    quiet: float | None = None
    max_wait: float | None = None
    max_items: int | None = None
    max_bytes: int | None = None


def collect_by(options: CollectOptions, defaults: Collect) -> Collect:
    """Return how a run collects, with defaults for what its options do not say."""
    given = {name: value for name in options.__struct_fields__ if (value := getattr(options, name)) is not None}
    return replace(defaults, **given)


class Collecting(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a run collects, as it was accepted: further ones of the same `sender`, or of `any`."""

    by: Collect
    sender: "Sender | None" = None
    any: bool = False

    def starts_alone(self, size: int) -> bool:
        """Return whether a run with so many bytes of input waits for no other."""
        by = self.by
        return not by.quiet or not by.max_wait or by.max_items == 1 or size >= by.max_bytes

    def takes(self, other: "Collecting") -> bool:
        """Return whether another one of its session may be part of its turn."""
        return self.any or self.sender == other.sender


class OnQuestion(StrEnum):
    """What a run does about an open question of its session, unless it interrupts or answers it."""

    WAIT = "wait"
    """Wait until it is answered or has timed out."""
    ANSWER = "answer"
    """Become the answer, if the input is a text and exactly one input request is open; else wait."""
    DISMISS = "dismiss"
    """Dismiss it, and wait only for the runs ahead."""


class OnDisconnect(StrEnum):
    """What happens to a run that has lost all its clients."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    CANCEL_IF_QUEUED = "cancel_if_queued"
    """Cancel it if it has not begun."""


INTERRUPTS: Final = frozenset({IfBusy.INTERRUPT, IfBusy.ROLLBACK})


class Keyed(Struct, frozen=True):
    """A request that may be repeated: its idempotency `key`, unique in its session, and the SHA-256 of its content.

    A key has expired if its run ended before `ended_before` (seconds since the epoch).
    """

    key: str
    fingerprint: bytes
    ended_before: float


class Firing(Struct, frozen=True, kw_only=True):
    """What a new run is of: a schedule, which moves from `at`, its next time until now, to `next_at`, with the record
    `state`, in the accept's transaction.

    If its run `before` has not ended, and waits or executes: with `replaces` it ends, if it has not begun; with
    `skipped` no run is accepted, and that is the record.
    """

    schedule_id: ScheduleId
    at: float | None
    next_at: float | None
    state: bytes
    before: RunId | None = None
    skipped: bytes | None = None
    replaces: bool = False


class Resolution(Struct, frozen=True, kw_only=True):
    """What a person found out about a crashed run: by tool use id, what each tool of unknown outcome has done.

    `tools` are checkpoints of the run that continues it: `ToolDone` or `ToolNotDone`, one for each of these tools.
    """

    run_id: RunId
    tools: tuple[ToolDone | ToolNotDone, ...]


NO_AGENT: Final = -1
"""In place of a run's sequence: no run has changed window or state yet."""
COPIED_AGENT: Final = -2
"""In place of a run's sequence: window and state are those that a session was forked with."""


class Place(Struct, frozen=True, array_like=True):
    """A place in history: after the messages before `upto` in the branch that begins with `parent`.

    `agent` is the sequence of the run that had changed window or state last by then, `NO_AGENT` if none had, None if
    that is not known any more.
    """

    parent: int
    upto: int
    agent: int | None = None


class GoBack(Struct, frozen=True, omit_defaults=True):
    """Where history continues with a run: after run `after` (None: from its beginning), or where run `again` began.

    `at` is that place, which the journal finds when it accepts the run.
    """

    after: RunId | None = None
    again: RunId | None = None
    at: Place | None = None


Carrier = dict[str, str]
"""Headers, by name, that join a run to the trace of its request. Only the tracing module reads them."""


class Webhook(Struct, frozen=True, omit_defaults=True):
    """Where events of a run or of a session are sent, and which, by their types."""

    url: str
    events: tuple[str, ...] = ("run.finished",)

    def wants(self, event: str) -> bool:
        """Return whether events of a type are sent."""
        return event in self.events


class RunWebhook(Webhook, frozen=True, omit_defaults=True):
    """The webhook of a run. `by_server`: the server's settings name it, and not the run's caller."""

    by_server: bool = False

    def of_run(self) -> "RunWebhook | None":
        """Return it with its events of runs alone; None if it has none."""
        events = tuple(each for each in self.events if each.startswith("run."))
        return replace(self, events=events) if events else None


class RunDefaults(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The run options of a session: they count for each of its runs whose request does not set them. None: not set.

    Durations are seconds.
    """

    if_busy: IfBusy | None = None
    on_question: OnQuestion | None = None
    priority: int | None = None
    timeout: float | None = None
    queue_timeout: float | None = None
    on_disconnect: OnDisconnect | None = None
    metadata: dict[str, Any] | None = None
    """Beside a request's own, whose names win."""
    sender: Sender | None = None
    webhook: Webhook | None = None
    collect: CollectOptions | None = None


RUN_OPTIONS: Final = frozenset(RunDefaults.__struct_fields__)
"""The names of all run options."""
NO_DEFAULTS: Final = RunDefaults()


OF_CLIENT: Final = "$client_options"
"""The key of a run's `ClientOptions`: in its stored metadata, which no caller sees, and in its question's state.
Callers' own names hardly begin so."""
FORMAT_TOOL: Final = "structured_answer"
"""The tool by which a model gives an answer in the form that a client wants. It does nothing else."""


class AnswerFormat(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The form of an answer that a run's client wants: one JSON object, as the JSON Schema `json_schema` says."""

    json_schema: dict[str, Any]
    name: str = ""
    description: str = ""


class ClientTool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that a run's client executes; `json_schema` is that of its arguments, an object."""

    name: str
    description: str = ""
    json_schema: dict[str, Any] = {}


class ClientOptions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the client of a run wants of its agent, beside an answer to its message."""

    format: AnswerFormat | None = None
    tools: tuple[ClientTool, ...] = ()
    must_call: str | None = None
    """The one of its tools that the model must call; "": any tool; None: it may answer without."""
    parallel: bool = True
    """Whether it takes several calls at once."""


class NewRun(Struct, frozen=True, kw_only=True):
    """A run to accept. Unless `resumable` its tools cannot be seen, so one counts as executing from its start.

    A run that interrupts (`if_busy`) is in `Lane.FRONT`, one whose input is `responses` in `Lane.ANSWER`; `on_question`
    counts in `Lane.NORMAL` only. `timeout_s` counts from the first start; `queue_deadline` (seconds since the epoch)
    ends the wait. A run with `not_before` (seconds since the epoch) is for `Lane.NORMAL`, and queues at that time.
    One with a `resolution` continues a crashed run, in `Lane.REQUEUED`.
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
    expected_run_id: RunId | None = None
    """With `IfBusy.STEER`: the only run that it may join; if that does not execute, it is refused."""
    on_question: OnQuestion = OnQuestion.WAIT
    trace: Carrier | None = None
    not_before: float | None = None
    sender: Sender | None = None
    """Who sent it, if the request says so; else the principal did."""
    joins_any: bool = False
    """Whether it may join a run of another sender."""
    collect: Collect | None = None
    """With `IfBusy.COLLECT`: how it collects; else what counts where a session has its runs collect."""
    own_options: frozenset[str] = frozenset()
    """The run options that its request sets, so that no default of its session counts."""
    fires: Firing | None = None
    resolution: Resolution | None = None
    back: GoBack | None = None
    """Where history continues with it, if not at its end."""
    expected_joined: int | None = None
    """With `GoBack.again`: how many runs must have joined that one, since its input has what these said; None: any."""
    unless_last: bool = False
    """With `GoBack.after`: it continues at the end of history if no later run of its session was accepted."""
    webhook: RunWebhook | None = None

    @property
    def dismisses(self) -> bool:
        """Whether it dismisses an open question of its session."""
        return self.if_busy in INTERRUPTS or (self.lane == Lane.NORMAL and self.on_question is OnQuestion.DISMISS)

    @property
    def may_answer(self) -> bool:
        """Whether it becomes the answer if exactly one input request is open."""
        plain = self.lane == Lane.NORMAL and isinstance(self.input, str) and self.back is None
        return plain and self.on_question is OnQuestion.ANSWER


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run as lists show it, without its input. `position` is 1 for the next to start, None unless it waits.

    `held`: it has ended, and its session waits for a thread of it that still works. `discarded`: its messages are
    flagged in history, hidden, and not in the window. `cancel_requested`: it can only end as cancelled, with `discard`
    also discarded; both keep their values after the end.

    `back` says where history continues with it, if not at its end: what came later is superseded once it starts.

    `join` says where a run that joins stands; until it has become a run of its own, `joined` is its host, which has its
    turn and will have its outcome.
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
    joined: RunId | None = None
    join: JoinState | None = None
    trace: Carrier | None = None
    not_before: float | None = None
    sender: Sender | None = None
    back: GoBack | None = None
    webhook: RunWebhook | None = None

    @property
    def delayed_until(self) -> float | None:
        """Until when it is delayed; None if it waits for its turn, or waits no longer."""
        return self.not_before if self.lane == Lane.DELAYED and self.status is RunStatus.QUEUED else None

    @property
    def waits_since(self) -> float:
        """Since when it waits for its turn: its acceptance, or its `not_before` if that is later."""
        return waits_since(self.created_at, self.not_before)

    @property
    def locks_session(self) -> bool:
        """Whether it has ended and its session is locked: another name of `held`."""
        return self.held

    @property
    def deadline(self) -> float | None:
        """When it times out, in seconds since the epoch: `timeout_s` after its first start."""
        if self.timeout_s is None or self.started_at is None:
            return None
        return self.started_at + self.timeout_s


def waits_since(created_at: float, not_before: float | None) -> float:
    """Return since when a run waits for its turn: its acceptance, or its `not_before` if that is later."""
    return created_at if not_before is None else max(created_at, not_before)


class Run(RunSummary, frozen=True, kw_only=True):
    """A run as stored, with its input."""

    input: Input

    def summary(self) -> RunSummary:
        """Return the run without its input."""
        return RunSummary(**{name: getattr(self, name) for name in RunSummary.__struct_fields__})


class ForkedFrom(Struct, frozen=True, kw_only=True):
    """Where a session comes from that begins with the history of another one: up to which of its runs.

    `run_id` is None if that run is deleted, or if there was none.
    """

    session_id: SessionId
    run_id: RunId | None


class SessionView(Struct, frozen=True, kw_only=True):
    """A session as stored: how many messages its history has, how many runs wait, which one is claimed.

    `held`: the claimed run has ended, and a thread or task of it still works. While the session waits for input,
    `input_requests` are the open ones, and only an answer starts before `input_until`. `options` are defaults of its
    runs. `branch` is the message with which the last branch of its history begins, None if that is one line.
    `forked_from` says which session it begins with, if with one.
    """

    key: SessionKey
    messages: int
    waiting: int
    claimed: RunId | None
    held: bool
    paused: bool = False
    input_requests: list[InputRequest] = []
    input_until: float | None = None
    options: RunDefaults = NO_DEFAULTS
    branch: int | None = None
    forked_from: ForkedFrom | None = None

    @property
    def locked_by(self) -> RunId | None:
        """The ended run that locks it, because a thread or task of it still works."""
        return self.claimed if self.held else None


class FencingToken(NamedTuple):
    """The right to write for one claimed run. A larger fence for the same run makes it stale."""

    run_id: RunId
    fence: int


class Claim(Struct, frozen=True, kw_only=True):
    """The exclusive right to execute `run`, with the checkpoints of earlier attempts and the question it answers.

    A `damaged` run could not be read in full: end it, do not execute it.
    """

    token: FencingToken
    run: Run
    checkpoints: tuple[Checkpoint, ...] = ()
    question: Question | None = None
    damaged: bool = False

    @property
    def resumes(self) -> bool:
        """Whether the run has begun before."""
        return self.run.attempt > 1 or self.run.lane == Lane.REQUEUED or self.has_progress

    @property
    def has_progress(self) -> bool:
        """Whether earlier attempts have left checkpoints."""
        return bool(self.checkpoints) and any(not isinstance(each, RunsCollected) for each in self.checkpoints)

    @property
    def collected(self) -> list[JoinedInput]:
        """The runs that were collected into its run, and end with it."""
        found = (each for each in self.checkpoints if isinstance(each, RunsCollected) and not each.ended)
        return [run for each in found for run in each.runs]


class Completion(Struct, frozen=True, kw_only=True):
    """What a finished run leaves: its outcome, and its own messages from its input on, closed.

    `window` and `state` are None where they did not change (a window's open end does not count as a change).
    `discarded`: the messages stay in history, flagged, and are never in the window. `question` comes with an outcome of
    `needs_input`: the round of the last message is then open, and the session waits `answer_within_s` seconds for the
    answer. `joined` are the runs that joined and whose messages are among these: the outcome is theirs, too.
    `unresolved`: a tool's outcome is unknown and a person may find out, so the run's checkpoints stay until history
    continues.
    """

    outcome: Outcome
    messages: list[Message]
    window: Window | None = None
    state: StateRecord | None = None
    discarded: bool = False
    question: Question | None = None
    answer_within_s: float = 0.0
    joined: tuple[RunId, ...] = ()
    unresolved: bool = False

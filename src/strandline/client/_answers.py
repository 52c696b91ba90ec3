"""The answers of servers as values, and the errors that they mean. Fields that a newer server adds are ignored."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import Struct

from strandline._encoding import decoder
from strandline._model import Block, InputRequest, Message, RunStatus, Sender, Webhook
from strandline.client._errors import ClientError, Conflict, NotFound, NotNow, NotStrandline, Refused, Unauthorized

T = TypeVar("T")

OK: Final = 200
NO_CONTENT: Final = 204
FIRST_ERROR: Final = 300
UNAUTHORIZED: Final = 401
NOT_FOUND: Final = 404
CONFLICT: Final = 409
OUTDATED: Final = 412
FOR_NOW: Final = frozenset({429, 502, 503, 504})
"""Refused for now: by the server, or by a proxy that cannot reach it."""
LONGEST_RETRY_S: Final = 300.0
ENDED: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.NEEDS_INPUT})


@dataclass(frozen=True, slots=True)
class Reply:
    """A raw answer, with lower-case header names. A stream has no body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Problem(Struct, frozen=True):
    """Why a run failed."""

    code: str
    detail: str


class Why(Struct, frozen=True):
    """Why a run waits: a code for programs (`paused`, `behind`, ...), and a text for people."""

    code: str
    text: str


class Effect(Struct, frozen=True):
    """A tool of a superseded run that has acted, or perhaps."""

    run_id: str | None
    tool_use_id: str
    name: str


class Restored(Struct, frozen=True, kw_only=True):
    """A session that continues with what was superseded. `changed`: False if it did before.

    `superseded` are the runs that are superseded now; `effects` their tools that have acted, None if they cannot be
    seen. `agent_state` is `forgotten` if context window and state as they were then are not kept any more.
    """

    session_id: str
    changed: bool
    superseded: list[str] = []
    effects: list[Effect] | None = []
    agent_state: str = "restored"


class ForkedFrom(Struct, frozen=True, kw_only=True):
    """The session whose history another one began with, and the last run of that, None if it is not kept."""

    session_id: str
    run_id: str | None = None


class Fork(Struct, frozen=True, kw_only=True):
    """A session that begins with the first `messages` messages of another one.

    `agent_state` is `forgotten` if context window and state as they were there are not kept any more. `workspace` is
    `copied` if that was wanted, or `kept` if there was one already for a session of this id.
    """

    session_id: str
    forked_from: ForkedFrom
    messages: int
    agent_state: str = "restored"
    workspace: str | None = None


class Branch(Struct, frozen=True, kw_only=True):
    """A branch of a session's history: `messages` messages from index `start` on, which names it.

    It continues branch `parent` after message `after`; its messages from `superseded_from` on are superseded.
    """

    start: int
    messages: int
    parent: int | None = None
    after: int | None = None
    after_run_id: str | None = None
    first_run_id: str | None = None
    last_run_id: str | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None
    superseded: bool = False
    superseded_from: int | None = None


class ForkOf(Struct, frozen=True, kw_only=True):
    """A session that began with the first `messages` messages of another one, up to one of its `branch`."""

    session_id: str
    run_id: str | None
    messages: int
    branch: int = 0


class Tree(Struct, frozen=True, kw_only=True):
    """The branches of a session, and the sessions that were forked from it. `truncated`: there are more."""

    session_id: str
    messages: int
    branches: list[Branch]
    forks: list[ForkOf]
    forked_from: ForkedFrom | None = None
    truncated: bool = False


class Run(Struct, frozen=True, kw_only=True):
    """A run. `output` is the text of its answer; `status` is one of `RunStatus`.

    Of a run that goes back, `after` is the run after which the conversation continues, or `again` the one that it
    replaces; `superseded`, `effects` and `agent_state` are as in `Restored`.

    Of a run that steers, `join` is `pending`, `applied` or `became_next_run`, and `joined` the run that it joins.
    """

    run_id: str
    session_id: str
    status: str
    phase: str | None = None
    attempt: int = 0
    joined: str | None = None
    join: str | None = None
    position: int | None = None
    estimated_wait_s: float | None = None
    why: Why | None = None
    created_at: datetime | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    output: str = ""
    message: Message | None = None
    error: Problem | None = None
    input_requests: list[InputRequest] = []
    usage: dict[str, int] | None = None
    held: bool = False
    cancel_requested: bool = False
    metadata: dict[str, Any] = {}
    sender: Sender | None = None
    after: str | None = None
    again: str | None = None
    superseded: list[str] = []
    effects: list[Effect] | None = []
    agent_state: str | None = None
    webhook: Webhook | None = None

    @property
    def ended(self) -> bool:
        """Whether the run has ended, and changes no more."""
        return self.status in ENDED

    @property
    def locks_session(self) -> bool:
        """Whether the run has ended and its session is locked, because a tool of it still executes."""
        return self.held

    @property
    def ok(self) -> bool:
        """Whether the run has succeeded."""
        return self.status == RunStatus.SUCCEEDED


class RunsPage(Struct, frozen=True):
    """A page of runs."""

    runs: list[Run]
    next_cursor: str | None = None


class Session(Struct, frozen=True, kw_only=True):
    """A session. `queue_depth` is how many runs wait, `running` the run that executes, `locked_by` the ended run of
    which a tool still executes. `why` it starts no runs is None if it is idle or only executes. `caller` is shown to
    operators only."""

    session_id: str
    messages: int
    queue_depth: int
    running: str | None = None
    locked_by: str | None = None
    paused: bool = False
    input_requests: list[InputRequest] = []
    input_until: datetime | None = None
    why: Why | None = None
    options: dict[str, Any] = {}
    forked_from: ForkedFrom | None = None
    caller: str | None = None


class SessionsPage(Struct, frozen=True):
    """A page of sessions."""

    sessions: list[Session]
    next_cursor: str | None = None


class CancelledRuns(Struct, frozen=True):
    """What cancelling the runs of a session has done: those that are cancelled, those that were asked to stop, and
    whether its question was dismissed."""

    cancelled: list[str]
    cancelling: list[str]
    dismissed: bool = False


class Delivery(Struct, frozen=True, kw_only=True):
    """An event that waits to be sent to a webhook, or is dead: its `status`. `error` is why the last attempt failed."""

    id: str
    type: str
    status: str
    run_id: str | None = None
    session_id: str
    url: str | None = None
    created_at: datetime | None = None
    next_at: datetime | None = None
    attempts: int = 0
    error: str | None = None


class DeliveriesPage(Struct, frozen=True):
    """A page of events."""

    webhooks: list[Delivery]
    next_cursor: str | None = None


class WebhookTest(Struct, frozen=True, kw_only=True):
    """Whether a test was received, and what the receiver answered."""

    id: str
    received: bool
    detail: str = ""


class Token(Struct, frozen=True, kw_only=True):
    """A token for web pages: what they send in place of a key until it expires, and what it allows."""

    token: str
    expires_at: datetime
    sessions: list[str]
    routes: list[str]
    origin: str | None = None
    run_id: str | None = None


class Schedule(Struct, frozen=True, kw_only=True):
    """A schedule. `next` are its next times, none while it is `paused` or once it is over."""

    schedule_id: str
    session_id: str
    input: str | list[Block]
    cron: str | None = None
    every: float | None = None
    at: datetime | None = None
    timezone: str = "UTC"
    overlap: str = "enqueue"
    missed: str = "once"
    paused: bool = False
    next: list[datetime] = []
    last_at: datetime | None = None
    last_run: str | None = None
    last_error: str | None = None
    missed_count: int = 0
    metadata: dict[str, Any] = {}
    sender: Sender | None = None
    webhook: Webhook | None = None


class SchedulesPage(Struct, frozen=True):
    """A page of schedules."""

    schedules: list[Schedule]
    next_cursor: str | None = None


class File(Struct, frozen=True, kw_only=True):
    """A file of a session. `media_type` is what its content says; `named`: a run names it, so that it is kept."""

    file_id: str
    session_id: str
    name: str
    media_type: str
    size: int
    sha256: str
    named: bool = False
    created_at: datetime | None = None


class FilesPage(Struct, frozen=True):
    """A page of files."""

    files: list[File]
    next_cursor: str | None = None


class HistoryMessage(TypedDict):
    """A message of history. `discarded`, `superseded`: hidden from the agent; `pending`: its tools have no results yet.

    `index` is its place in the whole history; `run_id` the run that left it, None if that is deleted, or if the message
    closes a dismissed question; `sender` who said it, if that is known. Older servers send none of them.
    """

    role: str
    content: list[Block]
    discarded: bool
    pending: bool
    index: NotRequired[int]
    run_id: NotRequired[str | None]
    sender: NotRequired[Sender | None]
    superseded: NotRequired[bool]


class OpenTool(TypedDict):
    """A tool call of a crashed run whose outcome is unknown."""

    tool_use_id: str
    name: str
    input: Any


class OpenTools(Struct, frozen=True):
    """The tool calls of a crashed run whose outcome is unknown."""

    tools: list[OpenTool]


class HistoryPage(Struct, frozen=True):
    """A page of history, oldest message first; the next page has older messages."""

    messages: list[HistoryMessage]
    next_cursor: str | None = None


class _Refusal(Struct, frozen=True):
    code: str = ""
    detail: str = ""


_refusal: Final = msgspec.json.Decoder(_Refusal).decode
_object: Final = msgspec.json.Decoder(dict[str, Any]).decode
run: Final = decoder(Run)
runs_page: Final = decoder(RunsPage)
session: Final = decoder(Session)
sessions_page: Final = decoder(SessionsPage)
cancelled_runs: Final = decoder(CancelledRuns)
restored: Final = decoder(Restored)
fork: Final = decoder(Fork)
tree: Final = decoder(Tree)
open_tools: Final = decoder(OpenTools)
history_page: Final = decoder(HistoryPage)
schedule: Final = decoder(Schedule)
schedules_page: Final = decoder(SchedulesPage)
file: Final = decoder(File)
files_page: Final = decoder(FilesPage)
deliveries_page: Final = decoder(DeliveriesPage)
webhook_test: Final = decoder(WebhookTest)
token: Final = decoder(Token)


def read(reply: Reply, decode: Callable[[bytes], T]) -> T:
    """Return the decoded body of an answer. Raises `NotStrandline`."""
    try:
        return decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotStrandline(f"its answer is not one of a Strandline server: {error}", status=reply.status) from None


def json_object(reply: Reply) -> dict[str, Any]:
    """Return the JSON object of an answer, an empty one if it has no body. Raises `NotStrandline`."""
    return {} if reply.status == NO_CONTENT else read(reply, _object)


def failure(reply: Reply) -> ClientError:
    """Return the error that an answer means."""
    try:
        refusal = _refusal(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        refusal = _Refusal()
    kind: type[Refused] = Refused
    retry_after_s: float | None = None
    if reply.status in FOR_NOW:
        kind, retry_after_s = NotNow, _retry_after_s(reply)
    elif reply.status == UNAUTHORIZED:
        kind = Unauthorized
    elif reply.status == NOT_FOUND:
        kind = NotFound
    elif reply.status in (CONFLICT, OUTDATED):
        kind = Conflict
    detail = refusal.detail or f"the server says {reply.status}"
    return kind(detail, code=refusal.code, status=reply.status, retry_after_s=retry_after_s)


def _retry_after_s(reply: Reply) -> float:
    try:
        seconds = float(reply.headers.get("retry-after", "1"))
    except ValueError:
        return 1.0
    return 1.0 if math.isnan(seconds) else min(max(seconds, 0.1), LONGEST_RETRY_S)

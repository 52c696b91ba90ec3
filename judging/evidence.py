"""The record that is judged: what clients sent and received, what user code did, what is stored in the end.

*Places* order what was seen: a position in a record, or nanoseconds of a clock that all processes share; -1 is unknown.
*Seconds* are the server's clock; None where it is unknown, or where that clock was set and cannot be compared.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from strandline._model import INTERRUPTS

Session = Any
"""What names a session: anything that can be compared and be a key."""
ENDED = frozenset({"succeeded", "failed", "cancelled", "needs_input"})


class Limits(Struct, frozen=True, kw_only=True):
    """What the servers were configured with, and how exactly it can be seen that they followed it."""

    max_attempts: int
    cancel_grace_s: float
    input_timeout_s: float
    key_retention_s: float
    soon_s: float
    """By how much two readings of a clock may differ that count as the same instant."""
    slack_s: float
    """How much later than promised a server that lives may cancel a run."""
    drain_s: float
    """For how long before its end a server that stops forgets which clients have left; with several servers, for how
    long after a strike nobody may know it."""
    noticed_s: float
    """How much earlier than its client's clock says a server may have seen it leave."""
    late_s: float
    """How much later than promised a run may end, or start: a server may be dead, or its disk slow."""
    undisturbed_s: float
    """The same for a run that nothing interrupted."""
    closed_s: float
    """By how much the time for which a session was closed may be misjudged."""


class Gathering(Struct, frozen=True, kw_only=True):
    """How a run that collects does: for `quiet_s` without a further one, `max_wait_s` at most, `max_items` together."""

    quiet_s: float
    max_wait_s: float
    max_items: int


class Request(Struct, frozen=True, kw_only=True):
    """A request for a run, as its client sent it, perhaps more than once; `sent` and `sent_s` are before the first."""

    name: str
    session: Session
    sent: int
    sent_s: float = 0.0
    key: str | None = None
    if_busy: str = "enqueue"
    expected: str | None = None
    """The only run that it may join."""
    sender: str | None = None
    gathers: Gathering | None = None
    """How it collects; None if it does not, or nobody knows."""
    priority: int = 3
    on_disconnect: str = "continue"
    on_question: str = "wait"
    answers: tuple[str, ...] = ()
    """The input requests that it answers."""
    by_text: bool = False
    """Whether its client did not name them: the server took its text for the answer."""
    resent: bool = False
    """Whether what is known of its run may be of an earlier one, deleted since."""
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    not_before_s: float | None = None
    """Until when it is delayed."""
    after: str | None = None
    """The run after which the conversation is to continue; "": it is to begin anew."""
    again: str | None = None
    """The run that it is to replace."""
    resolves: str | None = None
    """The crashed run that it is to continue."""

    @property
    def goes_back(self) -> bool:
        """Whether the conversation is to continue from an earlier place."""
        return self.after is not None or self.again is not None

    @property
    def must_not_wait(self) -> bool:
        """Whether it is to be refused rather than wait."""
        return self.if_busy == "reject"

    @property
    def interrupts(self) -> bool:
        """Whether it cancels what has begun."""
        return self.if_busy in INTERRUPTS

    @property
    def dismisses(self) -> bool:
        """Whether it ends what its session waits to be answered."""
        return self.interrupts or self.on_question == "dismiss"


class End(Struct, frozen=True, order=True):
    """How a run ended: `kind` is a status, or the code of an error."""

    kind: str
    text: str


class Move(Struct, frozen=True, kw_only=True):
    """A move of a run, to a `priority` or (None) to the front. Nobody knows if it was made if `answered_s` is -1."""

    sent_s: float
    answered_s: float = -1.0
    priority: int | None


class Run(Struct, kw_only=True, eq=False):
    """A run that is stored in the end."""

    id: str
    request: Request
    session: Session
    sequence: int
    status: str
    end: End | None
    attempts: int
    priority: int
    started: bool
    created_s: float | None = None
    started_s: float | None = None
    ended_s: float | None = None
    accepted: int = -1
    """When its acceptance was known for sure."""
    accepted_s: float | None = None
    """When it was accepted at the latest, for sure; None: nobody knows."""
    left_s: Sequence[float] = ()
    """When clients left that waited for it."""
    moves: Sequence[Move] = ()
    rolled_back: bool | None = None
    """Whether what it left is hidden; None if nothing shows it."""
    waits_alone: bool = True
    """Whether nobody but its first client has waited for it."""
    resumed_s: float | None = None
    """When its last attempt began, if that is seen."""
    was_cut_off: bool = False
    """Whether its last attempt was cut off: the next server then says when it ends."""
    closed_s: tuple[float, float] | None = (0.0, 0.0)
    """For how many seconds of its wait its session was closed, so that time stood still: at least and at most. None:
    nobody knows."""
    can_resume: bool | None = None
    """Whether it could resume after its last attempt, for all that its tools may have done; None: nobody knows."""
    parts: int | None = None
    """How many parts of history are its own; None if what it left is part of another run's."""
    join: str = ""
    """Where a run that joins stands: `pending`, `applied` or `became_next_run`."""
    host: str | None = None
    """The run that it joins."""
    has_checkpoints: bool = True
    """Whether anything that it did was stored for sure before it ended."""

    @property
    def has_turn(self) -> bool:
        """Whether it is a run of its own: it executes, or would, and not the run that it has joined."""
        return self.join != "applied"

    @property
    def waits_since_s(self) -> float | None:
        """Since when its time to wait counts."""
        return None if self.created_s is None else max(self.created_s, self.request.not_before_s or self.created_s)

    @property
    def label(self) -> str:
        """Its id and the name of its request, for messages."""
        return f"{self.id} ({self.request.name})"

    @property
    def kind(self) -> str:
        """How it ended, '' if it has not."""
        return self.end.kind if self.end is not None else ""


class Cancel(Struct, frozen=True, kw_only=True):
    """A cancel of a run. `accepted`: the run has to end as cancelled; `unknown`: its client had no answer."""

    run_id: str
    result: Literal["accepted", "withdrawn", "too_late", "unknown"]
    force: bool = False
    answered_s: float = -1.0


class Sweep(Struct, frozen=True, kw_only=True):
    """A cancel of a session. Nobody knows whether it was carried out if `answered` is -1."""

    session: Session
    running: bool
    force: bool
    sent: int
    sent_s: float = 0.0
    answered: int = -1
    answered_s: float = -1.0
    stopped: tuple[str, ...] = ()
    """The runs that it says it has ended, or has begun to end."""


class Pause(Struct, frozen=True, kw_only=True):
    """A session that was paused for sure between two seconds."""

    session: Session
    since_s: float
    until_s: float


class Deletion(Struct, frozen=True, kw_only=True):
    """A deletion of a session. Nobody knows whether it was carried out if `answered` is -1."""

    session: Session
    sent: int
    answered: int = -1
    is_certain: bool = True


class Question(Struct, frozen=True, kw_only=True):
    """The input requests that a run ended with. From each of the seconds `closed_s` on it may have been given up."""

    run: Run
    requests: frozenset[str]
    closed_s: Sequence[float] = ()


class ToolStarts(Struct, frozen=True, kw_only=True):
    """How often one tool call was started."""

    run_id: str
    tool: str
    times: int
    idempotent: bool


class Work(Struct, frozen=True, kw_only=True):
    """Something of an attempt that worked from one place to another."""

    run_id: str
    unit: Hashable
    """The attempt, or whatever else may do several things at once."""
    began: int
    ended: int
    began_s: float = 0.0
    free_from_s: float = float("inf")
    """When its session may have been free in spite of it: by force, or when it had been held for long enough."""


class View(Struct, frozen=True, kw_only=True):
    """A history as it was shown at a place: is it the beginning of what is shown in the end?"""

    session: Session
    place: int
    count: int
    is_beginning: bool


class History(Struct, frozen=True, kw_only=True):
    """The messages of a session, as they were shown. `requests_input`: the tools that ask a person."""

    session: Session
    messages: Sequence[Any]
    requests_input: frozenset[str]
    pending: bool | None = None
    """Whether the end was shown as open; None: it was not said."""


class Joined(Struct, frozen=True, kw_only=True):
    """The runs whose messages stand with those of a run that they have joined, in their order there, by id."""

    host: str
    runs: Sequence[str]


class Event(Struct, frozen=True, kw_only=True):
    """An event of a run as a client received it; `number` is None if no client can resume after it."""

    kind: str
    number: int | None = None
    text: str = ""
    messages: Sequence[Any] = ()
    """The message that is added, or those that a run which resumes begins with, or what a run says that joins."""
    tool: str = ""
    joining: str = ""
    """The run that joins."""
    end: End | None = None


class Stream(Struct, frozen=True, kw_only=True):
    """What one client received of a run, from its beginning on, over all its connections.

    `is_whole`: the client has followed it to its end. `history` are the messages that the run left, None if nobody
    knows which these are.
    """

    run_id: str
    events: Sequence[Event]
    is_whole: bool
    history: Sequence[Any] | None = None


class FeedEvent(Struct, frozen=True, kw_only=True):
    """An event of all runs as a client received it. `numbers` are those of its id, by server; none if it has no id.

    Of a gap `servers` are those whose events are lost.
    """

    kind: str
    numbers: dict[int, int] = {}
    run_id: str = ""
    servers: frozenset[int] = frozenset()


class Feed(Struct, frozen=True, kw_only=True):
    """What one client received of all runs between two places, over all its connections."""

    name: str
    began: int
    ended: int
    events: Sequence[FeedEvent]


class StoredEnd(Struct, frozen=True, kw_only=True):
    """Which server stored the end of a run, and where; they are in the order in which they were stored."""

    run_id: str
    server: int
    place: int


class Delivery(Struct, frozen=True, kw_only=True):
    """An event that a webhook received, each time that it came. `content` is the same for the same body only.

    `status` and `end` are those that it says its run has. An event of a session has no run.
    """

    id: str
    kind: str
    run_id: str
    session: Session
    content: bytes
    status: str = ""
    end: End | None = None
    is_signed: bool = True


class SessionEvents(Struct, frozen=True, kw_only=True):
    """How often a webhook has to be sent one kind of event of a session: as often as that was done for sure, and not
    oftener than it was tried."""

    session: Session
    kind: str
    least: int
    most: int


class Evidence(Struct, kw_only=True):
    """All that is known from outside."""

    limits: Limits
    requests: dict[str, Request]
    runs: dict[str, Run]
    acknowledged: dict[str, str]
    """By run id: how it was known to be accepted."""
    name_of: dict[str, str]
    """By run id: its request."""
    missing: frozenset[str]
    """The ids of acknowledged runs that a server did not know."""
    refused: frozenset[str]
    """The names of requests that were refused for sure."""
    happened: frozenset[str]
    """The names of requests of which something was seen that only a run can do."""
    became: frozenset[tuple[str, str]]
    """Each request with a run that a server gave as its own."""
    reported: dict[str, set[End]]
    """By run id: every end that a client received."""
    cancels: list[Cancel]
    sweeps: list[Sweep]
    pauses: list[Pause]
    deletions: list[Deletion]
    questions: list[Question]
    refused_answers: list[tuple[str, str]]
    """The names of requests that answer, each with the code with which it was refused."""
    executed: dict[Session, list[Run]]
    """By session: its runs in the order in which they executed, as far as that is seen."""
    tools: list[ToolStarts]
    work: dict[Session, list[Work]]
    views: list[View]
    histories: list[History]
    strangers: list[tuple[Session, str]]
    """Parts of a history that no stored run has left, each with what it begins with."""
    interruptions: list[float]
    """When servers ended, or something else happened that takes its time; in seconds."""
    joined: list[Joined] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    stored_ends: list[StoredEnd] = field(default_factory=list)
    """As far as it is known who stored them."""
    deliveries: list[Delivery] = field(default_factory=list)
    hooked: frozenset[str] = frozenset()
    """The ids of runs whose ends a webhook must have received."""
    session_events: list[SessionEvents] = field(default_factory=list)
    """Of sessions whose events go to a webhook."""
    gone: frozenset[str] = frozenset()
    """The names of requests whose run may have been deleted."""
    by_session: dict[Session, list[Run]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for run in sorted(self.runs.values(), key=lambda run: run.sequence):
            self.by_session.setdefault(run.session, []).append(run)
        self.gone = frozenset(name for name, request in self.requests.items() if self._may_be_deleted(request))

    def _may_be_deleted(self, request: Request) -> bool:
        return any(
            each.session == request.session and (each.answered < 0 or request.sent < each.answered)
            for each in self.deletions
        )

    def is_gone(self, run_id: str) -> bool:
        """Return whether a run may have been deleted with its session."""
        return self.name_of.get(run_id) in self.gone

    def is_deleted(self, session: Session) -> bool:
        """Return whether a session may have been deleted."""
        return any(each.session == session for each in self.deletions)

    def answers_to(self, question: Question) -> list[Run]:
        """Return the stored runs that answer any part of a question."""
        runs = self.by_session.get(question.run.session, ())
        return [run for run in runs if not question.requests.isdisjoint(run.request.answers)]

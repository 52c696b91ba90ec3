"""Runs and sessions as the memory journal stores them. What is kept encoded is decoded for each reader."""

from collections.abc import Callable
from typing import Any, Final

from strandline.encoding import decoder
from strandline.journal.changes import AddQuestion, AddRun, ChangeRun, EndRun, SessionRef
from strandline.journal.port import PASSED_OVER, Standing, Waiting
from strandline.journal.rules import Closed, Rank, spans
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Carrier,
    Fact,
    Inline,
    Input,
    Message,
    Outcome,
    Question,
    Run,
    RunStatus,
    RunSummary,
    StateRecord,
    Window,
)

_input: Final[Callable[[bytes], Input]] = decoder(Input)
_metadata: Final = decoder(dict[str, Any])
_trace: Final[Callable[[bytes], Carrier]] = decoder(Carrier)
_fact: Final[Callable[[bytes], Fact]] = decoder(Fact)
_message: Final = decoder(Message)
_outcome: Final = decoder(Outcome)
_question: Final = decoder(Question)
_state: Final = decoder(StateRecord)
_window: Final = decoder(Window)


class KeptRun:
    """A run as it stands; `fence` is None unless it is claimed. One that has ended and is claimed is held."""

    __slots__ = (
        "attempt",
        "body",
        "cancel_requested",
        "created_at",
        "discard",
        "discarded",
        "ended_at",
        "facts",
        "fence",
        "if_busy",
        "keyed",
        "lane",
        "moved",
        "opaque",
        "outcome",
        "priority",
        "queue_deadline",
        "run_id",
        "seq",
        "session",
        "started_at",
        "status",
        "timeout_s",
        "urgency",
    )

    def __init__(self, added: AddRun) -> None:
        new = added.new
        self.session = added.session
        self.seq = added.seq
        self.body = added.body
        self.run_id = new.run_id
        self.keyed = new.keyed
        self.opaque, self.timeout_s, self.if_busy = new.opaque, new.timeout_s, new.if_busy
        self.created_at = new.created_at
        self.lane = new.lane
        self.priority = new.priority
        """The one that it was accepted with."""
        self.urgency = added.urgency
        self.moved: int | None = None
        self.status = RunStatus.QUEUED if added.fence is None else RunStatus.RUNNING
        self.attempt = 0 if added.fence is None else 1
        self.fence = added.fence
        self.started_at = added.started_at
        self.queue_deadline = added.queue_deadline
        self.facts: list[bytes] = []
        self.ended_at: float | None = None
        self.outcome: bytes | None = None
        self.cancel_requested = False
        self.discard = False
        self.discarded = False

    def change(self, row: ChangeRun) -> None:
        """Take what has changed."""
        self.lane, self.urgency, self.moved, self.attempt = row.lane, row.urgency, row.moved, row.attempt
        self.fence, self.started_at, self.queue_deadline = row.fence, row.started_at, row.queue_deadline
        self.cancel_requested, self.discard = row.cancel_requested, row.discard
        self.status = RunStatus.QUEUED if row.fence is None else RunStatus.RUNNING

    def end(self, row: EndRun) -> None:
        """Take its end."""
        self.status, self.outcome, self.ended_at = row.status, row.outcome, row.ended_at
        self.fence, self.discarded = row.fence, row.discarded

    @property
    def held(self) -> bool:
        """Whether it has ended and its claim stays."""
        return self.fence is not None and self.ended_at is not None

    @property
    def rank(self) -> Rank:
        """Where it stands among the waiting runs of its session."""
        return (self.lane, self.urgency, self.seq)

    def waiting(self, *, paused: bool) -> Waiting:
        """Return what the queues need of it."""
        return Waiting(self.run_id, self.session.key, self.seq, self.created_at, self.queue_deadline, paused)

    def staged(self) -> tuple[Fact, ...]:
        """Return what is staged of it."""
        return tuple(_fact(each) for each in self.facts)

    @property
    def listed_bytes(self) -> int:
        """How many bytes of a page of runs it takes."""
        outcome = 0 if self.outcome is None else len(self.outcome)
        return len(self.body.metadata or b"") + outcome + len(self.body.prompt) // PASSED_OVER

    def shown(self, position: int | None) -> Run:
        """Return it as the port shows it; `position` is None unless it waits."""
        return Run(input=_input(self.body.prompt), **self._fields(position))

    def summary(self, position: int | None) -> RunSummary:
        """Return it as lists show it."""
        return RunSummary(**self._fields(position))

    def _fields(self, position: int | None) -> dict[str, Any]:
        body = self.body
        return {
            "run_id": self.run_id,
            "key": self.session.key,
            "lane": self.lane,
            "priority": self.priority if self.moved is None else self.moved,
            "opaque": self.opaque,
            "metadata": {} if body.metadata is None else _metadata(body.metadata),
            "sequence": self.seq,
            "status": self.status,
            "attempt": self.attempt,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "timeout_s": self.timeout_s,
            "queue_deadline": self.queue_deadline,
            "position": position,
            "outcome": None if self.outcome is None else _outcome(self.outcome),
            "held": self.held,
            "discarded": self.discarded,
            "cancel_requested": self.cancel_requested,
            "discard": self.discard,
            "if_busy": self.if_busy,
            "trace": None if body.trace is None else _trace(body.trace),
        }


class KeptQuestion:
    """The open round that a run has left, until when an answer is waited for, and the run that answers, if any."""

    __slots__ = ("answer", "encoded", "run", "until")

    def __init__(self, row: AddQuestion) -> None:
        self.encoded = row.question
        self.run = row.run
        self.until = row.until
        self.answer: int | None = None

    def decoded(self) -> Question:
        """Return the question."""
        return _question(self.encoded)


class KeptSession:
    """One conversation: its history, what its agent is rebuilt from, and which runs it has."""

    __slots__ = (
        "claimed",
        "closed",
        "closed_since",
        "discarded",
        "ended",
        "history",
        "keys",
        "last",
        "paused",
        "question",
        "ref",
        "rests_since",
        "rows",
        "runs",
        "state",
        "waiting",
        "window",
    )

    def __init__(self, ref: SessionRef) -> None:
        self.ref = ref
        self.paused = False
        self.closed_since: float | None = None
        self.rests_since: float | None = None
        self.last: int | None = None
        """The number of its last row of history."""
        self.rows = 0
        self.history: list[bytes] = []
        self.discarded: set[int] = set()
        """The indices of those messages that discarded runs have left."""
        self.window: bytes | None = None
        self.state: bytes | None = None
        self.runs: dict[int, KeptRun] = {}
        """All that are kept, by sequence."""
        self.waiting: dict[int, KeptRun] = {}
        self.claimed: KeptRun | None = None
        self.ended: list[int] = []
        """All that have ended, in that order; some may be forgotten by now."""
        self.keys: dict[str, KeptRun] = {}
        """The run that each idempotency key stands for."""
        self.question: KeptQuestion | None = None
        self.closed: dict[str, tuple[int, Closed]] = {}
        """What became of input requests that are not open any more, and which run had asked them."""

    @property
    def open_question(self) -> KeptQuestion | None:
        """The question that the session waits to be answered."""
        return self.question if self.question is not None and self.question.answer is None else None

    @property
    def stored(self) -> int:
        """How many bytes of it are kept besides its runs and history."""
        return len(self.window or b"") + len(self.state or b"")

    def in_order(self) -> list[KeptRun]:
        """Return the waiting runs, the next one first."""
        return sorted(self.waiting.values(), key=lambda run: run.rank)

    def rests_since_before(self, before: float) -> bool:
        """Tell whether nothing goes on in it, nothing is open, and its last run had ended before that moment."""
        goes_on = self.claimed is not None or self.waiting or self.paused or self.question is not None
        return not goes_on and self.rests_since is not None and self.rests_since < before

    def forget(self, run: KeptRun) -> None:
        """Forget a run that has ended, and its key; not what it has left in history."""
        del self.runs[run.seq]
        self.closed = {each: known for each, known in self.closed.items() if known[0] != run.seq}
        self.forget_key(run)

    def forget_key(self, run: KeptRun) -> None:
        """Forget the idempotency key of a run."""
        if run.keyed is not None and self.keys.get(run.keyed.key) is run:
            del self.keys[run.keyed.key]

    def indices(self, start: int, end: int, *, discarded: bool) -> list[int]:
        """Return the indices from `start` to `end` of what is to be seen, those of discarded runs only if wanted."""
        return [index for index in range(start, end) if discarded or index not in self.discarded]

    def messages(self, start: int, end: int, *, discarded: bool) -> list[Message]:
        """Return messages `start` to `end` of history, those of discarded runs only if wanted."""
        return [_message(self.history[index]) for index in self.indices(start, end, discarded=discarded)]

    def standing(self) -> Standing:
        """Return window and state."""
        window = WHOLE_HISTORY if self.window is None else _window(self.window)
        return Standing(window, None if self.state is None else _state(self.state))

    def record(self) -> AgentRecord:
        """Return what an agent is rebuilt from."""
        standing = self.standing()
        messages: list[Message] = []
        origins: list[int | None] = []
        for span in spans(standing.window, len(self.history)):
            if isinstance(span, Inline):
                messages.append(span.message)
                origins.append(None)
            else:
                messages += self.messages(*span, discarded=False)
                origins += self.indices(*span, discarded=False)
        return AgentRecord(
            messages=messages,
            origins=origins,
            window=standing.window,
            length=len(self.history),
            state=standing.state,
        )

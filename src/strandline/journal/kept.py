"""What the memory journal keeps, and how it is shown: runs, sessions, the line of each. Its lock guards them all.

What is kept encoded is decoded anew for everyone who asks.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from msgspec import structs

from strandline.encoding import decoder
from strandline.journal.port import PASSED_OVER, Standing, Waiting
from strandline.journal.rules import Closed, Rank, rank, spans
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Carrier,
    Fact,
    Inline,
    Input,
    Lane,
    Message,
    NewRun,
    Outcome,
    Question,
    Run,
    RunId,
    RunStatus,
    RunSummary,
    SessionKey,
    StateRecord,
    Window,
)

_input: Final[Callable[[bytes], Input]] = decoder(Input)
_metadata: Final = decoder(dict[str, Any])
_trace: Final[Callable[[bytes], Carrier | None]] = decoder(Carrier | None)
_fact: Final[Callable[[bytes], Fact]] = decoder(Fact)
_message: Final = decoder(Message)
_outcome: Final = decoder(Outcome)
_question: Final = decoder(Question)
_state: Final = decoder(StateRecord)
_window: Final = decoder(Window)
_NOTHING: Final = b"{}"


class Asked(NamedTuple):
    """What a run was asked for with, each part encoded on its own."""

    prompt: bytes
    metadata: bytes
    trace: bytes

    @property
    def stored(self) -> int:
        """How many bytes of it count as kept."""
        return len(self.prompt) + len(self.metadata)


class KeptRun:
    """A run as it stands; `fence` is None unless it is claimed. One that has ended and is claimed is held."""

    __slots__ = (
        "asked",
        "attempt",
        "cancel_requested",
        "discard",
        "discarded",
        "ended_at",
        "facts",
        "fence",
        "lane",
        "new",
        "outcome",
        "place",
        "priority",
        "queue_deadline",
        "sequence",
        "started_at",
        "status",
    )

    def __init__(self, new: NewRun, asked: Asked, sequence: int) -> None:
        self.new = new
        self.asked = asked
        self.sequence = sequence
        self.lane = new.lane
        self.priority = new.priority
        self.place = sequence
        """What it has drawn in the front lane, if it is there."""
        self.status = RunStatus.QUEUED
        self.attempt = 0
        self.fence: int | None = None
        self.facts: list[bytes] = []
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.queue_deadline = new.queue_deadline
        self.outcome: bytes | None = None
        self.cancel_requested = False
        self.discard = False
        self.discarded = False

    @property
    def held(self) -> bool:
        """Whether it has ended and its claim stays."""
        return self.fence is not None and self.ended_at is not None

    def ended_before(self, before: float) -> bool:
        """Tell whether it had ended before that moment, and is not held."""
        return self.ended_at is not None and self.ended_at < before and not self.held

    def rank(self) -> Rank:
        """Return where it stands among the runs of its session."""
        lane, urgency, _ = rank(self.lane, self.priority, self.place)
        return lane, urgency, self.sequence

    def waiting(self, *, paused: bool) -> Waiting:
        """Return what the dispatcher needs of it."""
        new = self.new
        return Waiting(new.run_id, new.key, self.sequence, new.created_at, self.queue_deadline, paused)

    def staged(self) -> tuple[Fact, ...]:
        """Return what is staged of it."""
        return tuple(_fact(each) for each in self.facts)

    @property
    def listed_bytes(self) -> int:
        """How many bytes of a page of runs it takes."""
        metadata = 0 if self.asked.metadata == _NOTHING else len(self.asked.metadata)
        outcome = 0 if self.outcome is None else len(self.outcome)
        return metadata + outcome + len(self.asked.prompt) // PASSED_OVER

    def shown(self, position: int | None) -> Run:
        """Return it as the port shows it; `position` is None unless it waits."""
        return Run(input=_input(self.asked.prompt), **structs.asdict(self.summary(position)))

    def summary(self, position: int | None) -> RunSummary:
        """Return it as lists show it."""
        return RunSummary(
            run_id=self.new.run_id,
            key=self.new.key,
            lane=self.lane,
            priority=self.priority,
            opaque=self.new.opaque,
            metadata=_metadata(self.asked.metadata),
            sequence=self.sequence,
            status=self.status,
            attempt=self.attempt,
            created_at=self.new.created_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            timeout_s=self.new.timeout_s,
            queue_deadline=self.queue_deadline,
            position=position,
            outcome=None if self.outcome is None else _outcome(self.outcome),
            held=self.held,
            discarded=self.discarded,
            cancel_requested=self.cancel_requested,
            discard=self.discard,
            if_busy=self.new.if_busy,
            trace=_trace(self.asked.trace),
        )


class KeptQuestion:
    """The open round that a run has left, until when an answer is waited for, and the run that answers, if any."""

    __slots__ = ("answer", "encoded", "run_id", "until")

    def __init__(self, encoded: bytes, run_id: RunId, until: float) -> None:
        self.encoded = encoded
        self.run_id = run_id
        self.until = until
        self.answer: RunId | None = None

    def decoded(self) -> Question:
        """Return the question."""
        return _question(self.encoded)


class KeptSession:
    """One conversation: its queue, the run that executes or is held, its history, the ids of all its runs."""

    __slots__ = (
        "claimed",
        "closed",
        "closed_since",
        "discarded",
        "ended",
        "ended_at",
        "history",
        "key",
        "keys",
        "line",
        "paused",
        "question",
        "runs",
        "state",
        "stored",
        "window",
    )

    def __init__(self, key: SessionKey) -> None:
        self.key = key
        self.line = Line()
        self.stored = 0
        """How many bytes are kept of it: what its runs were asked with, its history, window and state."""
        self.ended_at: float | None = None
        """When history was last appended to, as its last run ended or its question was dismissed;
        or when it was resumed after that.
        """
        self.claimed: KeptRun | None = None
        self.paused = False
        self.closed_since: float | None = None
        """Since when its time stands still, if it is or was paused in that time."""
        self.history: list[bytes] = []
        self.discarded: set[int] = set()
        """The indices of those messages that discarded runs have left."""
        self.window: bytes | None = None
        self.state: bytes | None = None
        self.runs: set[RunId] = set()
        self.ended: list[RunId] = []
        """All that have ended, in that order; some may be forgotten by now."""
        self.keys: dict[str, KeptRun] = {}
        """The run that each idempotency key stands for."""
        self.question: KeptQuestion | None = None
        self.closed: dict[str, tuple[RunId, Closed]] = {}
        """What became of input requests that are not open any more, and which run had asked them."""

    @property
    def open_question(self) -> KeptQuestion | None:
        """The question that the session waits to be answered."""
        return self.question if self.question is not None and self.question.answer is None else None

    def rests_on(self, run: KeptRun) -> bool:
        """Tell whether it is the question of this run whose round is open."""
        return self.question is not None and self.question.run_id == run.new.run_id

    def rests_since(self, before: float) -> bool:
        """Tell whether nothing goes on in it or is asked of anybody, and its last run had ended before that moment."""
        goes_on = self.claimed is not None or len(self.line) > 0 or self.paused or self.question is not None
        return not goes_on and self.ended_at is not None and self.ended_at < before

    def answered_by(self, run: KeptRun) -> Question | None:
        """Return the question that a run answers."""
        asked = self.question
        return asked.decoded() if asked is not None and asked.answer == run.new.run_id else None

    def is_busy(self, new: NewRun, now: float) -> bool:
        """Tell whether a run that comes now would have to wait: an answer goes before all that waits."""
        waits = self.open_question is not None and now < self.open_question.until and not new.dismisses
        is_behind = new.lane != Lane.ANSWER and (len(self.line) > 0 or waits)
        return self.claimed is not None or self.paused or is_behind

    def closed_as(self, request: str) -> Closed | None:
        """Return what became of an input request, None if nothing is known of it."""
        known = self.closed.get(request)
        return None if known is None else known[1]

    def close_requests(self, question: KeptQuestion, how: Closed) -> None:
        """Note what becomes of the requests of a question; for as long as the run is kept that has asked."""
        if question.run_id in self.runs:
            self.closed |= {each.id: (question.run_id, how) for each in question.decoded().requests}

    def forget(self, run: KeptRun) -> None:
        """Forget a run that has ended, and its key; not what it has left in history."""
        self.runs.remove(run.new.run_id)
        if run.status is RunStatus.NEEDS_INPUT:
            self.closed = {each: known for each, known in self.closed.items() if known[0] != run.new.run_id}
        keyed = run.new.keyed
        if keyed is not None and self.keys.get(keyed.key) is run:
            del self.keys[keyed.key]

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


class Line:
    """The waiting runs of one session, sorted. Nearly all join at the end and leave at the head."""

    __slots__ = ("_gone", "_ranks", "_runs")

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._gone = 0
        """How many ranks at the start of the list have left; dropped when they are half of it."""
        self._runs: dict[Rank, KeptRun] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[KeptRun]:
        return iter(self._runs.values())

    def in_order(self) -> list[KeptRun]:
        """Return the runs, the next one first."""
        return [self._runs[place] for place in self._ranks[self._gone :]]

    def ahead(self, place: Rank) -> int:
        """Return how many runs stand before `place`."""
        return bisect_left(self._ranks, place, lo=self._gone) - self._gone

    def head(self) -> KeptRun:
        """Return the next run. There must be one."""
        return self._runs[self._ranks[self._gone]]

    def add(self, run: KeptRun) -> None:
        """Have a run wait at its rank."""
        place = run.rank()
        self._runs[place] = run
        insort(self._ranks, place, lo=self._gone)

    def remove(self, run: KeptRun) -> None:
        """Have a run leave, cheaply at the head."""
        place = run.rank()
        del self._runs[place]
        if place != self._ranks[self._gone]:
            del self._ranks[bisect_left(self._ranks, place, lo=self._gone)]
            return
        self._gone += 1
        if 2 * self._gone > len(self._ranks):
            del self._ranks[: self._gone]
            self._gone = 0

"""The state cache of the session table: sessions, their waiting and claimed runs, and their open questions.

Plain mutable records that only `table.py` changes. Bodies (inputs, histories, outcomes) stay in storage, except short
inputs of waiting runs; `records.py` says how they are read.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import ClassVar

from msgspec import Struct, field

from strandline._journal.changes import SessionRef
from strandline._journal.deadlines import Due
from strandline._journal.rules import Rank, place
from strandline._model import NO_AGENT, Collecting, JoinState, Lane, NewRun, RunId, RunWebhook, SessionKey, waits_since


class HistoryEnd(Struct, frozen=True, gc=False):
    """The end of a session's history: its last row (None if it has none), that row's number, the message count.

    `agent` is the run that has changed window or state last, as in `Place`.
    """

    row: int | None = None
    nth: int = 0
    length: int = 0
    agent: int | None = NO_AGENT


class OpenRound(Struct, eq=False):
    """The question whose round is open at the end of a session's history.

    `run` and `answer` are the sequences of the run with the question and of the run that answers it, if one was
    accepted. Until `until` only an answer starts.
    """

    run: int
    until: float
    answer: int | None = None


class RunState(Struct, eq=False):
    """A run that waits or is claimed. With `held_since` it has ended and is held."""

    session: "SessionState"
    run_id: RunId
    seq: int
    lane: int
    urgency: int
    created_at: float
    queue_deadline: float | None = None
    attempt: int = 0
    started_at: float | None = None
    moved: int | None = None
    """The priority that a move gave it."""
    fence: int | None = None
    held_since: float | None = None
    cancel_requested: bool = False
    discard: bool = False
    checkpoints: int = 0
    """How many checkpoints it has."""
    timeout_s: float | None = None
    not_before: float | None = None
    new: NewRun | None = None
    """The accepted run, while it waits; None if only storage has it."""
    due: Due | None = None
    """When to check its `queue_deadline`, which may be later, or its `deadline`; of a delayed run its `not_before`."""
    host: "RunState | None" = None
    """The run that it joins. It has no turn of its own then, and is in no queue."""
    join: JoinState | None = None
    host_id: RunId | None = None
    """Its host as stored, until the session is loaded."""
    webhook: RunWebhook | None = None
    collect: Collecting | None = None
    """How it collects others that wait, if it does."""
    size: int = 0
    """The bytes of its input, if it collects."""

    @property
    def rank(self) -> Rank:
        """Its rank among the waiting runs of its session."""
        if self.join is None:
            return (self.lane, self.urgency, self.seq)
        return (self.lane, self.urgency, place(self.lane, self.seq, self.join))

    @property
    def waits(self) -> bool:
        """Whether it waits, for its turn or to reach its host."""
        return self.fence is None and (self.host is None or self.join is JoinState.PENDING)

    @property
    def deadline(self) -> float | None:
        """When it times out, `timeout_s` after its first start, whether it waits again or executes."""
        return None if self.started_at is None or self.timeout_s is None else self.started_at + self.timeout_s

    @property
    def is_delayed(self) -> bool:
        """Whether it waits for its time, and not yet for its turn."""
        return self.lane == Lane.DELAYED

    @property
    def collects(self) -> bool:
        """Whether it waits to be part of a turn with others. One that was moved to the front, or has begun, is not."""
        return self.collect is not None and self.lane == Lane.NORMAL and self.started_at is None

    @property
    def waits_since(self) -> float:
        """Since when it waits for its turn; of a delayed run from when on."""
        return waits_since(self.created_at, self.not_before)

    @property
    def has_begun(self) -> bool:
        """Whether it was ever claimed."""
        return self.started_at is not None


class RunQueue:
    """The waiting runs of one session, sorted by rank. Nearly all are added at the end and removed at the head."""

    __slots__ = ("_gone", "_ranks", "_runs")

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._gone = 0
        """How many ranks at the start of the list are removed; dropped when they are half of it."""
        self._runs: dict[Rank, RunState] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[RunState]:
        """Yield the runs, the next one first."""
        return iter([self._runs[rank] for rank in self._ranks[self._gone :]])

    @property
    def has_next(self) -> bool:
        """Whether a run waits for its turn; delayed runs do not."""
        return bool(self._runs) and self._ranks[self._gone][0] != Lane.DELAYED

    @property
    def head(self) -> RunState:
        """The next run. There must be one."""
        return self._runs[self._ranks[self._gone]]

    def first(self, most: int) -> list[RunState]:
        """Return the next runs, in order."""
        return [self._runs[rank] for rank in self._ranks[self._gone : self._gone + most]]

    def ahead(self, rank: Rank) -> int:
        """Return how many runs are before `rank`."""
        return bisect_left(self._ranks, rank, lo=self._gone) - self._gone

    def add(self, run: RunState) -> None:
        """Add a run at its rank."""
        rank = run.rank
        self._runs[rank] = run
        ranks = self._ranks
        if not ranks or rank > ranks[-1]:
            ranks.append(rank)
        else:
            insort(ranks, rank, lo=self._gone)

    def remove(self, run: RunState) -> None:
        """Remove a run; cheap at the head."""
        rank = run.rank
        del self._runs[rank]
        if rank != self._ranks[self._gone]:
            del self._ranks[bisect_left(self._ranks, rank, lo=self._gone)]
            return
        self._gone += 1
        if 2 * self._gone > len(self._ranks):
            del self._ranks[: self._gone]
            self._gone = 0


class Keys:
    """Hashes of the idempotency keys that runs of a session have or had; no other key stands for one of its runs.
    Beyond `MOST` keys none is remembered, and every key may stand for a run.
    """

    __slots__ = ("_hashes",)

    MOST: ClassVar[int] = 1000

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._hashes: array[int] | None = None
        """Sorted. (A set takes eight times the memory, and ten thousand sessions are cached.)"""
        if len(keys) <= self.MOST:
            self._hashes = array("q", sorted(map(hash, keys)))

    def may_have(self, key: str) -> bool:
        """Return whether a key may stand for a run."""
        hashes, wanted = self._hashes, hash(key)
        if hashes is None:
            return True
        index = bisect_left(hashes, wanted)
        return index < len(hashes) and hashes[index] == wanted

    def add(self, key: str) -> None:
        """Add the key of a new run."""
        if self._hashes is not None and not self.may_have(key):
            insort(self._hashes, hash(key))
            if len(self._hashes) > self.MOST:
                self._hashes = None


class SessionState(Struct, eq=False):
    """A session, as far as decisions need it."""

    ref: SessionRef
    end: HistoryEnd = HistoryEnd()
    paused: bool = False
    closed_since: float | None = None
    """Since when its queue deadlines stand still, if it is or was paused since."""
    rests_since: float | None = None
    """When history last grew, as its last run ended or its question was dismissed; or when it was resumed, if later."""
    round: OpenRound | None = None
    branch: int | None = None
    """The message with which its last branch begins; None: its history is one line."""
    unresolved: int | None = None
    """The sequence of the run at the end of its history, if a person may find out what a tool of it did."""
    queue: RunQueue = field(default_factory=RunQueue)
    claimed: RunState | None = None
    """The run that executes or is held."""
    joining: list[RunState] = field(default_factory=list)
    """Runs that join the one that executes or was requeued, in order of sequence: pending and applied ones."""
    keys: Keys | None = None
    """None: not yet read."""
    options: bytes | None = None
    """Default options of its runs, as stored."""
    is_changed: bool = False
    """Whether it has changes that are in no batch yet."""
    in_flight: int = 0
    """How many batches with its changes are not durable."""
    due: Due | None = None
    """When its runs stop waiting for an answer to its question, and its next run for further ones of its turn."""

    @property
    def no(self) -> int:
        """Its number in storage."""
        return self.ref.no

    @property
    def key(self) -> SessionKey:
        """Its key."""
        return self.ref.key

    @property
    def question(self) -> OpenRound | None:
        """Its open question, if no answer was accepted yet."""
        found = self.round
        return found if found is not None and found.answer is None else None

    @property
    def executing(self) -> RunState | None:
        """The run that executes."""
        claimed = self.claimed
        return claimed if claimed is not None and claimed.held_since is None else None

    @property
    def held(self) -> RunState | None:
        """The run that has ended but keeps its claim."""
        claimed = self.claimed
        return claimed if claimed is not None and claimed.held_since is not None else None

    @property
    def pending(self) -> list[RunState]:
        """The runs that wait to reach their host."""
        return [run for run in self.joining if run.join is JoinState.PENDING] if self.joining else []

    @property
    def waiting(self) -> int:
        """How many runs wait, for their turn or to reach their host."""
        return len(self.queue) + len(self.pending) if self.joining else len(self.queue)

    @property
    def is_durable(self) -> bool:
        """Whether all its changes are durable."""
        return not self.is_changed and not self.in_flight

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or is claimed."""
        return self.claimed is None and not self.queue and not self.joining

    def answered_by(self, run: RunState) -> OpenRound | None:
        """Return the open round that a run was accepted to answer."""
        found = self.round
        return found if found is not None and found.answer == run.seq else None

"""What the session table holds: sessions, their waiting and claimed runs, and the question that a session waits on.

Plain mutable records; `table.py` alone changes them. Bodies (inputs, histories, outcomes) are not here, but for short
inputs of runs that wait: storage has them, and `records.py` says how they are read.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import ClassVar

from msgspec import Struct, field

from strandline._journal.changes import SessionRef
from strandline._journal.deadlines import Due
from strandline._journal.rules import Rank
from strandline._model import NewRun, RunId, SessionKey


class HistoryEnd(Struct, frozen=True, gc=False):
    """Where a session's history ends: its last row (None if it has none), that row's number, the message count."""

    row: int | None = None
    nth: int = 0
    length: int = 0


class OpenRound(Struct, eq=False):
    """The question whose round is open at the end of a session's history.

    `run` and `answer` are the sequences of the run that asked and of the run that answers, if one was accepted. Until
    `until` nothing but an answer is started.
    """

    run: int
    until: float
    answer: int | None = None


class RunState(Struct, eq=False):
    """A run that waits or is claimed. One that is claimed and has ended, at `held_since`, is held."""

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
    """The priority that somebody has given it since it was accepted."""
    fence: int | None = None
    held_since: float | None = None
    cancel_requested: bool = False
    discard: bool = False
    checkpoints: int = 0
    """How many checkpoints of it are kept."""
    new: NewRun | None = None
    """What it was accepted as, as long as it waits; None if only storage has it."""
    due: Due | None = None
    """When it is to be looked at because of its `queue_deadline`, which may be later."""

    @property
    def rank(self) -> Rank:
        """Where it stands among the waiting runs of its session."""
        return (self.lane, self.urgency, self.seq)

    @property
    def has_begun(self) -> bool:
        """Whether it was ever claimed."""
        return self.started_at is not None


class RunQueue:
    """The waiting runs of one session, sorted by rank. Nearly all join at the end and leave at the head."""

    __slots__ = ("_gone", "_ranks", "_runs")

    def __init__(self) -> None:
        self._ranks: list[Rank] = []
        self._gone = 0
        """How many ranks at the start of the list have left; dropped when they are half of it."""
        self._runs: dict[Rank, RunState] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[RunState]:
        """Yield the runs, the next one first."""
        return iter([self._runs[rank] for rank in self._ranks[self._gone :]])

    @property
    def head(self) -> RunState:
        """The next run. There must be one."""
        return self._runs[self._ranks[self._gone]]

    def ahead(self, rank: Rank) -> int:
        """Return how many runs stand before `rank`."""
        return bisect_left(self._ranks, rank, lo=self._gone) - self._gone

    def add(self, run: RunState) -> None:
        """Have a run wait at its rank."""
        rank = run.rank
        self._runs[rank] = run
        ranks = self._ranks
        if not ranks or rank > ranks[-1]:
            ranks.append(rank)
        else:
            insort(ranks, rank, lo=self._gone)

    def remove(self, run: RunState) -> None:
        """Have a run leave, cheaply at the head."""
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
    """Which idempotency keys the runs of a session have or had, as hashes: any other stands for no run of it.

    Of more than `MOST` none is remembered: each may be one.
    """

    __slots__ = ("_hashes",)

    MOST: ClassVar[int] = 1000

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._hashes: array[int] | None = None
        """Sorted. (A set takes eight times as much, and ten thousand sessions are in memory.)"""
        if len(keys) <= self.MOST:
            self._hashes = array("q", sorted(map(hash, keys)))

    def may_have(self, key: str) -> bool:
        """Return whether a key may stand for a run."""
        hashes, wanted = self._hashes, hash(key)
        if hashes is None:
            return True
        place = bisect_left(hashes, wanted)
        return place < len(hashes) and hashes[place] == wanted

    def add(self, key: str) -> None:
        """Note the key of a run that comes."""
        if self._hashes is not None and not self.may_have(key):
            insort(self._hashes, hash(key))
            if len(self._hashes) > self.MOST:
                self._hashes = None


class SessionState(Struct, eq=False):
    """One conversation, as far as decisions need it."""

    ref: SessionRef
    end: HistoryEnd = HistoryEnd()
    paused: bool = False
    closed_since: float | None = None
    """Since when its time stands still, if it is or was paused in that time."""
    rests_since: float | None = None
    """When history was last appended to, as its last run ended or its question was dismissed; or when it was resumed
    after that."""
    round: OpenRound | None = None
    queue: RunQueue = field(default_factory=RunQueue)
    claimed: RunState | None = None
    """The run that executes or is held."""
    keys: Keys | None = None
    """None: what keys it has was not asked for yet."""
    is_changed: bool = False
    """Whether something of it was changed that no batch has yet."""
    in_flight: int = 0
    """How many batches have changes of it that are not durable."""
    due: Due | None = None
    """When runs that wait for an answer to its question wait no longer."""

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
        """The question that it waits to be answered: no answer was accepted yet."""
        found = self.round
        return found if found is not None and found.answer is None else None

    @property
    def executing(self) -> RunState | None:
        """The run that executes."""
        claimed = self.claimed
        return claimed if claimed is not None and claimed.held_since is None else None

    @property
    def held(self) -> RunState | None:
        """The run that has ended and keeps its claim."""
        claimed = self.claimed
        return claimed if claimed is not None and claimed.held_since is not None else None

    @property
    def is_durable(self) -> bool:
        """Whether it is stored as it is here."""
        return not self.is_changed and not self.in_flight

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it waits or is claimed."""
        return self.claimed is None and not self.queue

    def answered_by(self, run: RunState) -> OpenRound | None:
        """Return the open round that a run was accepted to answer."""
        found = self.round
        return found if found is not None and found.answer == run.seq else None

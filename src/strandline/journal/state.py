"""What the session table holds: sessions, their waiting and claimed runs, and the question that a session waits on.

Plain mutable records; `table.py` alone changes them. Bodies (inputs, histories, outcomes) are not here, but for short
inputs of runs that wait: storage has them, and `records.py` says how they are read.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from msgspec import Struct

from strandline.journal.changes import SessionRef
from strandline.journal.rules import Rank
from strandline.model import NewRun, RunId, SessionKey


class HistoryEnd(Struct, frozen=True, gc=False):
    """Where a session's history ends: its last row (None if it has none), that row's number, the message count."""

    row: int | None = None
    nth: int = 0
    length: int = 0


class OpenRound:
    """The question whose round is open at the end of a session's history.

    `run` and `answer` are the sequences of the run that asked and of the run that answers, if one was accepted. Until
    `until` nothing but an answer is started.
    """

    __slots__ = ("answer", "run", "until")

    def __init__(self, run: int, until: float, answer: int | None = None) -> None:
        self.run = run
        self.until = until
        self.answer = answer


class RunState:
    """A run that waits or is claimed. One that is claimed and has ended, at `held_since`, is held."""

    __slots__ = (
        "attempt",
        "cancel_requested",
        "checkpoints",
        "created_at",
        "discard",
        "fence",
        "held_since",
        "lane",
        "moved",
        "new",
        "queue_deadline",
        "run_id",
        "seq",
        "session",
        "started_at",
        "urgency",
    )

    def __init__(
        self,
        session: "SessionState",
        run_id: RunId,
        seq: int,
        rank: Rank,
        *,
        created_at: float,
        queue_deadline: float | None = None,
        attempt: int = 0,
        started_at: float | None = None,
        moved: int | None = None,
        checkpoints: int = 0,
        new: NewRun | None = None,
    ) -> None:
        self.session = session
        self.run_id = run_id
        self.seq = seq
        self.lane, self.urgency, _ = rank
        self.moved = moved
        """The priority that somebody has given it since it was accepted."""
        self.created_at = created_at
        self.queue_deadline = queue_deadline
        self.attempt = attempt
        self.started_at = started_at
        self.checkpoints = checkpoints
        """How many checkpoints of it are kept."""
        self.new = new
        """What it was accepted as, as long as it waits; None if only storage has it."""
        self.fence: int | None = None
        self.held_since: float | None = None
        self.cancel_requested = False
        self.discard = False

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


class SessionState:
    """One conversation, as far as decisions need it."""

    __slots__ = (
        "claimed", "closed_since", "crc", "end", "in_flight", "is_changed", "key", "no", "paused", "queue", "ref",
        "rests_since", "round",
    )  # fmt: skip

    def __init__(
        self,
        no: int,
        key: SessionKey,
        crc: int,
        end: HistoryEnd = HistoryEnd(),  # noqa: B008 - immutable
        *,
        paused: bool = False,
        closed_since: float | None = None,
        rests_since: float | None = None,
    ) -> None:
        self.no = no
        self.key = key
        self.crc = crc
        """The checksum of its key, with which its records are sealed."""
        self.ref = SessionRef(no, key, crc)
        self.end = end
        self.is_changed = False
        """Whether something of it was changed that no batch has yet."""
        self.in_flight = 0
        """How many batches have changes of it that are not durable."""
        self.queue = RunQueue()
        self.claimed: RunState | None = None
        """The run that executes or is held."""
        self.round: OpenRound | None = None
        self.paused = paused
        self.closed_since = closed_since
        """Since when its time stands still, if it is or was paused in that time."""
        self.rests_since = rests_since
        """When history was last appended to, as its last run ended or its question was dismissed; or when it was
        resumed after that."""

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

"""What a session table has stored, read by SQL of its own for tests that judge it.

Nothing of the journal's own reading is used here, but the names of tables and columns: a row that is written wrongly,
and read back as it was meant, is found out.
"""

import sqlite3
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from strandline._journal.changes import Change
from strandline._journal.deletion import prune
from strandline._journal.driver import schema_after
from strandline._journal.sqlite_rows import SqliteRows
from strandline._model import Principal, RunId, RunStatus, SessionId, SessionKey

CHECKSUM_BYTES = 5


def _record(stored: bytes | None) -> bytes:
    """Return a stored record without its checksum."""
    if stored is None:
        return b""
    assert stored[0] == 1, "every record has a checksum"
    return stored[CHECKSUM_BYTES:]


@dataclass(frozen=True)
class SeenRun:
    """A run, as its row has it."""

    run_id: RunId
    key: SessionKey
    seq: int
    status: RunStatus
    fence: int | None
    attempt: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    queue_deadline: float | None
    outcome: bytes
    idempotency_key: str | None
    size: int
    """How many bytes it takes of what its principal may keep."""
    checkpoints: list[bytes]
    join: str | None
    host: RunId | None

    @property
    def is_pending(self) -> bool:
        """Whether it waits to reach the run that it joins, and not for a turn of its own."""
        return self.join == "pending"


@dataclass(frozen=True)
class SeenQuestion:
    """A question whose round is open."""

    run: int
    until: float
    answer: int | None
    requests: list[str]


@dataclass
class SeenSession:
    """A session, as its rows have it. `history` has each message as JSON."""

    key: SessionKey
    paused: bool
    last: int | None
    question: SeenQuestion | None
    closed: dict[str, tuple[int, str]]
    size: int = 0
    rows: int = 0
    history: list[bytes] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)
    claimed: SeenRun | None = None


class StoredRows(SqliteRows):
    """The rows of a journal in a database of their own, whose transactions can be undone, and what stands in them."""

    def __init__(self) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self.database.executescript(schema_after(0))
        super().__init__(self.database)
        weakref.finalize(self, self.database.close)
        self._seen: tuple[dict[RunId, SeenRun], dict[SessionKey, SeenSession]] | None = None

    def write(self, changes: Iterable[Change]) -> None:
        self._seen = None
        super().write(changes)

    def transaction(self, statement: str) -> None:
        """Begin, commit or roll back."""
        self._seen = None
        self.database.execute(statement)

    def prune(self, before: float, limit: int, now: float) -> tuple[int, int | None]:
        """Forget ended runs."""
        self._seen = None
        return prune(self.database, before, limit, -1, now)

    # -- what is stored -------------------------------------------------------------------------------

    @property
    def runs(self) -> dict[RunId, SeenRun]:
        """All runs, in order of sequence."""
        return self._see()[0]

    @property
    def sessions(self) -> dict[SessionKey, SeenSession]:
        """All sessions."""
        return self._see()[1]

    @property
    def counted(self) -> Counter[Principal]:
        """How many bytes are kept for each principal, counted."""
        count = Counter[Principal]()
        for session in self.sessions.values():
            count[session.key.principal] += session.size
        for run in self.runs.values():
            count[run.key.principal] += run.size
        return count

    @property
    def noted(self) -> Counter[Principal]:
        """How many bytes are kept for each principal, as the journal itself has noted."""
        rows = self.database.execute("SELECT principal, bytes FROM stored")
        return Counter({Principal(principal): size for principal, size in rows})

    def _see(self) -> tuple[dict[RunId, SeenRun], dict[SessionKey, SeenSession]]:
        if self._seen is None:
            by_no = dict(self._read_sessions())
            runs = {run.run_id: run for run in self._read_runs(by_no)}
            self._seen = (runs, {session.key: session for session in by_no.values()})
        return self._seen

    def _read_sessions(self) -> Iterator[tuple[int, SeenSession]]:
        select = self.database.execute
        for no, principal, session_id, paused, last in select(
            "SELECT no, principal, session_id, paused, last FROM sessions"
        ).fetchall():
            questions = [
                SeenQuestion(run, until, answer, [each["id"] for each in msgspec.json.decode(_record(q))["requests"]])
                for run, until, answer, q in select(
                    "SELECT run, until, answer, question FROM questions WHERE session = ?", (no,)
                ).fetchall()
            ]
            closed = {
                each: (run, what)
                for each, run, what in select("SELECT id, run, closed FROM closed_requests WHERE session = ?", (no,))
            }
            key = SessionKey(Principal(principal), SessionId(session_id))
            session = SeenSession(key, bool(paused), last, questions[0] if questions else None, closed)
            for table in ("agents", "agents_after"):
                for row in select(f"SELECT window, state FROM {table} WHERE session = ?", (no,)).fetchall():
                    session.size += sum(len(each) for each in row if each is not None)
            self._read_history(no, session)
            yield no, session

    def _read_history(self, no: int, session: SeenSession) -> None:
        before: int | None = None
        for row, nth, first, count, previous, messages in self.database.execute(
            "SELECT no, nth, first, count, previous, messages FROM history WHERE session = ? ORDER BY no", (no,)
        ):
            of_it = msgspec.json.decode(_record(messages) or b"[]", type=list[msgspec.Raw])
            session.rows += 1
            assert (nth, first, count) == (session.rows, len(session.history), len(of_it)), "rows follow each other"
            assert previous == before, "each row names the one before it"
            session.history += [bytes(each) for each in of_it]
            session.size += len(messages or b"")
            before = row
        assert session.last == before, "the last row is the last"

    def _read_runs(self, sessions: dict[int, SeenSession]) -> Iterator[SeenRun]:
        checkpoints: dict[int, list[bytes]] = {}
        for run, checkpoint in self.database.execute("SELECT run, fact FROM staged ORDER BY run, no"):
            checkpoints.setdefault(run, []).append(_record(checkpoint))
        rows: Iterable[tuple[Any, ...]] = self.database.execute(
            "SELECT session, run_id, seq, status, fence, attempt, created_at, started_at, ended_at, queue_deadline,"
            " outcome, key, length(input) + coalesce(length(metadata), 0), joins, host FROM runs ORDER BY seq"
        )
        for no, run_id, seq, status, *since, outcome, idempotency_key, size, join, host in rows:
            session = sessions[no]
            fence, attempt, created_at, started_at, ended_at, queue_deadline = since
            run = SeenRun(
                run_id=RunId(run_id),
                key=session.key,
                seq=seq,
                status=RunStatus(status),
                fence=fence,
                attempt=attempt,
                created_at=created_at,
                started_at=started_at,
                ended_at=ended_at,
                queue_deadline=queue_deadline,
                outcome=_record(outcome),
                idempotency_key=idempotency_key,
                size=size,
                checkpoints=checkpoints.get(seq, []),
                join=join,
                host=host,
            )
            if run.status is RunStatus.QUEUED:
                session.waiting.add(seq)
            if run.fence is not None:
                assert session.claimed is None, "one claim of a session"
                session.claimed = run
            yield run

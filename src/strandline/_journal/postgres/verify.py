"""Checks a journal in a database: its tables, its records, and how these fit together. Reads only.

It works beside running servers: everything is read in one transaction, so from one moment. Memory is bounded: some
sessions are checked after others, each with its history and the runs in it. What belongs to no session at all, the
database finds by itself.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from strandline._files.store import FileStore
from strandline._journal.contents import MOST_FAULTS, missing, still_recorded
from strandline._journal.deliveries import NO_SESSION
from strandline._journal.findings import (
    DELIVERY,
    FILE,
    FORK,
    HISTORY,
    KEPT,
    QUESTION,
    RUN,
    SCHEDULE,
    SESSION,
    WINDOW,
    Check,
    Findings,
    OnStep,
    Rows,
)
from strandline._journal.numbers import PARTITION_BITS
from strandline._journal.partitions import partition_of
from strandline._journal.postgres.maintenance import at_one_moment, connected
from strandline._journal.postgres.rows import OPEN, Batch
from strandline._journal.postgres.wire import Refused
from strandline._journal.reader import RunRow
from strandline._journal.tables import TABLES, Table, pages
from strandline._lifecycle import ENDED
from strandline._model import SessionKey
from strandline._printable import without_passwords

SESSIONS: Final = 200
"""How many sessions are checked at once."""
RUNS: Final = 32
"""How many runs are read at once: each may be large."""
_ARE_ENDED: Final = ", ".join(f"'{status.value}'" for status in sorted(ENDED))
_RUNS: Final = f"SELECT {', '.join(RUN)} FROM runs WHERE seq IN ({', '.join('?' * RUNS)}) ORDER BY seq"
_OPEN_RUNS: Final = f"SELECT seq FROM runs WHERE {OPEN} AND session BETWEEN ? AND ?"
_INDICES: Final = ("runs_claimed", "runs_open", "runs_keyed", "history_of")
_OURS: Final = "(SELECT relnamespace FROM pg_class WHERE oid = 'meta'::regclass)"
_NO_SESSION: Final = "NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.no = {}.session)"
_NOT_IN_HISTORY: Final = (
    f"SELECT run_id FROM runs WHERE status IN ({_ARE_ENDED})"
    " AND EXISTS (SELECT 1 FROM sessions WHERE sessions.no = runs.session)"
    " AND NOT EXISTS (SELECT 1 FROM history WHERE history.session = runs.session AND history.run = runs.seq)"
)
_NOT_OPEN: Final = (
    "SELECT DISTINCT run FROM staged WHERE NOT EXISTS (SELECT 1 FROM runs WHERE seq = run AND status IN"
    " ('queued', 'running')) AND run NOT IN (SELECT unresolved FROM sessions WHERE unresolved IS NOT NULL)"
)
_LOST: Final = {
    f"SELECT no FROM history WHERE {_NO_SESSION.format('history')}": "row {} of history belongs to no session",
    f"SELECT run_id FROM runs WHERE {_NO_SESSION.format('runs')}": "run {} belongs to no session",
    _NOT_IN_HISTORY: "run {} has ended and is not in the history of its session",
    f"SELECT session FROM questions WHERE {_NO_SESSION.format('questions')}": (
        "a question belongs to no session (number {})"
    ),
    f"SELECT id FROM schedules WHERE {_NO_SESSION.format('schedules')}": "the schedule {} belongs to no session",
    f"SELECT id FROM files WHERE {_NO_SESSION.format('files')}": "the file {} belongs to no session",
    f"SELECT id FROM deliveries WHERE session <> {NO_SESSION} AND {_NO_SESSION.format('deliveries')}": (
        "the event {} belongs to no session"
    ),
    f"SELECT session FROM agents WHERE {_NO_SESSION.format('agents')}": (
        "a context window belongs to no session (number {})"
    ),
    f"SELECT session FROM forks WHERE {_NO_SESSION.format('forks')}": (
        "a record of a fork belongs to no session (number {})"
    ),
    _NOT_OPEN: "there are checkpoints of a run with sequence {}, which does not wait or execute",
    "SELECT run FROM history WHERE run >= 0 GROUP BY run HAVING count(DISTINCT session) > 1": (
        "the run with sequence {} is in the history of several sessions"
    ),
}
"""What belongs to no session that is checked, and the fault that it is."""


def verify(address: str, on_step: OnStep = lambda what, done, total: None, *, files: Path | None = None) -> Findings:
    """Check everything in the journal at this address, and the contents of its files in the folder `files`.

    Raises a `JournalError` if it cannot be read at all.
    """
    with connected(address, "journal verify") as wire:
        with at_one_moment(wire) as database:
            findings = Findings(journal=without_passwords(address), bytes=size_of(database))
            check = _DatabaseCheck(database, findings, on_step, None if files is None else FileStore(files))
            try:
                check.everything()
            except Refused as error:
                if not error.state.startswith("XX"):
                    raise
                findings.add(f"the database cannot be read any further: {error}")
        if check.lacking:
            with at_one_moment(wire) as database:
                for each in still_recorded(database, check.lacking):
                    findings.add(missing(each))
    return findings


def size_of(database: Batch) -> int:
    """Return how many bytes the tables of a journal take, with their indices."""
    names = ", ".join(f"('{table.name}')" for table in TABLES)
    (size,) = database.execute(
        f"SELECT sum(pg_total_relation_size(name::regclass))::bigint FROM (VALUES {names}) AS tables (name)"
    ).fetchone()
    return int(size)


class _DatabaseCheck(Check):
    """Some sessions after others, in the order of their numbers: `_first` to `_last`."""

    def __init__(self, database: Batch, findings: Findings, on_step: OnStep, store: FileStore | None) -> None:
        super().__init__(database, findings, store)
        self._on_step = on_step
        self._first = self._last = 0
        self._read: list[tuple[Any, ...]] = []

    def everything(self) -> None:
        if not self._tables():
            return
        (top,) = self._connection.execute("SELECT coalesce(max(top), 0) FROM servers").fetchone()
        self._newest_fence = ((top + 1) << PARTITION_BITS) - 1
        (total,) = self._connection.execute("SELECT count(*) FROM sessions").fetchone()
        self._on_step("sessions", 0, total)
        for page in pages(self._connection, Table("sessions", (*SESSION, "p"))):
            for at in range(0, len(page), SESSIONS):
                self._read = page[at : at + SESSIONS]
                self._first, self._last = self._read[0][0], self._read[-1][0]
                self._check()
                self._on_step("sessions", self._findings.sessions, total)
        self._first = self._last = NO_SESSION
        self._deliveries()
        for number, (statement, fault) in enumerate(_LOST.items()):
            self._on_step("the rest", number, len(_LOST))
            for (which,) in self._connection.execute(f"{statement} ORDER BY 1 LIMIT {MOST_FAULTS + 1}"):
                self._fault(fault.format(which))
        self._stored()
        self._on_step("the rest", len(_LOST), len(_LOST))

    def _tables(self) -> bool:
        """Return whether the tables have all columns; report what they lack, and lost or broken indices."""
        found = self._connection.execute(
            "SELECT relname::text, attname::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
            f" WHERE relnamespace = {_OURS} AND attnum > 0 AND NOT attisdropped"
        ).fetchall()
        wanted = {(table.name, column.strip('"')) for table in TABLES for column in table.columns}
        missing = sorted(wanted - {tuple(row) for row in found})
        for table, column in missing:
            self._fault(f"the table {table} lacks the column {column}")
        sound = {
            name
            for (name,) in self._connection.execute(
                "SELECT relname::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid WHERE indisvalid"
                f" AND relnamespace = {_OURS}"
            )
        }
        for name in _INDICES:
            if name not in sound:
                self._fault(f"the index {name} is missing or broken")
        return not missing

    # -- the rows of the sessions that are checked at the moment ------------------------------------------

    def _session_rows(self) -> Rows:
        for *columns, p in self._read:
            no, principal, session_id, *_ = columns
            if p != partition_of(SessionKey(principal, session_id)):
                self._fault(f"session {session_id} (number {no}) is in partition {p}, where no server looks for it")
            yield tuple(columns)

    def _of(self, table: Table) -> Iterator[tuple[Any, ...]]:
        for page in pages(self._connection, table, None, "session BETWEEN ? AND ?", (self._first, self._last)):
            yield from page

    def _history_rows(self) -> Rows:
        columns = ("session", "nth", *(each for each in HISTORY if each not in ("session", "nth")))
        order = [columns.index(each) for each in HISTORY]
        return (tuple(row[at] for at in order) for row in self._of(Table("history", columns, key=2)))

    def _run_rows(self) -> Rows:
        opened = self._connection.execute(_OPEN_RUNS, (self._first, self._last)).fetchall()
        sequences = sorted({seq for seq in self._reported if seq >= 0} | {seq for (seq,) in opened})
        for at in range(0, len(sequences), RUNS):
            some = sequences[at : at + RUNS]
            yield from self._connection.execute(_RUNS, (*some, *[some[-1]] * (RUNS - len(some))))

    def _lost_run(self, row: RunRow) -> None:
        self._fault(f"run {row.run_id} is in the history of another session")

    def _question_rows(self) -> Rows:
        return self._of(Table("questions", QUESTION))

    def _with_checkpoints(self) -> Iterable[int]:
        return sorted(self._unended | self._unresolved)

    def _window_rows(self) -> Rows:
        return self._of(Table("agents", WINDOW))

    def _kept_rows(self) -> Rows:
        return self._of(Table("agents_after", KEPT, key=2))

    def _fork_rows(self) -> Rows:
        return self._of(Table("forks", FORK))

    def _schedule_rows(self) -> Rows:
        return self._of(Table("schedules", SCHEDULE))

    def _file_rows(self) -> Rows:
        return self._of(Table("files", FILE))

    def _delivery_rows(self) -> Rows:
        return self._of(Table("deliveries", DELIVERY))

"""The rows of a journal in PostgreSQL: those that differ from the file's, and what is read in one statement there."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any, Final

from strandline._journal import changes, checksums, reader
from strandline._journal.partitions import PARTITIONS, partition_of
from strandline._journal.postgres.dialect import TRANSLATED
from strandline._journal.postgres.wire import Found, Statement, Values, Wire
from strandline._journal.records import DamagedSession
from strandline._journal.sqlite_rows import (
    COPY,
    KEEP_AGENT,
    KEEP_AGENT_AFTER,
    LIVE,
    StoredRows,
    add_live,
    attach_joins,
    lost_session,
)
from strandline._journal.state import SessionState
from strandline._model import Principal, SessionKey
from strandline.errors import RecordDamaged

_ADD_SESSION: Final = "INSERT INTO sessions (no, p, principal, session_id) VALUES (?,?,?,?)"
_COUNT: Final = "SELECT count_stored(?, ?)"
_DROP: Final = (
    "DELETE FROM runs WHERE seq IN (SELECT run FROM history WHERE session = ?) AND session = ?",
    "DELETE FROM agents WHERE session = ?",
    "DELETE FROM questions WHERE session = ?",
    "DELETE FROM closed_requests WHERE session = ?",
    "DELETE FROM schedules WHERE session = ?",
    "DELETE FROM deliveries WHERE session = ?",
    "DELETE FROM branches WHERE session = ?",
    "DELETE FROM agents_after WHERE session = ?",
    "DELETE FROM forks WHERE session = ?",
)
_DROP_HISTORY: Final = (
    "WITH gone AS (DELETE FROM history WHERE session = ? RETURNING 1) SELECT changed(count(*), ?, 'SL003', ?) FROM gone"
)
_COPY: Final = (
    "WITH copied AS ("
    + COPY.format(
        begin="", found="history LEFT JOIN runs ON seq = history.run WHERE history.session = :source AND nth <= :count"
    )
    + " RETURNING 1) SELECT count(*) FROM copied"
)
_NOTE_DELETION: Final = (
    "INSERT INTO deletions (principal, session_id, at) VALUES (?,?,?)"
    " ON CONFLICT (principal, session_id) DO UPDATE SET at = excluded.at"
)
DELETIONS_KEPT_S: Final = 3600.0
"""For how long a deletion is noted: longer than a server sends a client's request again."""
FORGOTTEN_AT_ONCE: Final = 10
_FORGET_DELETIONS: Final = (
    "DELETE FROM deletions WHERE (principal, session_id) IN"
    " (SELECT principal, session_id FROM deletions WHERE at < ? ORDER BY at LIMIT ? FOR UPDATE SKIP LOCKED)"
)
OPEN: Final = "(status IN ('queued', 'running') OR fence IS NOT NULL)"
"""As the index has it."""
_BUSY: Final = (
    reader.FIND_SESSION.format(names="principal, session_id, ")
    + f" WHERE sessions.no IN (SELECT session FROM runs WHERE {OPEN})"
)
_LIVE: Final = f"SELECT session, {LIVE.removeprefix('SELECT ')} WHERE {OPEN}"
_LISTED: Final = "ANY (string_to_array(?, ',')::smallint[])"
_BUSY_IN: Final = f"{_BUSY} AND sessions.p = {_LISTED}"
_LIVE_IN: Final = f"{_LIVE} AND session IN (SELECT no FROM sessions WHERE p = {_LISTED})"
_ADOPT: Final = (
    f"UPDATE partitions SET owner = ?, epoch = epoch + 1 WHERE p = {_LISTED} AND (owner IS NULL OR owner = ?)"
    " RETURNING p, epoch"
)
_CEDE: Final = (
    f"WITH ceded AS (UPDATE partitions SET owner = NULL WHERE p = {_LISTED} AND owner = ? RETURNING 1)"
    " SELECT changed(count(*), ?, 'SL002', 'partitions that were ceded') FROM ceded"
)
MISMATCH: Final = "SL002"
DAMAGE: Final = "SL003"


def _listed(partitions: Iterable[int]) -> str:
    return ",".join(map(str, sorted(partitions)))


@cache
def _of_one_row(statement: str) -> str:
    """Return a statement that fails with `MISMATCH` unless it changes exactly one row."""
    shown = statement.translate({ord(each): None for each in "?:'"})  # (there must be no placeholders in it)
    return f"WITH found AS ({statement} RETURNING 1) SELECT changed(count(*), 1, '{MISMATCH}', '{shown}') FROM found"


class Batch:
    """One connection, and the transaction on it: statements that are to be written wait for its commit.

    Implements `database.Database`: a read sees what was written before it, since that is sent first.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._waiting: list[Statement] = []

    def execute(self, sql: str, values: Values = (), /) -> Found:
        """Execute a statement at once, after all that wait."""
        statement = (TRANSLATED.get(sql, sql), values)
        waiting, self._waiting = self._waiting, []
        return self.wire.run([*waiting, statement])[-1]

    def executemany(self, sql: str, values: Iterable[Values], /) -> None:
        """Have a statement executed for each of these values."""
        for each in values:
            self.write(sql, each)

    def write(self, sql: str, values: Values = ()) -> None:
        """Have a statement executed before the next one that is executed at once."""
        self._waiting.append((sql, values))

    def drop(self) -> None:
        """Forget what waits."""
        self._waiting.clear()

    def close(self) -> None:
        """End the connection."""
        self.wire.close()


class PostgresRows(StoredRows):
    """The rows of a journal in PostgreSQL. What a batch adds is counted, and returned by `count`."""

    def __init__(self, batch: Batch, owner: int) -> None:
        super().__init__(batch, batch.execute, batch.write)
        self._owner = owner
        self._more: Counter[Principal] = Counter()

    def forget(self) -> None:
        """Forget what was counted: nothing of it will be kept."""
        self._more.clear()

    def busy_sessions(self) -> Iterator[SessionState | DamagedSession]:
        """Yield every session in which runs wait or are claimed."""
        return self._busy(self._execute(_BUSY).fetchall(), self._execute(_LIVE))

    def busy_in(self, partitions: Collection[int]) -> Iterator[SessionState | DamagedSession]:
        """Yield those of some partitions, by two statements for all of them."""
        if len(partitions) == PARTITIONS:
            return self.busy_sessions()
        listed = (_listed(partitions),)
        return self._busy(self._execute(_BUSY_IN, listed).fetchall(), self._execute(_LIVE_IN, listed))

    def _busy(self, found: Iterable[Any], live: Iterable[Any]) -> Iterator[SessionState | DamagedSession]:
        sessions: dict[int, SessionState | DamagedSession] = {}
        for principal, session_id, *row in found:
            key = SessionKey(principal, session_id)
            try:
                sessions[row[0]] = reader.session_of(key, row)
            except RecordDamaged as error:
                sessions[row[0]] = DamagedSession(key, error)
        for no, *columns in live:
            session = sessions.setdefault(no, DamagedSession(None, lost_session(no)))
            if isinstance(session, SessionState):
                try:
                    add_live(session, columns)
                except RecordDamaged as error:
                    sessions[no] = DamagedSession(session.key, error)
        for each in sessions.values():
            if isinstance(each, SessionState):
                attach_joins(each)
            yield each

    def adopt(self, partitions: Collection[int]) -> dict[int, int]:
        """Own those of some partitions that nobody else owns; return them, each with how many owners it has had."""
        return dict(self._execute(_ADOPT, (self._owner, _listed(partitions), self._owner)).fetchall())

    def _cede(self, row: changes.CedePartitions) -> None:
        self._write(_CEDE, (_listed(row.partitions), self._owner, len(row.partitions)))

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are kept for a principal, with those of the transaction that is open."""
        self.count()
        return super().stored_bytes(principal)

    def count(self) -> None:
        """Write how many bytes more are kept for each principal than were counted before."""
        for principal, more in self._more.items():
            self._write(_COUNT, (principal, more))
        self._more.clear()

    def _update(self, statement: str, values: Any) -> None:
        self._write(_of_one_row(statement), values)

    def _add_session(self, row: changes.AddSession) -> None:
        session = row.session
        self._write(_ADD_SESSION, (session.no, partition_of(session.key), *session.key))

    def _add_run(self, row: changes.AddRun) -> None:
        super()._add_run(row)
        self._more[row.session.key.principal] += row.body.size

    def _count_edit(self, principal: Principal, more: int) -> None:
        self._more[principal] += more

    def _add_history(self, row: changes.AddHistory) -> None:
        super()._add_history(row)
        if row.messages is not None:
            self._more[row.session.key.principal] += len(row.messages) + checksums.CHECKSUM_BYTES

    def _copied(self, row: changes.CopyHistory) -> int:
        values = {
            "row": row.row, "step": row.step, "session": row.session.no, "kept": row.kept, "crc": row.source.crc,
            "source": row.source.no, "count": row.count,
        }  # fmt: skip
        (copied,) = self._execute(_COPY, values).fetchone()
        self._more[row.session.key.principal] += row.size
        return int(copied)

    def _drop_session(self, row: changes.DropSession) -> None:
        # No run of it waits or is claimed, so that each has its row of history.
        no = row.session.no
        self.count()
        for statement in _DROP:
            self._write(statement, (no,) * statement.count("?"))
        self._write(_DROP_HISTORY, (no, row.rows, f"the history of session {row.session.key.session_id}"))
        self._write("DELETE FROM sessions WHERE no = ?", (no,))
        self._write(_NOTE_DELETION, (*row.session.key, row.at))
        self._write(_FORGET_DELETIONS, (row.at - DELETIONS_KEPT_S, FORGOTTEN_AT_ONCE))

    def _store_agent(self, row: changes.StoreAgent) -> None:
        session = row.session
        window = row.window and checksums.with_checksum(row.window, session.crc)
        state = row.state and checksums.with_checksum(row.state, session.crc)
        self._write(KEEP_AGENT, (session.no, window, state))
        if row.run is not None:
            self._write(KEEP_AGENT_AFTER, (row.run, session.no))

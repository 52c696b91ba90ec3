"""What the SQLite journal lists: the sessions of a principal or of all, the runs of a session.

Each page costs what is on it. What is damaged does not take the others of its page with it: it is named there.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final

from msgspec.structs import replace

from strandline._journal import port, reader
from strandline._journal.changes import SessionRef
from strandline._journal.checksums import CHECKSUM_BYTES, damaged_record, has_checksum
from strandline._journal.rules import Room
from strandline._model import RunId, RunStatus, RunSummary, SessionId, SessionKey, SessionView
from strandline.errors import Invalid, JournalUnavailable

_IS_THERE: Final = "EXISTS (SELECT 1 FROM runs WHERE seq = chain.run)"
_LEFT: Final = f"{reader.CHAIN} SELECT no, previous, run, {_IS_THERE} FROM chain LIMIT ?"
"""Rows of a session's history, the newest first: the run that each is of, and whether that is still there."""
# (The length is in the row's head: no input is read.)
_COLUMNS: Final = reader.RUN_COLUMNS.replace(" input", " length(input)")
_RUN: Final = f"SELECT {_COLUMNS} FROM runs WHERE seq = ?"
_EXECUTES: Final = f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND fence IS NOT NULL AND status = 'running'"
_WAITS: Final = (
    f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND status = 'queued' AND (lane, urgency, seq) < (?,?,?)"
    " ORDER BY lane DESC, urgency DESC, seq DESC LIMIT ?"
)
_OF: Final = (
    "SELECT seq, session, session_id, status IN ({statuses}) AND principal = ? FROM ({found}) JOIN sessions"
    " ON no = session ORDER BY seq DESC"
)
"""Which runs are of a principal and of these statuses, the last that was accepted first."""
_LATEST: Final = "SELECT seq, session, status FROM runs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
_WAITING: Final = "SELECT seq, session, status FROM runs WHERE status = 'queued' AND seq < ?"
_RUNNING: Final = "SELECT seq, session, status FROM runs WHERE fence IS NOT NULL AND status = 'running' AND seq < ?"
_LISTED: Final = "principal, session_id, (SELECT length(question) FROM questions WHERE session = no AND answer IS NULL)"
"""Of a session; how long its question is, if it waits for an answer."""
_LOOKED_AT: Final = 5_000
"""How many of the latest runs of all principals a page looks through for those of one that have ended."""
_LAST: Final = (1 << 60, 0, 0)
"""Behind every run that waits."""
_AFTER_ALL: Final = 1 << 62
"""Behind every sequence."""
_WALK: Final = 5_000
"""How many sessions one page of those at rest looks at, at most: about 1 ms."""
_WALKED: Final = "SELECT count(*), max(no) FROM (SELECT no FROM sessions WHERE no > ? ORDER BY no LIMIT ?)"
_RESTS: Final = (
    "SELECT no, principal, session_id FROM sessions WHERE no > ? AND no <= ? AND rests_since < ? AND NOT paused"
    " AND NOT EXISTS (SELECT 1 FROM questions WHERE session = no)"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session = no AND fence IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session = no AND status = 'queued') ORDER BY no LIMIT ?"
)
_FORGOTTEN: Final = 500
_READS: Final = 20
"""Over how many rows of forgotten runs a page looks further in one read, and how often: all that in some 20 ms."""


class _Listed:
    """A page of runs as it is filled, up to so many runs and bytes."""

    def __init__(self, query: port.RunsQuery | port.RunsOfQuery) -> None:
        self._limit = query.limit
        self._room = Room(query.most_bytes)
        self._runs: list[RunSummary] = []
        self._damaged: list[RunId] = []

    @property
    def is_full(self) -> bool:
        """Whether the page has as many runs as it may."""
        return len(self._runs) + len(self._damaged) >= self._limit

    def adds(self, row: reader.RunRow, session: SessionRef, position: int | None = None) -> bool:
        """Add a run of a session, or name it as damaged. False if there is no room for it."""
        if self.is_full or not self._room.takes(_listed_bytes(row)):
            return False
        try:
            run = reader.intact_run(RunSummary, row, session)
        except JournalUnavailable:
            self._damaged.append(row.run_id)
        else:
            self._runs.append(run if position is None else replace(run, position=position))
        return True

    def page(self, after: str | None) -> port.RunsPage:
        """Return the page."""
        return port.RunsPage(self._runs, after, self._damaged)


def _listed_bytes(row: reader.RunRow) -> int:
    """Return how many bytes of a page a run takes, see `RunsQuery`; seals take none."""
    bodies = (each for each in (row.metadata, row.outcome) if isinstance(each, bytes))
    shown = sum(len(each) - CHECKSUM_BYTES * has_checksum(each) for each in bodies)
    length: int = row.input  # (see `_COLUMNS`)
    return shown + max(0, length - CHECKSUM_BYTES) // port.SKIPPED_INPUT_DIVISOR


def sessions(connection: sqlite3.Connection, query: port.SessionsQuery) -> port.SessionPage:
    """Return a page of the sessions of a principal, or of all, in the order of principal and id."""
    own = query.principal
    begin = max(query.after or ("", ""), (own or "", ""))
    rows = connection.execute(
        f"SELECT {_LISTED} FROM sessions WHERE (principal, session_id) > (?,?) AND principal <= ?"
        " ORDER BY principal, session_id LIMIT ?",
        (*begin, b"" if own is None else own, query.limit + 1),  # (every text is less than some bytes)
    ).fetchall()
    room = Room(query.most_bytes)
    shown: list[SessionView] = []
    damaged: list[SessionKey] = []
    last: SessionKey | None = None
    for number, (principal, session_id, length) in enumerate(rows):
        if number == query.limit or not room.takes(max(0, (length or 0) - CHECKSUM_BYTES)):
            return port.SessionPage(shown, last, damaged)
        last = SessionKey(principal, session_id)
        try:
            found = session(connection, port.SessionQuery(last))
        except JournalUnavailable:
            damaged.append(last)
        else:
            if found is None:  # its name is damaged: no page could begin after it
                raise damaged_record(f"the name of session {session_id}")
            shown.append(found)
    return port.SessionPage(shown, None, damaged)


def resting(connection: sqlite3.Connection, query: port.RestingQuery) -> port.RestingPage:
    """Return a page of the sessions that are at rest since before a moment. A cursor is the number of a session.

    No index is kept of when that was, which every run would have to be moved in: the walk goes over all sessions.
    """
    looked, end = connection.execute(_WALKED, (query.cursor, _WALK)).fetchone()
    rows = connection.execute(_RESTS, (query.cursor, end, query.before, query.limit)).fetchall()
    keys = [SessionKey(*key) for _, *key in rows]
    if len(rows) == query.limit:
        return port.RestingPage(keys, rows[-1][0])
    return port.RestingPage(keys, end if looked == _WALK else None)


def stored(connection: sqlite3.Connection, query: port.StoredQuery) -> port.Stored:
    """Return how many bytes are kept; one row for each principal is read, some 10 million in a second."""
    rows = connection.execute("SELECT coalesce(sum(bytes), 0), coalesce(max(bytes), 0) FROM stored")
    return port.Stored(*rows.fetchone())


def session(connection: sqlite3.Connection, query: port.SessionQuery) -> SessionView | None:
    """Return one session, None if there is none."""
    found = reader.find_session(connection, query.key)
    if found is None:
        return None
    (waiting,) = connection.execute(
        "SELECT count(*) FROM runs WHERE session = ? AND status = 'queued'", (found.no,)
    ).fetchone()
    claimed = connection.execute(
        "SELECT run_id, ended_at IS NOT NULL FROM runs WHERE session = ? AND fence IS NOT NULL", (found.no,)
    ).fetchone()
    run_id, held = claimed or (None, 0)
    asked = found.question
    view = SessionView(
        key=query.key,
        messages=found.end.length,
        waiting=waiting,
        claimed=run_id and RunId(run_id),
        held=bool(held),
        paused=found.paused,
    )
    if asked is None:
        return view
    question = reader.question_of(connection, found.ref, asked.run, asked.until)
    return replace(view, input_requests=question.requests, input_until=asked.until)


def runs(connection: sqlite3.Connection, query: port.RunsQuery) -> port.RunsPage:
    """Return a page of a session's runs, the last in line first, then what executes, then the ended, latest first.

    A cursor is `w` and a rank (what waits before it), `r` (what executes), or `h` and a row of history (what ended
    then).
    """
    kind = "w" if query.cursor is None else query.cursor[:1]
    place = _LAST if query.cursor is None else _numbers(query.cursor[1:], {"w": 3, "r": 0, "h": 1}.get(kind))
    found = reader.find_session(connection, query.key)
    if found is None:
        return port.RunsPage([], None)
    no = found.no
    listed = _Listed(query)
    if kind == "w":
        last_shown = place
        ahead = reader.waiting_before(connection, no, place)
        with closing(connection.execute(_WAITS, (no, *place, query.limit + 1))) as rows:
            for index, row in enumerate(map(reader.RunRow._make, rows)):  # (one at a time: each may be large)
                if not listed.adds(row, found.ref, ahead - index):
                    return listed.page("w" + ".".join(map(str, last_shown)))
                last_shown = row.rank
    if kind in "wr":
        for columns in connection.execute(_EXECUTES, (no,)).fetchall():
            if not listed.adds(reader.RunRow(*columns), found.ref):
                return listed.page("r")
    last = found.end.row if kind != "h" else place[0]
    after = None if last is None else _ended(connection, listed, query, found.ref, last)
    return listed.page(None if after is None else f"h{after}")


def runs_of(connection: sqlite3.Connection, query: port.RunsOfQuery) -> port.RunsPage:
    """Return a page of a principal's runs, the last that was accepted first. A cursor is a sequence.

    What waits and executes is found by its index. Of what has ended there is none by principal, which every run would
    have to be written to: a page looks through so many of the latest runs, whosever they are, and says where it was.
    """
    bound = _AFTER_ALL if query.cursor is None else _numbers(query.cursor, 1)[0]
    statuses = query.statuses or frozenset(RunStatus)
    listed = _Listed(query)
    found: str = _LATEST
    given: tuple[int, ...] = (bound, _LOOKED_AT)
    if statuses <= {RunStatus.QUEUED, RunStatus.RUNNING}:
        found, given = f"{_WAITING} UNION ALL {_RUNNING}", (bound, bound)
    sql = _OF.format(found=found, statuses=", ".join("?" * len(statuses)))
    rows = connection.execute(sql, (*sorted(statuses), query.principal, *given)).fetchall()
    shown = bound
    for seq, no, session_id, is_wanted in rows:
        if is_wanted:
            key = SessionKey(query.principal, SessionId(session_id))
            row = None if listed.is_full else _run(connection, seq)
            if row is None or not listed.adds(row, SessionRef.of(no, key), reader.position_of(connection, no, row)):
                return listed.page(str(shown))
        shown = seq
    return listed.page(str(shown) if found is _LATEST and len(rows) == _LOOKED_AT else None)


def _numbers(written: str, count: int | None) -> tuple[int, ...]:
    """Return the numbers of a cursor, which are so many. Raises `Invalid`."""
    numbers = written.split(".") if written else []
    if len(numbers) != count or not all(each.isascii() and each.isdecimal() and len(each) < 19 for each in numbers):
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return tuple(map(int, numbers))


def _run(connection: sqlite3.Connection, seq: int) -> reader.RunRow:
    return reader.RunRow(*connection.execute(_RUN, (seq,)).fetchone())


def _ended(
    connection: sqlite3.Connection, listed: _Listed, query: port.RunsQuery, session: SessionRef, last: int
) -> int | None:
    """Add the runs that ended at a row of history and before it; return the row of the first that has no room.

    Rows whose runs have been forgotten are passed over. Only behind a great many of them may there be a page that has
    room and goes on.
    """
    rows = query.limit + 1
    row: int | None = last
    for _ in range(_READS):
        read = connection.execute(_LEFT, (row, session.no, -1, rows)).fetchall()
        for this, _, run, is_there in read:
            if is_there and (listed.is_full or not listed.adds(_run(connection, run), session)):
                return int(this)
        row = read[-1][1] if read else None
        if row is None:
            return None
        rows = _FORGOTTEN
    return row


ANSWERS: Final[Mapping[type[port.Query[Any]], Callable[[sqlite3.Connection, Any], Any]]] = {
    port.RunQuery: reader.run,
    port.HistoryQuery: reader.history,
    port.AgentStateQuery: reader.standing,
    port.RunsQuery: runs,
    port.RunsOfQuery: runs_of,
    port.SessionQuery: session,
    port.SessionsQuery: sessions,
    port.RestingQuery: resting,
    port.StoredQuery: stored,
}
"""What answers each kind of query."""


def answer(connection: sqlite3.Connection, query: port.Query[port.A]) -> port.A:
    """Answer a query from what `connection` sees."""
    answered: port.A = ANSWERS[type(query)](connection, query)
    return answered

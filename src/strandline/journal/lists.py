"""What the SQLite journal lists: the sessions of a principal, the runs of a session. Each page costs what is on it."""

import sqlite3
from typing import Final

from msgspec.structs import replace

from strandline.journal.port import RunsPage, RunsQuery, SessionQuery, SessionsPage, SessionsQuery
from strandline.journal.questions import question_of
from strandline.journal.reader import RUN_COLUMNS, find_session, sound_run, waiting_before
from strandline.journal.rules import Rank, place_of
from strandline.model import Run, RunId, SessionId, SessionKey, SessionView

_CHAIN: Final = (
    "WITH RECURSIVE chain (no, run, previous) AS (SELECT no, run, previous FROM history WHERE no = ? AND session = ?"
    " UNION ALL SELECT history.no, history.run, history.previous FROM chain JOIN history"
    " ON history.no = chain.previous AND history.session = ? WHERE chain.previous < chain.no LIMIT ?)"
    f" SELECT no, previous, {RUN_COLUMNS} FROM chain LEFT JOIN runs ON seq = run ORDER BY no DESC"
)
_EXECUTES: Final = f"SELECT {RUN_COLUMNS} FROM runs WHERE session = ? AND fence IS NOT NULL AND status = 'running'"
_WAITS: Final = (
    f"SELECT {RUN_COLUMNS} FROM runs WHERE session = ? AND status = 'queued' AND (lane, urgency, seq) < (?,?,?)"
    " ORDER BY lane DESC, urgency DESC, seq DESC LIMIT ?"
)
_LAST: Final[Rank] = (1 << 60, 0, 0)
"""Behind every run that waits."""


def sessions(connection: sqlite3.Connection, query: SessionsQuery) -> SessionsPage:
    """Return a page of a principal's sessions, in the order of their ids."""
    rows = connection.execute(
        "SELECT session_id FROM sessions WHERE principal = ? AND session_id > ? ORDER BY session_id LIMIT ?",
        (query.principal, query.after or "", query.limit + 1),
    ).fetchall()
    found = [session(connection, SessionQuery(SessionKey(query.principal, each))) for (each,) in rows[: query.limit]]
    shown = [each for each in found if each is not None]
    return SessionsPage(shown, SessionId(rows[query.limit - 1][0]) if len(rows) > query.limit else None)


def session(connection: sqlite3.Connection, query: SessionQuery) -> SessionView | None:
    """Return one session, None if there is none."""
    found = find_session(connection, query.key)
    if found is None:
        return None
    no, tail = found.no, found.tail
    (waiting,) = connection.execute(
        "SELECT count(*) FROM runs WHERE session = ? AND status = 'queued'", (no,)
    ).fetchone()
    claimed = connection.execute(
        "SELECT run_id, ended_at IS NOT NULL FROM runs WHERE session = ? AND fence IS NOT NULL", (no,)
    ).fetchone()
    run_id, held = claimed or (None, 0)
    asked = connection.execute(
        "SELECT run, until FROM questions WHERE session = ? AND answer IS NULL", (no,)
    ).fetchone()
    return SessionView(
        key=query.key,
        messages=tail.length,
        waiting=waiting,
        claimed=run_id and RunId(run_id),
        held=bool(held),
        paused=found.paused,
        input_requests=[] if asked is None else question_of(connection, query.key, no, *asked).requests,
        input_until=None if asked is None else asked[1],
    )


def runs(connection: sqlite3.Connection, query: RunsQuery) -> RunsPage:
    """Return a page of a session's runs, the last in line first, then what executes, then the ended, latest first.

    A cursor is `w` and a rank (what waits before it), `r` (what executes), or `h` and a row of history (what ended
    then).
    """
    found = find_session(connection, query.key)
    if found is None:
        return RunsPage([], None)
    no, tail = found.no, found.tail
    kind, place = place_of(query.cursor)
    shown: list[Run] = []
    if kind == "w":
        shown = _waiting(connection, query.key, no, place if query.cursor else _LAST, query.limit + 1)
        if len(shown) > query.limit:
            return RunsPage(shown[:-1], _cursor_after(connection, shown[-2]))
    if kind in "wr":
        if len(shown) == query.limit:
            return RunsPage(shown, "r")
        shown += [sound_run(row, query.key) for row in connection.execute(_EXECUTES, (no,))]
    row = tail.row if kind != "h" else place
    if len(shown) == query.limit or row is None:
        return RunsPage(shown, None if row is None else f"h{row}")
    ended, after = _ended(connection, query.key, no, row, query.limit - len(shown))
    return RunsPage(shown + ended, after)


def _waiting(connection: sqlite3.Connection, key: SessionKey, no: int, before: Rank, limit: int) -> list[Run]:
    rows = connection.execute(_WAITS, (no, *before, limit)).fetchall()
    ahead = waiting_before(connection, no, before)
    return [replace(sound_run(row, key), position=ahead - index) for index, row in enumerate(rows)]


def _ended(
    connection: sqlite3.Connection, key: SessionKey, no: int, row: int, limit: int
) -> tuple[list[Run], str | None]:
    """Return the runs that ended at a row of history and before it, and the cursor of those before them.

    Some may have been forgotten since: a page may have less on it than `limit`, or nothing.
    """
    rows = connection.execute(_CHAIN, (row, no, no, limit)).fetchall()
    ended = [sound_run(tuple(columns), key) for _, _, *columns in rows if columns[0] is not None]
    previous = rows[-1][1] if rows else None
    return ended, None if previous is None else f"h{previous}"


def _cursor_after(connection: sqlite3.Connection, run: Run) -> str:
    place = connection.execute("SELECT lane, urgency, seq FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    return "w" + ".".join(map(str, place))

"""The branches of a session and its forks, small enough to draw: without the content of a message."""

from typing import Any, Final

from strandline._journal import port, reader
from strandline._journal.changes import SessionRef
from strandline._journal.database import Database
from strandline._journal.forks import decoded_fork, fork_of
from strandline._journal.rules import Branch, branch_of
from strandline._journal.state import SessionState
from strandline._model import Range, RunId, SessionId, SessionKey

_MARK: Final = "SELECT no FROM history WHERE session = ? AND nth % 64 = 0 AND first >= ? ORDER BY first LIMIT 1"
_ROW: Final = (
    f"{reader.CHAIN} SELECT coalesce(copied_run, run_id), started_at, ended_at FROM chain JOIN history USING (no)"
    " LEFT JOIN runs ON seq = chain.run WHERE history.first <= ? AND history.first + count > ?"
)
"""The run of the row with a message, and its times, if it is kept."""
_FORKS: Final = (
    "SELECT session_id, no, record FROM forks JOIN sessions ON sessions.no = forks.session WHERE source = ?"
    " ORDER BY forks.session DESC LIMIT ?"
)


def tree(connection: Database, query: port.TreeQuery) -> port.SessionTree | None:
    """Return the branches of a session and its forks; None if there is no session."""
    session = reader.find_session(connection, query.key)
    if session is None:
        return None
    course = reader.course_of(connection, session)
    made = [Branch(*row) for row in connection.execute(reader.BRANCHES, (session.no,)).fetchall()]
    length, branches = session.end.length, [Branch(0, 0, 0), *made]
    ends = [*(each.start for each in made), length]
    shown = list(zip(branches, ends, strict=True))[-query.most :]
    fork = fork_of(connection, session.ref)
    found = connection.execute(_FORKS, (session.no, query.most + 1)).fetchall()
    return port.SessionTree(
        key=query.key,
        messages=length,
        branches=[_branch(connection, session, course, branch, end) for branch, end in shown],
        forks=[_fork(query.key, made, *row) for row in reversed(found[: query.most])],
        forked_from=None if fork is None else fork.origin,
        is_whole=len(shown) == len(branches) and len(found) <= query.most,
    )


def _branch(
    connection: Database, session: SessionState, course: list[Range], branch: Branch, end: int
) -> port.TreeBranch:
    first_run, began_at, _ = _row(connection, session, branch.start) if branch.start < end else (None, None, None)
    last_run, _, ended_at = _row(connection, session, end - 1) if branch.start < end else (None, None, None)
    after = branch.upto - 1 if branch.upto else None
    current = next((each for each in course if each.start == branch.start), None)
    left = branch.start if current is None else end if current.end is None else current.end
    return port.TreeBranch(
        start=branch.start,
        messages=end - branch.start,
        parent=branch.parent if branch.start else None,
        after=after,
        after_run=None if after is None else _row(connection, session, after)[0],
        first_run=first_run,
        last_run=last_run,
        began_at=began_at,
        ended_at=ended_at,
        superseded_from=left if left < end else None,
    )


def _row(connection: Database, session: SessionState, index: int) -> tuple[RunId | None, float | None, float | None]:
    """Return the run that left a message, when it started and when it ended, as far as it is kept."""
    mark = connection.execute(_MARK, (session.no, index)).fetchone()
    begin = session.end.row if mark is None else mark[0]
    found: Any = connection.execute(_ROW, (begin, session.no, index, index, index)).fetchone()
    return found or (None, None, None)


def _fork(source: SessionKey, branches: list[Branch], session_id: str, no: int, record: bytes) -> port.TreeFork:
    name = SessionId(session_id)
    found = decoded_fork(SessionRef.of(no, SessionKey(source.principal, name)), record)
    return port.TreeFork(name, found.origin.run_id, found.messages, branch_of(branches, max(0, found.messages - 1)))

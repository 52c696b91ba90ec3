"""What a branch of a history supersedes: runs, and the tools of theirs that have acted."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import Final

from strandline._history import acted
from strandline._journal import checksums, port, reader
from strandline._journal.changes import SessionRef
from strandline._journal.database import Database
from strandline._journal.rules import Branch, branch_at, clipped, course, without
from strandline._journal.state import SessionState
from strandline._model import NO_AGENT, Input, Message, Place, Range, Run, RunId, RunStatus, RunSummary

_JOINED: Final = (
    f"{reader.CHAIN} SELECT {reader.RUN_COLUMNS} FROM chain CROSS JOIN runs WHERE runs.seq = chain.run"
    " AND host = ? AND joins = 'applied' ORDER BY seq"
)
_JOINED_LIVE: Final = (
    f"SELECT {reader.RUN_COLUMNS} FROM runs"
    " WHERE session = ? AND status = 'running' AND joins = 'applied' AND ended_at IS NULL AND host = ? ORDER BY seq"
)
_COUNT: Final = (
    f"{reader.CHAIN} SELECT count(*) FROM chain CROSS JOIN runs WHERE runs.seq = chain.run"
    " AND host = ? AND joins = 'applied'"
)
_COUNT_LIVE: Final = (
    "SELECT count(*) FROM runs"
    " WHERE session = ? AND status = 'running' AND joins = 'applied' AND ended_at IS NULL AND host = ?"
)
_BEFORE: Final = "SELECT start, was_parent, was_upto, forgotten FROM branches WHERE session = ? AND start = ?"
_AT_ONCE: Final = 500
"""How many runs one statement asks for."""


def superseded(connection: Database, query: port.SupersededQuery) -> port.Superseded:
    """Return what a run that goes back supersedes or has superseded, or what the branch at `start` has."""
    session = reader.find_session(connection, query.key)
    nothing = port.Superseded([], [])
    if session is None:
        return nothing
    reader.course_of(connection, session)  # (which checks the branches)
    branches = [Branch(*row) for row in connection.execute(reader.BRANCHES, (session.no,)).fetchall()]
    if query.start is not None:
        made = next((each for each in branches if each.start == query.start), None)
        if made is None:
            return nothing
        return _gone(connection, session, branches, made, *_began(connection, session, made))
    run = None if query.run_id is None else _run(connection, session, query.run_id)
    if run is None or run.back is None or (at := run.back.at) is None:
        return nothing
    made = next((each for each in branches if each.run == run.sequence), None)
    if made is None and (run.status is not RunStatus.QUEUED or run.started_at is not None):
        return nothing  # (it continued at the end of history)
    if made is not None:
        return _gone(connection, session, branches, made, *_began(connection, session, made))
    made = branch_at(branches, session.end.length, at.parent, at.upto)
    here = branch_at(branches, session.end.length, session.branch or 0, session.end.length)
    if made == here and at.agent == session.end.agent:
        return nothing
    replaced = next((each for each in branches if each.start == made.start), None)
    return _gone(connection, session, branches, made, replaced, _is_forgotten(connection, session, at))


def _began(connection: Database, session: SessionState, made: Branch) -> tuple[Branch | None, bool]:
    """Return the branch that a stored one replaced, and whether window and state were forgotten when it began."""
    start, parent, upto, forgotten = connection.execute(_BEFORE, (session.no, made.start)).fetchone()
    return None if parent is None else Branch(start, parent, upto), bool(forgotten)


def _is_forgotten(connection: Database, session: SessionState, place: Place) -> bool:
    """Return whether window and state as they were at a place would be forgotten if a run went back to it now."""
    if place.agent is None or place.agent in (NO_AGENT, session.end.agent):
        return place.agent is None
    kept = "SELECT 1 FROM agents_after WHERE session = ? AND run = ?"
    return connection.execute(kept, (session.no, place.agent)).fetchone() is None


def joined(connection: Database, query: port.JoinedQuery) -> list[Input]:
    """Return what the runs said that have joined another one, whether it has ended or not."""
    session = reader.find_session(connection, query.key)
    if session is None:
        return []
    rows = connection.execute(_JOINED_LIVE, (session.no, query.run_id)).fetchall()
    rows = rows or connection.execute(_JOINED, (session.end.row, session.no, -1, query.run_id)).fetchall()
    return [reader.intact_run(Run, reader.RunRow(*row), session.ref).input for row in rows]


def count_joined(connection: Database, session: SessionRef, last: int | None, run_id: RunId) -> int:
    """Return how many inputs `joined` would return; `last` is the last row of history."""
    (count,) = connection.execute(_COUNT_LIVE, (session.no, run_id)).fetchone()
    if not count:
        (count,) = connection.execute(_COUNT, (last, session.no, -1, run_id)).fetchone()
    return int(count)


def _run(connection: Database, session: SessionState, run_id: RunId) -> RunSummary | None:
    row = connection.execute(
        f"SELECT {reader.RUN_COLUMNS} FROM runs WHERE run_id = ? AND session = ?", (run_id, session.no)
    ).fetchone()
    return None if row is None else reader.intact_run(RunSummary, reader.RunRow(*row), session.ref)


def _gone(
    connection: Database,
    session: SessionState,
    branches: Sequence[Branch],
    made: Branch,
    replaced: Branch | None,
    forgotten: bool,
) -> port.Superseded:
    """Return what one of these branches has superseded, or would, if it was made now.

    `replaced` is the one that history had at the same start, without a message.
    """
    earlier = [each for each in branches if each.start < made.start]
    previous = earlier if replaced is None else [*earlier, replaced]
    if replaced is not None and any(True for _ in reader.faults_of_branches(previous, made.start)):
        raise checksums.damaged_record(f"the branches of session {session.key.session_id}")
    before = clipped(course(previous), made.start)
    gone = without(before, clipped(course([*earlier, made]), made.start))
    by_run = list(_by_run(connection, session, gone))
    runs = list(dict.fromkeys(run_id for run_id, _ in by_run if run_id is not None))
    effects = [port.Effect(run_id, *each) for run_id, messages in by_run for each in acted(messages)]
    return port.Superseded(runs, None if _any_unseen(connection, runs) else effects, forgotten=forgotten)


def _by_run(
    connection: Database, session: SessionState, ranges: Iterable[Range]
) -> Iterator[tuple[RunId | None, list[Message]]]:
    """Yield the messages in some ranges, in order, those of each run together."""
    for each in ranges:
        assert each.end is not None
        with closing(reader.messages_of_runs(connection, session, each.start, each.end)) as found:
            messages = list(found)[::-1]
        for run_id, group in groupby(messages, key=lambda pair: pair[0]):
            yield run_id, [message for _, message in group]


def _any_unseen(connection: Database, runs: Sequence[RunId]) -> bool:
    """Return whether one of these runs has tools that cannot be seen."""
    for start in range(0, len(runs), _AT_ONCE):
        some = runs[start : start + _AT_ONCE]
        listed = ", ".join("?" * len(some))
        if connection.execute(f"SELECT 1 FROM runs WHERE opaque = 1 AND run_id IN ({listed}) LIMIT 1", some).fetchone():
            return True
    return False

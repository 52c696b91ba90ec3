"""The turns of a session as its clients know them, compared with a list of theirs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from msgspec import Struct

from strandline._history import MOST_LISTED, Listed, input_text, said_in
from strandline._journal import port, reader
from strandline._journal.database import Database
from strandline._journal.rules import Branch, branch_of
from strandline._journal.state import SessionState
from strandline._model import JoinState, Run, RunId

MOST_BYTES: Final = 32 * 1024 * 1024
"""How many bytes of inputs are read for one comparison."""
_OF_RUN: Final = ", ".join(f"runs.{name}" for name in reader.RunRow._fields)
COLUMNS: Final = (
    "history.first, history.count, history.discarded, CASE WHEN runs.seq IS NULL THEN history.messages END,"
    f" history.origin, history.copied_run, {_OF_RUN}"
)
TURNS: Final = (
    f"{reader.CHAIN} SELECT {COLUMNS}"
    " FROM chain CROSS JOIN history USING (no) LEFT JOIN runs ON runs.seq = chain.run LIMIT ?"
)
"""The rows of a session's history, the newest first, each with its run."""
_RUNS_OF: Final = f"SELECT {reader.RUN_COLUMNS} FROM runs WHERE session = ? AND"
_COMING: Final = (
    f"{_RUNS_OF} status = 'queued'",
    f"{_RUNS_OF} fence IS NOT NULL AND status = 'running'",
    f"{_RUNS_OF} {reader.JOINED_ONES} = 'running' AND joins = 'applied'",
)


class _Row(Struct, frozen=True):
    """A row of history: the messages from `first` on, and what was said in it; nothing in one that is no turn."""

    first: int
    said: tuple[port.Turned, ...]


def conversation(connection: Database, query: port.ConversationQuery) -> port.Conversation:
    """Return the turns of a session, each with the listed messages that are equal to what it said."""
    session = reader.find_session(connection, query.key)
    if session is None:
        return port.Conversation()
    reader.course_of(connection, session)  # (which checks the branches)
    branches = [Branch(*row) for row in connection.execute(reader.BRANCHES, (session.no,)).fetchall()]
    listed = Listed(query.listed)
    rows, is_whole = _rows(connection, session, listed)
    turns = [row for row in reversed(rows) if row.said]
    of_branch: defaultdict[int, list[int]] = defaultdict(list)
    for number, turn in enumerate(turns):
        of_branch[branch_of(branches, turn.first)].append(number)
    by_start = {each.start: each for each in branches}

    def last_before(branch: int, upto: int) -> int | None:
        """Return the last turn of a branch before a message, or else of those that it continues."""
        while True:
            for number in reversed(of_branch[branch]):
                if turns[number].first < upto:
                    return number
            if not branch:
                return None
            _, branch, upto, _ = by_start[branch]

    return port.Conversation(
        turns=[
            port.ConversationTurn(turn.said, last_before(branch_of(branches, turn.first), turn.first)) for turn in turns
        ],
        end=last_before(session.branch or 0, session.end.length),
        coming=list(_coming(connection, session, listed)),
        is_whole=is_whole,
    )


def _rows(connection: Database, session: SessionState, listed: Listed) -> tuple[list[_Row], bool]:
    """Return the last rows of history, the newest first, and whether these are all."""
    if session.end.row is None:
        return [], True
    found: list[tuple[int, Run | RunId | None, list[str]]] = []
    joined: defaultdict[RunId, list[Run]] = defaultdict(list)
    size, above = 0, session.end.length
    with closing(connection.execute(TURNS, (session.end.row, session.no, -1, MOST_LISTED))) as rows:
        for first, count, discarded, stored, origin, copied_run, *columns in rows:
            row = reader.RunRow(*columns)
            size += len(row.input or stored or b"")
            if size > MOST_BYTES:
                break
            above = first
            run = None if row.run_id is None else reader.intact_run(Run, row, session.ref)
            if run is not None and run.join is JoinState.APPLIED and run.joined is not None:
                joined[run.joined].append(run)
            elif run is not None and count and not discarded:
                found.append((first, run, []))
            elif count and not discarded:
                messages = reader.messages_in(
                    reader.in_full, stored, session.ref, first, count, origin, discarded=False
                )
                found.append((first, copied_run and RunId(copied_run), said_in(messages)))
    return _with_joined(found, joined, listed), above == 0


def _with_joined(
    found: Sequence[tuple[int, Run | RunId | None, list[str]]], joined: Mapping[RunId, list[Run]], listed: Listed
) -> list[_Row]:
    rows: list[_Row] = []
    for first, run, texts in found:
        if not isinstance(run, Run):  # (it is deleted, or its row was copied: then only the first text is known as its)
            said = tuple(port.Turned(None if part else run, listed.like(text)) for part, text in enumerate(texts))
        else:
            others = sorted(joined.get(run.run_id, ()), key=lambda each: each.sequence)
            said = tuple(_turned(each, listed) for each in (run, *others))
        rows.append(_Row(first, said))
    return rows


def _coming(connection: Database, session: SessionState, listed: Listed) -> Iterator[port.Turned]:
    """Yield what the runs say that have not ended, in the order in which they were accepted."""
    rows: list[Any] = []
    for statement in _COMING:
        rows += connection.execute(statement, (session.no,)).fetchall()
    runs = {run.sequence: run for run in (reader.intact_run(Run, reader.RunRow(*row), session.ref) for row in rows)}
    for _, run in sorted(runs.items()):
        yield _turned(run, listed)


def _turned(run: Run, listed: Listed) -> port.Turned:
    text = input_text(run.input)
    return port.Turned(run.run_id, listed.like(text), port.BY_LIST in run.metadata, text is not None)

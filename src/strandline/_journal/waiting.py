"""The runs of a session that wait, in the order in which an agent gets what they say."""

from heapq import merge
from typing import Final

from strandline._journal import port, reader
from strandline._journal.changes import SessionRef
from strandline._journal.database import Database
from strandline._model import Input, Lane, Run, RunSummary
from strandline.errors import JournalUnavailable

_COLUMNS: Final = reader.RUN_COLUMNS.replace(" input", " length(input)")
_COUNT: Final = f"SELECT count(*) FROM runs WHERE session = ? AND status = 'queued' AND lane < {Lane.DELAYED}"
_JOINING: Final = f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND {reader.JOINED_ONES} = 'queued'"
_PENDING: Final = f"{_JOINING} AND joins = 'pending' ORDER BY seq LIMIT ?"
_BECAME: Final = f"{_JOINING} AND joins = 'became_next_run' ORDER BY lane, urgency, seq LIMIT ?"
_QUEUE: Final = (
    f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND status = 'queued' AND joins IS NULL AND lane < {Lane.DELAYED}"
    " ORDER BY lane, urgency, seq LIMIT ?"
)
_WHOLE: Final = f"SELECT {reader.RUN_COLUMNS} FROM runs WHERE seq = ?"


def waiting(connection: Database, query: port.WaitingQuery) -> port.WaitingRuns:
    """Return the first runs of a session that wait, and how many there are."""
    found = reader.find_session(connection, query.key)
    if found is None:
        return port.WaitingRuns(0)
    (count,) = connection.execute(_COUNT, (found.no,)).fetchone()
    if not count:
        return port.WaitingRuns(0)
    pending, became, queue = (
        [reader.RunRow(*columns) for columns in connection.execute(sql, (found.no, query.runs)).fetchall()]
        for sql in (_PENDING, _BECAME, _QUEUE)
    )
    rows = [*pending, *merge(became, queue, key=lambda row: row.rank)][: query.runs]
    runs: list[RunSummary] = []
    inputs: list[Input | None] = []
    left = query.most_bytes
    for row in rows:
        given = None
        is_read = len(inputs) < query.inputs and (left is None or row.input <= left)  # (its length)
        try:
            run = reader.intact_run(RunSummary, row, found.ref)
            if is_read:
                given = _input(connection, row.seq, found.ref)
        except JournalUnavailable:
            continue
        if is_read and left is not None:
            left -= row.input
        runs.append(run)
        if len(inputs) < query.inputs:
            inputs.append(given)
    return port.WaitingRuns(count, runs, inputs)


def _input(connection: Database, seq: int, session: SessionRef) -> Input | None:
    """Return the input of a run. Raises `JournalUnavailable` if it is damaged."""
    columns = connection.execute(_WHOLE, (seq,)).fetchone()
    return None if columns is None else reader.intact_run(Run, reader.RunRow(*columns), session).input

"""Rows as SQL: a change of what is not there is found out, and a drop of what pruning has taken already is none."""

import pytest

from stored_rows import StoredRows
from strandline.journal.changes import (
    AnswerQuestion,
    Change,
    ChangeRun,
    ChangeSession,
    CloseRequest,
    DropCheckpoints,
    DropQuestion,
    EndHold,
    ForgetKey,
)
from strandline.journal.sqlite_rows import Mismatch

WAITS = ChangeRun(
    seq=7,
    was=None,
    lane=3,
    urgency=0,
    moved=None,
    attempt=0,
    fence=None,
    is_last=False,
    started_at=None,
    queue_deadline=None,
    cancel_requested=False,
    discard=False,
)


@pytest.mark.parametrize(
    "row",
    [
        ChangeSession(7, paused=True, closed_since=1.0, rests_since=None),
        WAITS,
        EndHold(seq=7, fence=1),
        AnswerQuestion(no=7, answer=8),
    ],
    ids=lambda row: type(row).__name__,
)
def test_a_change_of_what_is_not_stored_is_found_out(row: Change) -> None:
    with pytest.raises(Mismatch, match="not one row was changed by: UPDATE"):
        StoredRows().write([row])


@pytest.mark.parametrize(
    "row",
    [
        DropCheckpoints(seq=7),
        ForgetKey(seq=7),
        DropQuestion(no=7),
        CloseRequest(no=7, id="ask", run=7, closed="answered"),
    ],
    ids=lambda row: type(row).__name__,
)
def test_what_is_gone_already_can_be_dropped_again_and_leaves_nothing(row: Change) -> None:
    rows = StoredRows()
    rows.write([row])
    tables = ("staged", "runs", "questions", "closed_requests")
    assert not any(rows.database.execute(f"SELECT 1 FROM {table}").fetchone() for table in tables)

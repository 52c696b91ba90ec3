"""Rows as SQL: a change of what is not there is found out, and a drop of what pruning has taken already is none."""

import pytest
from msgspec.structs import replace

from stored_rows import StoredRows
from strandline._journal.changes import (
    AddHistory,
    AddRun,
    AddSession,
    AnswerQuestion,
    Change,
    ChangeRun,
    ChangeSession,
    CloseRequest,
    CopyHistory,
    DropCheckpoints,
    DropKey,
    DropQuestion,
    EndHold,
    SessionRef,
    encoded_body,
)
from strandline._journal.records import DamagedSession
from strandline._journal.sqlite_rows import Mismatch
from strandline._journal.state import SessionState
from strandline._model import ANONYMOUS, NO_AGENT, NewRun, RunId, SessionId, SessionKey
from strandline.errors import JournalUnavailable

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
        DropKey(seq=7),
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


def test_runs_of_a_session_that_is_not_there_are_found_out_at_the_start() -> None:
    rows = StoredRows()
    session = SessionRef.of(7, SessionKey(ANONYMOUS, SessionId("s")))
    new = NewRun(run_id=RunId("a"), key=session.key, input="go", created_at=1.0)
    added = AddRun(session, 0, new, encoded_body(new), 3, 3, queue_deadline=None, fence=None, started_at=None)
    rows.write([added])
    (lost,) = rows.busy_sessions()
    assert isinstance(lost, DamagedSession)
    assert "session number 7, of which there are runs but no row, is damaged" in str(lost.error)
    assert lost.key is None
    rows.write([AddSession(session)])
    (found,) = rows.busy_sessions()
    assert isinstance(found, SessionState)
    assert [run.run_id for run in found.queue] == ["a"]


def test_a_copy_of_what_is_gone_meanwhile_is_refused() -> None:
    source, made = (SessionRef.of(no, SessionKey(ANONYMOUS, SessionId(name))) for no, name in ((7, "s"), (8, "t")))
    copied = CopyHistory(
        made, source, last=1, count=1, size=9, row=2, step=1, kept=NO_AGENT, agent=NO_AGENT, rests_since=1.0
    )
    first = AddHistory(source, 1, 1, 0, 2, None, 0, discarded=False, messages=b"[]", rests_since=1.0, agent=NO_AGENT)
    rows = StoredRows()
    rows.write([AddSession(source), AddSession(made), first])
    with pytest.raises(JournalUnavailable, match="session s was deleted while it was copied"):
        rows.write([replace(copied, count=2)])
    with pytest.raises(JournalUnavailable, match="session s was deleted while it was copied"):
        rows.write([replace(copied, last=5)])

"""What can still be read of a run whose records are damaged in the file."""

import sqlite3
from typing import Final

from msgspec.structs import replace

from strandline.errors import JournalUnavailable
from strandline.journal.changes import SessionRef
from strandline.journal.reader import RunRow, each_fact, sound_run
from strandline.journal.records import StoredRun
from strandline.model import Fact, Run, RunStatus

UNREADABLE_INPUT: Final = "(This question cannot be read any more: the journal's file is damaged.)"


def readable(connection: sqlite3.Connection, row: RunRow, session: SessionRef) -> StoredRun:
    """Return a stored run and what is staged of it, as far as both can be read.

    A run of which anything is damaged is `opaque`: nobody knows what it had done, so it never goes on.
    """
    error: JournalUnavailable | None = None
    try:
        run = sound_run(Run, row, session)
    except JournalUnavailable as damaged:
        error = damaged
        run = Run(
            run_id=row.run_id,
            key=session.key,
            input=UNREADABLE_INPUT,
            lane=row.lane,
            priority=row.priority,
            opaque=True,
            metadata={},
            sequence=row.seq,
            status=RunStatus.RUNNING if row.status == RunStatus.RUNNING else RunStatus.QUEUED,
            attempt=row.attempt,
            created_at=row.created_at,
            started_at=row.started_at,
            cancel_requested=bool(row.cancel_requested),
            discard=bool(row.discard),
        )
    staged: list[Fact] = []
    try:
        for fact in each_fact(connection, row.seq):
            staged.append(fact)
    except JournalUnavailable as damaged:
        error = error or damaged
    return StoredRun(run if error is None else replace(run, opaque=True), tuple(staged), error)

"""What can still be read of a run whose records are damaged in the file."""

import sqlite3
from typing import Any, Final

from msgspec.structs import replace

from strandline.errors import JournalUnavailable
from strandline.journal.reader import RUN_COLUMNS, each_fact, sound_run
from strandline.model import Fact, Run, RunStatus, SessionKey

UNREADABLE_INPUT: Final = "(This question cannot be read any more: the journal's file is damaged.)"


def readable(connection: sqlite3.Connection, row: tuple[Any, ...], key: SessionKey) -> tuple[Run, tuple[Fact, ...]]:
    """Return the run in a row of `RUN_COLUMNS` and what is staged of it, as far as both can be read.

    A run of which anything is damaged is `opaque`: nobody knows what it had done, so it never goes on.
    """
    stored = dict(zip(RUN_COLUMNS.split(", "), row, strict=True))
    whole = True
    try:
        run = sound_run(row, key)
    except JournalUnavailable:
        whole = False
        run = Run(
            run_id=stored["run_id"],
            key=key,
            input=UNREADABLE_INPUT,
            lane=stored["lane"],
            priority=stored["priority"],
            opaque=True,
            metadata={},
            sequence=stored["seq"],
            status=RunStatus.RUNNING if stored["status"] == RunStatus.RUNNING else RunStatus.QUEUED,
            attempt=stored["attempt"],
            created_at=stored["created_at"],
            started_at=stored["started_at"],
            cancel_requested=bool(stored["cancel_requested"]),
            discard=bool(stored["discard"]),
        )
    staged: list[Fact] = []
    try:
        for fact in each_fact(connection, stored["seq"]):
            staged.append(fact)
    except JournalUnavailable:
        whole = False
    return run if whole else replace(run, opaque=True), tuple(staged)

"""What becomes of a run whose records are damaged in the file: it ends, told truly, and all others go on."""

import sqlite3
from typing import Any, Final

from msgspec.structs import replace

from strandline.errors import JournalUnavailable
from strandline.history import close, fold, question
from strandline.journal.reader import RUN_COLUMNS, each_fact, sound_run
from strandline.model import ErrorCode, Fact, Failed, Message, Outcome, Run, RunError, RunStatus, SessionKey

UNREADABLE_INPUT: Final = "(This question cannot be read any more: the journal's file is damaged.)"
WHY: Final = "the records of this run are damaged in the journal's file, so it cannot go on"


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


def ended_unread(run: Run, staged: tuple[Fact, ...]) -> tuple[Outcome, list[Message]]:
    """Return outcome and messages of a waiting run that ends because it cannot be read; none if it never started."""
    error = RunError(ErrorCode.CRASHED, WHY)
    if run.started_at is None:
        return Outcome(status=RunStatus.FAILED, error=error), []
    progress = fold(staged)
    closed = close(progress.messages or [question(run.input)], progress.results, Failed(ErrorCode.CRASHED, WHY))
    last = closed[-1] if closed[-1]["role"] == "assistant" else None
    return Outcome(status=RunStatus.FAILED, message=last, error=error), closed

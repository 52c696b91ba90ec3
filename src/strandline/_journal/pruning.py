"""Deletes old runs by hand, in a journal that no server has open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from strandline._clock import Clock
from strandline._journal.driver import connect, unreadable
from strandline._journal.ownership import Ownership, check_only_name, existing
from strandline._journal.sqlite import SqliteJournal
from strandline.errors import JournalLocked

OWNER: Final = "strandline journal prune"
BATCH: Final = 500
"""How many runs one transaction deletes."""
_NEVER: Final = 1 << 30
"""Nothing is claimed here, so no attempt is a last one."""


async def prune(file: Path, clock: Clock, older_than_s: float, on_step: Callable[[int], None]) -> int:
    """Delete all runs that ended more than `older_than_s` seconds ago; return how many. Their messages stay in history.

    `on_step` gets the number of deleted runs so far. Raises a `JournalError` that says what to do.
    """
    path = existing(file)
    journal = SqliteJournal(path, clock, lock_wait_s=0.0)
    try:
        await journal.open(OWNER, max_attempts=_NEVER)
    except JournalLocked as error:
        raise JournalLocked(
            f"{error} A server deletes old runs by itself: its setting `run_retention` says after how long."
        ) from error
    before = clock.now() - older_than_s
    forgotten = 0
    try:
        while (count := await journal.prune(before, BATCH)) > 0:
            forgotten += count
            on_step(forgotten)
            if count < BATCH:
                break
    finally:
        await journal.close()
    return forgotten


async def vacuum(file: Path, clock: Clock) -> int:
    """Rewrite the file without its unused space, and return by how many bytes it shrank.

    Needs about as much free space as the file has.
    """
    path = existing(file)
    check_only_name(path)
    before = path.stat().st_size
    ownership = Ownership(path, clock)
    await ownership.acquire(OWNER)
    try:
        with closing(connect(path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise unreadable(path, error) from error
    finally:
        ownership.release()
    return before - path.stat().st_size

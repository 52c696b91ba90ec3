"""Notices when a file of an open journal is deleted or replaced. SQLite would keep writing into a file without a name,
and every commit would seem durable.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from strandline._clock import Clock
from strandline._journal.ownership import lock_of
from strandline._journal.reserve import Reserve
from strandline._journal.transactions import SqliteTransactions
from strandline.errors import JournalUnavailable

BESIDE_S: Final = 0.05

_PUT_BACK: Final = "put back the file that is wanted, then restart the server"
_RESTART: Final = "restart the server by SIGTERM, which keeps what that file had, and put nothing back"
_ALONE: Final = "see that no other server has the journal, then restart this one"


class Watch:
    """Whether all files of an open journal are still the ones that are open. `gone` says what is wrong, for good; None
    while nothing is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        beside = [(path.with_name(path.name + end), _RESTART) for end in ("-wal", "-shm")]
        files = [(path, _PUT_BACK), *beside, (lock_of(path), _ALONE)]
        self._files = [(each, _look(each)[0], advice) for each, advice in files]
        self._bytes = _look(path)[1]
        self._due = 0.0
        self.gone: str | None = None
        self.can_be_saved = False
        """Whether only the WAL or its index is gone: the journal's file is there and may be written to."""

    def check(self) -> None:
        """Raise `JournalUnavailable` if a file was deleted, replaced or cut off.

        One `stat` for the journal's file; the others are checked only every `BESIDE_S` seconds. What is stored until
        then is not lost, since SQLite has the WAL open and the journal's own file is locked.
        """
        now = time.monotonic()
        is_due = now >= self._due
        for file, identity, advice in self._files if is_due else self._files[:1]:
            if self.gone is None:
                self._look_at(file, identity, advice)
        if self.gone is not None:
            raise JournalUnavailable(self.gone)
        if is_due:
            self._due = now + BESIDE_S

    def _look_at(self, file: Path, identity: tuple[int, int], advice: str) -> None:
        what = "the journal's file" if file == self._path else f"{file.name}, which belongs to the journal,"
        try:
            found, size = _look(file)
        except (FileNotFoundError, NotADirectoryError):
            found, size = None, 0
        except OSError as error:
            raise JournalUnavailable(f"{what} cannot be reached: {error.strerror}") from error
        why = "deleted or replaced" if found != identity else None
        if why is None and file == self._path:
            why = "cut off" if size < self._bytes else None  # (a file in WAL mode never shrinks by itself)
            self._bytes = max(self._bytes, size)
        if why is not None:
            self.can_be_saved = advice is _RESTART
            self.gone = f"{what} was {why} while it was in use, and nothing is kept any more: {advice}"


def _look(path: Path) -> tuple[tuple[int, int], int]:
    """Return which file is at `path`, and its size."""
    status = os.stat(path)
    return (status.st_dev, status.st_ino), status.st_size


class WatchedTransactions(SqliteTransactions):
    """Transactions that no longer begin once a file was taken away. `leave` is called then, once, if SQLite must not
    touch the files that are there now.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Clock,
        path: Path,
        reserve: Reserve,
        leave: Callable[[], None],
    ) -> None:
        super().__init__(connection, clock, reserve)
        self._path = path
        self._watch: Watch | None = None
        self._leave = leave
        self._left = False

    def watch(self) -> Watch:
        """Start watching the files, once all of them exist."""
        self._watch = Watch(self._path)
        return self._watch

    def begin(self) -> None:
        """Start a transaction. Raises `JournalUnavailable` if it would not be durable."""
        self.check()
        super().begin()

    def probe(self) -> None:
        """Write something. Raises `JournalUnavailable` if it would not be durable."""
        self.check()
        super().probe()

    def check(self) -> None:
        """Raise `JournalUnavailable` if nothing would be durable. No transaction is open. The first time, move the
        content of a deleted WAL into the file, by the connection that still has it open. Also measure the free space on
        the disk, now and then.
        """
        self._reserve.measure()
        watch = self._watch
        if watch is None:
            return
        try:
            watch.check()
        except JournalUnavailable:
            if watch.gone is not None and not self._left:
                self._left = True
                if watch.can_be_saved:
                    with suppress(sqlite3.Error):
                        self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
                else:
                    self._leave()
            raise

    def make_room(self, error: Exception) -> None:
        """Do what can be done against the reason of a failed transaction, and see anew how much room there is."""
        super().make_room(error)
        self._reserve.doubt()

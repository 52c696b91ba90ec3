"""Checks a journal's file for damage: its pages, its records, and how these fit together. Reads only.

It works beside a running server: everything is read in one transaction, so from one moment.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeVar

from strandline._files.store import FileStore
from strandline._journal.contents import missing, still_recorded
from strandline._journal.driver import code_of, connect_reader
from strandline._journal.findings import (
    DELIVERY,
    FILE,
    FORK,
    HISTORY,
    KEPT,
    QUESTION,
    RUN,
    SCHEDULE,
    SESSION,
    WINDOW,
    Check,
    Findings,
    OnStep,
    Rows,
)
from strandline._journal.integrity import check_current, check_pages, check_wal_frames, check_wal_head
from strandline._journal.numbers import first_fence
from strandline._journal.ownership import existing, lock_seen
from strandline._journal.port import StoredFile
from strandline.errors import JournalDamaged, JournalError

T = TypeVar("T")

_NO_SHARED_MEMORY: Final = (sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)
"""The errors of a full disk when SQLite creates the index of the WAL; the journal itself is fine."""

_REPORT_EVERY: Final = 1000


def verify(file: Path, on_step: OnStep = lambda what, done, total: None, *, files: Path | None = None) -> Findings:
    """Check everything in the journal at `file`, and the contents of its files in the folder `files`.

    Raises a `JournalError` if it cannot be read at all.
    """
    path, store = existing(file), None if files is None else FileStore(files)
    findings, lacking = at_one_moment(path, lambda connection: _look(path, connection, on_step, store))
    if lacking:
        for each in at_one_moment(path, lambda connection: still_recorded(connection, lacking)):
            findings.add(missing(each))
    return findings


def _look(
    path: Path, connection: sqlite3.Connection, on_step: OnStep, store: FileStore | None
) -> tuple[Findings, list[StoredFile]]:
    findings = Findings(journal=str(path), bytes=path.stat().st_size)
    check = _FileCheck(path, connection, findings, on_step, store)
    try:
        check_current(path, connection)
        check.everything()
    except sqlite3.Error as error:
        no_memory = getattr(error, "sqlite_errorcode", 0) in _NO_SHARED_MEMORY
        if no_memory or code_of(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
            raise JournalError(
                f"The journal {path} cannot be opened: {error}. Look at the rights of its folder, and at the room on"
                " its disk."
            ) from error
        findings.add(f"the file cannot be read any further: {error}")
    return findings, check.lacking


def at_one_moment(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """Return `read` of the journal as of one moment, whether a server has it open or not; leaves no files.

    Without a WAL there are no locks against a server that starts now: if one changed the file meanwhile, `read` is
    called again. Raises `JournalDamaged` if the WAL's head is damaged.
    """
    while True:
        check_wal_head(path)
        if os.path.exists(f"{path}-journal"):
            raise JournalError(
                f"{path} is being changed to a newer version, or that was cut off in the middle. It was left as it is."
                " Serve it, which brings it to its end, then try again."
            )
        has_wal = os.path.exists(f"{path}-wal")
        before = _stamp(path)
        try:
            with closing(connect_reader(path, "mode=ro" if has_wal else "immutable=1")) as connection:
                connection.execute("BEGIN")
                made = read(connection)
        except (sqlite3.Error, JournalError):
            if has_wal or _stamp(path) == before:
                raise
        else:
            if has_wal or _stamp(path) == before:
                return made


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return a value that differs after each change of the file."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class _FileCheck(Check):
    """All sessions at once: rows of history lie in the file in the order of their making, not by session."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        findings: Findings,
        on_step: OnStep,
        store: FileStore | None,
    ) -> None:
        super().__init__(connection, findings, store)
        self._path = path
        self._file = connection
        self._on_step = on_step

    def everything(self) -> None:
        self._pages()
        row = self._file.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        if row is None:
            self._fault("it is not known how often the journal was opened, so stale claims cannot be recognized")
        else:
            self._newest_fence = first_fence(row[0] + 1) - 1
        self._check()
        self._stored()

    def _pages(self) -> None:
        self._on_step("pages", 0, 1)
        try:
            check_pages(self._path, self._file, most_bytes=None)
            with lock_seen(self._path) as (_, is_owned):
                if not is_owned and os.path.exists(f"{self._path}-wal"):
                    check_wal_frames(self._path)
        except JournalDamaged as error:
            self._fault(str(error))
        self._on_step("pages", 1, 1)

    def _rows(self, what: str, columns: Iterable[str], table: str) -> Iterator[tuple[Any, ...]]:
        (total,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        for done, row in enumerate(self._connection.execute(f"SELECT {', '.join(columns)} FROM {table}")):
            if done % _REPORT_EVERY == 0:
                self._on_step(what, done, total)
            yield row
        self._on_step(what, total, total)

    def _session_rows(self) -> Rows:
        return self._rows("sessions", SESSION, "sessions")

    def _history_rows(self) -> Rows:
        return self._rows("history", HISTORY, "history ORDER BY no")

    def _run_rows(self) -> Rows:
        return self._rows("runs", RUN, "runs ORDER BY seq")

    def _question_rows(self) -> Rows:
        return self._rows("questions", QUESTION, "questions")

    def _with_checkpoints(self) -> Iterable[int]:
        return (run for (run,) in self._rows("staged", ["run"], "(SELECT DISTINCT run FROM staged)"))

    def _window_rows(self) -> Rows:
        return self._rows("windows", WINDOW, "agents")

    def _kept_rows(self) -> Rows:
        return self._rows("earlier windows", KEPT, "agents_after")

    def _fork_rows(self) -> Rows:
        return self._rows("forks", FORK, "forks")

    def _schedule_rows(self) -> Rows:
        return self._rows("schedules", SCHEDULE, "schedules")

    def _file_rows(self) -> Rows:
        return self._rows("files", FILE, "files")

    def _delivery_rows(self) -> Rows:
        return self._rows("deliveries", DELIVERY, "deliveries")

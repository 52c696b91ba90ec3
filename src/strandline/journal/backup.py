"""A copy of a journal as it was at one moment, made beside a running server or without one."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from strandline import private
from strandline.errors import JournalDamaged, JournalError
from strandline.journal.driver import companions, damaged
from strandline.journal.ownership import check_file, locate
from strandline.journal.verify import at_one_moment

_STEP_PAGES = 1000


def backup(place: Path, to: Path, on_step: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Copy the journal at `place` to the file `to`, which must not be there, and return its size in bytes.

    The copy is on the disk when this returns, and it appears whole or not at all. `on_step` is told how many pages are
    done, and of how many. Raises a `JournalError` that says what to do.
    """
    path = locate(place)
    if not check_file(path):
        raise JournalError(f"There is no journal at {place}. Name the file of one.")
    if os.path.lexists(to):
        what = "a folder" if to.is_dir() else "there already"
        raise JournalError(f"{to} is {what}, and nothing is overwritten. Name a file that is not there yet.")
    draft = to.with_name(f".{to.name}.{os.getpid()}.new")
    try:
        _copy(path, draft, on_step)
        _sync(draft)
        os.link(draft, to)  # unlike a rename, it never replaces a file that somebody else has made meanwhile
        _sync(to.parent)
        return to.stat().st_size
    except FileExistsError as error:
        raise JournalError(f"{to} is there already, and nothing is overwritten. Name another file.") from error
    except OSError as error:
        raise JournalError(f"The backup {to} cannot be written: {error.strerror}. Name another file.") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise JournalDamaged(f"{damaged(path, str(error))} No backup was made.") from error
        raise JournalError(
            f"The journal {path} cannot be copied to {to}: {error}. Make room there, or name another file."
        ) from error
    finally:
        _remove(draft)


def _copy(path: Path, draft: Path, on_step: Callable[[int, int], None]) -> None:
    at_one_moment(path, lambda source: _copy_from(source, path, draft, on_step))


def _copy_from(source: sqlite3.Connection, path: Path, draft: Path, on_step: Callable[[int, int], None]) -> None:
    _remove(draft)
    private.make_empty(draft)
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        # A read of the snapshot pins it: a server that writes meanwhile would have the copy begin again and again.
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        copy.execute("PRAGMA synchronous = OFF")  # it is synced once, as a whole
        source.backup(copy, pages=_STEP_PAGES, progress=lambda _, left, total: on_step(total - left, total))
        # Of the rollback kind, so that no WAL comes to lie beside it before a server opens it.
        copy.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = copy.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            told = damaged(path, verdict)
            raise JournalDamaged(f"{told} No backup was made.")


def _remove(draft: Path) -> None:
    for leftover in (draft, *companions(draft)):
        with suppress(OSError):
            leftover.unlink()


def _sync(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""Checks a journal's file for damage before anything is written to it, and never changes it.

SQLite checks the frames of its WAL, and silently drops everything from the first damaged one on. That is right after a
power failure, which can damage unsynced frames, but wrong for a damaged frame (or head) before synced ones.
"""

import os
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Final

from strandline._journal.driver import connect_reader, damaged, integrity_error, schema_after, version_of
from strandline._journal.ownership import SCHEMA_VERSION, check_file
from strandline.errors import JournalDamaged, JournalError

CHECKED_BYTES: Final = 64 << 20
"""Up to this size every page of a file is checked on opening (0.2 s), so that starts stay fast as the file grows."""

_WITHOUT_WAL: Final = b"\1\1"
"""At offset 18 of a file that has no WAL, as `backup` makes it; that of a journal in use is of the kind 2."""
_WAL_HEAD: Final = 32
_FRAME_HEAD: Final = 24
_INDEX_VERSION: Final = 3007000
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)


def guard(path: Path) -> sqlite3.Connection:
    """Return a reading connection to a journal without visible damage. Raises `JournalDamaged` or `sqlite3.Error`.
    While it is open, closing another connection does not move the WAL into the file, so that the file stays unchanged
    if damage is found later.
    """
    check_wal_head(path)
    if os.path.exists(f"{path}-journal"):
        # A crash interrupted a migration (all else goes through the WAL). Until the first read, with which SQLite
        # undoes it, the file is half old and half new.
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        check_file(path)  # (or the end of a copy, which is none then)
    has_wal = os.path.exists(f"{path}-wal")
    # Without a WAL there are no locks and no companion files: not even an empty one is left beside a damaged file.
    with closing(connect_reader(path, "mode=ro" if has_wal else "immutable=1")) as connection:
        check_pages(path, connection, CHECKED_BYTES)
    if has_wal:
        check_wal_frames(path, _indexed_frames(path))
    connection = connect_reader(path)
    if has_wal:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from its first read on it holds the file
    return connection


def check_pages(path: Path, connection: sqlite3.Connection, most_bytes: int | None) -> None:
    """Read the schema, and the whole file unless it is larger than `most_bytes`.

    Raises `JournalDamaged` if pages, indices or tables are damaged.
    """
    if _schema(connection) != _expected_schema(version_of(connection)):
        raise damaged(path, "its tables are not those of a journal")
    if most_bytes is None or path.stat().st_size <= most_bytes:
        if (finding := integrity_error(connection)) is not None:
            raise damaged(path, finding)
        partial = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
        for name, table, sql in connection.execute(partial):
            # `integrity_check` does not notice that a partial index lacks a row if it was the row that changed.
            _, _, condition = sql.partition(" WHERE ")
            counts = {
                connection.execute(f"SELECT count(*) FROM {table} {how} WHERE {condition}").fetchone()
                for how in (f"INDEXED BY {name}", "NOT INDEXED")
            }
            if len(counts) > 1:
                raise damaged(path, f"index {name} does not fit its table")


def check_current(path: Path, connection: sqlite3.Connection) -> None:
    """Raise `JournalError` if the file has an older schema."""
    if (version := version_of(connection)) < SCHEMA_VERSION:
        raise JournalError(
            f"{path} was written by an older Strandline (schema {version}, this one has {SCHEMA_VERSION}). It was left"
            " as it is. `strandline journal migrate` brings it up to date, and so does a server that starts on it."
        )


def _schema(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


def _expected_schema(version: int) -> set[tuple[str, ...]]:
    """Return the schema of an undamaged file of this version, by running the scripts up to it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema_after(0, version))
        return _schema(connection)


def check_wal_head(path: Path) -> None:
    """Raise `JournalDamaged` if the WAL's head is damaged, `JournalError` if it is the WAL of another file.

    A head of zeros was never synced, nor was anything after it.
    """
    wal = Path(f"{path}-wal")
    try:
        with wal.open("rb") as file:
            head = file.read(_WAL_HEAD)
    except FileNotFoundError:
        return
    if len(head) < _WAL_HEAD or not any(head):
        return
    with path.open("rb") as file:
        kinds = file.read(20)[18:]
    if kinds == _WITHOUT_WAL:
        # SQLite would apply it all the same, and mix the two.
        raise JournalError(
            f"{wal} does not belong to the journal {path}, which is a backup that was put there. Both were left as they"
            f" are. Move {wal.name} away, and {path.name}-shm with it."
        )
    (magic,) = struct.unpack(">I", head[:4])
    if magic not in _WAL_MAGIC or _checksum(head[:24], bytes(8), ">" if magic & 1 else "<") != head[24:]:
        raise _damaged_wal(path, "at its head")


def check_wal_frames(path: Path, whole: int = 0) -> None:
    """Raise `JournalDamaged` if the WAL has commits after a damaged frame, whose content was already answered for. The
    first `whole` frames are known to be undamaged. A commit is synced before the next one is written, so a power
    failure damages the frames of at most one. One commit after the last whole frame can also be a remainder: from a
    killed process whose successor did not see it and overwrote it in part.
    """
    # Format: https://sqlite.org/fileformat2.html#walformat
    with open(f"{path}-wal", "rb") as wal:
        head = wal.read(_WAL_HEAD)
        if len(head) < _WAL_HEAD:
            return
        magic, _, page_bytes = struct.unpack(">3I", head[:12])
        frame_bytes = _FRAME_HEAD + page_bytes
        frames = (os.fstat(wal.fileno()).st_size - _WAL_HEAD) // frame_bytes
        if whole > frames:
            return
        at = _WAL_HEAD + whole * frame_bytes
        checksum = head[24:] if not whole else os.pread(wal.fileno(), 8, at - frame_bytes + 16)
        is_whole, committed = True, False
        for _ in range(whole, frames):
            frame = os.pread(wal.fileno(), frame_bytes, at)
            at += frame_bytes
            if frame[8:16] != head[16:24]:  # from the previous use of the WAL
                is_whole = False
                continue
            if is_whole:
                checksum = _checksum(frame[:8] + frame[_FRAME_HEAD:], checksum, ">" if magic & 1 else "<")
                is_whole = checksum == frame[16:_FRAME_HEAD]
            if not is_whole:
                if committed:
                    raise _damaged_wal(path, "in its middle")
                committed = any(frame[4:8])


def _checksum(data: bytes, before: bytes, order: str) -> bytes:
    """Return SQLite's running checksum of a WAL; `data` is a whole number of 8 bytes."""
    first, second = struct.unpack(">2I", before)
    for left, right in struct.iter_unpack(f"{order}2I", data):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return struct.pack(">2I", first, second)


def _indexed_frames(path: Path) -> int:
    """Return how many frames of the WAL its index has: how far SQLite found it undamaged when it last read it.

    The answer is 0 while another process rebuilds the index: the first process to open the file, even to read it,
    begins by truncating its index.

    No connection of this process to the journal may be open: closing the index here would drop all locks that SQLite
    holds on it in this process (POSIX), and the next process to open the journal would rebuild it while it is in use.
    """
    # Format: https://sqlite.org/walformat.html#walidxfmt
    with open(f"{path}-shm", "rb") as index:
        head = index.read(20)
    if len(head) < 20:
        return 0
    version, whole = struct.unpack("=I12xI", head)
    return whole if version == _INDEX_VERSION else 0


def _damaged_wal(path: Path, where: str) -> JournalDamaged:
    return JournalDamaged(
        f"{path}-wal, which belongs to the journal {path}, is damaged {where}. Both were left as they are. Restore a"
        " backup, or name another file."
    )

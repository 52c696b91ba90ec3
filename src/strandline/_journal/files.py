"""Reads the records of files."""

from collections.abc import Sequence
from math import isfinite
from typing import Any, Final

from strandline._journal import port
from strandline._journal.changes import SessionRef
from strandline._journal.checksums import damaged_record, file_owner, read_checked
from strandline._journal.database import Database
from strandline._model import FileId, SessionKey
from strandline.errors import JournalUnavailable

_FILES: Final = (
    "SELECT session, id, sessions.principal, session_id, size, at, named, record FROM files"
    " JOIN sessions ON no = session"
)


def file(connection: Database, query: port.FileQuery) -> port.StoredFile | None:
    """Return one file of a session. Raises `JournalUnavailable` if its record is damaged."""
    row = connection.execute(
        f"{_FILES} WHERE sessions.principal = ? AND session_id = ? AND id = ?", (*query.key, query.file_id)
    ).fetchone()
    return None if row is None else file_of(row)


def file_of(row: Sequence[Any]) -> port.StoredFile:
    """Return the file of a row of `_FILES`. Raises `JournalUnavailable` if its record is damaged."""
    no, file_id, principal, session_id, size, at, named, record = row
    ref = SessionRef.of(no, SessionKey(principal, session_id))
    what = f"the record of file {file_id}"
    if not (isinstance(at, float) and isfinite(at) and isinstance(size, int) and 0 <= size < 1 << 62):
        raise damaged_record(what)
    read = read_checked(bytes, record, what, file_owner(ref.crc, file_id, size, at), is_new=True)
    return port.StoredFile(file_id, ref.key, size, read, at, bool(named))


def files(connection: Database, query: port.FilesQuery) -> port.StoredFiles:
    """Return a page of files, in the order of their ids, of all sessions one session after the other."""
    where, values = "true", list[object]()
    if query.key is not None:
        where, values = "sessions.principal = ? AND session_id = ? AND id > ?", [*query.key, query.after or ""]
    elif query.after is not None:
        no, _, file_id = query.after.partition(" ")
        where, values = "(session, id) > (?, ?)", [int(no), file_id]
    if query.before is not None:
        where, values = f"{where} AND named = 0 AND at < ?", [*values, query.before]
    rows = connection.execute(
        f"{_FILES} WHERE {where} ORDER BY session, id LIMIT ?", (*values, query.limit + 1)
    ).fetchall()
    shown, damaged = _readable(rows[: query.limit])
    if len(rows) <= query.limit:
        return port.StoredFiles(shown, None, damaged)
    no, file_id = rows[query.limit - 1][:2]
    return port.StoredFiles(shown, file_id if query.key is not None else f"{no} {file_id}", damaged)


def named_files(connection: Database, session: SessionRef) -> list[port.StoredFile]:
    """Return the files of a session that runs name, without those whose records are damaged."""
    rows = connection.execute(f"{_FILES} WHERE session = ? AND named = 1 ORDER BY id", (session.no,)).fetchall()
    return _readable(rows)[0]


def _readable(rows: Sequence[Sequence[Any]]) -> tuple[list[port.StoredFile], list[FileId]]:
    """Return the files of rows, and those whose records are damaged."""
    shown: list[port.StoredFile] = []
    damaged: list[FileId] = []
    for row in rows:
        try:
            shown.append(file_of(row))
        except JournalUnavailable:
            damaged.append(row[1])
    return shown, damaged

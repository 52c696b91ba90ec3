"""A checksum in every record that is kept as bytes, so that a damaged one is noticed, never told as sound.

SQLite checks what it has just written (the frames of its WAL) and the form of its pages, but not the bytes in them: a
text in which one letter has become another looks sound to it. The checksum also covers whose record it is, so that one
that has come to stand under another run or session is noticed too. Records without a seal, of older files, are read
as they are. Some 0.5 us for a record of a kilobyte.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from strandline._model import SessionKey
from strandline.errors import RecordDamaged

T = TypeVar("T")

_MARK: Final = b"\x01"
"""JSON begins with no such byte."""
CHECKSUM_BYTES: Final = 5
"""How many bytes a checksum adds to a record."""
_CHECKSUM: Final = struct.Struct("<BI")
_RUN: Final = struct.Struct("<qq?dd")
_NUMBER: Final = struct.Struct("<q")
_QUESTION: Final = struct.Struct("<qd")


def with_checksum(record: bytes, owner: int) -> bytearray:
    """Return `record` with the checksum of it and of its owner before it, as the driver takes it at once."""
    return bytearray(_CHECKSUM.pack(1, zlib.crc32(record, owner))) + record


def has_checksum(stored: bytes | None) -> bool:
    """Return whether a record has a checksum before it."""
    return stored is not None and stored.startswith(_MARK)


def read_checked(decode: Callable[[bytes], T], stored: bytes, what: str, owner: int, *, is_new: bool = False) -> T:
    """Return what `decode` makes of a stored record. Raises `RecordDamaged` that names it if it is damaged.

    One without a seal is read as it is, unless it `is_new`: since there are such records all have one.
    """
    try:
        if not has_checksum(stored):
            if not is_new:
                return decode(stored)
        elif stored[1:CHECKSUM_BYTES] == zlib.crc32(record := stored[CHECKSUM_BYTES:], owner).to_bytes(4, "little"):
            return decode(record)
    except (msgspec.MsgspecError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged_record(what) from error
    raise damaged_record(what)


# -- whose a record is: a number to begin a checksum with; `session` is the `key_crc` of its session, which is that of
#    window and state ----------------------------------------------------------------------------------------


def key_crc(key: SessionKey) -> int:
    """Return what the checksums of all records of a session begin with."""
    return zlib.crc32(key.session_id.encode(), zlib.crc32(key.principal.encode()))


def request_owner(
    session: int,
    seq: int,
    run_id: str,
    priority: int,
    resumable: bool,
    created_at: float,
    timeout_s: float | None,
) -> int:
    """Return whose the input and metadata of a run are; with what else was asked for, which never changes."""
    request = _RUN.pack(seq, priority, not resumable, created_at, -1.0 if timeout_s is None else timeout_s)
    return zlib.crc32(run_id.encode(), zlib.crc32(request, session))


def end_owner(
    session: int, seq: int, attempt: int, discarded: bool, started_at: float | None, ended_at: float | None
) -> int:
    """Return whose the outcome of a run is; with what else its end has finished for good."""
    return zlib.crc32(_RUN.pack(seq, attempt, discarded, started_at or 0.0, ended_at or 0.0), session)


def message_owner(session: int, first: int, *, discarded: bool = False) -> int:
    """Return whose a row of history is that begins with message `first`; another's if it is of a discarded run."""
    owner = zlib.crc32(_NUMBER.pack(first), session)
    return zlib.crc32(b"discarded", owner) if discarded else owner


def key_owner(session: int, seq: int, key: str) -> int:
    """Return whose the fingerprint is that belongs to an idempotency key of a run."""
    return zlib.crc32(key.encode(), zlib.crc32(_NUMBER.pack(seq), session))


def question_owner(session: int, seq: int, until: float) -> int:
    """Return whose the question is that the run with that sequence has put."""
    return zlib.crc32(_QUESTION.pack(seq, until), session)


def checkpoint_owner(seq: int, no: int) -> int:
    """Return whose fact number `no` of a run is."""
    return ((seq << 10) + no) & 0xFFFFFFFF


def damaged_record(what: str) -> RecordDamaged:
    """Return the error for one record that cannot be relied on; the rest of the journal can be used."""
    return RecordDamaged(
        f"{what} is damaged in the journal's file. Stop the server, look with `strandline journal verify`, and restore"
        " a backup"
    )

"""A checksum in every record that is stored as bytes, so that a damaged one is noticed and never returned.

SQLite checks the frames of its WAL and the form of its pages, but not their content: it does not notice a changed
letter in a text. The checksum also covers the record's owner, so that a record under the wrong run or session is
noticed too. Records of older files have no checksum and are read as they are. A checksum takes about 0.5 us for a
kilobyte.
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
"""No JSON text begins with this byte."""
CHECKSUM_BYTES: Final = 5
"""How many bytes a checksum adds to a record."""
_CHECKSUM: Final = struct.Struct("<BI")
_RUN: Final = struct.Struct("<qq?dd")
_NUMBER: Final = struct.Struct("<q")
_QUESTION: Final = struct.Struct("<qd")
_TIME: Final = struct.Struct("<d")
_FILE: Final = struct.Struct("<qd")


def with_checksum(record: bytes, owner: int) -> bytearray:
    """Return `record` after its checksum, which covers its owner too, in a type that the driver binds without a
    copy."""
    return bytearray(_CHECKSUM.pack(1, zlib.crc32(record, owner))) + record


def with_owner(stored: bytes | None, owner: int, new_owner: int) -> bytes | bytearray | None:
    """Return a stored record under another owner. One that is damaged stays so, and one without a checksum as it is."""
    if stored is None or not has_checksum(stored):
        return stored
    record = stored[CHECKSUM_BYTES:]
    is_whole = stored[1:CHECKSUM_BYTES] == zlib.crc32(record, owner).to_bytes(4, "little")
    return with_checksum(record, new_owner if is_whole else ~new_owner & 0xFFFFFFFF)


def has_checksum(stored: bytes | None) -> bool:
    """Return whether a stored record begins with a checksum."""
    return stored is not None and stored.startswith(_MARK)


def read_checked(decode: Callable[[bytes], T], stored: bytes, what: str, owner: int, *, is_new: bool = False) -> T:
    """Return a stored record, decoded. Raises `RecordDamaged`, which names it, if it is damaged. A record without a
    checksum is read as it is unless it `is_new`: a kind of record that always had one.
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


# -- owners of records: numbers that checksums begin with; `session` is the `key_crc` of the session, and the owner of
#    its window and state ------------------------------------------------------------------------------------


def key_crc(key: SessionKey) -> int:
    """Return the number that all checksums of a session begin with."""
    return zlib.crc32(key.session_id.encode(), zlib.crc32(key.principal.encode()))


def request_owner(
    session: int,
    seq: int,
    run_id: str,
    priority: int,
    resumable: bool,
    created_at: float,
    timeout_s: float | None,
    not_before: float | None = None,
) -> int:
    """Return the owner of a run's input and metadata; covers the other fields of the request, which never change."""
    request = _RUN.pack(seq, priority, not resumable, created_at, -1.0 if timeout_s is None else timeout_s)
    owner = zlib.crc32(run_id.encode(), zlib.crc32(request, session))
    return owner if not_before is None else zlib.crc32(_TIME.pack(not_before), owner)


def end_owner(
    session: int, seq: int, attempt: int, discarded: bool, started_at: float | None, ended_at: float | None
) -> int:
    """Return the owner of a run's outcome; covers the other fields that are final once it has ended."""
    return zlib.crc32(_RUN.pack(seq, attempt, discarded, started_at or 0.0, ended_at or 0.0), session)


def message_owner(session: int, first: int, *, discarded: bool = False) -> int:
    """Return the owner of a row of history that begins with message `first`; it differs for a discarded run."""
    owner = zlib.crc32(_NUMBER.pack(first), session)
    return zlib.crc32(b"discarded", owner) if discarded else owner


def key_owner(session: int, seq: int, key: str) -> int:
    """Return the owner of the fingerprint of a run's idempotency key."""
    return zlib.crc32(key.encode(), zlib.crc32(_NUMBER.pack(seq), session))


def options_owner(session: int) -> int:
    """Return the owner of a session's options."""
    return zlib.crc32(b"options", session)


def fork_owner(session: int) -> int:
    """Return the owner of the record of where a session was copied from."""
    return zlib.crc32(b"fork", session)


def collect_owner(session: int, seq: int) -> int:
    """Return the owner of how the run with that sequence collects others."""
    return zlib.crc32(b"collect", zlib.crc32(_NUMBER.pack(seq), session))


def question_owner(session: int, seq: int, until: float) -> int:
    """Return the owner of the question of the run with that sequence."""
    return zlib.crc32(_QUESTION.pack(seq, until), session)


def schedule_owner(session: int, schedule_id: str) -> int:
    """Return the owner of what a schedule does."""
    return zlib.crc32(schedule_id.encode(), session)


def schedule_state_owner(session: int, schedule_id: str, at: float | None) -> int:
    """Return the owner of what has become of a schedule; covers its next time."""
    return zlib.crc32(b"" if at is None else _TIME.pack(at), zlib.crc32(b"state", schedule_owner(session, schedule_id)))


def file_owner(session: int, file_id: str, size: int, at: float) -> int:
    """Return the owner of the record of a file; covers its size and time."""
    return zlib.crc32(_FILE.pack(size, at), zlib.crc32(file_id.encode(), session))


def webhook_owner(session: int, run_id: str) -> int:
    """Return the owner of where events of a run are sent."""
    return zlib.crc32(run_id.encode(), zlib.crc32(b"webhook", session))


def delivery_owner(session: int, delivery_id: str) -> int:
    """Return the owner of an event that is to be sent."""
    return zlib.crc32(delivery_id.encode(), zlib.crc32(b"delivery", session))


def checkpoint_owner(seq: int, no: int) -> int:
    """Return the owner of checkpoint number `no` of a run."""
    return ((seq << 10) + no) & 0xFFFFFFFF


def damaged_record(what: str) -> RecordDamaged:
    """Return the error for one damaged record; the rest of the journal can be used."""
    return RecordDamaged(
        f"{what} is damaged in the journal. Stop the server, look with `strandline journal verify`, and restore"
        " a backup"
    )

"""Which part of a journal a session is in: one of 256, each owned by one server at a time.

An id of a run ends in its partition, so that no look-up is needed to find its owner. Ids that were copied from another
journal may not: only the journal's record knows the session of such a run.
"""

from typing import Final

from strandline._journal import checksums
from strandline._model import RunId, SessionKey
from strandline.errors import NotOwner

PARTITIONS: Final = 256
MOVED_S: Final = 1.0
"""When to try again, if no server owns a partition at the moment."""


def partition_of(key: SessionKey) -> int:
    """Return which partition a session is in."""
    return checksums.key_crc(key) % PARTITIONS


def suffix_of(key: SessionKey) -> str:
    """Return the two hexadecimal digits in which the ids of a session's runs end."""
    return f"{partition_of(key):02x}"


def partition_of_run(run_id: RunId) -> int | None:
    """Return which partition an id of a run names; None if it is no id of ours."""
    try:
        return int(run_id[-2:], 16)
    except ValueError:
        return None


def moved(partition: int) -> NotOwner:
    """Return the error of an operation on a session in a partition of another server, or of none."""
    return NotOwner(
        "no server has the session at the moment: its server has stopped or was lost, and another one takes over",
        retry_after_s=MOVED_S,
        partition=partition,
    )

"""What an idempotency key stands for in the SQLite journal. A key is kept with its run, and goes with it."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from strandline.errors import JournalUnavailable
from strandline.journal.known import Session
from strandline.journal.port import Attached, Reused
from strandline.journal.rules import answers_key
from strandline.journal.seal import damaged_record, is_sealed, key_owner, read_sealed, sealed
from strandline.model import Keyed, RunId

Execute = Callable[[str, tuple[Any, ...]], sqlite3.Cursor]


def find(execute: Execute, session: Session, keyed: Keyed, asking: int | None) -> Attached | Reused | None:
    """Return what a key of a session stands for, None if for nothing; one whose time is over is forgotten.

    `asking` is the sequence of the run whose question is open: its time is not over before that is closed.
    Raises `JournalUnavailable` if the record of it is damaged.
    """
    row = execute(
        "SELECT run_id, seq, ended_at, fingerprint FROM runs WHERE session = ? AND key = ?", (session.no, keyed.key)
    ).fetchone()
    if row is None:
        return None
    run_id, seq, ended_at, stored = row
    what, owner = f"the idempotency key of run {run_id}", key_owner(session.crc, seq, keyed.key)
    if not is_sealed(stored):
        raise damaged_record(what)
    fingerprint = read_sealed(bytes, stored, what, owner)
    answer = answers_key(keyed, RunId(run_id), None if seq == asking else ended_at, fingerprint)
    if answer is None:
        execute("UPDATE runs SET key = NULL, fingerprint = NULL WHERE seq = ?", (seq,))
    return answer


def damaged(connection: sqlite3.Connection, sessions: Mapping[int, int]) -> Iterator[str]:
    """Yield the ids of runs whose keys cannot be relied on; `sessions` has the `key_crc` of each session's number."""
    rows = connection.execute(
        "SELECT run_id, session, seq, key, fingerprint FROM runs WHERE key IS NOT NULL OR fingerprint IS NOT NULL"
    )
    for run_id, session, seq, key, stored in rows:
        try:
            if key is None or not is_sealed(stored) or session not in sessions:
                raise damaged_record(run_id)
            read_sealed(bytes, stored, run_id, key_owner(sessions[session], seq, key))
        except JournalUnavailable:
            yield run_id


def kept(session: Session, seq: int, keyed: Keyed) -> tuple[str, bytes]:
    """Return what is kept of a key with the run that it stands for, whose sequence is `seq`."""
    return keyed.key, sealed(keyed.fingerprint, key_owner(session.crc, seq, keyed.key))

"""Journals in the tests' PostgreSQL, opened, asked and waited for."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator

from strandline._clock import SystemClock
from strandline._journal.postgres import schema
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.wire import Wire
from strandline._model import NewRun, RunId
from strandline.testing._desk import key

DEADLINE_S = 30.0


def at(database: str, *, lock_wait_s: float = 0.0) -> PostgresJournal:
    return PostgresJournal(database, SystemClock(), lock_wait_s=lock_wait_s)


@contextlib.asynccontextmanager
async def opened(database: str, *, lock_wait_s: float = 0.0) -> AsyncIterator[PostgresJournal]:
    journal = at(database, lock_wait_s=lock_wait_s)
    await journal.open("test", max_attempts=3)
    try:
        yield journal
    finally:
        await journal.close()


@contextlib.contextmanager
def asking(database: str) -> Iterator[Wire]:
    wire = Wire(database)
    try:
        yield wire
    finally:
        wire.close()


def lease_of(database: str, lease_ms: int) -> None:
    """Have all servers of an empty database hold leases of this length."""
    with asking(database) as wire:
        schema.migrate(wire)
        wire.execute("UPDATE meta SET value = ? WHERE name = 'lease_ms'", (lease_ms,))


def new(run_id: str, session: str = "s") -> NewRun:
    return NewRun(run_id=RunId(run_id), key=key(session), input="ask", created_at=1.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def until_waiting(database: str) -> None:
    """Return once some statement waits for a lock."""
    deadline = time.monotonic() + DEADLINE_S
    with asking(database) as wire:
        while not wire.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()[0]:
            assert time.monotonic() < deadline

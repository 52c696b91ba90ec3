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
from tools.postgres import Cluster

DEADLINE_S = 30.0

_TABLES = (
    "SELECT quote_ident(relname)::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
)


class SharedDatabase:
    """A database with a journal that is as new for each test: emptied, which takes a fraction of a new one's time.

    For tests that know a journal only by its port. Numbers of owners go on, so that no journal which a failed test has
    left open is ever the owner of the next one.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._url = cluster.new_database()
        with asking(self._url) as wire:
            schema.migrate(wire)
            tables = [name for (name,) in wire.execute(_TABLES)]
            filled = [each for each in tables if wire.execute(f"SELECT EXISTS (SELECT FROM {each})").fetchone()[0]]
            wire.script(
                "CREATE SCHEMA new; " + "; ".join(f"CREATE TABLE new.{each} AS TABLE {each}" for each in filled)
            )
        self._empty = (
            "BEGIN; SET LOCAL session_replication_role = replica;"  # (no triggers)
            + "".join(f"DELETE FROM {each};" for each in tables)
            + "".join(f"INSERT INTO {each} SELECT * FROM new.{each};" for each in filled)
            + "COMMIT"
        )

    def again(self) -> str:
        """Make it as new, and return where it is."""
        with asking(self._url) as wire:
            wire.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wire.script(self._empty)
        return self._url


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

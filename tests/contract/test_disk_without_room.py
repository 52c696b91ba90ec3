"""A full disk refuses new runs, loses nothing of accepted ones, and is used again as soon as it has space."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from strandline._clock import SystemClock
from strandline._journal import driver
from strandline._journal.port import Accepted, RunQuery
from strandline._journal.sqlite import SqliteJournal
from strandline._model import ANONYMOUS, Claim, NewRun, RoundDone, RoundStarted, RunId, RunStatus
from strandline.errors import JournalUnavailable
from strandline.testing._desk import WIDE, done, key, said, waiting_runs


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[SqliteJournal, AsyncIterator[Claim]]]:
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    try:
        yield journal, journal.claims()
    finally:
        await journal.close()


def new(run_id: str, session: str = "s", size: int = 3) -> NewRun:
    return NewRun(run_id=RunId(run_id), key=key(session), input="x" * size, created_at=1.0)


def connection_of(journal: SqliteJournal) -> sqlite3.Connection:
    assert journal._transactions is not None
    return journal._transactions._connection


def allow_pages(journal: SqliteJournal, more: int) -> None:
    connection = connection_of(journal)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + more}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_of_operations_that_come_together_those_that_end_runs_get_the_space_that_is_left(path: Path) -> None:
    """The first of the new ones finds out that there is none for it, and the others are refused with it."""

    async def main() -> None:
        async with opened(path) as (journal, claims):
            for session in ("s", "t"):
                await journal.accept(new(session, session), WIDE, claim_next=True)
            ending, checkpointing = (await anext(claims)).token, (await anext(claims)).token
            allow_pages(journal, 0)
            answers: Sequence[object] = await asyncio.gather(
                journal.accept(new("big", "u", 1_000_000), WIDE, claim_next=True),
                journal.finish(ending, done("hi", "ho"), claim_next=True),
                journal.accept(new("small", "v"), WIDE, claim_next=True),
                journal.checkpoint(checkpointing, RoundStarted(said("x"))),
                return_exceptions=True,
            )
            refused = [each for each in answers if isinstance(each, JournalUnavailable)]
            assert answers == [refused[0], "nothing", refused[1], None]
            assert "disk is full" in str(refused[1])
            assert [await journal.read(RunQuery(ANONYMOUS, RunId(each))) for each in ("big", "small")] == [None, None]
            allow_pages(journal, 10_000)
            assert await journal.accept(new("big", "u", 1_000_000), WIDE, claim_next=True) == Accepted(0)
        orphans = await (again := SqliteJournal(path, SystemClock())).open("test", max_attempts=3)
        assert [(each.run.run_id, len(each.checkpoints)) for each in orphans] == [("t", 1), ("big", 0)]
        ended = await again.read(RunQuery(ANONYMOUS, RunId("s")))
        assert ended is not None
        assert ended.status is RunStatus.SUCCEEDED
        await again.close()

    asyncio.run(main())


def test_a_run_without_space_for_its_checkpoints_or_its_end_keeps_its_claim(path: Path) -> None:
    """Also what `checkpoint` took without waiting is written, and first, as soon as there is room."""

    async def main() -> None:
        async with opened(path) as (journal, claims):
            await journal.accept(new("a"), WIDE, claim_next=True)
            token = (await anext(claims)).token
            await journal.checkpoint(token, RoundStarted(said("x")))
            allow_pages(journal, 0)
            await journal.checkpoint(token, RoundDone(said("y" * 100_000), None))
            for _ in range(2):
                with pytest.raises(JournalUnavailable, match="disk is full"):
                    await journal.checkpoint(token, RoundStarted(said("z" * 100_000)))
                with pytest.raises(JournalUnavailable, match="disk is full"):
                    await journal.finish(token, done("h" * 100_000, "ho"), claim_next=True)
            allow_pages(journal, 10_000)
            await journal.checkpoint(token, RoundStarted(said("z")))
            await journal.release(token, counted=False)
            await journal.claim_next(key())
            checkpoints = (await anext(claims)).checkpoints
            assert checkpoints == (
                RoundStarted(said("x")),
                RoundDone(said("y" * 100_000), None),
                RoundStarted(said("z")),
            )

    asyncio.run(main())


def test_a_full_disk_gets_back_what_the_wal_takes(path: Path) -> None:
    """It holds a version of a page for every commit that changed it, which may be what the disk is full of."""

    async def main() -> None:
        async with opened(path) as (journal, claims):
            for n in range(60):
                await journal.accept(new(f"r{n}"), WIDE, claim_next=True)
                await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
            wal = path.with_name("journal.db-wal")
            assert wal.stat().st_size > 500_000
            fail_once(journal, sqlite3.SQLITE_FULL)
            await journal.accept(new("more"), WIDE, claim_next=False)
            assert wal.stat().st_size < 50_000
            assert len(await waiting_runs(journal)) == 1

    asyncio.run(main())


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
def test_one_who_reads_meanwhile_does_not_hold_up_a_full_disk(path: Path, code: int) -> None:
    """The WAL cannot be cut off then; what can be tried again is, at once."""

    async def main() -> None:
        async with opened(path) as (journal, _):
            await journal.accept(new("a"), WIDE, claim_next=False)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as another:
                another.execute("BEGIN")
                another.execute("SELECT count(*) FROM runs").fetchone()
                await journal.accept(new("b"), WIDE, claim_next=False)
                fail_once(journal, code)
                async with asyncio.timeout(driver.BUSY_S / 2):
                    await journal.accept(new("c"), WIDE, claim_next=False)
            assert connection_of(journal).execute("PRAGMA busy_timeout").fetchone() == (5000,)

    asyncio.run(main())


def test_a_journal_says_that_nothing_can_be_kept_for_as_long_as_that_is_so(path: Path) -> None:
    """Nobody has to ask for anything: it finds out by itself that there is room again, and leaves nothing behind."""

    async def main() -> None:
        async with opened(path) as (journal, _):
            meta = rows_of_meta(journal)
            assert journal.trouble is None
            allow_pages(journal, 0)
            with pytest.raises(JournalUnavailable):
                await journal.accept(new("big", size=100_000), WIDE, claim_next=False)
            await until(lambda: journal.trouble == "the journal could not be used: the disk is full")
            await journal.accept(new("small"), WIDE, claim_next=False)  # (it finds room on a page that there is)
            allow_pages(journal, 10_000)
            await until(lambda: journal.trouble is None)
            assert rows_of_meta(journal) == meta

    asyncio.run(main())


def test_to_try_whether_anything_can_be_kept_takes_no_room_from_a_run(path: Path) -> None:
    """Else a server whose disk had just enough for the probe would be ready and refuse every request."""

    async def main() -> None:
        async with opened(path) as (journal, _):
            await journal.accept(new("a"), WIDE, claim_next=False)
            assert journal._transactions is not None
            journal._transactions.probe()
            assert path.with_name("journal.db-wal").stat().st_size == 0
            await journal.accept(new("b"), WIDE, claim_next=False)
            assert len(await waiting_runs(journal)) == 2

    asyncio.run(main())


def test_a_run_that_is_too_large_for_the_room_there_is_does_not_stop_the_others(path: Path) -> None:
    tried: list[object] = []

    async def main() -> None:
        async with opened(path) as (journal, _):
            allow_pages(journal, 50)
            ledger: Any = journal._transactions
            probe = ledger.probe
            ledger.probe = lambda: tried.append(probe())
            with pytest.raises(JournalUnavailable):
                await journal.accept(new("big", size=1_000_000), WIDE, claim_next=False)
            await until(lambda: tried)
            assert journal.trouble is None

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def rows_of_meta(journal: SqliteJournal) -> list[object]:
    return connection_of(journal).execute("SELECT * FROM meta ORDER BY name").fetchall()


def fail_once(journal: SqliteJournal, code: int) -> None:
    """Make the next commit fail."""
    ledger: Any = journal._transactions
    commit: Callable[[], None] = ledger.commit

    def fail() -> None:
        ledger.commit = commit
        error = sqlite3.OperationalError("no room")
        error.sqlite_errorcode = code
        raise error

    ledger.commit = fail


@pytest.mark.parametrize(("room", "most"), [(2_000_000, 400_000), (10_000_000_000, 4_500_000)])
def test_the_wal_never_fills_a_small_disk(path: Path, monkeypatch: pytest.MonkeyPatch, room: int, most: int) -> None:
    monkeypatch.setattr(
        "strandline._journal.driver.os.statvfs", lambda _: SimpleNamespace(f_bavail=room // 4096, f_frsize=4096)
    )
    sizes = []

    async def main() -> None:
        async with opened(path) as (journal, claims):
            for n in range(150):
                await journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=True)
                await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
                sizes.append(os.stat(f"{path}-wal").st_size)

    asyncio.run(main())
    assert most / 3 < max(sizes) <= most


def test_a_read_that_fails_on_the_disk_says_so_and_the_next_one_is_answered(tmp_path: Path) -> None:
    """SQLite ends the transaction by itself when I/O fails, so that there is nothing left to be undone."""

    def fails(connection: Any) -> None:
        connection.execute("ROLLBACK")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    async def main() -> None:
        journal = SqliteJournal(tmp_path / "journal.db", SystemClock())
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalUnavailable, match="the disk failed"):
            await journal._answered(fails)
        assert (await journal.load(key())).length == 0
        await journal.close()

    asyncio.run(main())

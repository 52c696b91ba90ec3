import asyncio
import gc
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from strandline._clock import Clock, SystemClock
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Accepted, Cancel, ClaimResult, Journal, RunQuery, SessionsQuery
from strandline._journal.sqlite_rows import Mismatch, SqliteRows
from strandline._journal.table import SessionTable
from strandline._model import ANONYMOUS, Claim, Keyed, RunId, RunStatus
from strandline.errors import InvariantBroken, JournalUnavailable
from strandline.testing._contract import JournalContract
from strandline.testing._desk import WIDE, done

from .test_damage import new


class TestMemoryJournal(JournalContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return MemoryJournal(clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        return journal


async def opened() -> MemoryJournal:
    journal = MemoryJournal(SystemClock())
    await journal.open("test", max_attempts=3)
    return journal


async def claim_of(journal: MemoryJournal, run_id: str, session: str = "s") -> Claim:
    assert await journal.accept(new(run_id, session), WIDE, claim_next=True) == Accepted(0)
    return await anext(journal.claims())


def test_a_run_id_that_an_ended_run_has_is_refused_before_anything_is_written() -> None:
    async def main() -> None:
        journal = await opened()
        claim = await claim_of(journal, "a")
        await journal.finish(claim.token, done("a"), claim_next=False)
        for session in ("s", "another"):
            for claim_next in (True, False):
                with pytest.raises(InvariantBroken, match=r"run id( a)? is taken"):
                    await journal.accept(new("a", session), WIDE, claim_next=claim_next)
        shown = await journal.read(SessionsQuery(ANONYMOUS))
        assert [each.key.session_id for each in shown.sessions] == ["s"]
        assert journal.trouble is None
        for session in ("s", "another"):
            assert await journal.accept(new(session, session), WIDE, claim_next=True) == Accepted(0)

    asyncio.run(main())


def test_a_name_that_no_row_can_hold_is_refused_before_anything_is_written() -> None:
    """Python's text may have half a character; what asks with it must not be the journal's last operation."""
    half = "\ud800"

    async def main() -> None:
        journal = await opened()
        await claim_of(journal, "a")
        refused = [
            replace(new("b", "another"), keyed=Keyed(half, b"f" * 32, 0.0)),
            replace(new("b", "s"), keyed=Keyed(half, b"f" * 32, 0.0)),
            new("b", half),
            new(half, "another"),
            new(half, "s"),
        ]
        for each in refused:
            with pytest.raises(InvariantBroken):
                await journal.accept(each, WIDE, claim_next=True)
        with pytest.raises(InvariantBroken):
            await journal.change(Cancel(ANONYMOUS, RunId(half)))
        assert journal.trouble is None
        shown = await journal.read(SessionsQuery(ANONYMOUS))
        assert [each.key.session_id for each in shown.sessions] == ["s"]
        assert await journal.accept(new("b", "another"), WIDE, claim_next=True) == Accepted(0)
        assert await journal.accept(new("c", "s"), WIDE, claim_next=True) == Accepted(1)

    asyncio.run(main())


def test_what_is_given_up_in_the_middle_of_a_decision_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = SessionTable.finish

    def finish_in_vain(table: SessionTable, *of: Any, **how: Any) -> ClaimResult:
        finish(table, *of, **how)
        raise JournalUnavailable("a record is damaged")

    async def main() -> None:
        journal = await opened()
        claim = await claim_of(journal, "a")
        with monkeypatch.context() as patch:
            patch.setattr(SessionTable, "finish", finish_in_vain)
            with pytest.raises(JournalUnavailable, match="a record is damaged"):
                await journal.finish(claim.token, done("a"), claim_next=True)
        run = await journal.read(RunQuery(ANONYMOUS, RunId("a")))
        assert run is not None
        assert run.status is RunStatus.RUNNING
        assert journal.trouble is None
        assert await journal.finish(claim.token, done("a"), claim_next=True) is ClaimResult.NOTHING

    asyncio.run(main())


def test_an_operation_that_fails_halfway_is_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_none(rows: SqliteRows, row: Any) -> None:
        raise Mismatch("there is no such row")

    monkeypatch.setattr(SqliteRows, "_add_history", write_none)

    async def main() -> None:
        journal = await opened()
        claim = await claim_of(journal, "a")
        with pytest.raises(InvariantBroken, match="there is no such row"):
            await journal.finish(claim.token, done("a"), claim_next=True)
        assert "restart the server" in (journal.trouble or "")
        for _ in range(2):
            for operation in (
                journal.accept(new("b", "s"), WIDE, claim_next=True),
                journal.finish(claim.token, done("a"), claim_next=True),
                journal.prune(0.0, 1),
                journal.load(new("b", "s").key),
                journal.read(RunQuery(ANONYMOUS, RunId("a"))),
            ):
                with pytest.raises(JournalUnavailable, match="cannot be undone: restart the server"):
                    await operation
            with pytest.raises(JournalUnavailable, match="restart the server"):
                await journal.open("another", max_attempts=3)

    asyncio.run(main())


def test_what_it_keeps_is_given_back_with_the_journal() -> None:
    async def main() -> sqlite3.Connection:
        journal = await opened()
        await journal.accept(new("a", "s"), WIDE, claim_next=False)
        return journal._connection

    connection = asyncio.run(main())
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")

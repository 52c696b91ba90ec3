"""Forgetting by hand: what is old goes, what was said stays, and the disk gets its room back."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from strandline._clock import SystemClock
from strandline._journal.port import Accepted, Bounds, Fork, Forked, Journal, Refused
from strandline._journal.pruning import prune, vacuum
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.transactions import SqliteTransactions
from strandline._journal.verify import verify
from strandline._model import SessionId
from strandline.errors import JournalError, JournalLocked, JournalUnavailable
from strandline.testing._desk import WIDE, done, key

from .test_damage import new


async def _fill(path: Path) -> None:
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for n in range(40):
        await journal.accept(new(f"r{n}"), WIDE, claim_next=True)
        await journal.finish((await anext(claims)).token, done("hi", "h" * 5_000), claim_next=False)
    await journal.accept(new("executes"), WIDE, claim_next=True)
    await journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    asyncio.run(_fill(tmp_path / "journal.db"))
    return tmp_path / "journal.db"


def test_a_vacuum_gives_back_what_nothing_uses(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET outcome = NULL, status = 'queued' WHERE seq < 40")
    before = path.stat().st_size
    assert asyncio.run(vacuum(path, SystemClock())) == before - path.stat().st_size > before / 3
    assert verify(path).messages == 80
    assert sorted(each.name for each in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_nothing_is_vacuumed_under_a_server(path: Path) -> None:
    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalLocked):
            await vacuum(path, SystemClock())
        with pytest.raises(JournalLocked, match="run_retention"):
            await prune(path, SystemClock(), 0.0, lambda count: None)
        await journal.close()

    asyncio.run(main())
    with pytest.raises(JournalError, match="There is no journal"):
        asyncio.run(vacuum(path.with_name("none"), SystemClock()))
    assert not path.with_name("none.lock").exists()


def test_old_runs_are_forgotten_in_steps_and_nothing_else_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandline._journal.pruning.BATCH", 15)
    steps: list[int] = []
    assert asyncio.run(prune(path, SystemClock(), 3600.0, steps.append)) == 0
    assert asyncio.run(prune(path, SystemClock(), 0.0, steps.append)) == 40
    assert steps == [15, 30, 40]
    findings = verify(path)
    assert (findings.faults, findings.messages) == ([], 80)
    assert findings.runs["running"] == 1

    async def served() -> None:
        journal = SqliteJournal(path, SystemClock())
        (orphan,) = await journal.open("test", max_attempts=3)
        assert (orphan.run.run_id, orphan.run.attempt) == ("executes", 1)
        assert (await journal.load(key())).length == 80
        await journal.close()

    asyncio.run(served())


def test_room_that_a_step_has_made_is_there_although_the_next_one_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A principal that may keep no more is refused until somebody looks again."""
    forget = SqliteTransactions.prune

    def fails_later(self: SqliteTransactions, before: float, limit: int, after: int) -> tuple[int, int | None]:
        if after >= 0:
            raise JournalUnavailable("the disk is full")
        return forget(self, before, limit, after)

    async def main() -> None:
        journal = SqliteJournal(path, SystemClock())
        (claim,) = await journal.open("test", max_attempts=3)
        await journal.finish(claim.token, done("a", "a"), claim_next=False)
        most = await _stored(journal) + 10

        async def accepts(run_id: str) -> object:
            return await journal.accept(new(run_id, "s2"), Bounds(9, 9, stored_bytes=most), claim_next=False)

        first = await accepts("x")
        monkeypatch.setattr("strandline._journal.deletion.WALK", 5)
        monkeypatch.setattr(SqliteTransactions, "prune", fails_later)
        with pytest.raises(JournalUnavailable):
            await journal.prune(SystemClock().now() + 1, 40)
        assert (first, await accepts("y")) == (Refused("storage_full", 1), Accepted(1))
        await journal.close()

    asyncio.run(main())


async def _stored(journal: SqliteJournal) -> int:
    """Return how many bytes are kept for the only principal."""
    with closing(sqlite3.connect(journal.file)) as connection:
        (stored,) = connection.execute("SELECT sum(bytes) FROM stored").fetchone()
    return int(stored)


async def fork_while_pruned(journal: Journal) -> None:
    """Fork a session up to each of its runs, of which one is pruned meanwhile."""
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for n in range(20):
        await journal.accept(new(f"r{n}"), WIDE, claim_next=True)
        await journal.finish((await anext(claims)).token, done("hi", f"{n}", state={"n": n}), claim_next=False)
    before = SystemClock().now() + 1.0
    for n in range(20):
        made, pruned = await asyncio.gather(
            journal.change(Fork(key(f"f{n}"), SessionId("s"), 2 * n)), journal.prune(before, 1)
        )
        assert isinstance(made, Forked)
        assert (made.messages, pruned) == (2 * n + 2, 1)
    await journal.close()


def test_a_journal_whose_sessions_were_forked_while_runs_were_pruned_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(fork_while_pruned(SqliteJournal(path, SystemClock())))
    findings = verify(path)
    assert (findings.faults, findings.sessions, findings.messages) == ([], 21, 40 + sum(range(2, 42, 2)))

"""Conversations come into a database as into a file: whole, the same, read back, and while no server is there."""

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import strands_sessions
from contract.test_importing import imported as imported_into_file
from contract.test_importing import loaded
from postgres_support import asking, lease_of, opened
from strandline._clock import SystemClock
from strandline._encoding import encode_messages
from strandline._journal.importing import Imported
from strandline._journal.port import HistoryQuery, StoredQuery
from strandline._journal.postgres import rows, schema
from strandline._journal.postgres.importing import import_sessions
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.verify import verify
from strandline._model import AgentRecord, Message, NewRun, RunId
from strandline.errors import JournalLocked
from strandline.testing._desk import WIDE, done, key, said


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    asyncio.run(strands_sessions.write(folder))
    return folder


def imported(
    folder: Path, database: str, *, on_step: Callable[[int, int], None] = lambda done, total: None, **options: Any
) -> dict[str, Imported]:
    given: dict[str, Any] = {"prefix": "", "principal": "anonymous", "skip_existing": False, "dry_run": False} | options
    return {
        each.session_id: each for each in import_sessions(folder, database, SystemClock(), on_step=on_step, **given)
    }


def sessions_of(database: str) -> list[str]:
    with asking(database) as wire:
        return [name for (name,) in wire.execute("SELECT session_id FROM sessions ORDER BY session_id")]


def sound(database: str) -> bool:
    return verify(database, lambda what, done, total: None).faults == []


async def read(journal: PostgresJournal, name: str) -> tuple[AgentRecord, list[Message]]:
    page = await journal.read(HistoryQuery(key(name), limit=1000))
    return await journal.load(key(name)), page.messages


def test_every_session_is_as_it_is_in_a_file_and_goes_on(written: Path, database: str, tmp_path: Path) -> None:
    results = imported(written, database)
    assert results == imported_into_file(written, tmp_path / "journal.db")
    names = [name for name, each in results.items() if each.result == "imported"]
    assert len(names) > 5
    assert sound(database)
    in_file = list(loaded(tmp_path / "journal.db", *names))

    async def main() -> None:
        async with opened(database) as journal:
            claims = journal.claims()
            for name, (record, history) in zip(names, in_file, strict=True):
                assert await read(journal, name) == (record, history)
                new = NewRun(run_id=RunId(f"run of {name}"), key=key(name), input="ask", created_at=1.0)
                await journal.accept(new, WIDE, claim_next=True)
                claim = await anext(claims)
                await journal.finish(claim.token, done("ask", "answer"), claim_next=False)
                _, longer = await read(journal, name)
                assert len(longer) == len(history) + 2
            stored = await journal.read(StoredQuery())
            assert stored is not None
            assert stored.total > 0

    asyncio.run(main())
    assert sound(database)


def test_numbers_of_servers_rise_above_those_of_an_import(written: Path, database: str) -> None:
    """Also if the clock of the machine on which it ran was ahead."""

    class Ahead(SystemClock):
        def now(self) -> float:
            return super().now() + 3600.0

    import_sessions(
        written, database, Ahead(), prefix="", principal="anonymous", skip_existing=False, dry_run=False,
        on_step=lambda done, total: None,
    )  # fmt: skip
    with asking(database) as wire:
        (before,) = wire.execute("SELECT max(no) FROM history").fetchone()

    async def main() -> None:
        async with opened(database) as journal:
            new = NewRun(run_id=RunId("a"), key=key("sound"), input="ask", created_at=1.0)
            await journal.accept(new, WIDE, claim_next=True)
            await journal.finish((await anext(journal.claims())).token, done("a", "b"), claim_next=False)

    asyncio.run(main())
    with asking(database) as wire:
        assert wire.execute("SELECT max(no) FROM history").fetchone()[0] >> 8 > before >> 8


def test_an_import_that_was_cut_off_continues_behind_what_is_there(written: Path, database: str) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(written, database, on_step=interrupt)
    there = sessions_of(database)
    assert len(there) == 3
    results = imported(written, database, skip_existing=True)
    assert sorted(name for name, each in results.items() if each.result == "skipped") == there
    assert {each.result for name, each in results.items() if name not in there} == {"imported", "refused"}
    assert sound(database)


@pytest.mark.parametrize(
    ("stored", "why"), [(b"[]", "is damaged"), (encode_messages(said("other", "text")), "as it is in the folder")]
)
def test_a_session_that_cannot_be_read_back_is_refused_and_leaves_nothing(
    written: Path, database: str, monkeypatch: pytest.MonkeyPatch, stored: bytes, why: str
) -> None:
    add = rows.PostgresRows._add_history

    def lose(self: rows.PostgresRows, row: Any) -> None:
        add(self, replace(row, messages=stored) if row.nth == 1 else row)

    with monkeypatch.context() as patch:
        patch.setattr(rows.PostgresRows, "_add_history", lose)
        refused = imported(written / "session_sound", database)["sound"]
    assert (refused.result, why in refused.reason) == ("refused", True)
    assert sessions_of(database) == []
    assert imported(written / "session_sound", database)["sound"].result == "imported"


def test_nothing_is_imported_while_a_server_has_the_journal_but_a_dry_run_looks(written: Path, database: str) -> None:
    async def main() -> None:
        async with opened(database):
            with pytest.raises(JournalLocked, match="Sessions are imported while no server has the journal"):
                await asyncio.to_thread(imported, written, database)
            looked = await asyncio.to_thread(lambda: imported(written, database, dry_run=True))
            assert looked["sound"].result == "imported"

    asyncio.run(main())
    assert sessions_of(database) == []


def test_a_server_that_starts_meanwhile_ends_the_import_and_has_what_is_there(written: Path, database: str) -> None:
    lease_of(database, 1_000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        journal = PostgresJournal(database, SystemClock())

        def start(done: int, total: int) -> None:
            if done == 2:
                asyncio.run_coroutine_threadsafe(journal.open("test", max_attempts=3), loop).result(30)

        with pytest.raises(JournalLocked, match="stop them all first"):
            await asyncio.to_thread(lambda: imported(written, database, on_step=start))
        there = await asyncio.to_thread(sessions_of, database)
        assert len(there) == 2
        for name in there:
            assert await journal.load(key(name)) is not None
        await journal.close()

    asyncio.run(main())


def test_a_dry_run_makes_no_tables_and_reports_the_same(written: Path, database: str) -> None:
    reported = imported(written, database, dry_run=True)
    with asking(database) as wire:
        assert schema.version_of(wire) == 0
    assert imported(written, database) == reported
    assert imported(written, database)["sound"].result == "refused"


def test_memory_does_not_grow_with_the_number_of_sessions(tmp_path: Path, database: str) -> None:
    def make(first: int, count: int) -> Path:
        for number in range(first, first + count):
            messages = tmp_path / f"of {first}" / f"session_s{number}" / "agents" / "agent_a" / "messages"
            messages.mkdir(parents=True)
            (messages.parent / "agent.json").write_text('{"agent_id": "a", "state": {}}')
            for index in range(4):
                role = "assistant" if index % 2 else "user"
                text = {"role": role, "content": [{"text": f"{number} {index} " + "x" * 100_000}]}
                (messages / f"message_{index}.json").write_text(json.dumps({"message": text}))
        return tmp_path / f"of {first}"

    def peak(folder: Path) -> int:
        tracemalloc.start()
        try:
            imported(folder, database)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = make(0, 5), make(100, 60)
    peak(make(1000, 2))  # (what is imported once)
    of_few = peak(few)
    assert peak(many) < of_few + 1_000_000, "60 sessions of 400 KB"
    assert len(sessions_of(database)) == 67

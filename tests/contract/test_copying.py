"""A journal is copied whole or not at all, between files and databases, and nothing takes a part of it for a whole."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from postgres_pooler import Pooler
from strandline._cli.journal_copy import copied
from strandline._cli.locations import Database, Location
from strandline._clock import SystemClock
from strandline._journal import tables
from strandline._journal.backup import backup
from strandline._journal.driver import connect_reader
from strandline._journal.ownership import APPLICATION_ID
from strandline._journal.partitions import partition_of
from strandline._journal.port import (
    Accepted,
    AddFile,
    AddSchedule,
    Attached,
    Changed,
    DueDeliveriesQuery,
    Fork,
    Forked,
    HistoryQuery,
    Pause,
    SessionQuery,
    SetOptions,
)
from strandline._journal.postgres import ownership, schema
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.pruning import prune as prune_database
from strandline._journal.postgres.rows import Batch
from strandline._journal.postgres.verify import verify as verify_database
from strandline._journal.postgres.wire import Wire
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.tables import TABLES, pages
from strandline._journal.verify import verify as verify_file
from strandline._model import (
    ANONYMOUS,
    Completion,
    ErrorCode,
    FileId,
    InputRequest,
    Keyed,
    Lane,
    Message,
    NewRun,
    Outcome,
    Question,
    Range,
    Resolution,
    RoundStarted,
    RunError,
    RunId,
    RunStatus,
    RunWebhook,
    ScheduleId,
    Sender,
    SessionId,
    SessionKey,
    ToolDone,
    responses,
)
from strandline.errors import JournalError, JournalLocked
from strandline.testing._desk import WIDE, done, key, said
from tools.postgres import Cluster

TESTS: Final = Path(__file__).parents[1]
DERIVED: Final = {"meta", "signing_keys", "stored"}
OPEN: Final[Message] = {
    "role": "assistant",
    "content": [{"toolUse": {"toolUseId": "t1", "name": "pay", "input": {}}}],
}
HOOK: Final = RunWebhook("https://example.com/", ("run.queued", "run.finished"))
REQUESTS: Final = [InputRequest("i1", "approval", {"sure": None})]
Journal = SqliteJournal | PostgresJournal


def at(location: Location) -> Journal:
    if isinstance(location, Database):
        return PostgresJournal(location.address, SystemClock(), lock_wait_s=0)
    return SqliteJournal(location, SystemClock(), lock_wait_s=0)


def new(run_id: str, session: SessionKey, **more: Any) -> NewRun:
    return NewRun(**{"run_id": RunId(run_id), "key": session, "input": f"ask {run_id}", "created_at": 1.0, **more})


async def fill(location: Location) -> None:
    """Fill an empty journal with rows in every table, and leave it as a server does that was killed."""
    journal = at(location)
    await journal.open("test", max_attempts=3)
    claims = journal.claims()

    async def accept(run_id: str, session: SessionKey, **more: Any) -> None:
        assert isinstance(await journal.accept(new(run_id, session, **more), WIDE, claim_next=True), Accepted)

    async def ask(run_id: str, session: SessionKey) -> None:
        await accept(run_id, session)
        question = Question(requests=REQUESTS, message=OPEN, results={}, state={"kept": True})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=REQUESTS)
        completion = Completion(
            outcome=outcome, messages=[*said("go"), OPEN], question=question, answer_within_s=9_000_000.0
        )
        await journal.finish((await anext(claims)).token, completion, claim_next=False)

    for n in range(60):
        session = key(f"ended-{n % 5}", "ada" if n % 2 else ANONYMOUS)
        await accept(
            f"e{n}",
            session,
            metadata={"of": n},
            timeout_s=60.5,
            trace={"traceparent": f"of {n}"},
            sender=Sender(f"U{n}", "Ada"),
        )
        ended = done(
            "hi", "hö" * (n + 1), state={"n": n}, window=(Range(1, None),) if n == 7 else None, discarded=n == 9
        )
        await journal.finish((await anext(claims)).token, ended, claim_next=False)
    await accept("keyed", key("keyed"), keyed=Keyed("k-ö", b"f" * 32, 0.0))
    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
    await ask("asks", key("asked"))
    await ask("asked", key("answered"))
    await accept("answers", key("answered"), input=responses({"i1": "yes"}), lane=Lane.ANSWER)
    result: Any = {"toolResult": {"toolUseId": "t1", "status": "success", "content": [{"text": "paid"}]}}
    answered = Completion(
        outcome=Outcome(status=RunStatus.SUCCEEDED),
        messages=[{"role": "user", "content": [result]}, *said("-", "ho")[1:]],
    )
    await journal.finish((await anext(claims)).token, answered, claim_next=False)
    await accept("held", key("held"))
    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False, hold=True)
    await accept("before", key("paused"))
    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
    await journal.change(Pause(key("paused")))
    await journal.change(SetOptions(key("paused"), {"metadata": {"team": "ö"}, "priority": 2}))
    await journal.accept(new("waits", key("paused")), WIDE, claim_next=True)
    crashed = Completion(
        outcome=Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "died")),
        messages=said("hi", "ho"),
        unresolved=True,
    )
    for run_id in ("crashed", "unresolved"):
        await accept(run_id, key(run_id))
        token = (await anext(claims)).token
        await journal.checkpoint(token, RoundStarted([*said("go"), OPEN]))
        await journal.finish(token, crashed, claim_next=False)
    paid = Resolution(run_id=RunId("crashed"), tools=(ToolDone("t1", result["toolResult"]),))
    await accept("resolved", key("crashed"), lane=Lane.REQUEUED, resolution=paid)
    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
    assert await journal.change(AddFile(key("ended-0"), FileId("file_1"), 10, b'{"name":"a"}', 0.0)) == Changed(
        existed=True
    )
    await journal.change(AddSchedule(key("ended-0"), ScheduleId("sch_1"), 9e9, b'{"every":60}', b"{}", 10))
    assert isinstance(await journal.change(Fork(key("forked"), SessionId("ended-0"), RunId("e40"), "k")), Forked)
    await accept("executes", key("executing"))
    token = (await anext(claims)).token
    await journal.checkpoint(token, RoundStarted([*said("go"), OPEN]))
    await journal.checkpoint(token, ToolDone("t1", result["toolResult"]))
    behind = new("behind", key("executing"), queue_deadline=9e9, priority=7, webhook=HOOK)
    await journal.accept(behind, WIDE, claim_next=True)
    await journal.close()


def contents(location: Location) -> dict[str, list[Any]]:
    """Return all rows of a journal, and its two numbers."""
    if isinstance(location, Database):
        wire = Wire(location.address)
        try:
            found: dict[str, list[Any]] = {table.name: list(rows(Batch(wire), table)) for table in TABLES}
            found["meta"] = wire.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchall()
        finally:
            wire.close()
        return found
    with closing(connect_reader(location)) as connection:
        found = {table.name: list(rows(connection, table)) for table in TABLES}
        found["meta"] = connection.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchall()
    return found


def rows(database: Any, table: tables.Table) -> Iterator[tuple[Any, ...]]:
    for page in pages(database, table):
        yield from page


def faults(location: Location) -> list[str]:
    return (verify_database(location.address) if isinstance(location, Database) else verify_file(location)).faults


def moved(source: Location, destination: Location, *, anew: bool = False) -> dict[str, int]:
    return copied(source, destination, lambda what, done, total: None, anew=anew)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "journal.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture(scope="module")
def filled_database(postgres: Cluster) -> Iterator[Database]:
    url = postgres.new_database()
    asyncio.run(fill(Database(url)))
    yield Database(url)
    postgres.drop_database(url)


@contextmanager
def asking(location: Location) -> Iterator[Wire]:
    assert isinstance(location, Database)
    wire = Wire(location.address)
    try:
        yield wire
    finally:
        wire.close()


async def continued(location: Location) -> list[str]:
    """Open a journal as a server does, let everything come to its end, and return what was executing."""
    journal = at(location)
    orphans = await journal.open("test", max_attempts=3)
    claims = journal.claims()
    (orphan,) = orphans
    assert len(orphan.checkpoints) == 2
    await journal.finish(orphan.token, done("hi", "ho"), claim_next=True)
    behind = await anext(claims)
    await journal.finish(behind.token, done("hi", "ho"), claim_next=False)
    session = await journal.read(SessionQuery(key("asked")))
    assert session is not None
    assert session.input_requests == REQUESTS
    answer = new("late", key("asked"), input=responses({"i1": "yes"}), lane=Lane.ANSWER)
    assert await journal.accept(answer, WIDE, claim_next=True) == Accepted(0)
    late = await anext(claims)
    assert late.question is not None
    again = new("again", key("keyed"), keyed=Keyed("k-ö", b"f" * 32, 0.0))
    assert await journal.accept(again, WIDE, claim_next=True) == Attached(RunId("keyed"))
    paused = await journal.read(SessionQuery(key("paused")))
    assert paused is not None
    assert (paused.paused, paused.waiting) == (True, 1)
    forked = await journal.read(HistoryQuery(key("forked"), limit=100))
    assert forked.messages[-1]["content"][0]["text"] == "hö" * 41
    assert forked.runs[-1] == "e40"
    due = await journal.read(DueDeliveriesQuery(9e9, 10))
    assert {each.id for each in due.deliveries if each.body} == {"behind_queued", "behind_finished"}
    assert await journal.accept(new("next", key("held")), WIDE, claim_next=True) == Accepted(0)
    await journal.close()
    return [orphan.run.run_id, behind.run.run_id, late.run.run_id]


# -- whole ------------------------------------------------------------------------------------------------


def test_every_column_of_every_table_is_copied(filled: Path, filled_database: Database) -> None:
    with closing(connect_reader(filled)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        of_file = {
            (name, row[1])
            for name in names
            if name not in DERIVED
            for row in connection.execute(f"PRAGMA table_info({name})")
        }
    with asking(filled_database) as wire:
        of_database = {
            tuple(row)
            for row in wire.execute(
                "SELECT table_name::text, column_name::text FROM information_schema.columns"
                " WHERE table_schema = 'public'"
            )
            if row[0] in names and row[0] not in DERIVED
        }
    copied_columns = {(table.name, column.strip('"')) for table in TABLES for column in table.columns}
    assert copied_columns == of_file
    assert copied_columns | {("sessions", "p")} == of_database


def test_from_a_file_to_a_database_and_back_everything_is_the_same_and_continues(
    filled: Path, database: str, tmp_path: Path
) -> None:
    before = contents(filled)
    assert all(before.values()), "every table has rows"
    there, back = Database(database), tmp_path / "back.db"
    counts = moved(filled, there)
    assert counts == {table.name: len(before[table.name]) for table in TABLES}
    assert contents(there) == before
    assert faults(there) == []
    moved(there, back)
    assert contents(back) == before == contents(filled)
    assert faults(back) == []
    for location in (there, back):
        assert asyncio.run(continued(location)) == ["executes", "behind", "late"]
        assert faults(location) == []
    with asking(there) as wire:
        for p, *name in wire.execute("SELECT p, principal, session_id FROM sessions"):
            assert p == partition_of(SessionKey(*name))


def test_from_a_database_to_another_and_from_a_file_to_another(
    filled: Path, filled_database: Database, postgres: Cluster, database: str, tmp_path: Path
) -> None:
    moved(filled_database, Database(database))
    assert contents(Database(database)) == contents(filled_database)
    moved(filled, tmp_path / "copy.db")
    assert contents(tmp_path / "copy.db") == contents(filled)
    assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
    assert asyncio.run(continued(Database(database))) == asyncio.run(continued(tmp_path / "copy.db"))


def test_a_journal_is_copied_and_verified_through_a_pooler(
    filled: Path, database: str, pooler: Pooler, tmp_path: Path
) -> None:
    through = Database(pooler.url(database))
    moved(filled, through)
    assert faults(through) == []
    moved(through, tmp_path / "back.db")
    assert contents(tmp_path / "back.db") == contents(filled)


def test_a_copy_counts_on_where_its_source_was(tmp_path: Path, database: str, postgres: Cluster) -> None:
    """Owners, whose count events begin with, and the numbers of sessions, runs and rows, whatever the clocks say."""

    async def owners(location: Location, count: int) -> list[int]:
        epochs = []
        for number in range(count):
            journal = at(location)
            await journal.open("test", max_attempts=1000)
            claims = journal.claims()
            run_id = f"{location}{number}{len(contents(location)['runs'])}"
            await journal.accept(new(run_id, key(f"s{number}")), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
            epochs.append(min(journal.epoch, journal.epoch_of(key(f"s{number}"))))
            await journal.close()
        return epochs

    def largest(location: Location) -> int:
        found = contents(location)
        return int(max(row[0] for name in ("sessions", "runs", "history") for row in found[name]))

    path, back = tmp_path / "journal.db", tmp_path / "back.db"
    other = Database(postgres.new_database())
    assert asyncio.run(owners(path, 40))[-1] == 40
    with (
        closing(sqlite3.connect(path)) as connection,
        connection,
    ):  # (as after years in a database whose clock was ahead)
        ahead = 1 << 61
        connection.execute("UPDATE runs SET seq = seq + ?", (ahead,))
        connection.execute("UPDATE history SET run = run + ?", (ahead,))
    journeys: list[Location] = [path, Database(database), other, back]
    last_epoch, last_number = 40, largest(path)
    for source, destination in pairwise(journeys):
        moved(source, destination)
        epochs = asyncio.run(owners(destination, 2))
        assert last_epoch < epochs[0] < epochs[1]
        assert largest(destination) > last_number
        last_epoch, last_number = epochs[1], largest(destination)
    sequences = [row[0] for row in contents(back)["runs"]]
    assert len(sequences) == 46
    postgres.drop_database(other.address)


def test_a_large_journal_is_copied_page_by_page(
    filled: Path, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FIRST_ROWS", 1)
    monkeypatch.setattr(tables, "PAGE_BYTES", 2_000)
    steps: list[tuple[str, int, int]] = []
    copied(filled, Database(database), lambda *step: steps.append(step), anew=False)
    assert len([step for step in steps if step[0] == "copying runs"]) > 10
    assert {what for what, count, total in steps if count == total} == {
        f"{what} {table.name}" for what in ("copying", "comparing") for table in TABLES
    }
    monkeypatch.undo()
    assert contents(Database(database)) == contents(filled)


# -- nobody else ------------------------------------------------------------------------------------------


def test_a_journal_that_a_server_has_is_neither_copied_nor_copied_to(
    filled: Path, database: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    backup(filled, path)

    async def main(location: Location) -> None:
        journal = at(location)
        await journal.open("test", max_attempts=3)
        empty = tmp_path / "empty.db"
        for source, destination in ((location, empty), (filled, location)):
            if destination == path:
                continue  # (which is there already)
            with pytest.raises(JournalLocked, match=r"(belongs to|in use by) process"):
                await asyncio.to_thread(moved, source, destination)
        await journal.close()

    asyncio.run(main(Database(database)))
    asyncio.run(main(path))


@pytest.mark.parametrize("side", ["source", "destination"])
def test_a_server_that_starts_meanwhile_waits(
    filled: Path, filled_database: Database, database: str, tmp_path: Path, side: str
) -> None:
    """Whichever side: it learns who has the journal, and gets neither half a copy nor runs that are copied."""
    source, destination = (filled_database, tmp_path / "to.db") if side == "source" else (filled, Database(database))
    location = source if side == "source" else destination
    assert isinstance(location, Database)
    seen: list[str] = []

    def on_step(what: str, count: int, total: int) -> None:
        if what == "copying history" and not seen:
            with pytest.raises(JournalError) as raised:
                asyncio.run(at(location).open("second", max_attempts=3))
            seen.append(str(raised.value))

    copied(source, destination, on_step, anew=False)
    assert ("in use by strandline journal copy, process" if side == "source" else "unfinished copy") in seen[0]


def test_a_server_that_has_looked_at_the_tables_already_gets_no_unfinished_copy(database: str) -> None:
    with asking(Database(database)) as wire:
        schema.migrate(wire)
        wire.execute("INSERT INTO meta VALUES (?, 1)", (schema.UNFINISHED,))
        with pytest.raises(JournalError, match="unfinished copy"):
            ownership.join(wire, "here", SystemClock())
        assert wire.execute("SELECT count(*) FROM servers").fetchone() == (0,)


def test_a_server_whose_lease_is_over_is_ended_for_good_before_its_journal_is_copied(
    filled: Path, postgres: Cluster, database: str, tmp_path: Path
) -> None:
    """It may wake at any time: what it accepts then would be lost."""
    moved(filled, Database(database))
    with asking(Database(database)) as wire:
        wire.execute("UPDATE meta SET value = 300 WHERE name = 'lease_ms'")
        wire.execute(
            "INSERT INTO servers (address, version, until) VALUES ('frozen', '0', clock_timestamp() - '1 s'::interval)"
        )
        moved(Database(database), tmp_path / "to.db")
        assert wire.execute("SELECT count(*) FROM servers WHERE alive").fetchone() == (0,)


# -- not half of it ---------------------------------------------------------------------------------------

KILLED: Final = """
import os, signal, sys
from pathlib import Path
from strandline._cli.journal_copy import copied
from strandline._cli.locations import Database
from strandline._journal import tables

tables.FIRST_ROWS, tables.PAGE_BYTES = 1, 1000
def location(named):
    return Database(named) if named.startswith("postgresql:") else Path(named)
left = int(sys.argv[3])
def on_step(what, done, total):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
copied(location(sys.argv[1]), location(sys.argv[2]), on_step, anew=False)
"""


def killed_copy(source: Location, destination: Location, steps: int) -> bool:
    """Copy in another process, which is killed after so many steps; return whether it was, or had ended before."""
    places = [each.address if isinstance(each, Database) else str(each) for each in (source, destination)]
    done = subprocess.run([sys.executable, "-c", KILLED, *places, str(steps)], check=False, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


@pytest.mark.parametrize("steps", [1, 3, 20, 90, 150, 260])
@pytest.mark.parametrize("to", ["file", "database"])
def test_a_copy_that_was_killed_is_no_journal_and_continues(
    filled: Path, database: str, tmp_path: Path, to: str, steps: int
) -> None:
    destination: Location = tmp_path / "to.db" if to == "file" else Database(database)
    assert killed_copy(filled, destination, steps)
    uses: list[Callable[[], object]] = [
        lambda: asyncio.run(at(destination).open("test", max_attempts=3)),
        lambda: faults(destination),
        lambda: moved(destination, tmp_path / "further.db"),
        lambda: maintained(destination),
    ]
    for use in uses:
        with pytest.raises(JournalError, match="unfinished copy"):
            use()
    already: dict[str, int] = {}

    def on_step(what: str, count: int, total: int) -> None:
        already.setdefault(what, count)

    copied(filled, destination, on_step, anew=False)
    if steps > 20:
        assert already["copying sessions"] > 0, "it begins again"
    assert contents(destination) == contents(filled)
    assert faults(destination) == []
    assert asyncio.run(continued(destination))


def maintained(location: Location) -> object:
    """Do to a journal what one may do without a server."""
    if isinstance(location, Database):
        return prune_database(location.address, SystemClock(), 0.0, lambda count: None)
    return backup(location, location.with_name("backup.db"))


@pytest.mark.parametrize("to", ["file", "database"])
def test_a_copy_continues_only_if_its_source_is_still_the_same(
    filled: Path, database: str, tmp_path: Path, to: str
) -> None:
    """A server ran on it meanwhile, say: what was copied before is not what it is now."""
    source, destination = tmp_path / "journal.db", tmp_path / "to.db" if to == "file" else Database(database)
    backup(filled, source)
    assert killed_copy(source, destination, 150)
    assert asyncio.run(continued(source))
    moved(source, destination)
    assert contents(destination) == contents(source)
    assert faults(destination) == []


@pytest.mark.parametrize("to", ["file", "database"])
def test_an_unfinished_copy_of_another_journal_is_left_alone_unless_it_is_to_be_discarded(
    filled: Path, database: str, tmp_path: Path, to: str
) -> None:
    other, destination = tmp_path / "other.db", tmp_path / "to.db" if to == "file" else Database(database)
    backup(filled, other)
    assert killed_copy(filled, destination, 90)
    with pytest.raises(JournalError, match=r"unfinished copy of another journal.*--anew"):
        moved(other, destination)
    moved(other, destination, anew=True)
    assert contents(destination) == contents(other)


def test_what_has_rows_is_not_overwritten(filled: Path, filled_database: Database, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    backup(filled, path)
    with pytest.raises(JournalError, match="journal already"):
        moved(filled_database, path)
    with pytest.raises(JournalError, match="journal already"):
        moved(filled_database, path, anew=True)
    with pytest.raises(JournalError, match="journal already"):
        moved(path, filled_database)
    (tmp_path / "text.db").write_text("no database " * 20)
    with pytest.raises(JournalError, match="no SQLite database"):
        moved(filled_database, tmp_path / "text.db")


def test_a_database_that_a_server_has_made_and_not_used_is_an_empty_one(filled: Path, database: str) -> None:
    async def main() -> None:
        journal = at(Database(database))
        await journal.open("test", max_attempts=3)
        await journal.close()

    asyncio.run(main())
    moved(filled, Database(database))
    assert contents(Database(database)) == contents(filled)


@pytest.mark.parametrize("to", ["file", "database"])
def test_a_copy_that_differs_is_never_finished(filled: Path, database: str, tmp_path: Path, to: str) -> None:
    """Some row is changed between its copy and the comparison."""
    destination: Location = tmp_path / "to.db" if to == "file" else Database(database)
    statement = "UPDATE runs SET priority = priority + 1 WHERE seq = 5"

    def on_step(what: str, count: int, total: int) -> None:
        if what == "comparing sessions":
            if isinstance(destination, Database):
                with asking(destination) as wire:
                    wire.execute(statement)
            else:
                with closing(sqlite3.connect(destination)) as connection, connection:
                    connection.execute(statement)

    with pytest.raises(JournalError, match="the table runs is not the same on both sides"):
        copied(filled, destination, on_step, anew=False)
    with pytest.raises(JournalError, match="unfinished copy"):
        asyncio.run(at(destination).open("test", max_attempts=3))
    moved(filled, destination)
    assert contents(destination) == contents(filled)


def test_damage_is_copied_as_damage(filled: Path, database: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    backup(filled, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE history SET messages = x'5b5d' WHERE no = 3")
    found = faults(path)
    assert found
    moved(path, Database(database))
    assert faults(Database(database)) == [each for each in found if "what is stored" not in each]  # (counted anew)


def test_characters_that_postgresql_cannot_keep_are_kept(filled: Path, database: str, tmp_path: Path) -> None:
    path, back = tmp_path / "journal.db", tmp_path / "back.db"
    backup(filled, path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET key = 'a' || char(0) || 'b' || char(1) WHERE run_id = 'keyed'")
        connection.execute("UPDATE closed_requests SET id = char(1) || id || char(0)")
    moved(path, Database(database))
    moved(Database(database), back)
    assert contents(back) == contents(path) == contents(Database(database))


def test_a_file_that_is_cut_off_at_the_very_end_of_a_copy_is_no_journal(filled: Path, tmp_path: Path) -> None:
    """The last commit has reached the file, but not the end of its rollback journal: SQLite will undo it."""
    path = tmp_path / "to.db"
    assert killed_copy(filled, path, 150)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "UPDATE history SET messages = zeroblob(20000)"
        )  # (so that pages are written before the end)
        crashed, log = path.read_bytes(), Path(f"{path}-journal").read_bytes()
        connection.execute("ROLLBACK")
    path.write_bytes(crashed[:68] + APPLICATION_ID.to_bytes(4) + crashed[72:])
    Path(f"{path}-journal").write_bytes(log)
    with pytest.raises(JournalError, match="unfinished copy"):
        asyncio.run(at(path).open("test", max_attempts=3))


# -- prune ------------------------------------------------------------------------------------------------


def test_a_database_is_pruned_while_no_server_has_it(filled: Path, database: str) -> None:
    location = Database(database)
    moved(filled, location)

    async def beside() -> None:
        journal = at(location)
        await journal.open("test", max_attempts=3)
        with pytest.raises(JournalLocked, match=r"belongs to process .*run_retention"):
            await asyncio.to_thread(prune_database, database, SystemClock(), 0.0, lambda count: None)
        await journal.close()

    steps: list[int] = []
    assert prune_database(database, SystemClock(), 1e6, steps.append) == 0
    count = prune_database(database, SystemClock(), 0.0, steps.append)
    assert (count, steps[-1]) == (67, 67)
    left = [row[1] for row in contents(location)["runs"]]
    assert sorted(left) == ["asks", "behind", "executes", "held", "waits"]
    assert faults(location) == []
    asyncio.run(beside())

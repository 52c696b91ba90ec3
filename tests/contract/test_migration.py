"""A file of schema 1 becomes one of this schema: nothing of it is lost, whatever cuts the way there off."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from logged import ours
from strandline._journal.deletion import COUNT_STORED_BYTES
from strandline._journal.driver import connect
from strandline._journal.migrations import migrate, migrate_file
from strandline._journal.ownership import APPLICATION_ID, SCHEMA_VERSION, check_file
from strandline._journal.port import (
    Accepted,
    Bounds,
    Changed,
    ClaimResult,
    HistoryQuery,
    Move,
    Pause,
    RunQuery,
)
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.verify import verify
from strandline._model import ANONYMOUS, Claim, IfBusy, NewRun, Range, RoundStarted, Run, RunId, ToolDone
from strandline.errors import JournalDamaged, JournalError
from strandline.testing._desk import StillClock, done, key, said, waiting_runs

COPY = "journal.db.v1-19700101T001640Z.bak"
"""What a copy is called that is made at 1,000 s, where the clock of these tests stands."""


def text(value: object) -> bytes:
    return json.dumps(value).encode()


RUNS = [
    # seq, run_id, session, lane, urgency, priority, status, attempt, fence, opaque, metadata, started_at, ended_at
    (0, "ended", 1, 3, 3, 3, "succeeded", 1, None, 0, None, 11.0, 12.0),
    (1, "dropped", 1, 3, 3, 3, "failed", 1, None, 0, None, 11.0, 13.0),
    (2, "orphan", 1, 0, 0, 3, "running", 2, 99, 0, text({"k": [1]}), 11.0, None),
    (3, "waits", 1, 3, 3, 3, "queued", 0, None, 0, None, None, None),
    (4, "first", 1, 3, 1, 1, "queued", 0, None, 0, None, None, None),
    (5, "opaque", 2, 3, 3, 3, "running", 1, 98, 1, None, 11.0, None),
    (6, "elsewhere", 3, 0, 0, 2, "queued", 1, None, 0, None, 11.0, None),
]
TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
CHECKPOINTS = [RoundStarted(said("ask", "tools")), ToolDone("t", {"toolUseId": "t", "content": []})]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    make_version_1(path)
    return path


def make_version_1(path: Path) -> None:
    """Make a file as the first schema had it, with runs of every kind in it."""
    schema = resources.files("strandline._journal").joinpath("schema/0001_initial.sql").read_text()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1; {schema}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN")
        for no, name in ((1, "s"), (2, "t"), (3, "u")):
            connection.execute("INSERT INTO sessions VALUES (?, NULL, ?, ?)", (no, ANONYMOUS, name))
        for seq, run_id, *columns, metadata, started_at, ended_at in RUNS:
            outcome = None if ended_at is None else text({"status": columns[4], "output": "yes"})
            prompt = text(f"ask {run_id}" if run_id != "waits" else "x" * 1_000_000)
            values = (seq, run_id, *columns[:7], 0, columns[7], prompt, metadata, 10.0 + seq, started_at, ended_at)
            connection.execute(f"INSERT INTO runs VALUES ({'?,' * 16}?)", (*values, outcome))
        for no, first, discarded, texts in ((1, 0, 0, ("0", "1")), (2, 2, 1, ("2", "3", "4"))):
            values = (no, 1, no, first, len(texts), no - 1 or None, no - 1, discarded, text(said(*texts)))
            connection.execute("INSERT INTO history VALUES (?,?,?,?,?,?,?,?,?)", values)
        connection.execute("UPDATE sessions SET last = 2 WHERE no = 1")
        connection.execute("INSERT INTO agents VALUES (1, ?, ?)", (text([["range", 1, None]]), text({"n": 7})))
        checkpoints = (
            {"type": "round_started", "messages": said("ask", "tools")},
            {"type": "tool_done", "tool_use_id": "t", "result": {"toolUseId": "t", "content": []}},
        )
        connection.executemany(
            "INSERT INTO staged VALUES (2, ?, ?)", ((n, text(checkpoint)) for n, checkpoint in enumerate(checkpoints))
        )
        connection.execute("UPDATE meta SET value = 5 WHERE name = 'epoch'")
        connection.execute("COMMIT")


async def opened(path: Path) -> tuple[SqliteJournal, list[Claim]]:
    journal = SqliteJournal(path, StillClock(), lock_wait_s=0.0)
    return journal, await journal.open("test", max_attempts=3)


async def check_everything_is_there(path: Path) -> None:
    """Open the migrated version 1 file, check all its content, and continue with it."""
    journal, orphans = await opened(path)
    try:
        assert [orphan.run.run_id for orphan in orphans] == ["orphan", "opaque"]
        assert orphans[0].checkpoints == tuple(CHECKPOINTS)
        assert all(orphan.token.fence > 5 << 32 for orphan in orphans)
        runs: dict[str, Run] = {}
        for seq, run_id, _, lane, _, priority, status, attempt, _, opaque, metadata, started_at, ended_at in RUNS:
            run = await journal.read(RunQuery(ANONYMOUS, RunId(run_id)))
            assert run is not None
            assert (run.sequence, run.lane, run.priority, run.resumable) == (seq, lane, priority, not opaque)
            assert (run.status, run.attempt, run.created_at) == (status, attempt, 10.0 + seq)
            assert (run.started_at, run.ended_at) == (started_at, ended_at)
            assert run.trace is None
            assert run.metadata == ({} if metadata is None else {"k": [1]})
            assert (run.timeout_s, run.queue_deadline, run.held, run.discarded) == (None, None, False, False)
            assert (run.outcome is None) == (ended_at is None)
            runs[run_id] = run
        assert (runs["ended"].input, len(runs["waits"].input)) == ("ask ended", 1_000_000)
        assert [each.run_id for each in await waiting_runs(journal)] == ["waits", "first", "elsewhere"]
        assert (runs["first"].position, runs["waits"].position) == (1, 2)
        page = await journal.read(HistoryQuery(key(), discarded=True))
        assert page.messages == [*said("0", "1"), *said("2", "3", "4")]
        record = await journal.load(key())
        assert (record.origins, record.window, record.state) == ([1], (Range(1, None),), {"n": 7})
        claims = journal.claims()
        assert await journal.finish(orphans[0].token, done("5", "6"), claim_next=True) is ClaimResult.CLAIMED
        assert (await anext(claims)).run.run_id == "first"
        new = NewRun(run_id=RunId("new"), key=key("new"), input="x", timeout_s=1.0, trace=TRACE, created_at=1.0)
        assert await journal.accept(new, Bounds(9, 9), claim_next=True) == Accepted(0)
        taken = (await anext(claims)).run
        assert (taken.sequence, taken.trace) == (7, TRACE)
        assert (await journal.load(key())).origins == [1, 5, 6]
    finally:
        await journal.close()


def version_of(path: Path) -> int:
    """Read the version as another program would, from the head of the file."""
    return int.from_bytes(path.read_bytes()[60:64], "big")


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each.suffix != ".lock")


# -- what has to be there afterwards ----------------------------------------------------------------------


def test_all_that_was_in_a_file_of_version_1_is_there_after_its_migration(path: Path) -> None:
    asyncio.run(check_everything_is_there(path))
    assert version_of(path) == SCHEMA_VERSION
    assert names(path) == ["journal.db", COPY]


def test_a_copy_is_left_that_is_the_file_as_it_was(path: Path) -> None:
    """It is one plain file of version 1, and can be put back."""
    asyncio.run(check_everything_is_there(path))
    copy = path.with_name(COPY)
    assert version_of(copy) == 1
    path.unlink()
    copy.rename(path)
    asyncio.run(check_everything_is_there(path))


def test_a_file_is_migrated_without_a_server_after_a_copy_of_it(path: Path) -> None:
    assert migrate_file(path, StillClock()) == 1
    assert version_of(path) == SCHEMA_VERSION
    (copy,) = path.parent.glob("*.bak")
    assert version_of(copy) == 1
    assert migrate_file(path, StillClock()) == SCHEMA_VERSION
    asyncio.run(check_everything_is_there(path))
    assert len(list(path.parent.glob("*.bak"))) == 1


def test_the_copy_before_a_migration_is_its_owners_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first moment, and although the file that it is a copy of was not."""
    lax, made = [], Path.replace

    def replace(draft: Path, target: Path) -> Path:
        lax.append(draft.stat().st_mode & 0o077)
        return made(draft, target)

    path.chmod(0o644)
    monkeypatch.setattr(Path, "replace", replace)
    before = os.umask(0o022)
    try:
        asyncio.run(check_everything_is_there(path))
    finally:
        os.umask(before)
    assert lax == [0]
    assert {each.stat().st_mode & 0o777 for each in (path, path.with_name(COPY))} == {0o600}


def killed_with_a_log(path: Path) -> Path:
    """Copy a file as a killed server leaves it: what was written last is in the log beside it only."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET metadata = ? WHERE run_id = 'elsewhere'", (text({"late": 1}),))
        killed = path.parent / "killed" / path.name
        killed.parent.mkdir()
        for file in (path, path.with_name("journal.db-wal")):
            shutil.copy(file, killed.parent)
    return killed


def test_what_was_in_the_log_of_a_killed_server_is_in_both(path: Path) -> None:
    killed = killed_with_a_log(path)
    assert b"late" not in killed.read_bytes()

    async def main(path: Path) -> None:
        journal, _ = await opened(path)
        run = await journal.read(RunQuery(ANONYMOUS, RunId("elsewhere")))
        await journal.close()
        assert run is not None
        assert run.metadata == {"late": 1}

    asyncio.run(main(killed))
    asyncio.run(main(killed.with_name(COPY)))


def test_a_migration_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="strandline.journal"):
        for _ in range(2):
            journal, _ = asyncio.run(opened(path))
            asyncio.run(journal.close())
    (record,) = ours(caplog)
    assert record.getMessage() == (
        f"migrated {path} from schema 1 to {SCHEMA_VERSION}; a copy of it as it was is {path.with_name(COPY)}"
    )


def test_a_new_file_is_as_a_migrated_one(path: Path, tmp_path: Path) -> None:
    """And it is made without a copy."""
    fresh = tmp_path / "fresh" / "journal.db"
    for each in (path, fresh):
        journal, _ = asyncio.run(opened(each))
        asyncio.run(journal.close())
    assert names(fresh) == ["journal.db"]
    tables = []
    for each in (path, fresh):
        with contextlib.closing(sqlite3.connect(each)) as connection:
            tables.append(connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall())
    assert tables[0] == tables[1]
    assert (version_of(path), version_of(fresh)) == (SCHEMA_VERSION, SCHEMA_VERSION)


def test_a_file_of_schema_2_becomes_one_of_this_schema(path: Path) -> None:
    """With a run that is held, and one whose time to wait stands still."""
    schema = resources.files("strandline._journal").joinpath("schema/0002_holds_deadlines_discards.sql").read_text()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN; {schema} PRAGMA user_version = 2; COMMIT;")
        connection.execute("UPDATE runs SET fence = 97 WHERE run_id = 'elsewhere'")
        connection.execute(
            "UPDATE runs SET status = 'succeeded', started_at = 11, ended_at = 990, outcome = ?"
            " WHERE run_id = 'elsewhere'",
            (text({"status": "succeeded"}),),
        )
        connection.execute("UPDATE runs SET session = 3, queue_deadline = 2000 WHERE run_id = 'waits'")

    async def look() -> None:
        journal, orphans = await opened(path)
        assert [orphan.run.run_id for orphan in orphans] == ["orphan", "opaque"]
        held = await journal.read(RunQuery(ANONYMOUS, RunId("elsewhere")))
        assert held is not None
        assert not held.held
        waits = await journal.read(RunQuery(ANONYMOUS, RunId("waits")))
        assert waits is not None
        assert (waits.queue_deadline, waits.cancel_requested, waits.if_busy) == (2010.0, False, IfBusy.ENQUEUE)
        assert await journal.change(Move(ANONYMOUS, RunId("waits"), 1)) == Changed(existed=True)
        assert await journal.change(Pause(key("u"))) == Changed(existed=True)
        assert await journal.claim_next(key("u")) is ClaimResult.NOTHING
        await journal.close()

    asyncio.run(look())
    assert version_of(path) == SCHEMA_VERSION
    assert path.with_name("journal.db.v2-19700101T001640Z.bak").exists()


@pytest.mark.parametrize("version", range(2, SCHEMA_VERSION))
def test_a_file_of_any_older_schema_becomes_one_of_this_schema(path: Path, version: int) -> None:
    """With all that is in it; what it has no place for yet is kept of later runs."""
    schema = resources.files("strandline._journal").joinpath("schema")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for file in sorted(each.name for each in schema.iterdir()):
            if 1 < int(file[:4]) <= version:
                connection.executescript(schema.joinpath(file).read_text())
        connection.execute(f"PRAGMA user_version = {version}")
    asyncio.run(check_everything_is_there(path))
    assert version_of(path) == SCHEMA_VERSION
    assert version_of(path.with_name(COPY.replace("v1", f"v{version}"))) == version
    with contextlib.closing(sqlite3.connect(path)) as connection:
        counted = dict(connection.execute(COUNT_STORED_BYTES))
        assert dict(connection.execute("SELECT principal, bytes FROM stored")) == counted
        assert counted[ANONYMOUS] > 100


@pytest.mark.parametrize("forgotten", [False, True], ids=["kept", "forgotten"])
def test_sessions_of_an_older_file_rest_since_their_last_run_or_if_it_is_forgotten_since_now(
    path: Path, forgotten: bool
) -> None:
    if forgotten:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DELETE FROM runs WHERE seq IN (SELECT run FROM history)")
    before = time.time()
    journal, _ = asyncio.run(opened(path))
    asyncio.run(journal.close())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        since = dict(connection.execute("SELECT session_id, rests_since FROM sessions"))
    assert (since["t"], since["u"]) == (None, None)
    if forgotten:
        assert int(before) <= since["s"] <= time.time()
    else:
        assert since["s"] == 13.0


# -- what can go wrong --------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_may_not_grow_beyond(size: int) -> Iterator[None]:
    """What a full disk is to a write: the system refuses it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_copy_that_cannot_be_made_leaves_the_file_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    with files_may_not_grow_beyond(len(before) - 4096), pytest.raises(JournalError) as raised:
        asyncio.run(opened(path))
    assert "copy" in str(raised.value)
    assert "left as it is" in str(raised.value)
    assert "Make room" in str(raised.value)
    assert path.read_bytes() == before
    assert names(path) == ["journal.db"]
    asyncio.run(check_everything_is_there(path))


def test_a_change_that_cannot_be_made_leaves_the_file_as_it_was(path: Path) -> None:
    """No copy is left: a server that is started again and again would fill the disk with them."""
    before = path.read_bytes()
    connection = connect(path)
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute("CREATE TEMP TABLE meta (name TEXT)")  # in the way of the last statement
    with pytest.raises(JournalError, match="cannot be migrated"):
        migrate(connection, path, 1_000.0)
    connection.close()
    assert len(path.read_bytes()) == pages * 4096
    assert names(path) == ["journal.db"]
    assert version_of(path) == 1
    # The first page counts the changes of the file, among them those of its mode.
    assert path.read_bytes()[100:] == before[100:]
    asyncio.run(check_everything_is_there(path))


def test_a_file_that_another_program_has_open_is_not_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strandline._journal.driver.BUSY_S", 0.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("SELECT * FROM runs").fetchall()
        with pytest.raises(JournalError, match="no other program"):
            asyncio.run(opened(path))
        assert version_of(path) == 1
        assert [name for name in names(path) if name.endswith(".bak")] == []
    asyncio.run(check_everything_is_there(path))


@pytest.mark.parametrize("with_log", [False, True])
def test_a_damaged_file_is_not_migrated(path: Path, monkeypatch: pytest.MonkeyPatch, with_log: bool) -> None:
    """Though it is too large to be looked at whenever it is opened: its copy is. Nor is its log moved into it."""
    monkeypatch.setattr("strandline._journal.integrity.CHECKED_BYTES", 0)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'runs_claimed'").fetchone()
    if with_log:
        path = killed_with_a_log(path)
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : (page - 1) * 4096 + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    log = path.with_name("journal.db-wal")
    logged = log.read_bytes() if with_log else None
    with pytest.raises(JournalDamaged):
        asyncio.run(opened(path))
    assert path.read_bytes() == data
    assert (log.read_bytes() if with_log else None) == logged
    assert [name for name in names(path) if ".bak" in name] == []


def test_rows_that_no_server_could_start_with_are_found_before_anything_is_changed(path: Path) -> None:
    """A page may be well formed, and what stands in it not: here a run waits in a session that is not there."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM sessions WHERE session_id = 'u'")
    with pytest.raises(JournalDamaged, match="left as it is"):
        asyncio.run(opened(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert "timeout_s" not in [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        assert connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone() == (5,)
    assert [name for name in names(path) if name.endswith(".bak")] == []


# -- records without a checksum -----------------------------------------------------------------------------


def checksums_in(path: Path) -> dict[str, list[bool]]:
    """Return for each record of a file, in order, whether it has a checksum."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {
            f"{table}.{column}": [
                stored[0] == 1
                for (stored,) in connection.execute(
                    f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY {order}"
                )
            ]
            for table, column, order in (
                ("runs", "input", "seq"),
                ("runs", "metadata", "seq"),
                ("runs", "outcome", "ended_at"),
                ("history", "messages", "no"),
                ("agents", "window", "session"),
                ("agents", "state", "session"),
                ("staged", "fact", "run, no"),
            )
        }


def test_what_is_written_after_a_migration_has_a_checksum_and_what_was_there_is_as_it_was(path: Path) -> None:
    async def main() -> None:
        journal, (orphan, opaque) = await opened(path)
        assert (orphan.run.input, orphan.checkpoints) == ("ask orphan", tuple(CHECKPOINTS))
        await journal.checkpoint(opaque.token, RoundStarted(said("x")))
        await journal.finish(orphan.token, done("5", "6", state={"n": 8}), claim_next=False)
        await journal.close()

    asyncio.run(main())
    assert checksums_in(path) == {
        "runs.input": [False] * len(RUNS),
        "runs.metadata": [False],
        "runs.outcome": [False, False, True],
        "history.messages": [False, False, True],
        "agents.window": [False],
        "agents.state": [True],
        "staged.fact": [True],
    }
    journal, (still,) = asyncio.run(opened(path))
    assert (still.run.run_id, still.checkpoints) == ("opaque", (RoundStarted(said("x")),))
    assert asyncio.run(journal.load(key())).state == {"n": 8}
    asyncio.run(journal.close())


@pytest.mark.parametrize("also_used", [False, True])
def test_a_migrated_file_is_found_sound(path: Path, also_used: bool) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        # A history as servers leave it: every run a question and its answer.
        connection.execute("UPDATE history SET messages = ?, count = 4 WHERE no = 2", (text(said("2", "3", "4", "5")),))

    async def main() -> None:
        journal, (orphan, opaque) = await opened(path)
        if also_used:
            await journal.finish(orphan.token, done("5", "6"), claim_next=True)
            await journal.finish(opaque.token, done("hi", "ho"), claim_next=True)
        await journal.close()

    asyncio.run(main())
    findings = verify(path)
    assert (findings.faults, findings.sound) == ([], True)
    assert findings.runs["succeeded"] == (3 if also_used else 1)


# -- a crash at any moment ----------------------------------------------------------------------------------

KILLED = """
import os, pathlib, shutil, signal, sys
from strandline._journal import driver, migrations
from strandline._journal.driver import connect

# One child for every other moment: it kills itself at the n-th line of the modules, or statement of SQLite, that it
# comes to. (A statement begins where its line does.)
source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
moment, killed = 0, True
while killed:
    path = folder / str(moment) / source.name
    path.parent.mkdir()
    shutil.copy(source, path)
    child = os.fork()
    if not child:
        left = moment
        def count(*_):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        def trace(frame, event, _):
            if frame.f_code.co_filename in (driver.__file__, migrations.__file__):
                if event == "line":
                    count()
                return trace
        connection = connect(path)
        connection.set_trace_callback(count)
        sys.settrace(trace)
        migrations.migrate(connection, path, 1000.0)
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    moment += 2
"""


def test_a_crash_at_any_moment_leaves_the_old_file_or_the_new_one(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moments"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", KILLED, str(path), str(folder)], check=True)
    moments = sorted(folder.iterdir(), key=lambda each: int(each.name))
    versions = []
    for moment in moments:
        journal = moment / path.name
        assert check_file(journal)
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            versions.append(connection.execute("PRAGMA user_version").fetchone()[0])
        if versions[-1] == SCHEMA_VERSION:
            assert version_of(moment / COPY) == 1
        asyncio.run(check_everything_is_there(journal))
        assert set(names(journal)) <= {path.name, COPY}
    assert len(moments) > 40
    assert versions == sorted(versions)
    assert set(versions) == {1, SCHEMA_VERSION}


def test_a_commit_that_was_cut_off_half_way_is_undone(path: Path, tmp_path: Path) -> None:
    """The file's header may then name pages that are not written yet; the rollback journal restores it."""
    cut = tmp_path / "cut" / path.name
    cut.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("PRAGMA user_version = 2")
        connection.execute("CREATE TABLE filler AS SELECT randomblob(100000) FROM runs")
        connection.execute("UPDATE runs SET input = x'00'")
        for file in (path, path.with_name("journal.db-journal")):
            shutil.copy(file, cut.parent)
        connection.execute("ROLLBACK")
    data = bytearray(cut.read_bytes())
    pages = len(data) // 4096 + 10
    data[28:32] = pages.to_bytes(4, "big")
    cut.write_bytes(data)
    assert data != path.read_bytes()
    asyncio.run(check_everything_is_there(cut))


def test_a_draft_that_a_crash_left_is_no_obstacle(path: Path) -> None:
    for name in ("journal.db.bak.new", "journal.db.bak.new-journal", COPY):
        path.with_name(name).write_bytes(b"half")
    asyncio.run(check_everything_is_there(path))
    assert names(path) == ["journal.db", COPY]
    assert version_of(path.with_name(COPY)) == 1

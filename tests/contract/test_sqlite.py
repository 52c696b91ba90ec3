"""The suite on the SQLite journal, and what only a file, a lock and a writer thread can do wrong."""

import asyncio
import contextlib
import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from strandline._clock import Clock, SystemClock
from strandline._journal import lists, ownership, sqlite, watched
from strandline._journal.changes import AddCheckpoint
from strandline._journal.errors import CancelRequested
from strandline._journal.migrations import migrate
from strandline._journal.port import (
    Accepted,
    Bounds,
    Cancel,
    Changed,
    ClaimResult,
    Delete,
    Ended,
    EndWaiting,
    Journal,
    Refused,
    RunQuery,
    RunsOfQuery,
)
from strandline._journal.reader import READERS
from strandline._journal.sqlite import SqliteJournal
from strandline._model import (
    ANONYMOUS,
    Checkpoint,
    Completion,
    ErrorCode,
    IfBusy,
    InputRequest,
    Keyed,
    Message,
    NewRun,
    OnQuestion,
    Outcome,
    Principal,
    Question,
    RoundDone,
    RoundStarted,
    RunError,
    RunId,
    RunStatus,
    ToolDone,
)
from strandline.errors import (
    JournalDamaged,
    JournalError,
    JournalForeign,
    JournalLocked,
    JournalNewer,
    JournalUnavailable,
)
from strandline.testing._contract import JournalContract
from strandline.testing._desk import done, key, said, waiting_runs

WIDE = Bounds(per_session=1000, total=10_000)


class TestSqliteJournal(JournalContract):
    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        return SqliteJournal(folder / "new" / "journal.db", clock)

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        await journal.close()
        return self.make_journal(folder, clock)


def at(path: Path, *, lock_wait_s: float = 0.0) -> SqliteJournal:
    return SqliteJournal(path, SystemClock(), lock_wait_s=lock_wait_s)


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = at(path)
    await journal.open("test", max_attempts=3)
    try:
        yield journal
    finally:
        await journal.close()


def new(run_id: str, session: str = "s") -> NewRun:
    return NewRun(run_id=RunId(run_id), key=key(session), input="ask", created_at=1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def fill(path: Path) -> None:
    """Make a journal with an ended, a claimed and a waiting run."""
    async with opened(path) as journal:
        claims = journal.claims()
        await journal.accept(new("a"), WIDE, claim_next=True)
        await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
        await journal.accept(new("b"), WIDE, claim_next=True)
        await journal.accept(new("c"), WIDE, claim_next=True)


# -- files that are not to be opened ----------------------------------------------------------------------


def refused(path: Path, error: type[JournalError]) -> str:
    """Open what is at `path`; return the error's message. Nothing in the folder may have changed."""
    before = _contents(path.parent)
    with pytest.raises(error) as raised:
        asyncio.run(at(path).open("test", max_attempts=3))
    assert _contents(path.parent) == before
    assert type(raised.value) is error
    return str(raised.value)


def _contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix != ".lock"}


def test_a_text_file_is_left_as_it_is(path: Path) -> None:
    path.write_text(
        "Dear diary, today I have written more than one hundred characters, all of which I wish to keep.\n" * 3
    )
    assert str(path) in refused(path, JournalDamaged)


def test_a_short_file_is_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")
    refused(path, JournalDamaged)


def test_the_database_of_another_program_is_left_as_it_is(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE runs (x); INSERT INTO runs VALUES (1);")
    assert "another program" in refused(path, JournalForeign)
    assert [each.name for each in path.parent.iterdir()] == ["journal.db"]


def test_a_newer_file_is_left_as_it_is(path: Path) -> None:
    asyncio.run(fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "schema 99" in refused(path, JournalNewer)


def test_a_file_that_was_cut_off_is_left_as_it_is(path: Path) -> None:
    asyncio.run(fill(path))
    path.write_bytes(path.read_bytes()[:-4096])
    refused(path, JournalDamaged)


@pytest.mark.parametrize("page", range(8))
def test_a_file_with_damaged_pages_is_left_as_it_is(path: Path, page: int) -> None:
    asyncio.run(fill(path))
    data = bytearray(path.read_bytes())
    start = max(100, page * 4096)
    data[start : start + 2000] = b"\xa5" * 2000
    path.write_bytes(data)
    refused(path, JournalDamaged)


def test_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
        f"40 22 0:40 / {tmp_path}/the\\040share rw shared:1 - nfs4 server:/x rw\n"
        f"41 40 0:41 / {tmp_path}/the\\040share/local rw - tmpfs tmpfs rw\n"
    )
    share = tmp_path / "the share"
    journal = SqliteJournal(share / "deep" / "journal.db", SystemClock(), mountinfo=mountinfo)
    with pytest.raises(JournalError, match="nfs4"):
        asyncio.run(journal.open("test", max_attempts=3))
    assert [each.name for each in (share / "deep").iterdir()] == []
    assert ownership.file_system(share / "local", mountinfo) == "tmpfs"
    assert ownership.file_system(tmp_path / "the share2", mountinfo) == "ext4"
    assert ownership.file_system(tmp_path, tmp_path / "none") is None


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be made"):
        asyncio.run(at(tmp_path / "file" / "journal.db").open("test", max_attempts=3))


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    asyncio.run(fill(path))
    assert path.read_bytes()[68:72] == b"STRL"


def test_a_creation_that_was_cut_off_is_done_anew(path: Path) -> None:
    path.with_name("journal.db.new").write_bytes(b"half")
    asyncio.run(fill(path))
    assert sorted(each.name for each in path.parent.iterdir()) == ["journal.db", "journal.db.lock"]


def test_a_draft_in_the_way_of_a_new_journal_is_an_error(path: Path) -> None:
    path.with_name("journal.db.new").mkdir()
    with pytest.raises(JournalError, match="cannot be made"):
        asyncio.run(at(path).open("test", max_attempts=3))


@pytest.mark.parametrize(
    ("make", "said"), [(os.mkfifo, "is a named pipe, not a file"), (os.mkdir, "is a folder, not a file")]
)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_left_as_it_is(path: Path, make: Callable[[Path], None], said: str, linked: bool) -> None:
    make(path)
    before = path.stat()
    name = path
    if linked:
        name = path.with_name("link")
        name.symlink_to(path)
    names = sorted(each.name for each in path.parent.iterdir())
    with pytest.raises(JournalError, match=said):
        asyncio.run(at(name).open("test", max_attempts=3))
    assert path.stat() == before
    assert sorted(each.name for each in path.parent.iterdir()) == names


def test_a_link_to_itself_is_an_error(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(JournalError, match="cannot be reached"):
        asyncio.run(at(path).open("test", max_attempts=3))


# -- symbolic links ---------------------------------------------------------------------------------------


def test_two_names_of_one_file_are_one_journal(tmp_path: Path, path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    asyncio.run(fill(path))
    link.symlink_to(path)

    async def main() -> None:
        async with opened(link) as journal:
            assert [each.run_id for each in await waiting_runs(journal)] == ["c"]
            with pytest.raises(JournalLocked):
                await at(path).open("test", max_attempts=3)
            assert path.with_name("journal.db-wal").exists()
        async with opened(path):
            with pytest.raises(JournalLocked):
                await at(link).open("test", max_attempts=3)

    asyncio.run(main())
    assert link.is_symlink()
    assert list(link.parent.iterdir()) == [link]


def test_a_link_to_nothing_makes_the_file_that_it_names(tmp_path: Path) -> None:
    link, real = tmp_path / "link.db", tmp_path / "new" / "real.db"
    link.symlink_to(Path("new") / "real.db")
    asyncio.run(fill(link))
    assert link.is_symlink()
    assert real.read_bytes()[68:72] == b"STRL"
    assert sorted(each.name for each in real.parent.iterdir()) == ["real.db", "real.db.lock"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.db", "new"]


# -- ownership --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Iterator[int]:
    """A real process that has the journal open until it is killed."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from strandline._clock import SystemClock\n"
        "from strandline._journal.sqlite import SqliteJournal\n"
        "async def main():\n"
        "    await SqliteJournal(pathlib.Path(sys.argv[1]), SystemClock()).open('other', max_attempts=3)\n"
        "    print('open', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process.pid
        finally:
            process.kill()


def test_a_second_process_learns_who_has_the_journal(path: Path) -> None:
    with held_by_another_process(path) as pid, pytest.raises(JournalLocked, match=f"process {pid} on host"):
        asyncio.run(at(path).open("test", max_attempts=3))


def test_a_second_process_waits_and_goes_on_when_the_first_is_killed(path: Path) -> None:
    """The event loop stays free meanwhile, and `on_wait` names the owner once."""
    sentences: list[str] = []

    async def main() -> None:
        with held_by_another_process(path) as pid:
            waits = asyncio.Event()

            def on_wait(sentence: str) -> None:
                sentences.append(sentence)
                waits.set()

            journal = SqliteJournal(path, SystemClock(), lock_wait_s=30.0, on_wait=on_wait)
            opening = asyncio.create_task(journal.open("test", max_attempts=3))
            await waits.wait()
            assert not opening.done()
            os.kill(pid, signal.SIGKILL)
            assert await opening == []
            await journal.close()
            assert len(sentences) == 1
            assert f"process {pid}" in sentences[0]

    asyncio.run(main())


def test_a_cancelled_wait_for_the_lock_leaves_nothing(path: Path) -> None:
    async def main() -> None:
        waits = asyncio.Event()
        async with opened(path):
            journal = SqliteJournal(path, SystemClock(), lock_wait_s=30.0, on_wait=lambda _: waits.set())
            opening = asyncio.create_task(journal.open("test", max_attempts=3))
            await waits.wait()
            opening.cancel()
            await asyncio.wait([opening])
        async with opened(path):
            pass

    asyncio.run(main())


def test_cancelled_while_the_file_is_prepared_it_returns_once_the_lock_is_free(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart right afterwards finds nothing in the way."""
    prepares, go_on = threading.Event(), threading.Event()

    def held(*arguments: Any) -> None:
        prepares.set()
        assert go_on.wait(10)
        migrate(*arguments)

    async def main() -> None:
        opening = asyncio.create_task(at(path).open("test", max_attempts=3))
        assert await asyncio.to_thread(prepares.wait, 10)
        opening.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not opening.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with opened(path):
            pass

    before = set(threading.enumerate())
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "migrate", held)
        asyncio.run(main())
    assert set(threading.enumerate()) == before


def test_after_close_no_thread_is_left_and_the_lock_is_free(path: Path) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        async with opened(path) as journal:
            await asyncio.gather(*(journal.load(key()) for _ in range(10)))
            await journal.accept(new("a"), WIDE, claim_next=True)
            assert set(threading.enumerate()) > before
        assert set(threading.enumerate()) == before
        async with opened(path):
            pass
        with pytest.raises(JournalLocked):
            async with opened(path):
                await at(path).open("test", max_attempts=3)

    asyncio.run(main())
    assert set(threading.enumerate()) == before
    assert not path.with_name("journal.db-wal").exists()


def test_what_was_queued_is_durable_after_close(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            accepts = [asyncio.create_task(journal.accept(new(f"r{n}"), WIDE, claim_next=False)) for n in range(100)]
            await asyncio.sleep(0)
        assert [await accept for accept in accepts] == [Accepted(n + 1) for n in range(100)]
        async with opened(path) as journal:
            assert len(await waiting_runs(journal)) == 100

    asyncio.run(main())


@pytest.mark.parametrize("call", ["ftruncate", "pwrite"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_lock_file_that_cannot_be_written_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """The lock is free afterwards."""

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(f"strandline._journal.ownership.os.{call}", fail)
        with pytest.raises(JournalError, match=f"{os.strerror(code)}. Make room"):
            asyncio.run(at(path).open("test", max_attempts=3))
    asyncio.run(fill(path))


# -- a file that is taken away ----------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _replace(path: Path) -> None:
    other = path.with_name("other.db")
    asyncio.run(fill(other))
    other.replace(path)


def _move_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("take_away", [_delete, _replace, _move_the_folder])
def test_nothing_goes_into_a_file_that_was_taken_away(tmp_path: Path, take_away: Callable[[Path], None]) -> None:
    """Every operation fails from then on, even when a file is there again; that file is left as it is."""
    path = tmp_path / "folder" / "journal.db"

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(claims)
            assert journal.trouble is None
            await asyncio.to_thread(take_away, path)
            there = path.read_bytes() if path.exists() else None
            for _ in range(2):
                answers: list[object] = await asyncio.gather(
                    *(journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=True) for n in range(3)),
                    journal.checkpoint(claim.token, RoundStarted(said("x"))),
                    journal.finish(claim.token, done("hi", "ho"), claim_next=True),
                    return_exceptions=True,
                )
                answers += await asyncio.gather(
                    journal.load(key()), journal.read(RunQuery(ANONYMOUS, RunId("a"))), return_exceptions=True
                )
                assert {type(answer) for answer in answers} == {JournalUnavailable}
                assert all("deleted or replaced" in str(answer) for answer in answers)
                assert all("restart" in str(answer) for answer in answers)
            assert "deleted or replaced" in str(journal.trouble)
            await journal.checkpoint(claim.token, ToolDone("t", {}))
            await journal.close()
            assert [each async for each in claims] == []
            assert (path.read_bytes() if path.exists() else None) == there

    asyncio.run(main())


def test_a_file_that_cannot_be_looked_at_for_a_moment_is_not_given_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> tuple[tuple[int, int], int]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def main() -> None:
        async with opened(path) as journal:
            with monkeypatch.context() as patch:
                patch.setattr(watched, "_look", fail)
                with pytest.raises(JournalUnavailable, match="cannot be reached"):
                    await journal.accept(new("a"), WIDE, claim_next=True)
            assert await journal.accept(new("a"), WIDE, claim_next=True) == Accepted(0)

    asyncio.run(main())


# -- storage itself ---------------------------------------------------------------------------------------


def test_storage_refuses_a_second_claim(path: Path) -> None:
    asyncio.run(fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        claimed = connection.execute("SELECT run_id FROM runs WHERE fence IS NOT NULL").fetchall()
        assert claimed == [("b",)]
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
            connection.execute("UPDATE runs SET fence = 99, status = 'running' WHERE run_id = 'c'")


def test_every_commit_is_synced(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            assert journal._transactions is not None
            connection = journal._transactions._connection
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    asyncio.run(main())


def test_queues_are_read_through_their_indices(path: Path) -> None:
    """Cost does not grow with age: no statement of an operation scans the runs."""
    asyncio.run(fill(path))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement, index in [
            (
                "SELECT * FROM runs WHERE session = 1 AND status = 'queued' ORDER BY lane, urgency, seq LIMIT 1",
                "runs_waiting",
            ),
            (
                "SELECT count(*) FROM runs WHERE session = 1 AND status = 'queued' AND (lane, urgency, seq) < (1,2,3)",
                "runs_waiting",
            ),
            ("SELECT * FROM runs WHERE fence IS NOT NULL", "runs_claimed"),
            (
                "SELECT no FROM history WHERE session = 1 AND nth % 64 = 0 AND first >= 5 ORDER BY first LIMIT 1",
                "history_marks",
            ),
            (
                "SELECT * FROM runs WHERE session = 1 AND status = 'queued' ORDER BY lane DESC, urgency DESC, seq DESC",
                "runs_waiting",
            ),
            (
                "UPDATE runs SET queue_deadline = 1 WHERE session = 1 AND status = 'queued' AND queue_deadline > 0",
                "runs_waiting",
            ),
        ]:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
            assert f"INDEX {index}" in plan
            assert "TEMP B-TREE" not in plan


def test_what_is_read_at_once_is_read_where_no_file_can_be_opened_any_more(path: Path) -> None:
    """Whatever user code has left open, an accepted run is shown and resumes with its history."""
    together = threading.Barrier(READERS, timeout=10)

    def count(connection: Any) -> int:
        together.wait()
        (found,) = connection.execute("SELECT count(*) FROM runs").fetchone()
        return int(found)

    async def main() -> None:
        async with opened(path) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            readers = journal._readers
            assert readers is not None
            with no_file_left():
                answers = [readers.ask(count) for _ in range(READERS)]
                assert [await asyncio.wrap_future(each) for each in answers] == [1] * READERS

    asyncio.run(main())


@contextlib.contextmanager
def no_file_left() -> Iterator[None]:
    """Have this process open no file for the time of a `with`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull) as next_one:
        lowest = next_one.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open(os.devnull).close()
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_ended_run_has_no_checkpoints(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            for session in ("s", "t"):
                await journal.accept(new(session, session), WIDE, claim_next=True)
            tokens = [(await anext(claims)).token for _ in range(2)]
            for token in tokens:
                await journal.checkpoint(token, RoundStarted(said("x")))
            await journal.release(tokens[1], counted=True)
            await journal.claim_next(key("t"))
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT run, no FROM staged").fetchall() == [(0, 0)]
        async with opened(path) as journal:
            await journal.accept(new("u", "s"), WIDE, claim_next=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT run, no FROM staged").fetchall() == [(0, 0)]

    asyncio.run(main())


def test_nothing_stays_of_a_deleted_session(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            for n in range(4):
                await journal.accept(new(f"r{n}"), WIDE, claim_next=True)
                completion = done("hi", "ho", state={"n": n}) if n % 2 else done()
                await journal.finish((await anext(claims)).token, completion, claim_next=False)
            assert await journal.change(Delete(key())) == Changed(existed=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for table in ("sessions", "runs", "staged", "history", "agents"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table

    asyncio.run(main())


def test_what_is_deleted_is_overwritten_whatever_sqlite_does_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file, once the server has ended: messages, small or large, and checkpoints."""
    connect = sqlite3.connect

    def connect_to_a_lax_build(*given: Any, **named: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*given, **named)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_to_a_lax_build)
    said_once = {"input": "SECRET-INPUT", "history": "SECRET-HISTORY", "large": "SECRET-LARGE" * 10_000}

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            for n, text in enumerate(said_once.values()):
                run = NewRun(run_id=RunId(f"r{n}"), key=key(), input=text, created_at=1.0)
                await journal.accept(run, WIDE, claim_next=True)
                token = (await anext(claims)).token
                await journal.checkpoint(token, RoundStarted(said(f"CHECKPOINT-{text}")))
                await journal.finish(token, done("hi", text), claim_next=False)
        assert b"SECRET" in path.read_bytes()
        async with opened(path) as journal:
            assert await journal.change(Delete(key())) == Changed(existed=True)
        assert not path.with_name("journal.db-wal").exists()
        assert b"SECRET" not in path.read_bytes()

    asyncio.run(main())


def test_nothing_stays_of_a_deleted_session_whose_runs_ended_waiting_or_were_forgotten(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("old"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False, hold=True)
            await journal.accept(new("staged"), WIDE, claim_next=True)
            await journal.accept(new("never"), WIDE, claim_next=True)
        async with opened(path) as journal:
            assert await journal.prune(2.0, 100) == 0
            assert await journal.prune(SystemClock().now() + 1, 100) == 1
            claims = journal.claims()
            assert await journal.claim_next(key()) is ClaimResult.CLAIMED
            token = (await anext(claims)).token
            await journal.checkpoint(token, RoundStarted(said("x")))
            await journal.release(token, counted=True)
            ended = EndWaiting(key(), RunId("never"), Outcome(status=RunStatus.CANCELLED))
            assert await journal.change(ended) == Changed(existed=True)
            assert await journal.claim_next(key()) is ClaimResult.CLAIMED
            await journal.finish((await anext(claims)).token, done(), claim_next=False)
            with contextlib.closing(sqlite3.connect(path)) as connection:
                assert connection.execute("SELECT count(*) FROM staged").fetchone() == (0,)
            assert await journal.change(Delete(key())) == Changed(existed=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for table in ("sessions", "runs", "staged", "history", "agents"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table

    asyncio.run(main())


def test_a_session_with_work_is_never_forgotten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few sessions are known by heart; those that were forgotten are read again."""
    monkeypatch.setattr("strandline._journal.live.CACHED_SESSIONS", 2)

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            names = [f"s{n}" for n in range(12)]
            for round_ in range(2):
                for name in names:
                    await journal.accept(new(f"{name}.{round_}", name), WIDE, claim_next=False)
                for name in names:
                    assert await journal.claim_next(key(name)) is ClaimResult.CLAIMED
                tokens = [(await anext(claims)).token for _ in names]
                for name in names:
                    assert await journal.accept(new(f"{name}.x{round_}", name), WIDE, claim_next=True) == Accepted(1)
                for token in tokens:
                    assert await journal.finish(token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
                for _ in names:
                    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=True)
            for n in range(12):
                await journal.accept(new(f"late.{n}", f"late{n}"), WIDE, claim_next=True)
                await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=True)
            assert journal._commits is not None
            assert len(journal._commits.table._sessions) <= 3
            for name in names:
                assert (await journal.load(key(name))).length == 8

    asyncio.run(main())


def test_an_accept_at_the_end_of_a_line_counts_no_runs(path: Path) -> None:
    """Also when the last of them has left it: its cost does not grow with the line."""

    async def main() -> None:
        async with opened(path) as journal:
            low = NewRun(run_id=RunId("low"), key=key(), input="ask", priority=5, created_at=1.0)
            for each in (new("a"), new("b"), low):
                await journal.accept(each, WIDE, claim_next=False)
            outcome = Outcome(status=RunStatus.CANCELLED)
            assert await journal.change(EndWaiting(key(), RunId("low"), outcome)) == Changed(existed=True)
            with traced(journal) as statements:
                assert await journal.accept(new("c"), WIDE, claim_next=False) == Accepted(3)
            assert [each for each in statements if each.startswith("SELECT")] == []

    asyncio.run(main())


def test_storage_refuses_a_second_claim_of_a_held_session(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            await journal.accept(new("b"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=True, hold=True)
            other = sqlite3.connect(path)
            with contextlib.closing(other), pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
                other.execute("UPDATE runs SET fence = 99, status = 'running' WHERE run_id = 'b'")

    asyncio.run(main())


# -- pruning ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def traced(journal: SqliteJournal) -> Iterator[list[str]]:
    """Collect the statements of the writing connection."""
    assert journal._transactions is not None
    statements: list[str] = []
    journal._transactions._connection.set_trace_callback(statements.append)
    yield statements
    journal._transactions._connection.set_trace_callback(None)


def test_pruning_reads_no_run_that_was_accepted_too_late(path: Path) -> None:
    """Its cost does not grow with what is kept: with 2,000 such runs it takes about as many steps as with 20."""

    async def main() -> None:
        steps = [0]

        def count() -> int:
            steps[0] += 1
            return 0

        async with opened(path) as journal:
            assert journal._transactions is not None
            taken = []
            for first, last in ((0, 20), (20, 2000)):
                accepts = (journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=False) for n in range(first, last))
                await asyncio.gather(*accepts)
                journal._transactions._connection.set_progress_handler(count, 1)
                steps[0] = 0
                assert await journal.prune(1.0, 100) == 0
                taken.append(steps[0])
                journal._transactions._connection.set_progress_handler(None, 0)
            assert 0 < taken[1] < 2 * taken[0]

    asyncio.run(main())


def test_a_long_walk_is_made_in_several_transactions(path: Path) -> None:
    """Other operations have their turn in between, however many old runs stay."""

    async def main() -> None:
        async with opened(path) as journal:
            await asyncio.gather(*(journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=False) for n in range(2500)))
            with traced(journal) as statements:
                assert await journal.prune(2.0, 100) == 0
            assert statements.count("COMMIT") == 3

    asyncio.run(main())


# -- group commit -----------------------------------------------------------------------------------------


def test_operations_queued_together_share_a_commit(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            assert journal._transactions is not None
            statements: list[str] = []
            journal._transactions._connection.set_trace_callback(statements.append)
            answers = await asyncio.gather(*(journal.accept(new(f"r{n}"), WIDE, claim_next=False) for n in range(200)))
            journal._transactions._connection.set_trace_callback(None)
            assert answers == [Accepted(n + 1) for n in range(200)]
            assert 1 <= statements.count("COMMIT") <= 20

    asyncio.run(main())


def test_an_operation_that_storage_refuses_fails_alone(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            answers = await asyncio.gather(
                *(journal.accept(new("r3" if n == 7 else f"r{n}"), WIDE, claim_next=False) for n in range(20)),
                return_exceptions=True,
            )
            assert [type(each).__name__ for each in answers].count("RunIdTaken") == 1
            assert len(await waiting_runs(journal)) == 19
            assert await journal.accept(new("more"), WIDE, claim_next=False) == Accepted(20)

    asyncio.run(main())


def test_a_full_disk_refuses_what_is_new_and_loses_nothing(path: Path) -> None:
    """The file must not grow; when it may again, everything continues."""

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(claims)
            assert journal._transactions is not None
            connection = journal._transactions._connection
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
            big = NewRun(run_id=RunId("big"), key=key(), input="x" * 1_000_000, created_at=1.0)
            with pytest.raises(JournalUnavailable, match="disk is full"):
                await journal.accept(big, WIDE, claim_next=True)
            assert await journal.read(RunQuery(ANONYMOUS, RunId("big"))) is None
            connection.execute("PRAGMA max_page_count = 1000000")
            assert await journal.accept(big, WIDE, claim_next=True) == Accepted(1)
            await journal.finish(claim.token, done("hi", "ho"), claim_next=True)
            assert (await anext(claims)).run.run_id == "big"

    asyncio.run(main())


# -- kill -9 ----------------------------------------------------------------------------------------------


WRITER = """
import asyncio, sys, pathlib
from strandline._clock import SystemClock
from strandline._journal.changes import AddCheckpoint
from strandline._journal.port import Bounds
from strandline._journal.sqlite import SqliteJournal
from strandline._model import NewRun, RunId
from strandline.testing._desk import done, key

async def main():
    journal = SqliteJournal(pathlib.Path(sys.argv[1]), SystemClock())
    await journal.open("victim", max_attempts=3)
    async def accept(run_id, session):
        await journal.accept(NewRun(run_id=RunId(run_id), key=key(session), input="ask", created_at=1.0),
                             Bounds(100000, 100000), claim_next=True)
        sys.stdout.write(f'["accepted", "{run_id}"]\\n')
        sys.stdout.flush()
    async def client(name):
        for count in range(100000):
            await accept(f"{name}.{count}", f"s{name % 4}")
    async def worker():
        async for claim in journal.claims():
            run_id = claim.run.run_id
            await journal.finish(claim.token, done(run_id, "yes"), claim_next=True)
            sys.stdout.write(f'["finished", "{run_id}"]\\n')
            sys.stdout.flush()
    await asyncio.gather(worker(), *(client(name) for name in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 400, 1500])
def test_kill_9_between_group_commits_loses_nothing_that_was_answered(path: Path, lines: int) -> None:
    answers: list[list[str]] = []
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                answers.append(json.loads(line))
            if len(answers) == lines:
                process.kill()
    assert len(answers) >= lines, "it was killed in the middle of its work"
    accepted = [run_id for what, run_id in answers if what == "accepted"]
    finished = [run_id for what, run_id in answers if what == "finished"]

    async def check() -> None:
        journal = at(path)
        orphans = await journal.open("test", max_attempts=3)
        waiting = {each.run_id for each in await waiting_runs(journal)}
        claimed = {each.run.run_id for each in orphans}
        assert len({each.run.key for each in orphans}) == len(orphans)
        for run_id in accepted:
            run = await journal.read(RunQuery(ANONYMOUS, RunId(run_id)))
            assert run is not None
            assert run.status is RunStatus.SUCCEEDED or (run_id in waiting) != (run_id in claimed)
        for run_id in finished:
            run = await journal.read(RunQuery(ANONYMOUS, RunId(run_id)))
            assert run is not None
            assert run.status is RunStatus.SUCCEEDED
        texts: list[str] = []
        for session in range(4):
            record = await journal.load(key(f"s{session}"))
            questions = [message["content"][0]["text"] for message in record.messages[::2]]
            for client in (session, session + 4):
                mine = [int(text.split(".")[1]) for text in questions if text.startswith(f"{client}.")]
                assert mine == list(range(len(mine))), "runs of one client ended out of order"
            texts += questions
        assert len(texts) == len(set(texts))
        assert set(finished) <= set(texts)
        await journal.close()

    asyncio.run(check())


# -- claims and their commits ------------------------------------------------------------------------------


class _BrokenDisk:
    """Makes the next commits of an open journal fail, as a disk does that cannot be written to."""

    def __init__(self, journal: SqliteJournal) -> None:
        assert journal._transactions is not None
        ledger: Any = journal._transactions
        self._ledger = ledger
        self.left = 0
        ledger.commit = self._failing(ledger.commit)

    def refuse_checkpoints(self) -> None:
        writers = self._ledger.records._writers
        writers[AddCheckpoint] = self._failing(writers[AddCheckpoint])

    def _failing(self, call: Callable[..., None]) -> Callable[..., None]:
        def fail(*arguments: object) -> None:
            if self.left > 0:
                self.left -= 1
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            call(*arguments)

        return fail


def test_an_accept_whose_commit_fails_is_refused_and_has_made_no_claim(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            disk = _BrokenDisk(journal)
            disk.left = 2  # the batch, and the accept alone
            with pytest.raises(JournalUnavailable, match="disk failed"):
                await journal.accept(new("a"), WIDE, claim_next=True)
            assert await journal.read(RunQuery(ANONYMOUS, RunId("a"))) is None
            assert await journal.accept(new("a"), WIDE, claim_next=True) == Accepted(0)
            await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
            await journal.close()
            assert [each async for each in claims] == []

    asyncio.run(main())


class _SlowDisk:
    """Holds every commit of an open journal up until it is let go; fails those for which `fails` says so."""

    def __init__(self, journal: SqliteJournal, *fails: bool) -> None:
        ledger: Any = journal._transactions
        self._commit = ledger.commit
        self._fails = list(fails)
        self._let_go = threading.Semaphore(0)
        self._come = threading.Semaphore(0)
        ledger.commit = self._wait

    def _wait(self) -> None:
        self._come.release()
        assert self._let_go.acquire(timeout=30)
        if self._fails and self._fails.pop(0):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        self._commit()

    async def next(self) -> None:
        """Return when the next commit is about to be made."""
        assert await asyncio.to_thread(self._come.acquire, timeout=30)

    def let_go(self, commits: int = 1) -> None:
        for _ in range(commits):
            self._let_go.release()


@pytest.mark.parametrize("resumable", [True, False])
def test_no_claim_is_delivered_and_nothing_answered_or_read_while_a_commit_is_under_way(
    path: Path, resumable: bool
) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            disk = _SlowDisk(journal)
            claim = asyncio.ensure_future(anext(journal.claims()))
            run = NewRun(run_id=RunId("a"), key=key(), input="ask", resumable=resumable, created_at=1.0)
            accept = asyncio.ensure_future(journal.accept(run, WIDE, claim_next=True))
            await disk.next()
            for _ in range(3):  # (a round trip through another thread each)
                assert await journal.read(RunQuery(ANONYMOUS, RunId("a"))) is None
            assert not claim.done()
            assert not accept.done()
            disk.let_go()
            token = (await claim).token
            assert accept.done(), "it is answered first"
            finish = asyncio.ensure_future(journal.finish(token, done("hi", "ho"), claim_next=True))
            await disk.next()
            assert (await journal.load(key())).length == 0
            disk.let_go()
            await finish

    asyncio.run(main())


def test_of_operations_retried_one_by_one_only_stored_ones_have_claims(path: Path) -> None:
    """The commit of a batch fails, then that of one of its accepts; those behind it are not even tried."""

    async def main() -> None:
        async with opened(path) as journal:
            disk = _SlowDisk(journal, False, True, False, True)
            claims = journal.claims()
            accepts = [asyncio.ensure_future(journal.accept(new("r0", "s0"), WIDE, claim_next=True))]
            await disk.next()  # what comes now shares the next commit
            claim_next = asyncio.ensure_future(journal.claim_next(key("none")))
            accepts += [
                asyncio.ensure_future(journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=True)) for n in (1, 2, 3)
            ]
            claimed = asyncio.ensure_future(anext(claims))
            await asyncio.sleep(0)
            disk.let_go()
            assert (await claimed).run.run_id == "r0"
            claimed = asyncio.ensure_future(anext(claims))
            await disk.next()
            disk.let_go()
            await disk.next()
            assert await journal.read(RunQuery(ANONYMOUS, RunId("r1"))) is None
            assert not claimed.done(), "the commit of its batch has failed, its own is to come"
            disk.let_go(3)
            answers = await asyncio.gather(*accepts, return_exceptions=True)
            assert answers[:2] == [Accepted(0), Accepted(0)]
            assert [type(each) for each in answers[2:]] == [JournalUnavailable, JournalUnavailable]
            assert await claim_next is ClaimResult.NOTHING
            assert (await claimed).run.run_id == "r1"
            for n, status in enumerate((RunStatus.RUNNING, RunStatus.RUNNING, None, None)):
                run = await journal.read(RunQuery(ANONYMOUS, RunId(f"r{n}")))
                assert (run and run.status) == status
            disk.let_go(9)
            await journal.close()
            assert [each async for each in claims] == []

    asyncio.run(main())


def test_an_accept_whose_commit_fails_at_first_takes_room_of_its_principal_once(path: Path) -> None:
    two = Bounds(per_session=9, total=9, per_principal=2)

    async def main() -> None:
        async with opened(path) as journal:
            assert await journal.accept(new("a"), two, claim_next=False) == Accepted(1)
            _BrokenDisk(journal).left = 1
            assert await journal.accept(new("b"), two, claim_next=False) == Accepted(2)
            assert await journal.accept(new("c"), two, claim_next=False) == Refused("principal_full", 3)

    asyncio.run(main())


def test_a_finish_whose_first_commit_fails_ends_its_run_and_claims_the_next_one_once(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            await journal.accept(new("b"), WIDE, claim_next=True)
            first = await anext(claims)
            _BrokenDisk(journal).left = 1
            assert await journal.finish(first.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
            second = await anext(claims)
            assert (second.run.run_id, second.run.attempt) == ("b", 1)
            assert (await journal.load(key())).length == 2
            assert await journal.finish(second.token, done("hi", "ho"), claim_next=True) is ClaimResult.NOTHING
            await journal.close()
            assert [each async for each in claims] == []

    asyncio.run(main())


def test_a_finish_that_cannot_be_stored_makes_no_claim_and_can_be_retried(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            await journal.accept(new("b"), WIDE, claim_next=True)
            first = await anext(claims)
            _BrokenDisk(journal).left = 2
            with pytest.raises(JournalUnavailable):
                await journal.finish(first.token, done("hi", "ho"), claim_next=True)
            assert [each.run_id for each in await waiting_runs(journal)] == ["b"]
            assert await journal.finish(first.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
            assert (await anext(claims)).run.run_id == "b"
            await journal.close()
            assert [each async for each in claims] == []

    asyncio.run(main())


def test_a_hold_whose_commit_fails_at_first_is_made_durable_as_a_hold_and_its_release_claims_once(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            await journal.accept(new("b"), WIDE, claim_next=True)
            first = await anext(claims)
            disk = _BrokenDisk(journal)
            disk.left = 1
            assert (
                await journal.finish(first.token, done("hi", "ho"), claim_next=True, hold=True) is ClaimResult.NOTHING
            )
            held = await journal.read(RunQuery(ANONYMOUS, RunId("a")))
            assert held is not None
            assert held.held
            assert await journal.claim_next(key()) is ClaimResult.NOTHING
            disk.left = 1
            await journal.release(first.token, counted=True)
            assert await journal.claim_next(key()) is ClaimResult.CLAIMED
            second = await anext(claims)
            freed = await journal.read(RunQuery(ANONYMOUS, RunId("a")))
            assert freed is not None
            assert (freed.held, freed.status) == (False, RunStatus.SUCCEEDED)
            assert (second.run.run_id, second.run.attempt) == ("b", 1)
            await journal.finish(second.token, done("hi", "ho"), claim_next=True)
            await journal.close()
            assert [each async for each in claims] == []

    asyncio.run(main())


def test_checkpoints_that_nobody_awaits_are_written_before_any_later_operation(path: Path) -> None:
    checkpoints: list[Checkpoint] = [
        RoundStarted(said("1")),
        ToolDone("t", {}),
        RoundDone(said("2"), None),
        RoundStarted(said("3")),
    ]

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(claims)
            await journal.checkpoint(claim.token, checkpoints[0])
            disk = _BrokenDisk(journal)
            disk.refuse_checkpoints()
            disk.left = 5  # ToolDone and RoundDone are tried together, then each alone
            await journal.checkpoint(claim.token, checkpoints[1])
            await journal.checkpoint(claim.token, checkpoints[2])
            with pytest.raises(JournalUnavailable):
                await journal.checkpoint(claim.token, checkpoints[3])
            disk.left = 0
            await journal.checkpoint(claim.token, checkpoints[3])
            await journal.release(claim.token, counted=True)
            await journal.claim_next(key())
            again = await anext(claims)
            assert again.checkpoints == tuple(checkpoints)
            disk.left = 2
            await journal.checkpoint(again.token, checkpoints[1])
            await journal.finish(again.token, done("hi", "ho"), claim_next=False)
            assert len(journal._deferred) == 0

    asyncio.run(main())


def test_deferred_checkpoints_are_written_by_a_later_operation_even_if_its_first_commit_fails(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            token = (await anext(claims)).token
            await journal.checkpoint(token, RoundStarted(said("1")))
            disk = _BrokenDisk(journal)
            disk.left = 2
            await journal.checkpoint(token, ToolDone("t", {}))
            await journal.change(EndWaiting(key(), RunId("nobody"), Outcome(status=RunStatus.CANCELLED)))
            assert (len(journal._deferred), disk.left) == (1, 0)
            disk.left = 1
            await journal.checkpoint(token, RoundStarted(said("2")))
            await journal.close()
            (orphan,) = await journal.open("test", max_attempts=3)
            assert orphan.checkpoints == (RoundStarted(said("1")), ToolDone("t", {}), RoundStarted(said("2")))

    asyncio.run(main())


def test_checkpoints_stay_deferred_if_the_release_that_writes_them_is_refused(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(claims)
            await journal.checkpoint(claim.token, RoundStarted(said("1")))
            disk = _BrokenDisk(journal)
            disk.left = 2
            await journal.checkpoint(claim.token, ToolDone("t", {}))
            await journal.change(Cancel(Principal(ANONYMOUS), RunId("a")))
            with pytest.raises(CancelRequested):
                await journal.release(claim.token, counted=True)
            await journal.checkpoint(claim.token, RoundStarted(said("2")))
            await journal.close()
            (orphan,) = await journal.open("test", max_attempts=3)
            assert orphan.checkpoints == (RoundStarted(said("1")), ToolDone("t", {}), RoundStarted(said("2")))

    asyncio.run(main())


def test_deferred_checkpoints_are_written_by_what_reads_before_it_decides(path: Path) -> None:
    """Runs that join and the next run have inputs that are too long to stay in memory."""
    uses: list[dict[str, Any]] = [
        {"toolUse": {"toolUseId": each, "name": "pay", "input": {}}} for each in ("done", "unknown")
    ]
    both: Message = {"role": "assistant", "content": uses}
    joins = replace(new("j"), if_busy=IfBusy.STEER, input="j" * 5_000)
    crash = Completion(
        outcome=Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "")),
        messages=said("1", "2"),
        unresolved=True,
        joined=(RunId("j"),),
    )

    async def main() -> None:
        async with opened(path) as journal:
            claims = journal.claims()
            await journal.accept(new("a"), WIDE, claim_next=True)
            claim = await anext(claims)
            await journal.accept(joins, WIDE, claim_next=False)
            await journal.accept(replace(new("b"), input="b" * 5_000), WIDE, claim_next=False)
            disk = _BrokenDisk(journal)

            async def defer(checkpoint: Checkpoint) -> None:
                disk.left = 2
                await journal.checkpoint(claim.token, checkpoint)
                await journal.change(EndWaiting(key(), RunId("nobody"), Outcome(status=RunStatus.CANCELLED)))
                assert (len(journal._deferred), disk.left) == (1, 0)

            await defer(RoundDone(said("1"), None))
            assert [each.run_id for each in await journal.apply_joins(claim.token, said("2"))] == ["j"]
            await journal.checkpoint(claim.token, RoundStarted([*said("3"), both]))
            await defer(ToolDone("done", {}))
            assert await journal.finish(claim.token, crash, claim_next=True) is ClaimResult.CLAIMED
            assert (await anext(claims)).run.run_id == "b"
            with contextlib.closing(sqlite3.connect(path)) as connection:
                assert connection.execute("SELECT no FROM staged").fetchall() == [(0,), (1,), (2,), (3,)]
            assert len(journal._deferred) == 0

    asyncio.run(main())


def test_what_concerns_a_run_that_has_ended_waits_behind_what_its_session_waits_for(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that dismisses a question has to read it, and so has the cancel of the run that asked."""
    use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
    requests = [InputRequest("i", "sure")]

    async def main() -> None:
        async with opened(path) as journal:
            await journal.accept(new("a"), WIDE, claim_next=True)
            left = Completion(
                outcome=Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests),
                messages=[*said("go"), use],
                question=Question(requests=requests, message=use, results={}, state={}),
                answer_within_s=100.0,
            )
            await journal.finish((await anext(journal.claims())).token, left, claim_next=False)
            await journal.close()
            await journal.open("test", max_attempts=3)  # (nothing of it is in memory any more)
            keyed = Keyed("k", b"f" * 32, 0.0)
            dismisses = replace(new("b"), on_question=OnQuestion.DISMISS, keyed=keyed)
            accepted, cancelled = await asyncio.gather(
                journal.accept(dismisses, WIDE, claim_next=True),
                journal.change(Cancel(Principal(ANONYMOUS), RunId("a"))),
            )
            assert accepted == Accepted(0)
            assert cancelled == Ended()
            assert "damaged" not in caplog.text

    asyncio.run(main())


def test_a_disk_that_never_comes_back_ends_in_errors_and_a_clean_close(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as journal:
            disk = _BrokenDisk(journal)
            disk.left = 1_000_000
            results = await asyncio.gather(
                *(journal.accept(new(f"r{n}", f"s{n}"), WIDE, claim_next=True) for n in range(10)),
                return_exceptions=True,
            )
            assert {type(result) for result in results} == {JournalUnavailable}
        async with opened(path) as journal:
            assert await waiting_runs(journal) == []

    asyncio.run(main())


def test_a_page_of_a_principals_ended_runs_skips_a_bounded_number_of_others_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(lists, "_RUNS_READ", 4)
        journal = at(tmp_path / "journal.db")
        await journal.open("me", max_attempts=3)
        claims = journal.claims()
        mine, foreign = key(), key("s", "other")
        for number, session in enumerate([mine, *[foreign] * 9, mine]):
            run = NewRun(run_id=RunId(f"r{number}"), key=session, input="x" * 100_000, created_at=1.0)
            assert await journal.accept(run, WIDE, claim_next=True) == Accepted(0)
            claim = await anext(claims)
            await journal.finish(claim.token, done("hi", "ho"), claim_next=False)
        pages: list[list[str]] = []
        cursor: str | None = None
        while not pages or cursor is not None:
            page = await journal.read(RunsOfQuery(mine.principal, frozenset({RunStatus.SUCCEEDED}), cursor))
            pages.append([run.run_id for run in page.runs])
            cursor = page.after
        assert pages == [["r10"], [], ["r0"]]
        waits = await journal.read(RunsOfQuery(mine.principal, frozenset({RunStatus.QUEUED, RunStatus.RUNNING})))
        assert (waits.runs, waits.after) == ([], None), "executing runs are found at once"
        await journal.close()

    asyncio.run(main())


def test_a_damaged_run_is_listed_by_its_id_and_all_others_in_full(tmp_path: Path) -> None:
    async def main() -> None:
        journal = at(tmp_path / "journal.db")
        await journal.open("me", max_attempts=3)
        for name in ("a", "b", "c"):
            await journal.accept(
                NewRun(run_id=RunId(name), key=key(), input="x", created_at=1.0), WIDE, claim_next=False
            )
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection, connection:
            connection.execute("UPDATE runs SET lane = 77 WHERE run_id = 'b'")
        page = await journal.read(RunsOfQuery(key().principal))
        assert ([run.run_id for run in page.runs], page.damaged) == (["c", "a"], ["b"])
        await journal.close()

    asyncio.run(main())

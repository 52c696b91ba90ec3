"""The files of a SQLite journal: two servers on one, files that are taken away, other users who read or lock them."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from strandline._clock import SystemClock
from strandline._journal import writer
from strandline._journal.backup import backup
from strandline._journal.port import Accepted, Bounds, RunQuery
from strandline._journal.pruning import vacuum
from strandline._journal.sqlite import SqliteJournal
from strandline._model import ANONYMOUS, NewRun, RunId
from strandline.errors import JournalDamaged, JournalError, JournalLocked, JournalUnavailable
from strandline.testing._desk import key, waiting_runs

WIDE = Bounds(per_session=1000, total=10_000)
DEADLINE_S = 10.0
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def at(path: Path, **options: Path) -> SqliteJournal:
    return SqliteJournal(path, SystemClock(), lock_wait_s=0.0, **options)  # type: ignore[arg-type]


def new(run_id: str) -> NewRun:
    return NewRun(run_id=RunId(run_id), key=key(), input="ask", created_at=1.0)


async def begun(path: Path, *run_ids: str) -> SqliteJournal:
    """Return an open journal in which these runs wait or execute."""
    journal = at(path)
    await journal.open("test", max_attempts=3)
    for run_id in run_ids:
        assert isinstance(await journal.accept(new(run_id), WIDE, claim_next=True), Accepted)
    return journal


async def kept(path: Path) -> list[str]:
    """Return which runs a journal has."""
    journal = at(path)
    executing = await journal.open("test", max_attempts=3)
    waiting = await waiting_runs(journal)
    await journal.close()
    return sorted([each.run.run_id for each in executing] + [each.run_id for each in waiting])


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file() and each.suffix != ".lock"}


async def in_trouble(journal: SqliteJournal) -> str:
    """Return what the trouble is, once it is noticed; nothing is asked of the journal meanwhile."""
    async with asyncio.timeout(DEADLINE_S):
        while journal.trouble is None:
            await asyncio.sleep(0.005)
    return journal.trouble


@pytest.fixture
def checks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECK_S", 0.01)


# -- one journal, two servers -----------------------------------------------------------------------------


def test_a_journal_with_two_names_is_refused_under_both(tmp_path: Path, path: Path) -> None:
    asyncio.run(_filled(path))
    other = tmp_path / "elsewhere" / "copy.db"
    other.parent.mkdir()
    os.link(path, other)
    for name in (path, other):
        before = contents(name.parent)
        with pytest.raises(JournalError, match="2 names") as refused:
            asyncio.run(at(name).open("test", max_attempts=3))
        assert str(path if name == path else other) in str(refused.value)
        with pytest.raises(JournalError, match="2 names"):
            asyncio.run(vacuum(name, SystemClock()))
        assert contents(name.parent) == before
    other.unlink()
    assert asyncio.run(kept(path)) == ["a", "b"]


async def _filled(path: Path) -> None:
    await (await begun(path, "a", "b")).close()


def test_a_journal_that_is_mounted_as_a_file_is_refused(tmp_path: Path, path: Path) -> None:
    asyncio.run(_filled(path))
    mountinfo = tmp_path / "mountinfo"
    line = "36 35 98:0 / {} rw,noatime master:1 - ext4 /dev/root rw\n"
    mountinfo.write_text(line.format("/") + line.format(path))
    with pytest.raises(JournalError, match=r"mounted as a file.*Mount the folder"):
        asyncio.run(at(path, mountinfo=mountinfo).open("test", max_attempts=3))
    mountinfo.write_text(line.format("/") + line.format(tmp_path))
    asyncio.run(_opened_and_closed(at(path, mountinfo=mountinfo)))


async def _opened_and_closed(journal: SqliteJournal) -> None:
    await journal.open("test", max_attempts=3)
    await journal.close()


_SECOND = """
import asyncio, pathlib, sys
from strandline._clock import SystemClock
from strandline.errors import JournalLocked
from strandline._journal.sqlite import SqliteJournal
try:
    asyncio.run(SqliteJournal(pathlib.Path(sys.argv[1]), SystemClock(), lock_wait_s=0.0).open("x", max_attempts=3))
except JournalLocked as error:
    print("locked", error)
"""


@pytest.mark.parametrize("made", ["before", "now", "from an empty file"])
def test_a_second_server_finds_the_journal_locked_although_the_lock_file_was_deleted(path: Path, made: str) -> None:
    """Whether the file was there when the first server started, or that one has made it."""
    if made == "before":
        asyncio.run(_filled(path))
    elif made == "from an empty file":
        path.touch()

    async def main() -> None:
        journal = await begun(path, "c")
        path.with_name("journal.db.lock").unlink()
        second = [sys.executable, "-c", _SECOND, str(path)]
        process = await asyncio.to_thread(subprocess.run, second, capture_output=True, text=True, check=True)
        assert process.stdout.startswith("locked The journal is in use by another process"), process
        with pytest.raises(JournalUnavailable, match=r"journal\.db\.lock.* was deleted or replaced"):
            await journal.accept(new("d"), WIDE, claim_next=True)
        await journal.close()

    asyncio.run(main())
    assert asyncio.run(kept(path)) == (["a", "b", "c"] if made == "before" else ["c"])


_READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM runs").fetchone()[0])
connection.close()
"""


def test_a_second_service_in_the_same_process_takes_no_lock_of_the_first_away(path: Path) -> None:
    """Two apps that are mounted, say. Without SQLite's own locks the next program that reads it deletes its WAL."""

    async def main() -> None:
        journal = await begun(path, "a")
        with pytest.raises(JournalLocked):
            await at(path).open("second", max_attempts=3)
        reads = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", _READER, str(path)], capture_output=True, text=True, check=True
        )
        assert reads.stdout == "1\n"
        assert path.with_name("journal.db-wal").exists()
        assert isinstance(await journal.accept(new("b"), WIDE, claim_next=True), Accepted)
        await journal.close()

    asyncio.run(main())
    assert asyncio.run(kept(path)) == ["a", "b"]


def test_the_lock_on_the_journals_own_file_is_waited_for(path: Path) -> None:
    waits = asyncio.Event()
    next_one = SqliteJournal(path, SystemClock(), lock_wait_s=DEADLINE_S, on_wait=lambda _: waits.set())

    async def main() -> None:
        await (await begun(path)).close()
        journal = await begun(path, "a")
        path.with_name("journal.db.lock").unlink()
        opening = asyncio.create_task(next_one.open("test", max_attempts=3))
        async with asyncio.timeout(DEADLINE_S):
            await waits.wait()
        assert not opening.done()
        await journal.close()
        assert [each.run.run_id for each in await opening] == ["a"]
        await next_one.close()

    asyncio.run(main())


# -- files that are taken away ----------------------------------------------------------------------------


def _delete(file: Path) -> None:
    file.unlink()


def _replace(file: Path) -> None:
    shutil.copyfile(file, file.with_name("copy"))
    file.with_name("copy").replace(file)


@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".lock"])
@pytest.mark.parametrize("take_away", [_delete, _replace])
@pytest.mark.usefixtures("checks_often")
def test_a_file_that_is_taken_away_is_noticed_on_an_idle_server(
    path: Path, end: str, take_away: Callable[[Path], None]
) -> None:
    async def main() -> None:
        journal = await begun(path, "a", "b")
        take_away(Path(f"{path}{end}"))
        assert "was deleted or replaced while it was in use" in await in_trouble(journal)
        answers = await asyncio.gather(
            journal.accept(new("c"), WIDE, claim_next=True), journal.load(key()), return_exceptions=True
        )
        assert [type(each) for each in answers] == [JournalUnavailable] * 2
        await journal.close()

    asyncio.run(main())


@pytest.mark.parametrize("end", ["-wal", "-shm"])
@pytest.mark.usefixtures("checks_often")
def test_what_a_deleted_wal_had_is_in_the_file_once_that_is_noticed(tmp_path: Path, path: Path, end: str) -> None:
    """So that a kill after it costs nothing that was acknowledged."""

    async def main() -> None:
        journal = await begun(path, "a", "b", "c")
        Path(f"{path}{end}").unlink()
        assert "restart the server" in await in_trouble(journal)
        killed = tmp_path / "killed.db"
        shutil.copyfile(path, killed)
        assert await kept(killed) == ["a", "b", "c"]
        await journal.close()
        assert await kept(path) == ["a", "b", "c"]

    asyncio.run(main())


def test_files_that_are_put_back_while_the_server_still_runs_are_left_alone(tmp_path: Path, path: Path) -> None:
    async def main() -> None:
        journal = await begun(path, "a", "b")
        saved = tmp_path / "saved"
        saved.mkdir()
        for each in list(tmp_path.glob("journal.db*")):
            if each.suffix != ".lock":
                each.rename(saved / each.name)
        with pytest.raises(JournalUnavailable, match="put back the file"):
            await journal.accept(new("c"), WIDE, claim_next=True)
        for each in saved.iterdir():
            shutil.copyfile(each, tmp_path / each.name)
        before = contents(saved)
        await journal.close()
        assert {name: (tmp_path / name).read_bytes() for name in before} == before

    asyncio.run(main())
    path.with_name("journal.db-shm").unlink()
    assert asyncio.run(kept(path)) == ["a", "b"]


@pytest.mark.parametrize("left", [0, 4096])
@pytest.mark.usefixtures("checks_often")
def test_a_journal_cut_off_while_in_use_is_unavailable(path: Path, left: int) -> None:
    async def main() -> None:
        journal = await begun(path, *(f"r{number}" for number in range(50)))
        assert journal.trouble is None
        os.truncate(path, left)
        answers = await asyncio.gather(
            journal.read(RunQuery(ANONYMOUS, RunId("r1"))),
            journal.accept(new("c"), WIDE, claim_next=True),
            journal.load(key()),
            return_exceptions=True,
        )
        assert {type(each) for each in answers[1:]} == {JournalUnavailable}
        assert "was cut off" in await in_trouble(journal)
        with pytest.raises(JournalUnavailable, match="was cut off"):
            await journal.read(RunQuery(ANONYMOUS, RunId("r1")))
        await journal.close()

    asyncio.run(main())
    assert path.stat().st_size == left
    assert path.with_name("journal.db-wal").stat().st_size > 0, "what may help to repair it is left"


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("end", ["-wal", "-journal"])
def test_a_log_without_its_journal_is_refused_and_left_as_it_is(path: Path, end: str, empty: bool) -> None:
    log = Path(f"{path}{end}")

    async def main() -> None:
        journal = await begun(path, "a", "b")
        shutil.copyfile(f"{path}-wal", path.with_name("log"))
        shutil.copyfile(path, path.with_name("saved"))
        await journal.close()

    asyncio.run(main())
    path.with_name("log").rename(log)
    os.truncate(path, 0) if empty else path.unlink()
    before = contents(path.parent)
    with pytest.raises(JournalDamaged, match=f"journal.db{end} has what was kept in it last.*Put journal.db back"):
        asyncio.run(at(path).open("test", max_attempts=3))
    assert contents(path.parent) == before
    if end == "-wal":
        path.with_name("saved").replace(path)
        assert asyncio.run(kept(path)) == ["a", "b"]


# -- others on this machine -------------------------------------------------------------------------------


@contextmanager
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def rights(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in folder.iterdir()}


def test_all_files_of_a_journal_are_its_owners_alone(tmp_path: Path) -> None:
    """Also backups, and the folder that is made for it."""
    folder = tmp_path / "made" / "for" / "it"

    async def main() -> None:
        journal = await begun(folder / "journal.db", "a")
        backup(folder / "journal.db", folder / "backup.db")
        seen = rights(folder)
        assert seen.keys() >= {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock", "backup.db"}
        assert set(seen.values()) == {0o600}
        await journal.close()

    with usual_umask():
        asyncio.run(main())
    assert {each.stat().st_mode & 0o777 for each in (folder, folder.parent)} == {0o700}


def test_files_that_were_laxer_become_their_owners_alone(path: Path) -> None:
    copy = path.with_name("journal.db.v4-20260101T000000Z.bak")
    other = path.with_name("other.txt")

    async def main() -> None:
        journal = await begun(path, "a")
        for each in list(path.parent.iterdir()):
            each.chmod(0o644)
        journal_wal = path.with_name("journal.db-wal").read_bytes()
        await journal.close()
        path.with_name("journal.db-wal").write_bytes(journal_wal)
        copy.write_bytes(b"")
        other.write_bytes(b"")
        journal = await begun(path)
        seen = rights(path.parent)
        assert seen.pop("other.txt") == 0o644
        assert seen.keys() >= {"journal.db", "journal.db-wal", "journal.db.lock", copy.name}
        assert set(seen.values()) == {0o600}
        await journal.close()

    with usual_umask():
        asyncio.run(main())


def test_files_of_a_journal_never_were_readable_for_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: none is made lax and made strict after that."""
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("a file was laxer"))

    async def main() -> None:
        await (await begun(path, "a")).close()
        backup(path, path.with_name("backup.db"))

    with usual_umask():
        asyncio.run(main())


_STRANGER = """
import fcntl, os, sys, time
os.setuid(int(sys.argv[1]))
for fd in map(int, sys.argv[2:]):
    fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


@contextmanager
def locked_by(user: int, *files: Path) -> Iterator[None]:
    """Have a process of a user hold locks on files, which it had opened before they were its owner's alone."""
    opened = [os.open(each, os.O_RDONLY) for each in files]
    command = [sys.executable, "-I", "-S", "-c", _STRANGER, str(user), *map(str, opened)]
    stranger = subprocess.Popen(command, pass_fds=opened, stdout=subprocess.PIPE)
    for each in opened:
        os.close(each)
    assert stranger.stdout is not None
    try:
        assert stranger.stdout.readline() == b"locked\n"
        yield
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()
        stranger.stdout.close()


@as_root
def test_another_users_locks_do_not_keep_a_server_from_starting(path: Path) -> None:
    asyncio.run(_filled(path))
    lock = path.with_name("journal.db.lock")
    for each in (path, lock):
        each.chmod(0o644)
    with locked_by(NOBODY, path, lock):
        assert asyncio.run(kept(path)) == ["a", "b"]
    assert rights(path.parent) == {"journal.db": 0o600, "journal.db.lock": 0o600}


@as_root
def test_the_lock_of_a_user_who_can_own_the_journal_is_heeded(path: Path) -> None:
    asyncio.run(_filled(path))
    lock = path.with_name("journal.db.lock")
    with locked_by(0, lock), pytest.raises(JournalLocked):
        asyncio.run(at(path).open("test", max_attempts=3))
    os.chown(path, NOBODY, -1)
    for each in (path, lock):
        with locked_by(NOBODY, each), pytest.raises(JournalLocked):
            asyncio.run(at(path).open("test", max_attempts=3))

"""The contents of uploaded files go along with backups and copies of a journal, and are checked."""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from strandline._cli.journal_copy import carrier_between, copied
from strandline._cli.locations import Database, Location
from strandline._clock import SystemClock
from strandline._encoding import encode
from strandline._files.store import INCOMING, FileStore, folder_of
from strandline._journal import backup as backups
from strandline._journal import contents
from strandline._journal.backup import backup
from strandline._journal.driver import copy_into
from strandline._journal.port import AddFile, Changed, DropFile
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.verify import verify as verify_database
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.verify import verify
from strandline._model import FileId
from strandline.errors import JournalError
from strandline.testing._desk import key

SESSIONS: Final = (key("a"), key("b"), key("c"))
IDS: Final = tuple(FileId(f"file_{n:032x}") for n in range(6))
PAGE: Final = 2
"""How many records are read at once, so that a session's files are in several pages."""


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "PAGE", PAGE)


_link: Final = os.link


def _refused(source: Path, to: Path) -> None:
    """Link nothing but journals, as to another file system."""
    if not to.name.startswith("file_"):
        _link(source, to)
    elif os.path.lexists(to):
        raise FileExistsError(errno.EEXIST, "File exists")
    else:
        raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.fixture(params=["link", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How contents are brought: within one file system, or to another one."""

    if request.param == "copy":
        monkeypatch.setattr("strandline._files.store.os.link", _refused)
    return str(request.param)


def journal_at(location: Location) -> SqliteJournal | PostgresJournal:
    if isinstance(location, Database):
        return PostgresJournal(location.address, SystemClock(), lock_wait_s=0)
    return SqliteJournal(location, SystemClock(), lock_wait_s=0)


def content(n: int) -> bytes:
    return b"content %d " % n * 1000


async def add(journal: SqliteJournal | PostgresJournal, root: Path, n: int) -> None:
    """Upload a file, as a server does."""
    incoming = FileStore(root).begin(IDS[n])
    incoming.write(content(n))
    session = SESSIONS[n % len(SESSIONS)]
    incoming.keep(session)
    record = encode({"name": f"{n}.txt", "media_type": "text/plain", "sha256": incoming.sha256})
    stored = await journal.change(AddFile(session, IDS[n], incoming.size, record, 1.0, None))
    assert stored == Changed(existed=False) or isinstance(stored, Changed)


def filled(location: Location, root: Path, numbers: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    async def fill() -> None:
        journal = journal_at(location)
        await journal.open("test", max_attempts=3)
        for n in numbers:
            await add(journal, root, n)
        await journal.close()

    asyncio.run(fill())


def at(root: Path, n: int) -> Path:
    return root / folder_of(SESSIONS[n % len(SESSIONS)]) / IDS[n]


def all_of(root: Path) -> dict[str, bytes]:
    """All contents under a folder, by the names of their files."""
    return {each.name: each.read_bytes() for each in root.rglob("file_*")}


FIVE: Final = {IDS[n]: content(n) for n in range(5)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    filled(path, tmp_path / "journal.db.files")
    return path


def files_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.files")


def test_a_backup_has_the_contents_of_its_files(source: Path, tmp_path: Path, way: str) -> None:
    steps: list[tuple[str, int, int]] = []
    made = backup(source, tmp_path / "monday.db", files=files_of(source), on_file=lambda *step: steps.append(step))
    assert (made.files, made.faults) == (5, ())
    there = tmp_path / "monday.db.files"
    assert all_of(there) == FIVE == all_of(files_of(source))
    assert {each.stat().st_mode & 0o777 for each in there.rglob("file_*")} == {0o400}
    assert {each.stat().st_mode & 0o077 for each in there.rglob("*")} == {0}
    assert (at(there, 0).stat().st_ino == at(files_of(source), 0).stat().st_ino) is (way == "link")
    assert not (there / INCOMING).exists()
    assert sorted(each.name for each in tmp_path.iterdir() if "monday" in each.name) == ["monday.db", "monday.db.files"]
    assert steps[0] == ("files", 0, 5)
    assert steps[-1] == ("files", 5, 5)
    at(files_of(source), 0).unlink()
    found = verify(tmp_path / "monday.db", files=there)
    assert (found.faults, found.files, found.unchecked_files) == ([], 5, 0)


def test_a_backup_has_just_the_files_of_its_moment(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a server some are deleted and others uploaded, before the moment and after it."""
    root = files_of(source)

    async def changed(gone: int, new: tuple[int, ...]) -> None:
        journal = journal_at(source)
        await journal.open("test", max_attempts=3)
        session = SESSIONS[gone % len(SESSIONS)]
        assert await journal.change(DropFile(session, IDS[gone])) == Changed(existed=True)
        FileStore(root).remove(folder_of(session), IDS[gone])
        for n in new:
            await add(journal, root, n)
        await journal.close()

    gather = backups._Contents.gather

    def gather_before_changes(self: backups._Contents) -> None:
        gather(self)
        asyncio.run(changed(0, (5,)))

    def copy_after_changes(*arguments: object) -> None:
        copy_into(*arguments)  # type: ignore[arg-type]
        if at(root, 1).exists():
            at(root, 1).unlink()  # (as of a deletion that comes after the moment)

    monkeypatch.setattr(backups._Contents, "gather", gather_before_changes)
    monkeypatch.setattr(backups, "copy_into", copy_after_changes)
    made = backup(source, tmp_path / "monday.db", files=root)
    assert (made.files, made.faults) == (5, ())
    assert all_of(tmp_path / "monday.db.files") == {IDS[n]: content(n) for n in range(1, 6)}


@contextmanager
def live(source: Path) -> Iterator[sqlite3.Connection]:
    """Have a journal open as a server has it: its WAL is there, and a snapshot stays as it is."""
    with closing(sqlite3.connect(source, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("UPDATE meta SET value = value WHERE name = 'epoch'")
        yield connection


def deleting_at_the_moment(
    n: int, server: sqlite3.Connection, root: Path, monkeypatch: pytest.MonkeyPatch
) -> list[None]:
    """Have a file deleted between the first snapshot and the look at its files; return the list of snapshots."""
    bring = backups._Contents.bring
    snapshots: list[None] = []

    def bring_after_it(self: backups._Contents, snapshot: sqlite3.Connection) -> None:
        snapshots.append(None)
        if len(snapshots) == 1:
            snapshot.execute("SELECT count(*) FROM files").fetchone()
            server.execute("DELETE FROM files WHERE id = ?", (IDS[n],))
            at(root, n).unlink()
        bring(self, snapshot)

    monkeypatch.setattr(backups._Contents, "bring", bring_after_it)
    return snapshots


def test_what_is_deleted_after_the_moment_of_a_backup_is_in_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes until its content is looked for: it was gathered before."""
    with live(source) as server:
        snapshots = deleting_at_the_moment(0, server, files_of(source), monkeypatch)
        made = backup(source, tmp_path / "monday.db", files=files_of(source))
    assert (made.files, made.faults, len(snapshots)) == (5, (), 1)
    assert all_of(tmp_path / "monday.db.files") == FIVE


def test_a_file_that_comes_and_goes_within_a_backup_makes_it_look_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the gathering, is in the first snapshot, and goes before the backup could have its content."""
    root, gather = files_of(source), backups._Contents.gather
    filled(source, root, (5,))

    def gather_before_it(self: backups._Contents) -> None:
        away = at(root, 5).rename(tmp_path / "away")
        gather(self)
        away.rename(at(root, 5))

    monkeypatch.setattr(backups._Contents, "gather", gather_before_it)
    with live(source) as server:
        snapshots = deleting_at_the_moment(5, server, root, monkeypatch)
        made = backup(source, tmp_path / "monday.db", files=root)
    assert (made.files, made.faults, len(snapshots)) == (5, (), 2)
    assert all_of(tmp_path / "monday.db.files") == FIVE
    assert verify(tmp_path / "monday.db", files=tmp_path / "monday.db.files").faults == []


def damage(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"changed" + path.read_bytes()[7:])


def test_missing_and_changed_contents_are_named_and_all_others_are_in_the_backup(source: Path, tmp_path: Path) -> None:
    root = files_of(source)
    at(root, 0).unlink()
    damage(at(root, 1))
    lacks = f"the content of file {IDS[0]} in session a is missing"
    wrong = f"the content of file {IDS[1]} in session b is not what was uploaded"
    assert set(verify(source, files=root).faults) == {lacks, wrong}
    made = backup(source, tmp_path / "monday.db", files=root)
    assert (made.files, set(made.faults)) == (5, {lacks, wrong})
    assert all_of(tmp_path / "monday.db.files").keys() == set(IDS[1:5])


def test_verify_reads_no_contents_of_a_folder_that_it_does_not_know(source: Path) -> None:
    at(files_of(source), 0).unlink()
    found = verify(source)
    assert (found.faults, found.files, found.unchecked_files) == ([], 5, 5)


def test_verify_takes_no_file_for_missing_that_is_deleted_meanwhile(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dropped() -> None:
        journal = journal_at(source)
        await journal.open("test", max_attempts=3)
        await journal.change(DropFile(SESSIONS[0], IDS[0]))
        await journal.close()

    at(files_of(source), 0).unlink()
    at(files_of(source), 1).unlink()
    known = verify(source, files=files_of(source))
    assert len(known.faults) == 2
    asked, dropping = contents.still_recorded, [dropped()]

    def asked_after(now: Any, some: Any) -> Any:
        while dropping:
            asyncio.run(dropping.pop())
        return asked(now, some)

    monkeypatch.setattr("strandline._journal.verify.still_recorded", asked_after)
    # The row goes within the second look, which begins again then, since the file has changed.
    assert verify(source, files=files_of(source)).faults == [f"the content of file {IDS[1]} in session b is missing"]


def test_a_backup_that_fails_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("copy_into", "sync"):
        with monkeypatch.context() as patched:
            patched.setattr(backups, place, refuse)
            with pytest.raises(JournalError, match="No space left"):
                backup(source, tmp_path / "monday.db", files=files_of(source))
        assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(JournalError, match=r"^\. is a folder"):
        backup(source, Path("."), files=files_of(source))
    (tmp_path / "monday.db.files").mkdir()
    with pytest.raises(JournalError, match=r"monday\.db\.files is a folder"):
        backup(source, tmp_path / "monday.db", files=files_of(source))
    assert not (tmp_path / "monday.db").exists()


def test_a_journal_without_files_has_no_folder_beside_its_backup(tmp_path: Path) -> None:
    filled(tmp_path / "journal.db", tmp_path / "journal.db.files", ())
    assert backup(tmp_path / "journal.db", tmp_path / "monday.db", files=tmp_path / "journal.db.files").files == 0
    assert sorted(each.name for each in tmp_path.iterdir() if "monday" in each.name) == ["monday.db"]


# -- copies --------------------------------------------------------------------------------------------------


def moved(source: Location, to: Location, folders: tuple[Path | None, Path | None], **more: bool) -> tuple[str, ...]:
    """Copy a journal with its files; return the faults of these."""
    carrier = carrier_between(*folders)
    copied(source, to, lambda *step: None, anew=more.get("anew", False), carrier=carrier)
    return carrier.faults.sentences


def test_files_go_from_a_file_to_a_database_and_back(source: Path, database: str, tmp_path: Path, way: str) -> None:
    there, shared, back = Database(database), tmp_path / "shared", tmp_path / "back.db"
    assert moved(source, there, (files_of(source), shared)) == ()
    assert all_of(shared) == FIVE
    assert verify_database(database, files=shared).faults == []
    assert moved(there, back, (shared, files_of(back))) == ()
    assert all_of(files_of(back)) == FIVE == all_of(files_of(source))
    assert verify(back, files=files_of(back)).faults == []


def test_verify_of_a_database_reads_contents(database: str, tmp_path: Path) -> None:
    root = tmp_path / "shared"
    filled(Database(database), root)
    at(root, 0).unlink()
    damage(at(root, 1))
    assert set(verify_database(database, files=root).faults) == {
        f"the content of file {IDS[0]} in session a is missing",
        f"the content of file {IDS[1]} in session b is not what was uploaded",
    }
    assert verify_database(database).unchecked_files == 5


def test_journals_with_one_folder_share_it(source: Path, database: str) -> None:
    before = {each: each.stat().st_nlink for each in files_of(source).rglob("file_*")}
    assert moved(source, Database(database), (files_of(source), files_of(source))) == ()
    assert {each: each.stat().st_nlink for each in files_of(source).rglob("file_*")} == before


def test_a_copy_whose_files_do_not_fit_continues(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing opens it until it has them; what is there is not brought again, unless it is damaged."""
    to = tmp_path / "to.db"
    bring: Callable[..., None] = FileStore.bring

    def bring_some(self: FileStore, name: str, *more: object) -> None:
        if name == folder_of(SESSIONS[2]):
            raise OSError(errno.ENOSPC, "No space left on device")
        bring(self, name, *more)

    monkeypatch.setattr("strandline._files.store.os.link", _refused)
    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "bring", bring_some)
        with pytest.raises(JournalError, match="it continues"):
            moved(source, to, (files_of(source), files_of(to)))
    with pytest.raises(JournalError, match="unfinished"):
        verify(to)
    damage(at(files_of(to), 0))
    kept = at(files_of(to), 1).stat().st_ino
    assert moved(source, to, (files_of(source), files_of(to))) == ()
    assert all_of(files_of(to)) == FIVE
    assert at(files_of(to), 1).stat().st_ino == kept
    assert verify(to, files=files_of(to)).faults == []


def test_a_copy_goes_on_without_what_is_missing_and_says_so(source: Path, tmp_path: Path) -> None:
    at(files_of(source), 3).unlink()
    to = tmp_path / "to.db"
    faults = moved(source, to, (files_of(source), files_of(to)))
    assert faults == (f"the content of file {IDS[3]} in session a is missing",)
    assert all_of(files_of(to)).keys() == FIVE.keys() - {IDS[3]}


def test_a_copy_to_a_database_needs_a_folder_if_there_are_files(source: Path, database: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="Name it with --files-to FOLDER, or the setting files"):
        moved(source, Database(database), (files_of(source), None))
    none = tmp_path / "none.db"
    filled(none, files_of(none), ())
    assert moved(none, Database(database), (files_of(none), None)) == ()

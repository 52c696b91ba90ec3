"""`verify` finds what is wrong in a journal, and only that; a backup is the whole journal as it was at one moment."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from strandline._clock import SystemClock
from strandline._journal.backup import backup
from strandline._journal.checksums import key_crc, message_owner, with_checksum
from strandline._journal.driver import copy_into
from strandline._journal.port import Changed, Delete, SessionReport
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.sqlite import SqliteJournal
from strandline._journal.verify import verify
from strandline._model import Range, RoundStarted, RunWebhook, ToolDone
from strandline.errors import JournalDamaged, JournalError
from strandline.testing._desk import WIDE, done, key, said

from .test_damage import new, rows


async def fill(journal: SqliteJournal | PostgresJournal) -> None:
    await journal.open("test", max_attempts=3)
    claims = journal.claims()
    for n in range(70):
        await journal.accept(new(f"s.{n}"), WIDE, claim_next=True)
        window = (Range(2, None),) if n == 2 else None
        await journal.finish(
            (await anext(claims)).token, done("hi", "ho", state={"n": n}, window=window), claim_next=False
        )
    for session in ("s", "t"):
        await journal.accept(new(f"{session}.x", session), WIDE, claim_next=True)
        token = (await anext(claims)).token
        await journal.checkpoint(token, RoundStarted(said("a")))
        await journal.checkpoint(token, ToolDone("t", {}))
        await journal.accept(new(f"{session}.y", session), WIDE, claim_next=True)
    await journal.accept(new("gone.x", "gone"), WIDE, claim_next=True)
    await journal.finish((await anext(claims)).token, done("hi", "ho"), claim_next=False)
    report = SessionReport(RunWebhook("https://example.com/", ("session.deleted",)))
    assert await journal.change(Delete(key("gone"), report=report)) == Changed(existed=True)
    await journal.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "journal.db"
    asyncio.run(fill(SqliteJournal(path, SystemClock())))
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copy(filled, tmp_path / "journal.db")
    yield tmp_path / "journal.db"
    assert sorted(each.name for each in tmp_path.iterdir() if each.name.startswith("journal.db")) == ["journal.db"]


def test_a_sound_journal_is_counted(path: Path) -> None:
    before = path.read_bytes()
    steps: list[tuple[str, int, int]] = []
    findings = verify(path, lambda *step: steps.append(step))
    assert (findings.sound, findings.faults) == (True, [])
    assert (findings.sessions, findings.messages, findings.held) == (2, 140, 0)
    assert findings.runs == {
        "queued": 2, "running": 2, "succeeded": 70, "failed": 0, "cancelled": 0, "needs_input": 0
    }  # fmt: skip
    assert {what for what, done, total in steps if done == total} == {
        "pages", "sessions", "history", "runs", "questions", "schedules", "files", "staged", "windows",
        "earlier windows",
        "forks", "deliveries",
    }  # fmt: skip
    assert path.read_bytes() == before


def _history(text: str) -> str:
    stored = with_checksum(text.encode(), message_owner(key_crc(key()), 0)).hex()
    return f"UPDATE history SET messages = x'{stored}', count = 2 WHERE no = 1"


def _window(text: str) -> str:
    return f"UPDATE agents SET window = x'{with_checksum(text.encode(), key_crc(key())).hex()}'"


_USE = '{"toolUse":{"toolUseId":"u","name":"t","input":{}}}'


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE history SET first = first + 1 WHERE no = 30", "from message 59 on does not join what is before it"),
        ("UPDATE history SET nth = 9 WHERE no = 30", "does not join"),
        ("UPDATE history SET previous = 3 WHERE no = 30", "does not join"),
        ("DELETE FROM history WHERE no = 30", "does not join"),
        ("DELETE FROM history WHERE no = 70", "session s does not end where its history ends"),
        ("UPDATE history SET session = 7 WHERE no = 30", "row 30 of history belongs to no session"),
        ("UPDATE history SET run = 4 WHERE no = 30", "the run with sequence 4 is in history twice"),
        ("UPDATE history SET count = 3 WHERE no = 30", "from message 58 on is damaged"),
        ("UPDATE history SET messages = x'5b5d' WHERE no = 30", "is damaged"),
        (
            _history('[{"role":"user","content":[{"text":"a"}]},{"role":"user","content":[{"text":"b"}]}]'),
            "of role user",
        ),
        (_window('[["range",0,null],["range",500,null]]'), "reaches beyond its history"),
        (_window('[["range",5,3]]'), "runs backwards"),
        (_window('[["inline",{"role":"assistant","content":[' + _USE + "]}]]"), "leaves tools without a result"),
        (_window('{"no":"window"}'), "or its state is damaged"),
        (
            "UPDATE agents_after SET state = x'00' WHERE session = 1",
            "the context window of session s after the run with sequence",
        ),
        ("INSERT INTO forks VALUES (1, 2, x'00')", "the record of where session s was copied from is damaged"),
        ("INSERT INTO forks VALUES (77, 1, x'00')", "a record of a fork belongs to no session (number 77)"),
        ("UPDATE history SET origin = 5 WHERE no = 3", "is damaged"),
        ("UPDATE agents_after SET session = 77", "belongs to no session (number 77)"),
        ("UPDATE sessions SET options = x'7b7d' WHERE no = 1", "the record of the options of session s is damaged"),
        ("UPDATE runs SET sender = (SELECT sender FROM runs WHERE seq = 4) WHERE seq = 3", "run s.3 is damaged"),
        ("UPDATE sessions SET last = 3", "does not end where its history ends"),
        ("UPDATE runs SET outcome = NULL WHERE seq = 3", "run s.3 is succeeded without an outcome"),
        ("UPDATE runs SET status = 'failed' WHERE seq = 3", "run s.3 is damaged"),
        ("UPDATE runs SET outcome = (SELECT outcome FROM runs WHERE seq = 4) WHERE seq = 3", "run s.3 is damaged"),
        ("UPDATE runs SET fence = NULL WHERE run_id = 's.x'", "is running without a claim"),
        ("UPDATE runs SET started_at = NULL WHERE run_id = 's.x'", "was attempted and has never started"),
        ("UPDATE runs SET ended_at = 9.0 WHERE run_id = 's.x'", "is running and has an outcome"),
        ("UPDATE runs SET urgency = 9 WHERE run_id = 's.x'", "stands where no run can stand"),
        ("UPDATE runs SET discarded = 1 WHERE run_id = 's.x'", "is running and discarded already"),
        ("UPDATE runs SET fence = 1 << 40 WHERE run_id = 's.x'", "has a claim from the future"),
        ("UPDATE runs SET fence = 3, session = 3 WHERE run_id = 's.y'", "run s.y belongs to no session"),
        ("UPDATE history SET run = 70 WHERE no = 70", "run s.x is running and in history already"),
        (
            "UPDATE staged SET run = 5 WHERE run = 70 AND no = 0",
            "a run with sequence 5, which does not wait or execute",
        ),
        ("DELETE FROM staged WHERE run = 70 AND no = 0", "a checkpoint of the run with sequence 70 is damaged"),
        ("UPDATE sessions SET branch = 4", "a branch of session s has none"),
        (
            "UPDATE sessions SET branch = 500; INSERT INTO branches VALUES (1, 500, 0, 2, NULL, NULL, NULL, 0)",
            "a branch of session s begins with message 500, where none can",
        ),
        (
            (
                "UPDATE sessions SET branch = 8 WHERE no = 1;"
                " INSERT INTO branches VALUES (1, 8, 0, 9, NULL, NULL, NULL, 0)"
            ),
            "a branch of session s with message 8 continues nothing",
        ),
        (
            (
                "UPDATE sessions SET branch = 4 WHERE no = 1;"
                " INSERT INTO branches VALUES (1, 8, 0, 2, NULL, NULL, NULL, 0)"
            ),
            "session s does not continue with its last branch",
        ),
        ("DELETE FROM meta", "how often the journal was opened"),
        ("CREATE TABLE other (x)", "its tables are not those of a journal"),
        ("UPDATE deliveries SET body = x'00' WHERE session = 0", "_deleted is damaged"),
        ("UPDATE deliveries SET session = 7", "_deleted belongs to no session"),
        ("UPDATE stored SET bytes = bytes + 1", "counts as"),
        ("DELETE FROM stored", "counts as None bytes, and is"),
    ],
)
def test_what_is_wrong_is_found(path: Path, statement: str, fault: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(statement)
    findings = verify(path)
    assert not findings.sound
    assert [each for each in findings.faults if fault in each], findings.faults


def test_messages_that_have_come_to_look_discarded_are_no_sound_ones(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE history SET discarded = 1 WHERE no = 7")
    assert [each for each in verify(path).faults if "from message 12 on is damaged" in each]


def test_a_disk_that_is_full_to_the_last_byte_is_no_fault_of_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(connection: sqlite3.Connection, *args: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
        raise error

    monkeypatch.setattr("strandline._journal.verify.check_current", full)
    with pytest.raises(JournalError, match="room on its disk"):
        verify(path)


def test_discarded_messages_and_holds_are_counted(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for no in (7, 9):
            first, stored = connection.execute("SELECT first, messages FROM history WHERE no = ?", (no,)).fetchone()
            again = with_checksum(stored[5:], message_owner(key_crc(key()), first, discarded=True))
            connection.execute("UPDATE history SET discarded = 1, messages = ? WHERE no = ?", (again, no))
        connection.execute("UPDATE runs SET fence = NULL, status = 'queued' WHERE run_id = 's.x'")
        connection.execute("UPDATE runs SET fence = 5 WHERE seq = 3")
    findings = verify(path)
    assert findings.faults == []
    assert (findings.discarded_messages, findings.discarded_in_sessions, findings.held) == (4, 1, 1)


def test_damaged_pages_are_faults_and_no_crash(path: Path) -> None:
    whole = path.read_bytes()
    for page in range(1, len(whole) // 4096):
        spoilt = bytearray(whole)
        spoilt[page * 4096 : page * 4096 + 3000] = b"\xa5" * 3000
        path.write_bytes(spoilt)
        assert not verify(path).sound, page
        with pytest.raises(JournalDamaged, match="No backup was made"):
            backup(path, path.with_name("copy"))
        assert not path.with_name("copy").exists()


def test_an_older_file_is_to_be_brought_up_to_date_first(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 0")
    with pytest.raises(JournalError, match="older Strandline"):
        verify(path)


def test_faults_beyond_a_hundred_are_only_counted(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE history SET messages = x'00'")
        connection.execute("UPDATE runs SET outcome = x'00'")
    findings = verify(path)
    assert len(findings.faults) == 100
    assert findings.more_faults >= 40


# -- backup -----------------------------------------------------------------------------------------------


def test_a_backup_is_the_journal_and_can_be_served(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    assert backup(path, copy).size == copy.stat().st_size
    shutil.copy(path, tmp_path / "original.db")
    assert rows(copy) == rows(tmp_path / "original.db")
    assert verify(copy).faults == []

    async def main() -> None:
        journal = SqliteJournal(copy, SystemClock())
        assert len(await journal.open("test", max_attempts=3)) == 2
        await journal.close()

    asyncio.run(main())
    assert [each.name for each in tmp_path.iterdir() if "copy" in each.name and ".lock" not in each.name] == ["copy.db"]


def test_a_backup_is_never_mixed_with_the_wal_of_the_file_that_was_there(path: Path, tmp_path: Path) -> None:
    """Put in place of a killed server's journal, beside its WAL, it is not opened, and the error says what to do."""
    place = tmp_path / "place" / "journal.db"
    place.parent.mkdir()
    backup(path, place)
    with closing(sqlite3.connect(path)) as connection:
        with connection:
            connection.execute("DELETE FROM runs")
        shutil.copy(f"{path}-wal", f"{place}-wal")
    whole = place.read_bytes()
    for attempt in (
        lambda: asyncio.run(SqliteJournal(place, SystemClock()).open("test", max_attempts=3)),
        lambda: verify(place),
        lambda: backup(place, tmp_path / "copy"),
    ):
        with pytest.raises(JournalError, match=r"Move journal\.db-wal away"):
            attempt()
    assert place.read_bytes() == whole
    Path(f"{place}-wal").unlink()
    assert verify(place).faults == []


def test_nothing_is_overwritten(path: Path, tmp_path: Path) -> None:
    for to in (path, tmp_path, tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        with pytest.raises(JournalError, match="nothing is overwritten"):
            backup(path, to)
    with pytest.raises(JournalError, match="cannot be"):
        backup(path, tmp_path / "no" / "folder")
    with pytest.raises(JournalError, match="There is no journal"):
        backup(tmp_path / "none", tmp_path / "copy")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["journal.db", "link"]


class _Busy:
    """A journal that is written to all the time, by another thread, until the end of a `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._done = 0
        self._thread = threading.Thread(target=asyncio.run, args=(self._write(),))

    def __enter__(self) -> "_Busy":
        self._thread.start()
        self.more(20)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def more(self, count: int = 1) -> None:
        """Return when `count` more runs have ended."""
        with self._changed:
            wanted = self._done + count
            assert self._changed.wait_for(lambda: self._done >= wanted, timeout=30)

    async def _write(self) -> None:
        journal = SqliteJournal(self._path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        n = 0
        while not self._stop.is_set():
            await journal.accept(new(f"r{n}", f"s{n % 5}"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho" * 500), claim_next=False)
            n += 1
            with self._changed:
                self._done = n
                self._changed.notify_all()
        await journal.close()


def test_verify_beside_a_server_that_writes_all_the_time_sees_one_moment(tmp_path: Path) -> None:
    path = tmp_path / "busy.db"
    with _Busy(path) as busy:
        seen = [verify(path, lambda what, done, total: busy.more()) for _ in range(3)]
    assert [findings.faults for findings in seen] == [[], [], []]
    assert verify(path).messages > seen[-1].messages


def test_a_backup_beside_a_server_that_writes_all_the_time_is_of_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not begin again when the server has written, else it would never end."""
    monkeypatch.setattr("strandline._journal.driver.COPY_PAGES", 4)
    path, copy = tmp_path / "busy.db", tmp_path / "copy.db"
    steps: list[int] = []

    def step(done: int, total: int) -> None:
        steps.append(done)
        assert steps == sorted(set(steps)), "it began again"
        busy.more()

    with _Busy(path) as busy:
        before = verify(path).messages
        backup(path, copy, step)
        after = verify(path).messages
    assert len(steps) > 5
    copied = verify(copy)
    assert copied.faults == []
    assert before <= copied.messages < after


def test_a_copy_that_is_not_marked_as_its_journal_is_none(path: Path, tmp_path: Path) -> None:
    """Neither a backup nor a migration continues with it, although an empty file is a valid one."""

    class CopiesNothing(sqlite3.Connection):
        def backup(self, target: sqlite3.Connection, **more: Any) -> None:
            assert not target.in_transaction

    draft = tmp_path / "draft"
    marked = pytest.raises(JournalDamaged, match=r"its copy is marked \(0, 0\)")
    with closing(sqlite3.connect(path, factory=CopiesNothing)) as source, marked:
        copy_into(draft, source, path, "integrity_check")


def _serves_once(path: Path) -> Callable[..., None]:
    """Return a step at whose first call a server comes, has some runs, and is gone again."""
    served: list[None] = []

    async def serve() -> None:
        journal = SqliteJournal(path, SystemClock())
        await journal.open("test", max_attempts=3)
        claims = journal.claims()
        for n in range(100):
            await journal.accept(new(f"later.{n}", "later"), WIDE, claim_next=True)
            await journal.finish((await anext(claims)).token, done("hi", "ho" * 500), claim_next=False)
        await journal.close()

    def step(*progress: object) -> None:
        if not served:
            served.append(None)
            asyncio.run(serve())
            path.with_name(f"{path.name}.lock").unlink()

    return step


def test_verify_begins_again_when_a_server_comes_that_was_not_there_at_its_beginning(path: Path) -> None:
    findings = verify(path, _serves_once(path))
    assert (findings.faults, findings.messages) == ([], 140 + 200)


def test_a_backup_begins_again_when_a_server_comes_that_was_not_there_at_its_beginning(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("strandline._journal.driver.COPY_PAGES", 4)
    copy = tmp_path / "copy"
    backup(path, copy, _serves_once(path))
    findings = verify(copy)
    assert (findings.faults, findings.messages) == ([], 140 + 200)


def test_a_journal_whose_migration_was_cut_off_is_not_taken_for_a_damaged_one(path: Path, tmp_path: Path) -> None:
    log = path.with_name("journal.db-journal")
    log.write_bytes(b"half")
    for look in (lambda: verify(path), lambda: backup(path, tmp_path / "copy")):
        with pytest.raises(JournalError, match="cut off in the middle"):
            look()
    log.unlink()

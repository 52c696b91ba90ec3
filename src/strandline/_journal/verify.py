"""Checks a journal for damage: its pages, its records, and how these fit together. Reads only.

It works beside a running server: everything is read in one transaction, so from one moment.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from strandline._history import history_faults, open_tool_uses, pairing_faults
from strandline._journal import reader
from strandline._journal.changes import SessionRef
from strandline._journal.checksums import damaged_record
from strandline._journal.deletion import COUNT_STORED_BYTES
from strandline._journal.driver import code_of, connect_reader
from strandline._journal.integrity import check_current, check_pages, check_wal_frames, check_wal_head
from strandline._journal.ownership import existing, lock_seen
from strandline._journal.rules import spans
from strandline._lifecycle import ENDED
from strandline._model import ANONYMOUS, AgentRecord, Inline, Message, Run, RunStatus, SessionKey
from strandline.errors import JournalDamaged, JournalError, JournalUnavailable

T = TypeVar("T")

MOST_FAULTS: Final = 100
"""How many faults are reported at most."""

_NO_SHARED_MEMORY: Final = (sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMMAP)
"""The errors of a full disk when SQLite creates the index of the WAL; the journal itself is fine."""

OnStep = Callable[[str, int, int], None]
"""Called with the part that is checked, how much of it is done, and how much there is."""
_REPORT_EVERY: Final = 1000
_PROMPT: Final[list[Message]] = [{"role": "user", "content": [{"text": "-"}]}]


class Findings(Struct, kw_only=True):
    """The content of a journal and its faults, one sentence each."""

    journal: str
    sound: bool = True
    faults: list[str] = field(default_factory=list)
    more_faults: int = 0
    sessions: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    held: int = 0
    messages: int = 0
    discarded_messages: int = 0
    discarded_in_sessions: int = 0
    bytes: int = 0

    def add(self, fault: str) -> None:
        """Add a fault."""
        self.sound = False
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)
        else:
            self.more_faults += 1


def verify(file: Path, on_step: OnStep = lambda what, done, total: None) -> Findings:
    """Check everything in the journal at `file`. Raises a `JournalError` if it cannot be read at all."""
    path = existing(file)
    return at_one_moment(path, lambda connection: _look(path, connection, on_step))


def _look(path: Path, connection: sqlite3.Connection, on_step: OnStep) -> Findings:
    findings = Findings(journal=str(path), bytes=path.stat().st_size)
    try:
        check_current(path, connection)
        _Check(path, connection, findings, on_step).everything()
    except sqlite3.Error as error:
        no_memory = getattr(error, "sqlite_errorcode", 0) in _NO_SHARED_MEMORY
        if no_memory or code_of(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY):
            raise JournalError(
                f"The journal {path} cannot be opened: {error}. Look at the rights of its folder, and at the room on"
                " its disk."
            ) from error
        findings.add(f"the file cannot be read any further: {error}")
    return findings


def at_one_moment(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """Return `read` of the journal as of one moment, whether a server has it open or not; leaves no files.

    Without a WAL there are no locks against a server that starts now: if one changed the file meanwhile, `read` is
    called again. Raises `JournalDamaged` if the WAL's head is damaged.
    """
    while True:
        check_wal_head(path)
        if os.path.exists(f"{path}-journal"):
            raise JournalError(
                f"{path} is being changed to a newer version, or that was cut off in the middle. It was left as it is."
                " Serve it, which brings it to its end, then try again."
            )
        has_wal = os.path.exists(f"{path}-wal")
        before = _stamp(path)
        try:
            with closing(connect_reader(path, "mode=ro" if has_wal else "immutable=1")) as connection:
                connection.execute("BEGIN")
                made = read(connection)
        except (sqlite3.Error, JournalError):
            if has_wal or _stamp(path) == before:
                raise
        else:
            if has_wal or _stamp(path) == before:
                return made


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return a value that differs after each change of the file."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


class _Session(Struct):
    """A session while its history is checked."""

    ref: SessionRef
    last: int | None
    row: int | None = None
    nth: int = 0
    length: int = 0
    discarded: bool = False
    open: list[Message] = []
    """The messages before the next row: a prompt and the message with the open round, if there is one."""

    @property
    def name(self) -> str:
        """Its name for people."""
        principal, session_id = self.ref.key
        return session_id if principal == ANONYMOUS else f"{session_id} of {principal}"


class _Check:
    def __init__(self, path: Path, connection: sqlite3.Connection, findings: Findings, on_step: OnStep) -> None:
        self._path = path
        self._connection = connection
        self._findings = findings
        self._on_step = on_step
        self._fault = findings.add
        self._sessions: dict[int, _Session] = {}
        self._reported: dict[int, int] = {}
        """The session whose history has a row of a run, by the run's sequence."""
        self._unended: set[int] = set()

    def everything(self) -> None:
        self._pages()
        self._read_sessions()
        self._history()
        self._runs()
        self._keys()
        self._questions()
        self._checkpoints()
        self._agents()
        self._stored()

    def _pages(self) -> None:
        self._on_step("pages", 0, 1)
        try:
            check_pages(self._path, self._connection, most_bytes=None)
            with lock_seen(self._path) as (_, is_owned):
                if not is_owned and os.path.exists(f"{self._path}-wal"):
                    check_wal_frames(self._path)
        except JournalDamaged as error:
            self._fault(str(error))
        self._on_step("pages", 1, 1)

    def _rows(self, what: str, columns: str, table: str) -> Iterator[tuple[Any, ...]]:
        (total,) = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        for done, row in enumerate(self._connection.execute(f"SELECT {columns} FROM {table}")):
            if done % _REPORT_EVERY == 0:
                self._on_step(what, done, total)
            yield row
        self._on_step(what, total, total)

    @contextmanager
    def _unless_damaged(self, what: str) -> Iterator[None]:
        """Add a fault if what the block reads is damaged."""
        try:
            yield
        except JournalUnavailable:
            self._fault(f"{what} is damaged")

    def _read_sessions(self) -> None:
        for no, principal, session_id, last, paused, closed_since in self._rows(
            "sessions", "no, principal, session_id, last, paused, closed_since", "sessions"
        ):
            session = self._sessions[no] = _Session(SessionRef.of(no, SessionKey(principal, session_id)), last)
            if paused not in (0, 1) or (paused and closed_since is None):
                self._fault(f"session {session.name} is paused since an unknown time")
        self._findings.sessions = len(self._sessions)

    def _history(self) -> None:
        for no, in_session, nth, first, count, previous, run, discarded, stored in self._rows(
            "history", "no, session, nth, first, count, previous, run, discarded, messages", "history ORDER BY no"
        ):
            session = self._sessions.get(in_session)
            if session is None:
                self._fault(f"row {no} of history belongs to no session")
                continue
            where = f"the history of session {session.name} from message {first} on"
            if (nth, first, previous) != (session.nth + 1, session.length, session.row):
                self._fault(f"{where} does not join what is before it")
            session.row, session.nth, session.length = no, nth, first + count
            if run in self._reported and run >= 0:
                self._fault(f"{where}: the run with sequence {run} is in history twice")
            self._reported[run] = in_session
            self._findings.messages += count
            if discarded and count:
                self._findings.discarded_messages += count
                session.discarded = True
            if stored is None and count == 0:
                continue
            with self._unless_damaged(where):
                messages = reader.messages_in(
                    reader.in_full, stored, session.ref, first, count, discarded=bool(discarded)
                )
                faults = history_faults(session.open + messages)
                if not discarded:
                    session.open = [*_PROMPT, messages[-1]] if open_tool_uses(messages) else []
                    faults = faults[: len(faults) - bool(session.open)]  # the last one is that: the round is open
                for fault in faults:
                    self._fault(f"{where}: {fault}")
        for session in self._sessions.values():
            self._findings.discarded_in_sessions += session.discarded
            if session.row != session.last:
                self._fault(f"session {session.name} does not end where its history ends")

    def _runs(self) -> None:
        statuses: Counter[str] = Counter()
        (epoch,) = self._connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone() or (None,)
        if epoch is None:
            self._fault("it is not known how often the journal was opened, so stale claims cannot be recognized")
        for in_session, *columns in self._rows("runs", f"session, {reader.RUN_COLUMNS}", "runs ORDER BY seq"):
            row = reader.RunRow(*columns)
            session = self._sessions.get(in_session)
            if session is None:
                self._fault(f"run {row.run_id} belongs to no session")
                continue
            with self._unless_damaged(f"run {row.run_id}"):
                run = reader.stored_run(Run, row, session.ref)
                statuses[run.status.value] += 1
                for fault in self._faults_of(run, row, in_session, epoch):
                    self._fault(f"run {run.run_id} {fault}")
                self._findings.held += row.fence is not None and run.status in ENDED
        self._findings.runs = {status.value: statuses[status.value] for status in RunStatus}

    def _faults_of(self, run: Run, row: reader.RunRow, in_session: int, epoch: int | None) -> Iterator[str]:
        if run.status not in ENDED:
            self._unended.add(run.sequence)
            if run.sequence in self._reported:
                yield f"is {run.status} and in history already"
        yield from reader.faults_of(run, row)
        if row.fence is not None and epoch is not None and row.fence >> 32 > epoch:
            yield "has a claim from the future"
        if self._reported.get(run.sequence, in_session) != in_session:
            yield "is in the history of another session"

    def _keys(self) -> None:
        for run_id, no, seq, key, stored in self._connection.execute(
            "SELECT run_id, session, seq, key, fingerprint FROM runs WHERE key IS NOT NULL OR fingerprint IS NOT NULL"
        ):
            session = self._sessions.get(no)
            with self._unless_damaged(f"the idempotency key of run {run_id}"):
                if key is None or session is None:
                    raise damaged_record(run_id)
                reader.fingerprint(session.ref.crc, seq, run_id, key, stored)

    def _questions(self) -> None:
        with_question = set()
        for no, run, until in self._rows("questions", "session, run, until", "questions"):
            with_question.add(no)
            session = self._sessions.get(no)
            if session is None:
                self._fault(f"a question belongs to no session (number {no})")
                continue
            with self._unless_damaged(f"the question of session {session.name}"):
                reader.question_of(self._connection, session.ref, run, until)
            if not session.open:
                self._fault(f"session {session.name} waits for input, and its last round is closed")
        for no, session in self._sessions.items():
            if session.open and no not in with_question:
                self._fault(f"the last round of session {session.name} is open, and it waits for no input")

    def _checkpoints(self) -> None:
        for (run,) in self._rows("staged", "run", "(SELECT DISTINCT run FROM staged)"):
            if run not in self._unended:
                self._fault(f"there are checkpoints of a run with sequence {run}, which does not wait or execute")
            with self._unless_damaged(f"a checkpoint of the run with sequence {run}"):
                list(reader.each_checkpoint(self._connection, run))

    def _agents(self) -> None:
        for (no,) in self._rows("windows", "session", "agents"):
            session = self._sessions.get(no)
            if session is None:
                self._fault(f"a window belongs to no session (number {no})")
                continue
            where = f"the window of session {session.name}"
            with self._unless_damaged(f"{where} or its state"):
                record = reader.load(self._connection, session.ref.key)
                for fault in _faults_of_window(record, is_open=bool(session.open)):
                    self._fault(f"{where}{fault}")

    def _stored(self) -> None:
        counted = dict(self._connection.execute(COUNT_STORED_BYTES))
        recorded = dict(self._connection.execute("SELECT principal, bytes FROM stored"))
        for principal in sorted(counted.keys() | recorded.keys()):
            if (what := recorded.get(principal)) != counted.get(principal, 0):
                self._fault(
                    f"what is stored for {principal} counts as {what} bytes, and is {counted.get(principal, 0)}"
                )


def _faults_of_window(record: AgentRecord, *, is_open: bool) -> Iterator[str]:
    for part in record.window:
        if isinstance(part, Inline):
            continue
        if not 0 <= part.start <= (part.start if part.end is None else part.end):
            yield " has a range that runs backwards"
        elif max(part.start, part.end or 0) > record.length:
            yield " reaches beyond its history"
    if list(spans(record.window, record.length)):
        for fault in pairing_faults(record.messages[: len(record.messages) - is_open]):
            yield f": {fault}"

"""What a check of a journal finds: its records, and how these fit together. Knows no file and no database.

`Check` has the rules. Where rows come from is left to the subclass, and in how large parts: all sessions at once, or
some after others.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec import Struct, field

from strandline._files.store import FileStore
from strandline._history import history_faults, open_tool_uses, pairing_faults
from strandline._journal import reader
from strandline._journal.changes import SessionRef
from strandline._journal.checksums import damaged_record
from strandline._journal.contents import MOST_FAULTS, fault_of
from strandline._journal.database import Database
from strandline._journal.defaults import options_of
from strandline._journal.deletion import COUNT_STORED_BYTES
from strandline._journal.deliveries import NO_SESSION
from strandline._journal.files import file_of
from strandline._journal.forks import decoded_fork
from strandline._journal.lists import delivery_of, schedule_of
from strandline._journal.port import StoredFile
from strandline._journal.rules import Branch, spans
from strandline._lifecycle import ENDED
from strandline._model import ANONYMOUS, WHOLE_HISTORY, AgentRecord, Inline, Message, Run, RunStatus, SessionKey
from strandline.errors import JournalUnavailable

OnStep = Callable[[str, int, int], None]
"""Called with the part that is checked, how much of it is done, and how much there is."""
Rows = Iterable[tuple[Any, ...]]
_PROMPT: Final[list[Message]] = [{"role": "user", "content": [{"text": "-"}]}]

SESSION: Final = (
    "no",
    "principal",
    "session_id",
    "last",
    "paused",
    "closed_since",
    "rests_since",
    "options",
    "branch",
    "unresolved",
)
HISTORY: Final = ("no", "session", "nth", "first", "count", "previous", "run", "discarded", "messages", "origin")
RUN: Final = ("session", "key", "fingerprint", *reader.RunRow._fields)
QUESTION: Final = ("session", "run", "until")
WINDOW: Final = ("session", '"window"', "state")
KEPT: Final = ("session", "run", '"window"', "state")
FORK: Final = ("session", "record")
SCHEDULE: Final = ("id", "session", "principal", "next_at", "spec", "state")
FILE: Final = ("session", "id", "principal", "size", "at", "named", "record")
DELIVERY: Final = (
    "id", "session", "principal", "session_id", "host", "created_at", "next_at", "attempts", "error", "body",
)  # fmt: skip
"""The columns of the rows that are checked."""


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
    files: int = 0
    unchecked_files: int = 0
    """Of how many the content was not checked, since its folder is not known."""

    def add(self, fault: str) -> None:
        """Add a fault."""
        self.sound = False
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(fault)
        else:
            self.more_faults += 1


class _Session(Struct):
    """A session while its history is checked."""

    ref: SessionRef
    last: int | None
    branch: int | None = None
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


class Check(ABC):
    """A check of a journal: of all its sessions, or of some after others."""

    def __init__(self, connection: Database, findings: Findings, store: FileStore | None = None) -> None:
        self._connection = connection
        self._store = store
        self.lacking: list[StoredFile] = []
        """Files whose contents are not there: as far as they were not deleted since, these are faults as well."""
        self._findings = findings
        self._newest_fence: int | None = None
        """The largest fence that a claim can have; None: not known."""
        self._fault = findings.add
        self._sessions: dict[int, _Session] = {}
        """The sessions that are checked at the moment, by number."""
        self._reported: dict[int, int] = {}
        """The session whose history has a row of a run, by the run's sequence."""
        self._unended: set[int] = set()
        self._unresolved: set[int] = set()
        """The sequences of ended runs that keep their checkpoints."""
        self._statuses: Counter[str] = Counter()

    # -- the rows of the sessions that are checked at the moment ------------------------------------------

    @abstractmethod
    def _session_rows(self) -> Rows:
        """Return the columns `SESSION` of each."""

    @abstractmethod
    def _history_rows(self) -> Rows:
        """Return the columns `HISTORY` of their rows, those of each session in their order."""

    @abstractmethod
    def _run_rows(self) -> Rows:
        """Return the columns `RUN` of their runs."""

    @abstractmethod
    def _question_rows(self) -> Rows:
        """Return the columns `QUESTION` of their questions."""

    @abstractmethod
    def _with_checkpoints(self) -> Iterable[int]:
        """Return the sequences of their runs that have checkpoints, or may have some."""

    @abstractmethod
    def _window_rows(self) -> Rows:
        """Return the columns `WINDOW` of their windows and states."""

    @abstractmethod
    def _kept_rows(self) -> Rows:
        """Return the columns `KEPT` of their windows and states as they were after earlier runs."""

    @abstractmethod
    def _fork_rows(self) -> Rows:
        """Return the columns `FORK` of the records of where they were copied from."""

    @abstractmethod
    def _schedule_rows(self) -> Rows:
        """Return the columns `SCHEDULE` of their schedules."""

    @abstractmethod
    def _file_rows(self) -> Rows:
        """Return the columns `FILE` of the records of their files."""

    @abstractmethod
    def _delivery_rows(self) -> Rows:
        """Return the columns `DELIVERY` of their events to send."""

    # -- the rules ------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Check the sessions of these rows, and all that belongs to them."""
        self._sessions.clear()
        self._reported.clear()
        self._unended.clear()
        self._unresolved.clear()
        self._read_sessions()
        self._history()
        self._branches()
        self._runs()
        self._questions()
        self._checkpoints()
        self._windows()
        self._kept()
        self._forks()
        self._schedules()
        self._files()
        self._deliveries()

    @contextmanager
    def _unless_damaged(self, what: str) -> Iterator[None]:
        """Add a fault if what the block reads is damaged."""
        try:
            yield
        except JournalUnavailable:
            self._fault(f"{what} is damaged")

    def _read_sessions(self) -> None:
        for columns in self._session_rows():
            no, principal, session_id, last, paused, closed_since, rests_since, options, branch, run = columns
            session = self._sessions[no] = _Session(SessionRef.of(no, SessionKey(principal, session_id)), last, branch)
            if run is not None:
                self._unresolved.add(run)
            with self._unless_damaged(f"the row of session {session.name}"):
                reader.plain(reader.TIMES, (closed_since, rests_since), session.ref.key)
            if paused not in (0, 1) or (paused and closed_since is None):
                self._fault(f"session {session.name} is paused since an unknown time")
            with self._unless_damaged(f"the record of the options of session {session.name}"):
                options_of(session.ref, options)
        self._findings.sessions += len(self._sessions)

    def _history(self) -> None:
        for no, in_session, nth, first, count, previous, run, discarded, stored, origin in self._history_rows():
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
                    reader.in_full, stored, session.ref, first, count, origin, discarded=bool(discarded)
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

    def _branches(self) -> None:
        for no, session in self._sessions.items():
            rows = self._connection.execute(reader.BRANCHES, (no,)).fetchall() if session.branch is not None else ()
            branches = [Branch(*row) for row in rows]
            if session.branch is not None:
                for fault in reader.faults_of_branches(branches, session.length):
                    self._fault(f"a branch of session {session.name} {fault}")
                if branches and branches[-1].start != session.branch:
                    self._fault(f"session {session.name} does not continue with its last branch")

    def _runs(self) -> None:
        for in_session, key, fingerprint, *columns in self._run_rows():
            row = reader.RunRow(*columns)
            session = self._sessions.get(in_session)
            if session is None:
                self._lost_run(row)
                continue
            with self._unless_damaged(f"run {row.run_id}"):
                run = reader.stored_run(Run, row, session.ref)
                self._statuses[run.status.value] += 1
                for fault in self._faults_of(run, row, in_session):
                    self._fault(f"run {run.run_id} {fault}")
                self._findings.held += row.fence is not None and run.status in ENDED
            if key is not None or fingerprint is not None:
                with self._unless_damaged(f"the idempotency key of run {row.run_id}"):
                    if key is None:
                        raise damaged_record(row.run_id)
                    reader.fingerprint(session.ref.crc, row.seq, row.run_id, key, fingerprint)
        self._findings.runs = {status.value: self._statuses[status.value] for status in RunStatus}

    def _lost_run(self, row: reader.RunRow) -> None:
        """Report a run of none of the sessions that are checked."""
        self._fault(f"run {row.run_id} belongs to no session")

    def _faults_of(self, run: Run, row: reader.RunRow, in_session: int) -> Iterator[str]:
        if run.status not in ENDED:
            self._unended.add(run.sequence)
            if run.sequence in self._reported:
                yield f"is {run.status} and in history already"
        yield from reader.faults_of(run, row)
        if row.fence is not None and self._newest_fence is not None and row.fence > self._newest_fence:
            yield "has a claim from the future"
        if self._reported.get(run.sequence, in_session) != in_session:
            yield "is in the history of another session"

    def _questions(self) -> None:
        with_question = set()
        for no, run, until in self._question_rows():
            with_question.add(no)
            session = self._sessions.get(no)
            if session is None:
                self._fault(f"a question belongs to no session (number {no})")
                continue
            with self._unless_damaged(f"the question of session {session.name}"):
                reader.question_of(self._connection, session.ref, run, until)
            if not session.open:
                self._fault(f"session {session.name} waits for input, and its input request is closed")
        for no, session in self._sessions.items():
            if session.open and no not in with_question:
                self._fault(f"the input request of session {session.name} is open, and it waits for no input")

    def _checkpoints(self) -> None:
        for run in self._with_checkpoints():
            if run not in self._unended and run not in self._unresolved:
                self._lost_checkpoints(run)
            with self._unless_damaged(f"a checkpoint of the run with sequence {run}"):
                for _ in reader.each_checkpoint(self._connection, run):
                    pass

    def _lost_checkpoints(self, run: int) -> None:
        self._fault(f"there are checkpoints of a run with sequence {run}, which does not wait or execute")

    def _windows(self) -> None:
        for no, window, state in self._window_rows():
            session = self._sessions.get(no)
            if session is None:
                self._lost_window(no)
                continue
            where = f"the context window of session {session.name}"
            with self._unless_damaged(f"{where} or its state"):
                if reader.decoded_state(session.ref, window, state).window is WHOLE_HISTORY:
                    continue  # (which is checked)
                record = reader.load(self._connection, session.ref.key)
                for fault in _faults_of_window(record, is_open=bool(session.open)):
                    self._fault(f"{where}{fault}")

    def _kept(self) -> None:
        for no, run, window, state in self._kept_rows():
            session = self._sessions.get(no)
            if session is None:
                self._fault(f"a context window after the run with sequence {run} belongs to no session (number {no})")
                continue
            with self._unless_damaged(
                f"the context window of session {session.name} after the run with sequence {run}"
            ):
                reader.decoded_state(session.ref, window, state)

    def _forks(self) -> None:
        for no, record in self._fork_rows():
            session = self._sessions.get(no)
            if session is None:
                self._fault(f"a record of a fork belongs to no session (number {no})")
                continue
            with self._unless_damaged(f"the record of where session {session.name} was copied from"):
                decoded_fork(session.ref, record)

    def _schedules(self) -> None:
        for schedule_id, no, principal, at, spec, state in self._schedule_rows():
            session = self._sessions.get(no)
            if session is None:
                self._lost_schedule(schedule_id)
                continue
            if principal != session.ref.key.principal:
                self._fault(f"the schedule {schedule_id} is of another caller than its session")
            with self._unless_damaged(f"the schedule {schedule_id}"):
                schedule_of((schedule_id, no, *session.ref.key, at, spec, state))

    def _lost_schedule(self, schedule_id: str) -> None:
        self._fault(f"the schedule {schedule_id} belongs to no session")

    def _files(self) -> None:
        for no, file_id, principal, size, at, named, record in self._file_rows():
            session = self._sessions.get(no)
            if session is None:
                self._lost_file(file_id)
                continue
            if principal != session.ref.key.principal:
                self._fault(f"the file {file_id} is of another caller than its session")
            with self._unless_damaged(f"the record of file {file_id}"):
                stored = file_of((no, file_id, *session.ref.key, size, at, named, record))
                self._content(stored)

    def _content(self, stored: StoredFile) -> None:
        self._findings.files += 1
        if self._store is None:
            self._findings.unchecked_files += 1
            return
        try:
            if (fault := fault_of(self._store, stored)) is not None:
                self._fault(fault)
        except FileNotFoundError:
            if len(self.lacking) <= MOST_FAULTS:
                self.lacking.append(stored)

    def _lost_file(self, file_id: str) -> None:
        self._fault(f"the file {file_id} belongs to no session")

    def _deliveries(self) -> None:
        for row in self._delivery_rows():
            session = self._sessions.get(row[1])
            if session is None and row[1] != NO_SESSION:
                self._lost_delivery(row[0])
                continue
            found = delivery_of(row)
            if session is not None and found.key != session.ref.key:
                self._fault(f"the event {found.id} is of another session than its own")
            elif found.body is None:
                self._fault(f"the event {found.id} is damaged")

    def _lost_delivery(self, delivery_id: str) -> None:
        self._fault(f"the event {delivery_id} belongs to no session")

    def _lost_window(self, no: int) -> None:
        self._fault(f"a context window belongs to no session (number {no})")

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

"""The stored records that the session table needs to decide.

Most of them are cached. If one is not, the operation raises `Missing` before it changes anything. The driver of the
table then has storage read the record, after all rows decided so far, and decides the operation again; meanwhile it
decides nothing else for that session. Storage implements `Records`.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol

from strandline._journal.changes import SessionRef
from strandline._journal.port import StoredFile, Unreachable
from strandline._journal.rules import Branch, Closed
from strandline._journal.state import SessionState
from strandline._model import (
    Checkpoint,
    FileId,
    ForkedFrom,
    Message,
    Principal,
    Question,
    Run,
    RunDefaults,
    RunId,
    ScheduleId,
    SessionKey,
    StateRecord,
    Window,
)
from strandline.errors import JournalUnavailable, RecordDamaged


class KeyedRun(NamedTuple):
    """The run that an idempotency key stands for."""

    run_id: RunId
    seq: int
    ended_at: float | None
    fingerprint: bytes


class RunLocation(NamedTuple):
    """Where a stored run is, whatever its status."""

    key: SessionKey
    seq: int


class ScheduleTime(NamedTuple):
    """The number of a schedule's session, and its next time."""

    session: int
    at: float | None


class StoredRun(NamedTuple):
    """A waiting or claimed run with its checkpoints, as far as they can be read; not `resumable` if something
    cannot."""

    run: Run
    checkpoints: tuple[Checkpoint, ...]
    error: JournalUnavailable | None = None
    """Why something cannot be read; None: all can."""


class StoredQuestion(NamedTuple):
    """The open question; if it cannot be read, what history has of it."""

    question: Question
    error: JournalUnavailable | None = None
    """Why it cannot be read; None: it can."""


class Turn(NamedTuple):
    """What history has of an ended run, and of all that joined it: messages from `first` to before `end`.

    `agent` and `agent_before` are the runs that had changed the agent last after and before it, as in `Place`.
    """

    seq: int
    status: str
    first: int
    end: int
    discarded: bool
    agent: int | None
    agent_before: int | None
    is_last: bool
    """Whether no message came after it."""
    closing: int
    """How many messages after it close its question, which was dismissed."""
    next_run: RunId | None
    """The next run that left messages, if it is kept."""
    run_id: RunId | None = None
    """The run, or of a copied turn the run that it is a copy of, if that is known."""
    last: int | None = None
    nth: int = 0
    """Its row of history, or the one that closes its question, and the number of that in its session."""


class ForkSource(NamedTuple):
    """What is to be copied of a session: its history up to row `last`, which is row number `rows` (None and 0: it has
    none), with `length` messages in `size` bytes.

    `closing` are the messages that close an open round there. `agent` is the run that had changed window or state last
    by then, as in `Place`; both are None where they are as at the beginning.
    """

    ref: SessionRef
    last: int | None
    rows: int
    length: int
    size: int
    branches: list[Branch]
    closing: list[Message]
    agent: int | None
    window: Window | None
    state: StateRecord | None
    options: RunDefaults
    run_id: RunId | None
    """The last run there, if it is kept."""
    files: list[StoredFile]
    """Those of its files that runs name."""


class ForkRecord(NamedTuple):
    """Where a session was copied from, as its request said, and what came of that."""

    origin: ForkedFrom
    messages: int
    forgotten: bool
    named: str | None
    fingerprint: bytes


class DamagedSession(NamedTuple):
    """A session with waiting or claimed runs that cannot be read; None if not even its key can be."""

    key: SessionKey | None
    error: RecordDamaged


class Records(Protocol):
    """Reads what decisions need. Raises `JournalUnavailable` if a record is damaged."""

    def busy_sessions(self) -> Iterable[SessionState | DamagedSession]:
        """Yield every session with waiting or claimed runs, and these runs."""
        ...

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session with its waiting and claimed runs, None if there is none."""
        ...

    def locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return where a run is, whatever its status; None if it is not stored."""
        ...

    def keys(self, session: SessionRef, most: int) -> list[str]:
        """Return up to `most` idempotency keys of a session's runs."""
        ...

    def keyed_run(self, session: SessionRef, key: str) -> KeyedRun | None:
        """Return the run that an idempotency key of a session stands for, None if there is none."""
        ...

    def run(self, session: SessionRef, seq: int) -> StoredRun:
        """Return a waiting or claimed run with its input and checkpoints. Damage is reported in its `error`."""
        ...

    def question(self, session: SessionRef, run: int, until: float) -> StoredQuestion:
        """Return the question of the run with that sequence. Raises only if not even its message can be read."""
        ...

    def closed_request(self, session: SessionRef, request: str) -> Closed | None:
        """Return how an input request was closed, None if it is unknown."""
        ...

    def schedule(self, schedule_id: ScheduleId) -> ScheduleTime | None:
        """Return the session of a schedule, and its next time; None if there is none."""
        ...

    def is_named(self, session: int, file_id: FileId) -> bool | None:
        """Return whether a run names a file of a session; None if there is none."""
        ...

    def schedules_of(self, principal: Principal) -> int:
        """Return how many schedules a principal has."""
        ...

    def has_schedules(self, session: SessionRef) -> bool:
        """Return whether a session has a schedule."""
        ...

    def deliveries_of(self, principal: Principal, most: int) -> int:
        """Return how many events of a principal are to be sent or dead, at most `most`."""
        ...

    def delivery(self, principal: Principal, delivery_id: str) -> bool:
        """Return whether an event of a principal is to be sent, or dead."""
        ...

    def first_of(self, row: int) -> int:
        """Return the index of the first message of a row of history; of one without messages, of the one before."""
        ...

    def turn(self, session: SessionRef, last: int, seq: int) -> Turn | None:
        """Return what history has of an ended run, or of the one that it joined; None if the run is not stored.

        `last` is the last row of history.
        """
        ...

    def joined(self, session: SessionRef, last: int | None, run_id: RunId) -> int:
        """Return how many runs have joined a run of a session, whether it has ended or not."""
        ...

    def copied_turn(self, session: SessionRef, last: int, run_id: RunId) -> Turn | None:
        """Return what the history of a copied session has of a run of its source, or of the one that it joined.

        None if it has nothing of it.
        """
        ...

    def fork_source(self, key: SessionKey, after: RunId | int | None) -> "ForkSource | Unreachable | None":
        """Return what to copy of a session up to a place, or why nothing ends there; None if there is no session."""
        ...

    def fork(self, session: SessionRef) -> ForkRecord | None:
        """Return where a session was copied from; None if it was not."""
        ...

    def keeps_agent(self, session: SessionRef, run: int) -> bool:
        """Return whether it is kept what a session's agent is rebuilt from after the run with that sequence."""
        ...

    def agent_at(self, session: SessionRef, last: int, index: int) -> int | None:
        """Return the run that had changed the agent last when a message was the end of history, as in `Place`."""
        ...

    def branches(self, session: SessionRef) -> list[Branch]:
        """Return the branches of a session's history after the first one, in order."""
        ...

    def replaced(self, session: SessionRef) -> dict[int, Branch]:
        """Return the branches without a message that another one replaced, by their start: of each start the last."""
        ...

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are stored for a principal."""
        ...

    def look_for_room(self) -> None:
        """Measure the space that is left for new runs."""
        ...


class Missing(Exception):
    """An operation needs a record that is not cached, and has changed nothing. `what` identifies it among the missing
    records of one session; `read` gets it from storage.
    """

    def __init__(self, what: Hashable, read: Callable[[Records], Any]) -> None:
        super().__init__(what)
        self.what = what
        self.read = read


class DiskSpace(Protocol):
    """Whether the disk has space for new runs."""

    @property
    def is_due(self) -> bool:
        """Whether storage must measure again before the next check."""
        ...

    def has_room(self, size: int) -> bool:
        """Return whether a new run of `size` bytes may be stored."""
        ...

    def keeps(self, size: int) -> None:
        """Count a new run of `size` bytes."""
        ...

"""What the session table has to know of what is stored, before it decides.

Most of it is in memory. Where it is not, an operation raises `Missing` before it has changed anything; whoever drives
the table has storage read it, after all rows that were decided before, and lets the operation decide again. Nothing of
the same session may be decided meanwhile. Storage implements `Records`.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple, Protocol

from strandline._journal.changes import SessionRef
from strandline._journal.rules import Closed
from strandline._journal.state import SessionState
from strandline._model import Checkpoint, Principal, Question, Run, RunId, SessionKey
from strandline.errors import JournalUnavailable


class KeyedRun(NamedTuple):
    """The run that an idempotency key stands for."""

    run_id: RunId
    seq: int
    ended_at: float | None
    fingerprint: bytes


class RunLocation(NamedTuple):
    """A run that is kept, in whatever status."""

    key: SessionKey
    seq: int


class StoredRun(NamedTuple):
    """A run that waits or is claimed, and its checkpoints: as much as can be read; not `resumable` if that is not
    all."""

    run: Run
    checkpoints: tuple[Checkpoint, ...]
    error: JournalUnavailable | None = None
    """Why not all of it can be read; None: it is whole."""


class StoredQuestion(NamedTuple):
    """The question whose round is open; if it cannot be read, what history has of it."""

    question: Question
    error: JournalUnavailable | None = None
    """Why it cannot be read; None: it is whole."""


class Records(Protocol):
    """Everything stored, as far as decisions need it. Raises `JournalUnavailable` if what is read is damaged."""

    def busy_sessions(self) -> Iterable[SessionState]:
        """Yield every session in which runs wait or are claimed, with these runs."""
        ...

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session with its waiting and claimed runs, None if there is none."""
        ...

    def locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return a run that has ended, waits or is claimed; None if it is not kept."""
        ...

    def keys(self, session: SessionRef, most: int) -> list[str]:
        """Return the idempotency keys of a session's runs, no more than `most`."""
        ...

    def keyed_run(self, session: SessionRef, key: str) -> KeyedRun | None:
        """Return the run that an idempotency key of a session stands for, None if there is none."""
        ...

    def run(self, session: SessionRef, seq: int) -> StoredRun:
        """Return a run that waits or is claimed, with its input and checkpoints. Damage is in what it returns."""
        ...

    def question(self, session: SessionRef, run: int, until: float) -> StoredQuestion:
        """Return the question that the run with that sequence has asked. If not even its message can be read, raise."""
        ...

    def closed_request(self, session: SessionRef, request: str) -> Closed | None:
        """Return what became of an input request that is not open any more, None if it is unknown."""
        ...

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are kept for a principal."""
        ...

    def look_for_room(self) -> None:
        """See how much room is left for new runs."""
        ...


class Missing(Exception):
    """An operation needs what is not in memory, and has changed nothing.

    `what` names it among all that is missing of one session; `read` gets it from storage.
    """

    def __init__(self, what: Hashable, read: Callable[[Records], Any]) -> None:
        super().__init__(what)
        self.what = what
        self.read = read


class Room(Protocol):
    """Whether the disk has room for new runs."""

    @property
    def is_due(self) -> bool:
        """Whether storage has to look again before anything is asked."""
        ...

    def has_room(self, size: int) -> bool:
        """Return whether a new run of so many bytes may be kept."""
        ...

    def keeps(self, size: int) -> None:
        """Note a new run of so many bytes."""
        ...

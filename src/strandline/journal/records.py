"""What the session table reads before it decides, a port: each store answers from what it has kept.

Answers are as of the last row that the table has handed out: a store writes the rows of one operation before it is
asked for the next. Reads of records raise `JournalUnavailable` if what they read is damaged.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from strandline.journal.rules import Closed
from strandline.journal.state import RunState, SessionState
from strandline.model import Fact, Message, Principal, Question, Run, RunId, SessionKey


class KeyedRun(NamedTuple):
    """The run that an idempotency key stands for."""

    run_id: RunId
    seq: int
    ended_at: float | None
    fingerprint: bytes


class KnownRun(NamedTuple):
    """A run that is kept, in whatever status."""

    key: SessionKey
    seq: int


class Records(Protocol):
    """Everything kept, as far as decisions need it."""

    def busy_sessions(self) -> Iterable[SessionState]:
        """Yield every session in which runs wait or are claimed, with these runs."""
        ...

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session with its waiting and claimed runs, None if there is none."""
        ...

    def known_run(self, run_id: RunId) -> KnownRun | None:
        """Return a run that has ended, waits or is claimed; None if it is not kept."""
        ...

    def keyed_run(self, session: SessionState, key: str) -> KeyedRun | None:
        """Return the run that an idempotency key of a session stands for, None if there is none."""
        ...

    def is_kept(self, seq: int) -> bool:
        """Tell whether the run with this sequence is kept."""
        ...

    def run(self, run: RunState) -> Run:
        """Return a waiting run with its input."""
        ...

    def checkpoints(self, run: RunState) -> tuple[Fact, ...]:
        """Return what a run that waits or executes has staged, in order."""
        ...

    def readable(self, run: RunState) -> tuple[Run, tuple[Fact, ...]]:
        """Return as much of a run and of its checkpoints as can be read; `opaque` if not all of it. Raises nothing."""
        ...

    def question(self, session: SessionState) -> Question:
        """Return the question whose round is open in a session."""
        ...

    def last_message(self, session: SessionState) -> Message:
        """Return the last message of a history that is not empty."""
        ...

    def closed_request(self, session: SessionState, request: str) -> Closed | None:
        """Return what became of an input request that is not open any more, None if it is unknown."""
        ...

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are kept for a principal."""
        ...

    def has_room(self, size: int) -> bool:
        """Tell whether a new run of so many bytes may be kept, as far as the disk is concerned."""
        ...

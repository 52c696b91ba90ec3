"""The record of a session that has something to do, and that of a run that waits there.

`SessionQueues` alone changes them.
"""

from typing import Protocol

from strandline.journal.port import Refused
from strandline.model import OnQuestion, RunId, SessionKey

Due = tuple[float, int]
"""When something is due, in seconds since the epoch, and the number of its entry in `Deadlines`."""


class Timed(Protocol):
    """What `Deadlines` watches."""

    due: Due | None


class WaitingRun:
    """A run that waits."""

    __slots__ = ("created_at", "due", "key", "run_id", "stands")

    def __init__(self, run_id: RunId, key: SessionKey, created_at: float) -> None:
        self.run_id = run_id
        self.key = key
        self.created_at = created_at
        self.due: Due | None = None
        """The earliest moment at which it may have waited too long."""
        self.stands = False
        """Whether its time stood still when it was due."""


class SessionQueue:
    """A session in which runs wait, or a claim is out, on its way, or held."""

    __slots__ = (
        "changed", "due", "executing", "held", "key", "paused", "ready", "refused", "since", "slot", "waiting",
    )  # fmt: skip

    def __init__(self, key: SessionKey, changed: int) -> None:
        self.key = key
        self.waiting: dict[RunId, WaitingRun] = {}
        self.executing: RunId | None = None
        """The run that executes; it has the slot."""
        self.since = 0.0
        """Since when it executes, on the monotonic clock."""
        self.held = False
        """Whether its last run is held, which uses no slot."""
        self.slot = False
        """Whether it has a slot: for its claim, or for one that may be on its way."""
        self.ready = False
        """Whether it stands in line for a slot."""
        self.paused = False
        """Whether it is known to be paused; of a session with something to do that is always known."""
        self.due: Due | None = None
        """Until when it is closed because an input request is open; None: it is not, as far as is known."""
        self.refused: dict[tuple[int, OnQuestion], Refused] = {}
        """How the journal refused runs of a priority that do so to a question, since its queue is full."""
        self.changed = changed
        """The number of the last change in its queue."""

    @property
    def busy(self) -> bool:
        """Whether it must not line up: something of it goes on, or is about to."""
        return self.slot or self.held

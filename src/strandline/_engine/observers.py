"""The ports of those that follow the engine: `Observer` (metrics), `Tracing` (spans), `Projection` (copies).

The engine calls them at the edges of a run and never waits for them. They are called on the serving loop, in the middle
of somebody's request: they return at once and raise nothing. What goes on at a moment is not published to them but
read, by `Service.vitals`. What they do not override takes no notice.
"""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

from msgspec import Struct

from strandline._model import Carrier, Claim, Outcome, Run, RunId, SessionKey

# -- metrics -------------------------------------------------------------------------------------------


class Observer:
    """Watches all runs. Times are seconds."""

    def accepted(self) -> None:
        """Note a run that was accepted; it was not there before."""

    def refused(self, reason: str) -> None:
        """Note a request that was refused for now; `reason` is the code of its `Unavailable`."""

    def started(self, wait_s: float) -> None:
        """Note a run that begins for the first time, and how long after its acceptance; not one that goes on."""

    def first_text(self, after_s: float) -> None:
        """Note the first text of such a run, and how long after its acceptance it came."""

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        """Note the one outcome of a run, and how long its last attempt took.

        `duration_s` is None for a run that never began, or ended with a server that died.
        """

    def lagged(self, lag_s: float) -> None:
        """Note by how much the serving loop was late for something that was due; called about once a second."""


UNOBSERVED: Final = Observer()


# -- traces --------------------------------------------------------------------------------------------


class CurrentRun(Struct, frozen=True):
    """Which run it is, for those who tell of it, and the trace of its request."""

    run_id: RunId
    key: SessionKey
    trace: Carrier | None


CURRENT_RUN: ContextVar[CurrentRun | None] = ContextVar("strandline_run", default=None)
"""The run for which something works: in its own task, on the agent loop, and in the threads of its tools."""


class TracedRun:
    """One attempt of a run, as it goes on."""

    __slots__ = ()

    def executes(self) -> None:
        """Note that its agent begins, or is built first."""

    def finishes(self) -> None:
        """Note that its agent has ended, and that what comes of it is about to be kept."""

    def ended(self, outcome: Outcome | None) -> None:
        """Note the end of the attempt, and the run's outcome; None: it goes on later, or its claim was lost."""


UNTRACED_RUN: Final = TracedRun()


class Tracing:
    """Traces runs. Times are seconds since the epoch.

    `begun` and what it returns are called in the run's own task, whose context goes with the run to the agent loop:
    what is made current there is current for the agent and its tools.
    """

    @property
    def active(self) -> bool:
        """Whether anybody looks at traces."""
        return False

    def request_trace(self) -> AbstractContextManager[Carrier | None]:
        """Return what to keep with the run that is asked for now; it is left when the run was accepted, or not.

        The engine keeps the carrier with the run, and never looks into it.
        """
        return nullcontext()

    def begun(self, claim: Claim, now: float, *, again: bool) -> TracedRun:
        """Note an attempt that begins; `again`: the run has begun before."""
        return UNTRACED_RUN

    def ended(self, run: Run, outcome: Outcome, now: float) -> None:
        """Note the outcome of a run that did not end in an attempt of this process."""


UNTRACED: Final = Tracing()


# -- copies of conversations ---------------------------------------------------------------------------


class Projection(Protocol):
    """Follows the journal, which is the truth."""

    @property
    def behind(self) -> int:
        """How many sessions have something that is not in the copy, as far as is known."""
        return 0

    @property
    def failures(self) -> int:
        """How often something could not be copied or removed."""
        return 0

    def start(self) -> None:
        """Begin to follow, with what was missed; the journal is open."""
        return

    def changed(self, key: SessionKey) -> None:
        """Note that the history of a session is longer."""
        return

    async def deleting(self, key: SessionKey) -> None:
        """Note that a session is about to be deleted; `deleted` follows, unless this process dies."""
        return

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Remove what is copied of a session, if it was deleted (`done`)."""
        return

    async def finish(self, within_s: float) -> None:
        """Copy what is new, for no longer than this, and end. The journal is open until then."""
        return


class Unprojected(Projection):
    """Copies nothing."""


UNPROJECTED: Final = Unprojected()

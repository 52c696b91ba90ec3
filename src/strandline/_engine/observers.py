"""The ports of those that follow the engine: `Observer` (metrics), `Tracing` (spans), `Projection` (copies).

The engine calls them at the edges of a run and never waits for them. It calls them on the serving loop, in the middle
of a request: they return at once and raise nothing. The present state is not published to them; `Service.vitals` shows
it. Their default methods do nothing.
"""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

from msgspec import Struct

from strandline._model import Carrier, Claim, Outcome, Run, RunId, SessionKey

# -- metrics -------------------------------------------------------------------------------------------


class Observer:
    """Observes all runs. Times are seconds."""

    def accepted(self) -> None:
        """Note a new run that was accepted."""

    def refused(self, reason: str) -> None:
        """Note a request that was refused for now; `reason` is the code of its `Unavailable`."""

    def started(self, wait_s: float) -> None:
        """Note a run's first start, and how long after its acceptance; a run that resumes is not noted."""

    def first_text(self, after_s: float) -> None:
        """Note the first text of such a run, and how long after its acceptance it came."""

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        """Note a run's outcome, and how long its last attempt took.

        `duration_s` is None for a run that never began, or ended with a server that died.
        """

    def lagged(self, lag_s: float) -> None:
        """Note how late the serving loop was for a timer; called about once a second."""


UNOBSERVED: Final = Observer()


# -- traces --------------------------------------------------------------------------------------------


class CurrentRun(Struct, frozen=True):
    """A run and the trace of its request, for logs and traces."""

    run_id: RunId
    key: SessionKey
    trace: Carrier | None


CURRENT_RUN: ContextVar[CurrentRun | None] = ContextVar("strandline_run", default=None)
"""The run that the current code works for: in its own task, on the agent loop, and in the threads of its tools."""


class TracedRun:
    """One attempt of a run while it executes."""

    __slots__ = ()

    def executes(self) -> None:
        """Note that its agent begins, or is built first."""

    def finishes(self) -> None:
        """Note that its agent has ended, and that its results are about to be stored."""

    def ended(self, outcome: Outcome | None) -> None:
        """Note the end of the attempt, and the run's outcome; None: it resumes later, or its claim was lost."""


UNTRACED_RUN: Final = TracedRun()


class Tracing:
    """Traces runs. Times are seconds since the epoch.

    `begun` and the methods of its result are called in the run's own task, whose context follows the run to the agent
    loop: a span that they make current is current for the agent and its tools.
    """

    @property
    def active(self) -> bool:
        """Whether traces are exported."""
        return False

    def request_trace(self) -> AbstractContextManager[Carrier | None]:
        """Return the carrier to store with the run of the current request; the context ends when the run is accepted or
        refused.

        The engine never looks into the carrier.
        """
        return nullcontext()

    def begun(self, claim: Claim, now: float, *, again: bool) -> TracedRun:
        """Note that an attempt begins; `again`: the run has begun before."""
        return UNTRACED_RUN

    def ended(self, run: Run, outcome: Outcome, now: float) -> None:
        """Note the outcome of a run that did not end in an attempt of this process."""


UNTRACED: Final = Tracing()


# -- copies of conversations ---------------------------------------------------------------------------


class Projection(Protocol):
    """A copy of conversations that follows the journal."""

    @property
    def behind(self) -> int:
        """How many sessions the copy is known to lag behind in."""
        return 0

    @property
    def failures(self) -> int:
        """How often copying or removing has failed."""
        return 0

    def start(self) -> None:
        """Begin to follow, with the changes that were missed; the journal is open."""
        return

    def changed(self, key: SessionKey) -> None:
        """Note that a session's history has grown."""
        return

    async def deleting(self, key: SessionKey) -> None:
        """Note that a session is about to be deleted; `deleted` follows, unless this process dies."""
        return

    async def deleted(self, key: SessionKey, *, done: bool) -> None:
        """Remove the copy of a session, if it was deleted (`done`)."""
        return

    async def finish(self, within_s: float) -> None:
        """Copy new messages for at most `within_s` seconds, and end. The journal is open until then."""
        return


class Unprojected(Projection):
    """Copies nothing."""


UNPROJECTED: Final = Unprojected()

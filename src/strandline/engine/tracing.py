"""What traces are made of: a few calls at the edges of a run, and a carrier that joins it to the trace of its request.

The engine keeps the carrier with the run and never looks into it. Whoever traces is called on the serving loop, returns
at once and raises nothing. `begun` and what it returns are called in the run's own task, whose context goes with the
run to the agent loop: what is made current there is current for the agent and its tools.
"""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

from strandline.model import Carrier, Claim, Outcome, Run, RunId, SessionKey


class Named(Protocol):
    """What says which run it is."""

    @property
    def run_id(self) -> RunId:
        """Its id."""
        ...

    @property
    def key(self) -> SessionKey:
        """Its session."""
        ...

    @property
    def trace(self) -> Carrier | None:
        """The trace of its request."""
        ...


RUN: ContextVar[Named | None] = ContextVar("strandline_run", default=None)
"""The run for which something works: in its own task, on the agent loop, and in the threads of its tools."""


class TracedRun(Protocol):
    """One attempt of a run, as it goes on."""

    def executes(self) -> None:
        """Note that its agent begins, or is built first."""
        ...

    def settles(self) -> None:
        """Note that its agent has ended, and that what comes of it is about to be kept."""
        ...

    def ended(self, outcome: Outcome | None) -> None:
        """Note the end of the attempt, and the run's outcome; None: it goes on later, or its claim was lost."""
        ...


class Tracing(Protocol):
    """Whoever traces runs. Times are seconds since the epoch."""

    @property
    def active(self) -> bool:
        """Whether anybody looks at traces."""
        ...

    def asked(self) -> AbstractContextManager[Carrier | None]:
        """Return what to keep with the run that is asked for now; it is left when the run was accepted, or not."""
        ...

    def begun(self, claim: Claim, now: float, *, again: bool) -> TracedRun:
        """Note an attempt that begins; `again`: the run has begun before."""
        ...

    def ended(self, run: Run, outcome: Outcome, now: float) -> None:
        """Note the outcome of a run that did not end in an attempt of this process."""
        ...


class UntracedRun:
    """Takes no notice."""

    def executes(self) -> None:
        """Take no notice."""

    def settles(self) -> None:
        """Take no notice."""

    def ended(self, outcome: Outcome | None) -> None:
        """Take no notice."""


UNTRACED_RUN: Final = UntracedRun()


class Untraced:
    """Takes no notice."""

    active = False

    def asked(self) -> AbstractContextManager[Carrier | None]:
        """Have nothing kept."""
        return nullcontext()

    def begun(self, claim: Claim, now: float, *, again: bool) -> TracedRun:
        """Take no notice."""
        return UNTRACED_RUN

    def ended(self, run: Run, outcome: Outcome, now: float) -> None:
        """Take no notice."""


UNTRACED: Final = Untraced()

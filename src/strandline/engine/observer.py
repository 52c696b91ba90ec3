"""What observers (metrics, later traces) are told of runs: a few calls at the edges of the engine, and none within it.

What goes on at a moment is not told but read, by `Service.vitals`. An observer is called on the serving loop, in the
middle of somebody's request: it returns at once, and raises nothing.
"""

from typing import Final, Protocol

from strandline.model import Outcome


class Observer(Protocol):
    """Whoever watches all runs. Times are seconds."""

    def accepted(self) -> None:
        """Note a run that was accepted; it was not there before."""
        ...

    def refused(self, reason: str) -> None:
        """Note a request that was refused for now; `reason` is the code of its `Unavailable`."""
        ...

    def started(self, wait_s: float) -> None:
        """Note a run that begins for the first time, and how long after its acceptance; not one that goes on."""
        ...

    def first_text(self, after_s: float) -> None:
        """Note the first text of such a run, and how long after its acceptance it came."""
        ...

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        """Note the one outcome of a run, and how long its last attempt took; None if it never began, or with a server
        that died.
        """
        ...

    def lagged(self, lag_s: float) -> None:
        """Note by how much the serving loop was late for something that was due; told about once a second."""
        ...


class Unobserved:
    """Takes no notice."""

    def accepted(self) -> None:
        """Take no notice."""

    def refused(self, reason: str) -> None:
        """Take no notice."""

    def started(self, wait_s: float) -> None:
        """Take no notice."""

    def first_text(self, after_s: float) -> None:
        """Take no notice."""

    def ended(self, outcome: Outcome, duration_s: float | None) -> None:
        """Take no notice."""

    def lagged(self, lag_s: float) -> None:
        """Take no notice."""


UNOBSERVED: Final = Unobserved()

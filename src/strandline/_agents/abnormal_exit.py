"""Whether code that worked for a run tried to end the process, which no `except Exception` on the way has told.

What ends a task that nobody looks at is lost: its agent finds no result, and asks for the same tool again and again.
So it is noted for the run whose context the code is in, whichever agent, task, thread or event loop that was. Knows no
framework; `rounds.py` is what looks at the agents of Strands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from strandline._model import Ending, ErrorCode, Failed, Raised
from strandline.errors import AgentFailed


class AbnormalExit:
    """What is known of one attempt of a run. May be written and read from every thread."""

    def __init__(self) -> None:
        self.told: str | None = None
        """What code of the run has tried, None if nothing; the first counts."""

    def tell(self, told: str) -> None:
        """Note that the run cannot end well any more."""
        self.told = self.told or told

    def ending(self, ending: Ending) -> Ending:
        """Return how the run ends that has come to `ending`: it has failed if something of it was broken off."""
        if self.told is None or isinstance(ending, Failed):
            return ending
        return Failed(ErrorCode.AGENT_ERROR, raised=Raised(AgentFailed.__name__, self.told))


CURRENT: ContextVar[AbnormalExit | None] = ContextVar("strandline_broken", default=None)
"""The attempt for which code works; None for code that works for none."""


@contextmanager
def watch_exits() -> Iterator[AbnormalExit]:
    """Have it noted, for the time of a `with`, what code tries that this task runs or starts."""
    broken = AbnormalExit()
    token = CURRENT.set(broken)
    try:
        yield broken
    finally:
        CURRENT.reset(token)

"""Records whether user code of a run tried to end the process, which no `except Exception` catches.

A `SystemExit` in a task of its own is lost: the agent finds no result and requests the same tool again and again. So it
is recorded for the run of the current context, in whichever agent, task, thread or event loop. Knows no framework;
`rounds.py` watches Strands agents.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from strandline._agents.waiting import LiveWaiting
from strandline._files.blocks import FileReader
from strandline._model import Ending, ErrorCode, Failed, Raised
from strandline.errors import AgentFailed


class AbnormalExit:
    """The record of one attempt. Thread-safe."""

    def __init__(self, files: FileReader | None = None) -> None:
        self.files = files
        """Reads the files that messages name, for models."""
        self.waiting: LiveWaiting | None = None
        """What waits in the session, if the agent may know."""
        self.wanted: object = None
        """The form of the answer that the run's client wants, if it wants one."""
        self.tools: object = None
        """The tools of the run's client, if it has any."""
        self.given: dict[str, Any] | None = None
        """The answer in that form."""
        self.reason: str | None = None
        """What the run's code tried, None if nothing. The first attempt counts."""

    def note(self, reason: str) -> None:
        """Record that the run cannot succeed any more."""
        self.reason = self.reason or reason

    def ending(self, ending: Ending) -> Ending:
        """Return `ending`, or a failure if there is a reason."""
        if self.reason is None or isinstance(ending, Failed):
            return ending
        return Failed(ErrorCode.AGENT_ERROR, raised=Raised(AgentFailed.__name__, self.reason))


CURRENT: ContextVar[AbnormalExit | None] = ContextVar("strandline_broken", default=None)
"""The current attempt; None outside of a run."""


@contextmanager
def watch_exits(files: FileReader | None = None) -> Iterator[AbnormalExit]:
    """Record abnormal exits of code that this task runs or starts inside the `with`; its models see these files."""
    broken = AbnormalExit(files)
    token = CURRENT.set(broken)
    try:
        yield broken
    finally:
        CURRENT.reset(token)

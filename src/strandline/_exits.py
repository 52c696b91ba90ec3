"""The exit codes of the commands, and what is said at an exit that leaves runs executing."""

import signal
from typing import Final

DEFECT: Final = 1
"""The command has a bug, or found a fault."""
REFUSED: Final = 2
"""The request could not be carried out."""
EXHAUSTED: Final = 70
"""So many ended runs still execute code that the process must be replaced (`max_still_working`)."""
LOST: Final = 75
"""The journal may belong to another server by now, so nothing may execute here."""
INTERRUPTED: Final = 130
"""Ctrl-C, as in shells."""
EXITED_AT_ONCE: Final = "exited at once; the next start recovers the executing runs"
"""What a second Ctrl-C is answered with."""


def describe_exit(code: int) -> str:
    """Return how a server has ended. `code` is negative for a signal."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code == EXHAUSTED:
        return "too many runs that cannot be stopped"
    return "its lease on the journal was lost" if code == LOST else f"exit code {code}"


def as_shells_report(code: int) -> int:
    """Return the exit code of a command whose server has ended with this one."""
    return code if code >= 0 else 128 - code

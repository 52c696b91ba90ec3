"""The exit codes of the commands, as scripts and supervisors see them."""

from typing import Final

DEFECT: Final = 1
"""The command has a defect, or what it looked at is not as it should be."""
REFUSED: Final = 2
"""It could not do what it was asked to."""
EXHAUSTED: Final = 70
"""So many runs have ended and still work that the process has to be replaced (`max_holds`)."""
INTERRUPTED: Final = 130
"""Ctrl-C, as shells have it."""

"""How long to wait before a process that has ended is replaced: ever longer, if each one dies young."""

from typing import Final

YOUNG_S: Final = 10.0
"""Each death of a process younger than this doubles the wait for its replacement."""
LONGEST_WAIT_S: Final = 30.0
"""The longest wait if the process died before it was ready: loading the target fails or kills it."""
LONGEST_WAIT_READY_S: Final = 2.0
"""The longest wait if it had been ready: one run that kills processes must not block all others."""
MOST_DOUBLINGS: Final = 10
"""After this many deaths in a row the wait no longer doubles."""


class Backoff:
    """The deaths of the processes that had one place, one after another."""

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures = 0
        """How many in a row have died young."""

    def ended(self, lived_s: float, *, was_ready: bool) -> float:
        """Note that one has ended; return after how many seconds to replace it."""
        if lived_s >= YOUNG_S:
            self._failures = 0
            return 0.0
        doublings = min(self._failures, MOST_DOUBLINGS)  # (2.0 ** 1024 overflows)
        self._failures += 1
        return min(2.0**doublings - 1, LONGEST_WAIT_READY_S if was_ready else LONGEST_WAIT_S)

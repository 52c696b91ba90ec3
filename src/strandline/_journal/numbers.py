"""The numbers of sessions, runs, rows of history and claims: unique, and rising within a session.

The only owner of a journal counts each kind by one. Where several servers own parts of a journal, no number is drawn
twice without asking each other: a number is a count of microseconds, which never stands still and never goes back,
followed by the partition. So runs of all sessions are numbered nearly in the order in which they were accepted, as far
as the clocks of the servers agree. A new owner of a partition continues above every number that any server has
written: then numbers rise within a session, whatever the clocks say.
"""

from collections.abc import Callable
from typing import Final, Protocol

PARTITION_BITS: Final = 8


def first_fence(epoch: int) -> int:
    """Return what is smaller than all fences of an owner; those of a later one (a larger epoch) are larger."""
    return epoch << 32


class Numbers(Protocol):
    """Draws numbers for what is in a partition."""

    @property
    def top(self) -> int:
        """The largest count that it has reached, where counts are shared."""
        ...

    def session(self, partition: int) -> int:
        """Draw the number of a session."""
        ...

    def row(self, partition: int) -> int:
        """Draw the number of a row of history."""
        ...

    def rows(self, partition: int, count: int) -> range:
        """Draw the numbers of several rows of history, at least one."""
        ...

    def fence(self, partition: int) -> int:
        """Draw the fence of a claim."""
        ...

    def next_run(self, partition: int) -> int:
        """Return the number of the next run, or of its place in the front lane, without drawing it."""
        ...

    def drew_run(self, number: int) -> None:
        """Draw the number that `next_run` has just returned."""
        ...

    def begin(self, epoch: int, top: int) -> None:
        """Continue above every number of earlier owners.

        `epoch` is how many there were, with this one; `top` is the largest count that any has reached, where counts are
        shared.
        """
        ...


class Counted:
    """Counts each kind by one. The fields are the next numbers."""

    top = 0

    def __init__(self, no: int, seq: int, row: int) -> None:
        self.no = no
        self.seq = seq
        self.next_row = row
        self.last_fence = 0

    def session(self, partition: int) -> int:
        """Draw the number of a session."""
        self.no += 1
        return self.no - 1

    def row(self, partition: int) -> int:
        """Draw the number of a row of history."""
        self.next_row += 1
        return self.next_row - 1

    def rows(self, partition: int, count: int) -> range:
        """Draw the numbers of several rows of history."""
        self.next_row += count
        return range(self.next_row - count, self.next_row)

    def fence(self, partition: int) -> int:
        """Draw the fence of a claim."""
        self.last_fence += 1
        return self.last_fence

    def next_run(self, partition: int) -> int:
        """Return the number of the next run."""
        return self.seq

    def drew_run(self, number: int) -> None:
        """Draw it."""
        self.seq = number + 1

    def begin(self, epoch: int, top: int) -> None:
        """Have all fences of this owner larger than those of earlier ones."""
        self.last_fence = first_fence(epoch)


class Clocked:
    """Counts microseconds, and adds the partition. `now` is in seconds since the epoch.

    Numbers are drawn on one thread; any other may read `top`, which only rises.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.top = 0
        """The largest count that was drawn."""
        self._now = now

    def begin(self, epoch: int, top: int) -> None:
        """Continue above a count."""
        self.top = max(self.top, top)

    def session(self, partition: int) -> int:
        """Draw the number of a session."""
        return self.row(partition)

    def row(self, partition: int) -> int:
        """Draw the number of a row of history."""
        number = self.next_run(partition)
        self.drew_run(number)
        return number

    def rows(self, partition: int, count: int) -> range:
        """Draw the numbers of several rows of history."""
        first, step = self.next_run(partition), 1 << PARTITION_BITS
        drawn = range(first, first + count * step, step)
        self.drew_run(drawn[-1])
        return drawn

    def fence(self, partition: int) -> int:
        """Draw the fence of a claim."""
        return self.row(partition)

    def next_run(self, partition: int) -> int:
        """Return the number of the next run."""
        return max(self.top + 1, int(self._now() * 1_000_000)) << PARTITION_BITS | partition

    def drew_run(self, number: int) -> None:
        """Draw it."""
        self.top = number >> PARTITION_BITS

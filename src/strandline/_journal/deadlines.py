"""When something may be due: a heap of records, of which each has one time at most. Pure.

Records that are not watched any more stay in the heap until it is made anew, when most of it is stale.
"""

from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

STALE: Final = 64
"""How many stale entries are kept at least before the heap is made anew."""

Due = tuple[float, int]
"""When something is due, in seconds since the epoch, and the number of its entry in `Deadlines`."""


class Timed(Protocol):
    """What `Deadlines` watches."""

    due: Due | None


T = TypeVar("T", bound=Timed)


class Deadlines(Generic[T]):
    """Times are seconds since the epoch."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._stale = 0
        self._entries = 0

    def __len__(self) -> int:
        return len(self._heap) - self._stale

    @property
    def next(self) -> float | None:
        """The earliest time at which a record is due; None if none is watched."""
        while self._heap and not _is_current(self._heap[0]):
            heappop(self._heap)
            self._stale -= 1
        return self._heap[0][0] if self._heap else None

    def watch(self, record: T, at: float) -> None:
        """Have a record be due at a time, in place of the one that it has."""
        self.forget(record)
        self._entries += 1
        record.due = (at, self._entries)
        heappush(self._heap, (at, self._entries, record))

    def forget(self, record: T) -> None:
        """Have a record be due no more."""
        if record.due is None:
            return
        record.due = None
        self._stale += 1
        if self._stale > len(self) + STALE:
            self._heap = [entry for entry in self._heap if _is_current(entry)]
            heapify(self._heap)
            self._stale = 0

    def pop(self, now: float) -> list[T]:
        """Return the records that are due, earliest first; each is not watched any more."""
        due: list[T] = []
        while self._heap and self._heap[0][0] <= now:
            entry = heappop(self._heap)
            if _is_current(entry):
                entry[2].due = None
                due.append(entry[2])
            else:
                self._stale -= 1
        return due


def _is_current(entry: tuple[float, int, Timed]) -> bool:
    return entry[2].due is not None and entry[2].due[1] == entry[1]

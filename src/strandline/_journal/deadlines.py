"""A heap of records that become due, each at one time at most. Pure.

Records that are no longer watched stay in the heap until most of it is stale and it is rebuilt.
"""

from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

STALE: Final = 64
"""The least number of stale entries before the heap is rebuilt."""

Due = tuple[float, int]
"""When a record is due, in seconds since the epoch, and the number of its entry in `Deadlines`."""


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
        """Set the time at which a record is due."""
        self.forget(record)
        self._entries += 1
        record.due = (at, self._entries)
        heappush(self._heap, (at, self._entries, record))

    def forget(self, record: T) -> None:
        """Stop watching a record."""
        if record.due is None:
            return
        record.due = None
        self._stale += 1
        if self._stale > len(self) + STALE:
            self._heap = [entry for entry in self._heap if _is_current(entry)]
            heapify(self._heap)
            self._stale = 0

    def pop(self, now: float) -> list[T]:
        """Return the due records, earliest first, and stop watching them."""
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

"""What every journal decides in the same way: order, last attempts, legal ends, fences, what a window means. Pure."""

from collections.abc import Iterator
from typing import Final

from strandline.errors import InvariantBroken
from strandline.lifecycle import MOVES
from strandline.model import Inline, Lane, RunStatus, Window

Rank = tuple[int, int, int]
"""Where a run stands among those of its session: (lane, priority or 0, sequence); the smallest is next."""

LEGAL_ENDS: Final = frozenset(end for (start, _), end in MOVES.items() if start is RunStatus.RUNNING) - {
    RunStatus.QUEUED
}


def rank(lane: int, priority: int, sequence: int) -> Rank:
    """Return where a run stands; priority counts in the normal lane only."""
    return (lane, priority if lane == Lane.NORMAL else 0, sequence)


def is_last(attempt: int, max_attempts: int) -> bool:
    """Tell whether attempt number `attempt` may not be followed by another; a first attempt never counts as last."""
    return attempt >= max_attempts and attempt > 1


def check_end(status: RunStatus) -> None:
    """Raise `InvariantBroken` unless an executing run can end with `status`."""
    if status not in LEGAL_ENDS:
        raise InvariantBroken(f"a run cannot end as {status}")


def first_fence(epoch: int) -> int:
    """Return the smallest fence of an owner; every fence of a later owner (a larger epoch) is larger."""
    return epoch << 32


def spans(window: Window, length: int) -> Iterator[tuple[int, int] | Inline]:
    """Yield `(start, end)` for each range that is not empty in a history of `length` messages, and each inline one."""
    for part in window:
        if isinstance(part, Inline):
            yield part
        else:
            end = length if part.end is None else min(part.end, length)
            if part.start < end:
                yield part.start, end

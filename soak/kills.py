"""When a seed has servers ended, which of them, and how; which of them have workers, and what befalls those.

Pure, as `soak.plan`.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

How = Literal["kill", "stop", "both"]
HOWS: Final[tuple[How, ...]] = ("kill", "stop", "both")
WITH_WORKERS: Final = 0.3
"""The share of servers that have workers."""
WORKERS: Final = 2


class Kill(Struct, frozen=True, kw_only=True):
    """An end to be made of servers, `after_s` seconds after the last end or (`ready`) after a server got ready.

    `whom`: the one that owns the journal; one of those that wait for it or are about to take it over; or all of them.
    `how`: SIGKILL; SIGTERM; or SIGTERM and, `then_s` later, SIGKILL.
    """

    whom: Literal["owner", "waiting", "all"]
    how: How
    ready: bool
    after_s: float
    then_s: float = 0.0


def kills(seed: int, count: int) -> Iterator[Kill]:
    """Yield the ends of servers."""
    chance = random.Random(f"{seed} kills")
    for _ in range(count):
        how = chance.choices(HOWS, (80, 12, 8))[0]
        then_s = chance.uniform(0, 0.6) if how == "both" else 0.0
        match chance.choices(("at once", "soon", "late", "handover", "all", "calm"), (15, 53, 11, 14, 4, 3))[0]:
            case "at once":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0, 0.02), then_s=then_s)
            case "soon":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0.02, 0.8), then_s=then_s)
            case "late":
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(0.8, 2.5), then_s=then_s)
            case "calm":  # long enough for a run whose client has left to be cancelled
                yield Kill(whom="owner", how=how, ready=True, after_s=chance.uniform(2.5, 3.5), then_s=then_s)
            case "handover":
                yield Kill(whom="waiting", how="kill", ready=False, after_s=chance.uniform(0.002, 0.25))
            case _:
                yield Kill(whom="all", how="kill", ready=False, after_s=chance.uniform(0.002, 1.0))


class Hit(Struct, frozen=True, kw_only=True):
    """What befalls workers of a server that answers, `after_s` seconds after the last such thing.

    `whom`: one of them, by chance, or all. `still_s`: for how long they stand still (SIGSTOP); None: SIGKILL.
    """

    whom: Literal["one", "all"]
    after_s: float
    still_s: float | None = None


def has_workers(seed: int, number: int) -> bool:
    """Return whether a server has workers."""
    return random.Random(f"{seed} workers of {number}").random() < WITH_WORKERS


def hits(seed: int) -> Iterator[Hit]:
    """Yield what befalls workers, for ever."""
    chance = random.Random(f"{seed} hits")
    while True:
        yield Hit(
            whom="all" if chance.random() < 0.15 else "one",
            after_s=chance.uniform(0.02, 0.8),
            still_s=chance.uniform(0.05, 3.0) if chance.random() < 0.3 else None,
        )

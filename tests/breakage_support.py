"""Whether the simulation notices a breakage of the code: worlds of these seeds are played until one has the fault."""

import re
from collections.abc import Iterable

from simulation.trial import play


def is_noticed(reported: str, seeds: Iterable[int], journal: str) -> bool:
    """Return whether one of these worlds has a fault that matches `reported`."""
    return any(re.search(reported, fault) for seed in seeds for fault in play(seed, journal).faults)

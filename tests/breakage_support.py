"""Whether the simulation notices a breakage of the code: worlds of these seeds are played until one has the fault."""

import re
from collections.abc import Iterable
from typing import Final

from simulation.trial import play

SEEDS: Final = 100
"""How many worlds are played at most. The search begins at the first that shows a breakage; that is another one where
event loops take their turns differently, as some versions of Python do, or where the code under test awaits more. One
that is further away is to be named anew: a search through many worlds takes minutes of each whole run of the tests."""


def is_noticed(reported: str, seeds: Iterable[int], journal: str) -> bool:
    """Return whether one of these worlds has a fault that matches `reported`."""
    return any(re.search(reported, fault) for seed in seeds for fault in play(seed, journal).faults)

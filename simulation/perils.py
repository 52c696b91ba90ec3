"""How many workers the servers of a world have, and how likely it is that something befalls them."""

import random
from typing import Final

from simulation.loop import Chance

SHARE: Final = 1 / 3
"""The share of all worlds whose servers have workers."""
FOR_GOOD_S: Final = 10_000.0


class Perils:
    """How many workers the servers of a world have, and what befalls them. Drawn apart from all else of the seed."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"workers of {seed}")
        self.workers = 1 + int(chance.random() * 3) if chance.random() < SHARE else 0
        self.dies = chance.choice((0.0, 0.002, 0.01, 0.05))
        """How likely a worker dies at anything that its agents do."""
        self.dies_young = chance.choice((0.0, 0.0, 0.3))
        """How likely one dies before it takes calls."""
        self.blocks = chance.choice((0.0, 0.01, 0.05))
        """How likely an agent blocks its loop, at anything that it does."""
        self.stands = chance.choice((0.0, 0.0, 0.005))
        """How likely a whole worker stands still then."""
        self.far_s = chance.choice((0.0005, 0.002, 0.05))
        """How long what is said may take to the other end."""
        self.hears_s = chance.choice((0.0, 0.01, 0.5))
        """How late a server may hear that a worker is dead."""
        self.deaths_left = 12
        self.longest_s = 30.0
        """How long a loop may be blocked."""
        self.calm = False
        """Whether nothing befalls them any more."""

    def happens(self, chance: Chance, probability: float) -> bool:
        """Return whether something befalls a worker."""
        return probability > 0.0 and not self.calm and chance.happens(probability)

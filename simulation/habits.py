"""What clients of a world do that not all of them do: drawn apart from all else of the seed, as workers are.

Worlds whose clients do none of it stay what they were.
"""

import random
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from strandline._engine.requests import Request
from strandline._model import IfBusy, Sender

SHARE: Final = 0.4
"""The share of all worlds in which clients steer what executes."""
DELAYED: Final = 0.25
"""The share of all worlds in which runs are delayed."""
SENDERS: Final = (None, None, Sender("1", "Ada"), Sender("2", "Bob"))


class Habits:
    """The habits of all clients of one world."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = random.Random(f"habits of {seed}")
        self.steers = chance.choice((0.4, 0.8)) if chance.random() < SHARE else 0.0
        """How likely a request is to join the run that executes."""
        self.delays = chance.choice((0.2, 0.8)) if chance.random() < DELAYED else 0.0
        """How likely a request is to wait for a later time."""
        self._expects = chance.choice((0.0, 0.3))
        self._names = chance.choice((0.0, 0.0, 0.0, 0.5))

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._chance.random() < probability

    def applied_to(self, request: Request, begun: Sequence[str], now: float) -> Request:
        """Return a request as a client with these habits sends it; `begun` are the last runs of its session."""
        if request.if_busy is IfBusy.ENQUEUE and request.on_question is None and self._happens(self.delays):
            later_s = self._chance.choice((-1.0, 0.5, 2.0, 10.0)) * self._chance.random()
            return replace(request, not_before=now + later_s)
        if request.if_busy is IfBusy.ENQUEUE and self._happens(self.steers):
            request = replace(request, if_busy=IfBusy.STEER)
            if begun and self._happens(self._expects):
                request = replace(request, expected_run_id=self._chance.choice(begun))
        if self.steers and self._happens(self._names):
            request = replace(request, sender=self._chance.choice(SENDERS))
        return request

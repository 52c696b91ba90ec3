"""What clients of a world do that not all of them do: drawn apart from all else of the seed, as workers are.

Worlds whose clients do none of it stay what they were.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from msgspec.structs import replace

from simulation.loop import Chance
from strandline._engine.requests import Request
from strandline._engine.schedules.instants import Missed, Overlap
from strandline._engine.schedules.schedule import ScheduleRequest
from strandline._model import IfBusy, Sender, SessionKey

T = TypeVar("T")

SHARE: Final = 0.4
"""The share of all worlds in which clients steer what executes."""
DELAYED: Final = 0.25
"""The share of all worlds in which runs are delayed."""
SCHEDULED: Final = 0.2
"""The share of all worlds in which there are schedules."""
SENDERS: Final = (None, None, Sender("1", "Ada"), Sender("2", "Bob"))


class Habits:
    """The habits of all clients of one world."""

    def __init__(self, seed: int) -> None:
        self.chance = self._chance = chance = Chance(f"habits of {seed}")
        self.steers = chance.choice((0.4, 0.8)) if chance.random() < SHARE else 0.0
        """How likely a request is to join the run that executes."""
        self.delays = chance.choice((0.2, 0.8)) if chance.random() < DELAYED else 0.0
        """How likely a request is to wait for a later time."""
        self.schedules = chance.choice((0.5, 1.0)) if chance.random() < SCHEDULED else 0.0
        """How likely somebody makes a schedule, for each burst of requests."""
        self._expects = chance.choice((0.0, 0.3))
        self._names = chance.choice((0.0, 0.0, 0.0, 0.5))

    def schedule(self, key: SessionKey, text: str) -> ScheduleRequest:
        """Return a schedule as a client makes it."""
        chance = self._chance
        return ScheduleRequest(
            key=key,
            input=text,
            every_s=1.0 + 8.0 * round(chance.random(), 2),
            overlap=chance.choice((*Overlap, Overlap.ENQUEUE)),
            missed=chance.choice((*Missed, Missed.ALL)),
            metadata={"text": text},
        )

    def choice(self, some: Sequence[T]) -> T:
        """Return one of some."""
        return self._chance.choice(some)

    def up_to_s(self, most_s: float) -> float:
        """Return a time."""
        return most_s * self._chance.random()

    def happen(self, probability: float) -> bool:
        """Return whether something happens that does so with this probability."""
        return self._happens(probability)

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

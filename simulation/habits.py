"""What clients of a world do that not all of them do: drawn apart from all else of the seed, as workers are.

Worlds whose clients do none of it stay what they were.
"""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from simulation.loop import Chance
from strandline._engine.requests import Request
from strandline._engine.schedules.instants import Missed, Overlap
from strandline._engine.schedules.schedule import ScheduleRequest
from strandline._model import CollectOptions, IfBusy, Sender, SessionKey, Webhook

SHARE: Final = 0.4
"""The share of all worlds in which clients steer what executes."""
DELAYED: Final = 0.25
"""The share of all worlds in which runs are delayed."""
SCHEDULED: Final = 0.2
"""The share of all worlds in which there are schedules."""
GOES_BACK: Final = 0.25
"""The share of all worlds in which people edit what was answered."""
MOST_EDITS: Final = 40
"""How often people go back in one world at most: each answer to that, and each question in it, has more follow."""
COLLECTS: Final = 0.25
"""The share of all worlds in which people send short messages, which are to be collected."""
CHANGES: Final = 0.25
"""The share of all worlds in which people edit a message while it waits."""
REWORDS: Final = 0.6
"""The share of edits that change what their run says."""
RESOLVES: Final = 0.25
"""The share of all worlds in which people take up crashed runs."""
FORKS: Final = 0.25
"""The share of all worlds in which people have another session begin with the history of one."""
MOST_FORKS: Final = 8
"""How many forks there are in one world at most."""
OPTIONS: Final = 0.25
"""The share of all worlds in which people change the default options of sessions."""
HOOKED: Final = 0.25
"""The share of all worlds in which clients have the events of their runs sent to them."""
WEBHOOKS: Final = (
    Webhook("https://hooks.example/ends"),
    Webhook("https://hooks.example/all", ("run.started", "run.finished")),
)
SENDERS: Final = (None, None, Sender("1", "Ada"), Sender("2", "Bob"))


class Habits:
    """The habits of all clients of one world."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = Chance(f"habits of {seed}")
        self.steers = chance.choice((0.4, 0.8)) if chance.random() < SHARE else 0.0
        """How likely a request is to join the run that executes."""
        self._expects = chance.choice((0.0, 0.3))
        self._names = chance.choice((0.0, 0.0, 0.0, 0.5))
        self.times = times = Chance(f"times of {seed}")
        """What decides about delays and schedules."""
        self._delays = times.choice((0.2, 0.8)) if times.random() < DELAYED else 0.0
        self._schedules = times.choice((0.5, 1.0)) if times.random() < SCHEDULED else 0.0

        self.edits = edits = Chance(f"edits of {seed}")
        """What decides about conversations that go back."""
        self._goes_back = edits.choice((0.4, 0.8)) if edits.random() < GOES_BACK else 0.0
        self._edits_left = MOST_EDITS
        self._bits = bits = Chance(f"short messages of {seed}")
        """What decides about messages that are collected."""
        self._collects = bits.choice((0.5, 0.9)) if bits.random() < COLLECTS else 0.0
        self._signs = bits.choice((0.0, 0.0, 0.5))
        self.changes = changes = Chance(f"changes of {seed}")
        """What decides about edits of runs that wait."""
        self._edits = changes.choice((0.5, 0.9)) if changes.random() < CHANGES else 0.0

        self._words = Chance(f"words of {seed}")
        """What decides which of these edits change what a run says."""
        self.settings = settings = Chance(f"settings of {seed}")
        """What decides about default options of sessions."""
        self._sets_options = settings.choice((0.5, 1.0)) if settings.random() < OPTIONS else 0.0
        self.checks = checks = Chance(f"resolutions of {seed}")
        """What decides about crashed runs that people take up."""
        self._resolves = checks.choice((0.5, 1.0)) if checks.random() < RESOLVES else 0.0
        self.hooks = hooks = Chance(f"webhooks of {seed}")
        """What decides about webhooks, and what their receivers do."""
        self._hooked = hooks.choice((0.5, 1.0)) if hooks.random() < HOOKED else 0.0
        self.forking = forking = Chance(f"forks of {seed}")
        """What decides about forks, and what is said in them."""
        self._forks = forking.choice((0.2, 0.5)) if forking.random() < FORKS else 0.0
        self._forks_left = MOST_FORKS

    @property
    def forks(self) -> bool:
        """Draw whether somebody forks a session now."""
        forks = self._happens(self._forks, self.forking) and self._forks_left > 0
        self._forks_left -= forks
        return forks

    @property
    def goes_back(self) -> bool:
        """Draw whether somebody has the conversation continue from an earlier place now."""
        goes_back = self._happens(self._goes_back, self.edits) and self._edits_left > 0
        self._edits_left -= goes_back
        return goes_back

    @property
    def restores(self) -> bool:
        """Draw whether somebody wants superseded messages back."""
        return self._happens(self._goes_back / 2, self.edits)

    @property
    def edits_run(self) -> int:
        """Draw how many people edit a run now: now and then two who do not know of each other."""
        if not self._happens(self._edits, self.changes):
            return 0
        return 2 if self.changes.random() < 0.4 else 1

    @property
    def rewords(self) -> bool:
        """Draw whether an edit changes what its run says."""
        return self._words.random() < REWORDS

    @property
    def takes_up(self) -> bool:
        """Whether people take up crashed runs at all."""
        return self._resolves > 0.0

    @property
    def people_alone(self) -> int:
        """Draw how many people say something now in a session in which hardly anything waits."""
        return self.checks.up_to(5) if self.takes_up else 0

    @property
    def resolves(self) -> int:
        """Draw how many people take up a crashed run now."""
        if not self._happens(self._resolves, self.checks):
            return 0
        return 2 if self.checks.random() < 0.3 else 1

    @property
    def sets_options(self) -> bool:
        """Draw whether somebody changes the default options of sessions now."""
        return self._happens(self._sets_options, self.settings)

    @property
    def makes_schedule(self) -> bool:
        """Draw whether somebody makes a schedule now."""
        return self._happens(self._schedules, self.times)

    def schedule(self, key: SessionKey, text: str) -> ScheduleRequest:
        """Return a schedule as a client makes it."""
        chance = self.times
        return ScheduleRequest(
            key=key,
            input=text,
            every_s=1.0 + 8.0 * round(chance.random(), 2),
            overlap=chance.choice((*Overlap, Overlap.ENQUEUE)),
            missed=chance.choice((*Missed, Missed.ALL)),
            metadata={"text": text},
        )

    @property
    def has_hooks(self) -> bool:
        """Whether any client has events sent to it."""
        return self._hooked > 0.0

    def hooked(self, request: Request) -> Request:
        """Return a request as a client sends it that wants to have the events of its run, perhaps."""
        if not self._happens(self._hooked, self.hooks):
            return request
        return replace(request, webhook=self.hooks.choice(WEBHOOKS))

    def _happens(self, probability: float, chance: Chance) -> bool:
        return probability > 0.0 and chance.random() < probability

    def applied_to(self, request: Request, begun: Sequence[str], now: float) -> Request:
        """Return a request as a client with these habits sends it; `begun` are the last runs of its session."""
        if (
            request.if_busy is IfBusy.ENQUEUE
            and request.on_question is None
            and self._happens(self._delays, self.times)
        ):
            later_s = self.times.choice((-1.0, 0.5, 2.0, 10.0)) * self.times.random()
            return replace(request, not_before=now + later_s)
        if (
            request.if_busy is IfBusy.ENQUEUE
            and request.on_question is None
            and self._happens(self._collects, self._bits)
        ):
            return self._collecting(request)
        if request.if_busy is IfBusy.ENQUEUE and self._happens(self.steers, self._chance):
            request = replace(request, if_busy=IfBusy.STEER)
            if begun and self._happens(self._expects, self._chance):
                request = replace(request, expected_run_id=self._chance.choice(begun))
        if self.steers and self._happens(self._names, self._chance):
            request = replace(request, sender=self._chance.choice(SENDERS))
        return request

    def _collecting(self, request: Request) -> Request:
        """Return a request as one that is to be collected."""
        chance = self._bits
        options = CollectOptions(
            quiet=chance.choice((0.0, 0.3, 2.0)),
            max_wait=chance.choice((0.5, 3.0, 20.0)),
            max_items=chance.choice((2, 3, 20)),
        )
        request = replace(request, if_busy=IfBusy.COLLECT, collect=options)
        if self._happens(self._signs, chance):
            request = replace(request, sender=chance.choice(SENDERS))
        return request

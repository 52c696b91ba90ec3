"""What a seed has clients do to runs and sessions of others: cancel, move, pause.

Whom it befalls depends on what there is at that moment: an action names the newest, the one before it, ... Pure, as
`soak.plan`.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

RUNNERS: Final = 2
"""How many clients act so."""

What = Literal["cancel", "cancel waiting", "cancel session", "move", "pause"]
WHATS: Final[dict[What, int]] = {"cancel": 6, "cancel waiting": 2, "cancel session": 1, "move": 6, "pause": 3}


class Action(Struct, frozen=True, kw_only=True):
    """Something to do to the run, or the session, that came `before` the newest."""

    what: What
    pause_ms: float
    """How long to wait before."""
    before: int
    force: bool
    running: bool
    priority: int | None
    """Where to move a run; None is the front."""
    for_ms: float
    """For how long to pause a session: often for longer than its server lives."""


def actions(seed: int, number: int) -> Iterator[Action]:
    """Yield what a client does, for ever."""
    chance = random.Random(f"{seed} actions {number}")
    while True:
        yield Action(
            what=chance.choices(list(WHATS), list(WHATS.values()))[0],
            pause_ms=chance.expovariate(1 / 250),
            before=chance.randrange(6),
            force=chance.random() < 0.35,
            running=chance.random() < 0.5,
            priority=None if chance.random() < 0.4 else chance.randint(1, 5),
            for_ms=chance.uniform(500, 2500) if chance.random() < 0.4 else chance.expovariate(1 / 150),
        )

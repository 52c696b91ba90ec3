"""What a seed has befall several servers and their database, and when. Pure, as `soak.plan`."""

import random
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

LEASE_S: Final = 3.0
"""Short, so that a minute has many takeovers; long enough for a database that restarts on a busy machine."""
What = Literal["kill", "freeze", "stop", "restart", "crash"]
WHATS: Final[dict[What, int]] = {"kill": 50, "freeze": 20, "stop": 16, "restart": 8, "crash": 6}


class Strike(Struct, frozen=True, kw_only=True):
    """Something that is done, `after_s` seconds after the last: to `whom`, a number that stands for one of the servers.

    `kill`: SIGKILL. `freeze`: SIGSTOP for `still_s` seconds, mostly for longer than the lease. `stop`: SIGTERM; a new
    server starts at once. `restart`, `crash`: of the database, which stops orderly or not.
    """

    what: What
    after_s: float
    whom: int
    still_s: float = 0.0


def strikes(seed: int, count: int) -> Iterator[Strike]:
    """Yield what is done."""
    chance = random.Random(f"{seed} strikes")
    for _ in range(count):
        what = chance.choices(list(WHATS), list(WHATS.values()))[0]
        at_once = chance.random() < 0.2
        yield Strike(
            what=what,
            after_s=chance.uniform(0.0, 0.05) if at_once else chance.uniform(0.2, 2.0 * LEASE_S),
            whom=chance.randrange(1 << 16),
            still_s=chance.uniform(0.3, 0.8 * LEASE_S) if chance.random() < 0.2 else chance.uniform(1.3, 2.5) * LEASE_S,
        )

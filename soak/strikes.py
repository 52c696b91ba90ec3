"""What a seed has befall several servers, their database and the network between, and when. Pure, as `soak.plan`."""

import itertools
import random
from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

LEASE_S: Final = 3.0
"""Short, so that a minute has many takeovers; long enough for a database that restarts on a busy machine."""
CLOCK_S: Final = 60.0
"""By how much clocks are off that are."""
WITH_CLOCK: Final = 0.1
"""The share of servers with a clock that is off."""
What = Literal["kill", "freeze", "half", "cut", "part", "stop", "deploy", "restart", "crash"]
WHATS: Final[dict[What, int]] = {
    "kill": 150, "freeze": 50, "half": 25, "stop": 10, "cut": 9, "part": 6, "deploy": 5, "restart": 3, "crash": 2,
}  # fmt: skip
"""How often each comes in 260: exactly, in an order by chance."""
HOWS: Final[dict[What, dict[str, int]]] = {
    "kill": {"ready": 60, "any": 15, "took over": 25},
    "freeze": {"it": 70, "its workers too": 30},
    "half": {"alone": 40, "cut off": 30, "killed": 30},
    "cut": {"reset": 30, "refused": 30, "silent": 40},
    "part": {"reset": 30, "refused": 30, "silent": 40},
}


class Strike(Struct, frozen=True, kw_only=True):
    """Something that is done, `after_s` seconds after the last: to `whom`, a number that stands for one of the servers.

    `kill`: SIGKILL, of a server that is `ready`, of `any`, or of the next that `took over` sessions, at once.
    `freeze`: SIGSTOP for `still_s` seconds, mostly for longer than the lease; `how` says whether its
    workers stop too. `stop`: SIGTERM; a new server starts at once. `deploy`: that, of all servers, one after another.
    `restart`, `crash`: of the database, which stops orderly or not.

    `half`: a `share` of a batch comes to the database and nothing after it, as on a network that fails. The server is
    `alone` with that, or `cut off` from the database for `still_s` seconds, or `killed`.
    `cut`: a server and the database lose each other; `part`: nobody reaches a server but its own clients. Connections
    are `reset` at once, or for `still_s` seconds `refused`, or `silent`: nothing comes, and nothing ends.
    """

    what: What
    after_s: float
    whom: int
    how: str
    still_s: float
    share: float


def strikes(seed: int, count: int) -> Iterator[Strike]:
    """Yield what is done."""
    chance = random.Random(f"{seed} strikes")
    for what in itertools.islice(_whats(seed), count):
        hows = HOWS.get(what, {"": 1})
        how = chance.choices(list(hows), list(hows.values()))[0]
        at_once = how == "took over" or chance.random() < 0.2  # (what befell another one is why it takes over)
        yield Strike(
            what=what,
            after_s=chance.uniform(0.0, 0.05) if at_once else chance.uniform(0.2, 2.0 * LEASE_S),
            whom=chance.randrange(1 << 16),
            how=how,
            still_s=chance.uniform(0.3, 0.8 * LEASE_S) if chance.random() < 0.2 else chance.uniform(1.3, 2.5) * LEASE_S,
            share=chance.random(),
        )


def _whats(seed: int) -> Iterator[What]:
    """Yield kinds for ever, in each 260 as many as `WHATS` says."""
    chance = random.Random(f"{seed} kinds of strikes")
    while True:
        yield from chance.sample(list(WHATS), k=sum(WHATS.values()), counts=list(WHATS.values()))


def clock_s(seed: int, number: int) -> float:
    """Return by how much the clock of a server is off."""
    chance = random.Random(f"{seed} clock of {number}")
    return chance.choice((-CLOCK_S, CLOCK_S)) if chance.random() < WITH_CLOCK else 0.0

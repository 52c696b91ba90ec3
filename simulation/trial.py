"""Many seeds on many cores: each world is played and judged, and what was broken comes back with its seed."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import islice
from typing import Final

from msgspec import Struct

from simulation.judge import judge
from simulation.life import IN_MEMORY, MakeWorld, live
from simulation.several import SeveralWorld
from simulation.sqlite import SqliteStore
from simulation.world import World

SQLITE, POSTGRES = "sqlite", "postgres"
WORLDS: Final[dict[str, MakeWorld]] = {
    "memory": IN_MEMORY,
    SQLITE: partial(World, make_store=SqliteStore),
    POSTGRES: SeveralWorld,
}
"""By the name of their journal: worlds with one server, and on PostgreSQL with several."""
CHUNK: Final = 25
"""How many seeds a process gets at a time."""


class Verdict(Struct, frozen=True):
    """What came of one seed: what was broken, how many runs there were, and the hash of all that happened."""

    seed: int
    journal: str
    faults: list[str]
    runs: int
    digest: str


def play(seed: int, journal: str, *, engines: int | None = None, show: bool = False) -> Verdict:
    """Play and judge the world of one seed; an error of the world itself is a fault.

    `engines` is how many servers share the journal, if that is to be no matter of the seed.
    """
    make = WORLDS[journal] if engines is None else partial(SeveralWorld, engines=engines)
    try:
        life = live(seed, make, show=show)
        return Verdict(seed, journal, judge(life), len(life.runs), life.digest)
    except Exception as error:
        if show:
            raise
        return Verdict(seed, journal, [f"the world broke: {type(error).__name__}: {error}"], 0, "")


def play_all(seeds: Iterator[int], journals: list[str], engines: int | None = None) -> Iterator[list[Verdict]]:
    """Play seeds on all cores, each with every journal, as long as there are any; yield verdicts as they come."""
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        under_way: set[Future[list[Verdict]]] = set()
        try:
            while True:
                while len(under_way) < 2 * cores and (chunk := list(islice(seeds, CHUNK))):
                    under_way.add(pool.submit(_play_chunk, chunk, journals, engines))
                if not under_way:
                    return
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in done:
                    yield each.result()
        finally:
            for each in under_way:
                each.cancel()


def _play_chunk(seeds: list[int], journals: list[str], engines: int | None) -> list[Verdict]:
    return [play(seed, journal, engines=engines) for seed in seeds for journal in journals]

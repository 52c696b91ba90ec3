"""One life of a server, played to its end, and all that is known of it then: what the judge is given."""

import asyncio
import gc
import logging
from functools import partial
from typing import Protocol

from msgspec import Struct

from simulation.gate import gated
from simulation.journals import MemoryStore
from simulation.record import Event
from simulation.script import Script, Traits
from simulation.world import Stored, World
from strandline._backoff import LONGEST_WAIT_S
from strandline._engine.options import Options
from strandline._model import Message, Run, SessionKey
from strandline.testing._virtual import VirtualLoop


class MakeWorld(Protocol):
    """Makes the world of a seed, which is shown event by event if that is wanted."""

    def __call__(self, seed: int, *, show: bool) -> World:
        """Make it."""
        ...


class Copied(Struct, frozen=True):
    """What a session had when it was made as a fork: the history of `source` up to run `after`, also what is hidden."""

    source: SessionKey
    after: str
    messages: list[Message]
    hidden: set[int]


class Life(Struct, frozen=True, kw_only=True):
    """All that is known of a world in the end."""

    seed: int
    options: Options
    traits: Traits
    resumable: bool
    workers: int
    """How many worker processes each server has; 0: agents live in the server itself."""
    engines: int
    """How many servers there are at once, over one journal."""
    steady: bool
    """Whether wall time went as virtual time does."""
    faulty: bool
    """Whether the disk ever failed."""
    events: list[Event]
    faults: list[str]
    scripts: dict[str, Script]
    runs: dict[str, Run]
    """By id, what is kept of every id that was ever given."""
    history: dict[SessionKey, list[Message]]
    """All of it, that of discarded runs too; of a fork what is its own."""
    hidden: dict[SessionKey, set[int]]
    """The places in it of what discarded runs have left."""
    shown: dict[SessionKey, list[Message]]
    pending: dict[SessionKey, bool]
    """Whether the end of what is shown is marked as open."""
    waits_for: dict[SessionKey, frozenset[str]]
    """The input requests that are still open."""
    digest: str
    copied: dict[SessionKey, Copied] = {}
    """What forks have of others, by their keys."""


IN_MEMORY: MakeWorld = partial(World, make_store=MemoryStore)


def live(seed: int, make_world: MakeWorld = IN_MEMORY, *, show: bool = False) -> Life:
    """Play the world of a seed to its end, without a word in the log."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    loop = VirtualLoop()
    loop.set_exception_handler(lambda loop, context: None)  # of what a client that left misses
    loop.set_task_factory(gated)
    collects = gc.isenabled()
    gc.disable()  # when garbage is found is not a matter of the seed, and a worker learns of garbage
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_live(seed, make_world, show))
    finally:
        logging.disable(before)
        if collects:
            gc.enable()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()


async def _live(seed: int, make_world: MakeWorld, show: bool) -> Life:
    world = make_world(seed, show=show)
    try:
        await world.play()
        await asyncio.sleep(LONGEST_WAIT_S + 5.0 if world.perils.workers else 5.0)
        stored = await world.all_that_is_stored()
    finally:
        world.close()
    record = world.record
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            record.fault(world.clock.monotonic(), f"a task is left when all is over: {task.get_coro()}")
    copied = _copied(stored, record.events)
    kept = [key for key in stored.whole if key in copied or key not in world.forked]
    begins = {key: len(copied[key].messages) if key in copied else 0 for key in kept}
    return Life(
        seed=seed,
        options=world.options,
        traits=world.traits,
        resumable=world.resumable,
        workers=world.perils.workers,
        engines=world.engines,
        steady=world.steady,
        faulty=world.disk.faulty,
        events=record.events,
        faults=record.faults,
        scripts=world.scripts,
        runs=stored.runs,
        history={key: stored.whole[key].messages[begins[key] :] for key in kept},
        hidden={key: {n - begins[key] for n in stored.whole[key].discarded if n >= begins[key]} for key in kept},
        shown={key: stored.shown[key].messages for key in kept},
        pending={key: stored.shown[key].pending for key in kept},
        waits_for={key: stored.waits_for[key] for key in kept},
        digest=record.digest(),
        copied=copied,
    )


def _copied(stored: Stored, events: list[Event]) -> dict[SessionKey, Copied]:
    """Return what forks have of others, as far as anybody was answered that they were made."""
    wanted = {event.run: event.details for event in events if event.what == "forking"}
    found = {}
    for event in events:
        if event.what == "forked":
            fork, count = wanted[event.run], event.details["messages"]
            page = stored.whole[fork["session"]]
            hidden = {n for n in page.discarded if n < count}
            found[fork["session"]] = Copied(fork["source"], fork["after"], page.messages[:count], hidden)
    return found

"""A world with several servers over one database: they come and go, die, freeze past their lease and wake, are cut off.

Each has its own clock. A client asks any of them; what another one has to answer is passed on to it (`town.requested`).
"""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from simulation.gate import Gate
from simulation.hooks import Hooks
from simulation.journals import Disk
from simulation.loop import UnsteadyClock
from simulation.postgres import SharedJournal, SharedStore
from simulation.process import Process
from simulation.server import Server
from simulation.world import LOOK_EVERY_S, READERS, World
from strandline._clock import Clock
from strandline._journal.partitions import partition_of
from strandline._journal.port import Journal
from strandline.errors import StrandlineError

NOBODY: Final = 0
LEASES_S: Final = (2.0, 5.0, 10.0)
QUIET_S: Final = 1000.0
"""As in worlds with one server, but less: these cost more, second by second."""
MOST: Final = 4
"""How many servers there are at most."""
START_AGAIN_S: Final = 0.5
SET_BY_S: Final = (-100.0, -1.0, 1.0, 50.0)
"""By how much a clock is set: a deadline that one server has set may come so much later at another one, and yet within
`QUIET_S`. (Real servers follow the database's clock; these do not, so that clocks are seen to decide nothing.)"""


class SeveralWorld(World):
    """The surroundings of several servers."""

    def __init__(self, seed: int, *, show: bool = False, engines: int | None = None) -> None:
        own = random.Random(f"servers of {seed}")
        self.lease_s = own.choice(LEASES_S)
        count, stalls = own.choice((2, 2, 3)), own.choice((0.0, 0.0, 0.01, 0.05))
        super().__init__(seed, make_store=lambda clock: _Store(clock, self.lease_s), show=show)
        self.engines = engines or count
        self.quiet_s = QUIET_S
        self.perils.workers = 0
        self.disk.stalls, self.disk.longest_s = stalls, 1.5 * self.lease_s
        self._stalls = stalls
        self._outside = copy_context()
        self.servers: dict[int, Server] = {}
        self.journals: dict[int, SharedJournal] = {}
        self._stopping: set[int] = set()
        """Servers that drain, or have drained; one that is exhausted refuses runs before that."""
        self._deeds: set[asyncio.Task[None]] = set()
        """What befalls servers at this moment, and comes to its end by itself."""
        database = self._shared.database
        self._sessions_of = {partition_of(key): key for key in (*self.sessions, *self.alone)}
        database.watched = self._sessions_of
        database.on_owner, database.on_over = self._owned, self._over

    @property
    def _shared(self) -> SharedStore:
        assert isinstance(self._store, _Store)
        return self._store.shared_by_all

    # -- what is seen ----------------------------------------------------------------------------------

    def _owned(self, partition: int, address: str | None) -> None:
        owner = NOBODY if address is None else int(address)
        self.note("owned", session=self._sessions_of[partition], owner=owner)

    def _over(self, address: str) -> None:
        """Note that a server is over for all others; it may be frozen, and not know that."""
        server = self.servers.get(int(address))
        if server is not None and server.frozen and server.alive:
            server.fenced = True
            server.note("fenced")

    def reached(self) -> Server | None:
        """Return a server by chance."""
        ready = [each for each in self.servers.values() if each.ready]
        return self.chance.choice(ready) if ready else None

    def owner(self, server: Server, partition: int) -> Server | None:
        """Return which server owns a partition for all that one of them knows; None if that is not ready."""
        peer = self.journals[server.number].cluster.owner(partition)
        found = None if peer is None else self.servers.get(int(peer.address))
        return found if found is not None and found.ready else None

    # -- what befalls ----------------------------------------------------------------------------------

    async def _something_happens(self) -> None:
        for _ in range(1 + self.chance.up_to(2)):
            await self._one_thing_happens()
            await asyncio.sleep(self.chance.random() ** 2 * 2)

    async def _one_thing_happens(self) -> None:
        chance = self.chance
        fate, alive = chance.random(), [each for each in self.servers.values() if each.ready and not each.frozen]
        if not alive:
            return
        server = chance.choice([each for each in alive if each.service.health().processing] or alive)
        if fate < 0.2:
            server.note("crashed")
            await self._in_time(server.die(), "a death")
            self._later(self._replaced())
        elif fate < 0.4:
            self._later(self._frozen(server))
        elif fate < 0.5:
            self._later(self._cut_off(server))
        elif fate < 0.55:
            self._later(self._restarted())
        elif fate < 0.7:
            await self._start()
            self._later(self._drained(server))
        elif fate < 0.8 and len(alive) > 1:
            self._later(self._drained(server))
            self._later(self._replaced())
        elif fate < 0.9 and len(alive) < MOST:
            self._later(self._start())
        elif not self.steady:
            server.clock.offset_s += chance.choice(SET_BY_S)
            self.note("clock", offset=server.clock.offset_s)

    def _later(self, deed: Coroutine[Any, Any, None]) -> None:
        self._deeds.add(task := asyncio.ensure_future(deed))
        task.add_done_callback(self._deeds.discard)

    async def _replaced(self) -> None:
        """Start a server in place of one that is gone, maybe only when others have taken over."""
        await asyncio.sleep(self.chance.random() ** 2 * 2 * self.lease_s)
        await self._start()

    async def _frozen(self, server: Server) -> None:
        """Freeze a server, mostly for longer than its lease."""
        self.disk.faulty = True
        server.note("frozen")
        await server.stand_still(self.chance.between(0.1, 2.5) * self.lease_s)

    async def _cut_off(self, server: Server) -> None:
        """Cut a server off from the database for a while."""
        network = self.journals[server.number].network
        self.disk.faulty = network.is_cut = True
        self.note("cut", server=server.number)
        network.cut()
        await asyncio.sleep(self.chance.random() * 2 * self.lease_s)
        network.is_cut = False
        self.note("joined", server=server.number)

    async def _restarted(self) -> None:
        """Restart the database."""
        database = self._shared.database
        self.disk.faulty = database.is_down = True
        self.note("down")
        for number in list(self.servers):
            self.journals[number].network.cut()
        await asyncio.sleep(self.chance.random() ** 2 * 2 * self.lease_s)
        database.is_down = False
        self.note("up")

    # -- the life of servers ---------------------------------------------------------------------------

    async def _start(self) -> None:
        """Start a server, or at first all of them; again if it fails or dies meanwhile."""
        if self._servers:
            await self._start_one()
        else:
            await asyncio.gather(*(self._start_one() for _ in range(self.engines)))

    async def _start_one(self) -> None:
        while True:
            server = self._made()
            self.disk.fails = self._fails if self._servers < 20 else 0.0
            starting = server.task(server.start())
            await asyncio.wait((starting,))
            if server.alive and not starting.cancelled():
                if (error := starting.exception()) is None:
                    break
                if not isinstance(error, StrandlineError):
                    raise error
            if server.alive:
                server.note("crashed")
                await self._in_time(server.die(), "a death")
            await asyncio.sleep(START_AGAIN_S)
        server.ready = True
        server.note("started")
        server.task(self._exit_when_lost(server))
        server.supervisor = asyncio.ensure_future(self._supervise(server))

    def _made(self) -> Server:
        """Return a server that does not run yet."""
        self._servers += 1
        clock = UnsteadyClock(asyncio.get_running_loop())
        if not self.steady:
            clock.grain_s = self.clock.grain_s
            clock.offset_s = self.chance.choice((0.0, -60.0, 60.0))
        server = Server(
            self._servers, chance=self.chance, record=self.record, scripts=self.scripts, clock=clock, gate=Gate()
        )
        journal = self._shared.of(server, self.disk, clock)
        server.sender = Hooks(server, self.habits.hooks) if self.habits.has_hooks else None
        server.make(journal, self.options, self._new_run_id, self.perils, self.firings, resumable=self.resumable)
        self.servers[server.number], self.journals[server.number] = server, journal
        return server

    async def _exit_when_lost(self, server: Server) -> None:
        """End a server at once when its journal may be another's, as its process does; in a task of its own."""
        await self.journals[server.number].until_lost()
        server.note("crashed")
        server.is_dead()
        loop = asyncio.get_running_loop()
        self._deeds.add(task := loop.create_task(self._after_loss(server), context=self._outside.copy()))
        task.add_done_callback(self._deeds.discard)

    async def _after_loss(self, server: Server) -> None:
        await self._in_time(server.service.abort(), "a death")
        await self._replaced()

    async def _supervise(self, server: Server) -> None:
        """Replace a process that says that too much of ended runs still works in it, or where it does for good."""
        readers = 0
        while readers < READERS and not server.service.exhausted.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(server.service.exhausted.wait(), LOOK_EVERY_S)
            readers = readers + 1 if server.is_choked() else 0
        if server.ready:
            server.note("exhausted")
            self._later(self._start())
            self._later(self._drained(server))

    async def _drained(self, server: Server) -> None:
        """Stop a server, unless it is gone or stops already."""
        if not server.alive or server.number in self._stopping:
            return
        self._stopping.add(server.number)
        server.note("draining")
        began = self.clock.monotonic()
        draining = server.task(server.service.drain())
        done, _ = await asyncio.wait((draining,), timeout=self.quiet_s)
        if not done:
            self.record.fault(self.clock.monotonic(), "a drain continues for good")
        if _is_gone(server):
            return
        draining.result()
        server.note("drained", took_s=self.clock.monotonic() - began, faulty=self.disk.faulty)
        await server.request_exit()

    async def _drain(self) -> None:
        """Stop all servers, one after another, and those that are started in place of one that is lost meanwhile."""
        self.disk.stalls = 0.0
        while self._deeds or (left := self._not_stopped()):
            if self._deeds:
                await asyncio.wait(self._deeds)
            else:
                await self._drained(left[0])

    def _not_stopped(self) -> list[Server]:
        return [each for each in self.servers.values() if each.alive and each.number not in self._stopping]

    # -- calm ------------------------------------------------------------------------------------------

    async def _calm(self) -> None:
        self.disk.stalls = 0.0
        while self._deeds:  # (a server that was frozen may be lost, and is replaced)
            await asyncio.wait(self._deeds)
        await super()._calm()
        self.disk.stalls = self._stalls

    async def _quiet(self) -> None:
        until = self.clock.monotonic() + self.quiet_s
        still = 0
        while still < 4:
            await asyncio.sleep(0.5)
            still = still + 1 if self._is_quiet() else 0
            if self.clock.monotonic() > until:
                health = [each.service.health() for each in self.servers.values() if each.alive]
                self.record.fault(until, f"it comes to no rest: {health}")
                return
        while (left := self._left()) and self.clock.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        for each in left:
            self.record.fault(self.clock.monotonic(), f"nothing happens, and {each}")
        self.note("quiet")

    def _left(self) -> list[str]:
        """Return what servers still hold; one may be lost meanwhile, with all that it had."""
        alive = [each for each in self.servers.values() if each.alive]
        return [f"server {each.number} has {left}" for each in alive for left in each.survivors()]

    def _is_quiet(self) -> bool:
        """Return whether nothing is on its way anywhere, and each session has an owner that lives."""
        owners: set[str | None] = {self._shared.database.owner(each) for each in self._sessions_of}
        alive = [each for each in self.servers.values() if each.alive]
        return (
            not self._deeds
            and owners <= {str(each.number) for each in alive}
            and all(each.ready and not each.frozen and each.is_quiet() for each in alive)
        )


def _is_gone(server: Server) -> bool:
    return not server.alive


class _Store:
    """The shared database, as a world with one server asks for its journal: for the judge's own reading."""

    shared = True

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self.shared_by_all = SharedStore(clock, lease_s)

    def of(self, process: Process, disk: Disk) -> Journal:
        """Return the journal as one more process has it."""
        return self.shared_by_all.of(process, disk, self._clock)

    def close(self) -> None:
        """Close the database."""
        self.shared_by_all.close()

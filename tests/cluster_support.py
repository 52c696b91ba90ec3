"""Servers that answer for each other, in one process: real services, real HTTP between them, owners that a test names.

Each server has a journal in memory of its own, and owns the partitions that a test gives it. A server that takes over
opens the journal of the one that was lost.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from engine_support import Played, echo
from strandline._access.source import keys_of
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._composition import build_http, build_service
from strandline._http.forwarding.forwarder import Forwarder
from strandline._http.middleware.access import AccessMiddleware
from strandline._http.middleware.connections import Connections
from strandline._journal.cluster import Cluster, DatabaseVitals, Feature, Peer
from strandline._journal.memory import MemoryJournal
from strandline._journal.partitions import PARTITIONS, partition_of
from strandline._listener import listen, listen_for_servers
from strandline._model import ANONYMOUS, Principal, SessionId, SessionKey
from strandline._server import web_server
from strandline._settings import Settings
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.testing._virtual import InlineLoops

T = TypeVar("T")
DEADLINE_S = 30.0


class Town:
    """Who is alive, and who owns what."""

    def __init__(self, lease_s: float = 1.0) -> None:
        self.secret = b"s" * 32
        self.lease_s = lease_s
        self.peers: dict[int, Peer] = {}
        self.owners: dict[int, int | None] = dict.fromkeys(range(PARTITIONS))
        self.unknown: set[Feature] = set()
        """What a server does not know that is there besides, of an older version."""
        self.refreshed = 0

    def give(self, server: "Served", *partitions: int) -> None:
        """Have a server own partitions."""
        self.owners.update(dict.fromkeys(partitions, server.id))


class View(Cluster):
    """The town as one server knows it."""

    def __init__(self, town: Town, me: int) -> None:
        self._town = town
        self._me = me

    @property
    def me(self) -> int:
        return self._me

    @property
    def secret(self) -> bytes:
        return self._town.secret

    @property
    def lease_s(self) -> float:
        return self._town.lease_s

    @property
    def lease_left_s(self) -> float:
        return self._town.lease_s

    @property
    def takeovers(self) -> int:
        return 0

    async def database(self) -> DatabaseVitals | None:
        return None

    @property
    def peers(self) -> dict[int, Peer]:
        return self._town.peers

    def knows(self, feature: Feature) -> bool:
        return feature not in self._town.unknown

    def owner(self, partition: int) -> Peer | None:
        owner = self._town.owners[partition]
        return None if owner is None else self._town.peers.get(owner)

    def owns(self, partition: int) -> bool:
        return self._town.owners[partition] == self._me

    async def refresh(self) -> None:
        self._town.refreshed += 1


class Seen:
    """What one server sees of the servers, also when another one has its journal."""

    def __init__(self, cluster: View) -> None:
        self.cluster = cluster


class PartOf(MemoryJournal):
    """A journal in memory that says it is shared."""

    cluster: View

    @property
    def epoch(self) -> int:
        """The id of its server, which rises from start to start."""
        return self.cluster.me

    @property
    def secret(self) -> bytes:
        """What all servers know."""
        return self.cluster.secret


class Served:
    """One server: its service, its public address, and what its clients use."""

    def __init__(self, number: int, settings: Settings, journal: PartOf, target: Played) -> None:
        self.id = number
        self.journal = journal
        self.recorder = MetricsRecorder()
        self.loops = InlineLoops()
        self.service = build_service(settings, target, journal, self.loops, SystemClock(), self.recorder, Traces())
        self.service._streams._survives = True  # (another server opens this journal)
        self.service.ownership._shared = Seen(journal.cluster)
        self.apps = build_http(settings, self.service, self.recorder, Traces(), loopback=True, keys=keys_of(settings))
        self.public, self.between = listen(settings), listen_for_servers(settings)
        self.address = f"127.0.0.1:{self.between.getsockname()[1]}"
        self.url = f"http://127.0.0.1:{self.public.getsockname()[1]}"
        self._webs: list[tuple[Any, asyncio.Task[None]]] = []

    async def start(self) -> None:
        """Start the service, and serve both listeners."""
        await self.service.start()
        assert self.apps.inner is not None
        for app, listener in ((self.apps.public, self.public), (self.apps.inner, self.between)):
            web = web_server(app, Connections(most=1000, patience_s=30), 30)
            self._webs.append((web, asyncio.create_task(web.serve(sockets=[listener]))))
        while not all(web.started for web, _ in self._webs):
            await asyncio.sleep(0)

    @property
    def forwarder(self) -> Forwarder:
        """What sends its requests to others."""
        assert isinstance(self.apps.public, AccessMiddleware)
        assert isinstance(self.apps.public._app, Forwarder)
        return self.apps.public._app

    def cut(self) -> None:
        """Cut all connections, and accept no more, as when the process is killed."""
        self.forwarder._others.pool.close()
        for web, _ in self._webs:
            web.stop_accepting()
            for connection in list(web.server_state.connections):
                connection.transport.abort()

    async def kill(self) -> None:
        """End it as a kill does."""
        self.cut()
        await self.service.abort()
        for web, task in self._webs:
            web.should_exit = web.force_exit = True
            await asyncio.wait([task])
        self._webs.clear()


def cut_connections(server: Served) -> None:
    """Cut the connections of a server, which accepts new ones."""
    for web, _ in server._webs:
        for connection in list(web.server_state.connections):
            connection.transport.abort()


class Servers:
    """All servers of a test."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self._all: list[Served] = []

    async def start(
        self,
        behaviour: Callable[[Attempt], Awaitable[str]] = echo,
        *,
        journal: PartOf | None = None,
        **settings: Any,
    ) -> Served:
        """Start a server, with the journal of one that was lost or with one of its own."""
        journal = journal or PartOf(SystemClock())
        number = len(self._all) + 1
        journal.cluster = View(self.town, number)
        found = Settings(journal="memory:", port=0, **{"retry_after_s": 1.0, **settings})
        server = Served(number, found, journal, Played(behaviour))
        self._all.append(server)
        await server.start()
        self.town.peers = {**self.town.peers, number: Peer(number, server.address, "0")}
        return server

    async def take_over(
        self,
        lost: Served,
        behaviour: Callable[[Attempt], Awaitable[str]] = echo,
        *,
        stays: bool = False,
        **settings: Any,
    ) -> Served:
        """Have a new server own what one did that was lost, or `stays`."""
        if not stays:
            self.town.peers = {each: peer for each, peer in self.town.peers.items() if each != lost.id}
        had = [partition for partition, owner in self.town.owners.items() if owner == lost.id]
        server = await self.start(behaviour, journal=lost.journal, **settings)
        self.town.give(server, *had)
        return server

    async def end(self) -> None:
        """End all."""
        await asyncio.gather(*(each.kill() for each in self._all), return_exceptions=True)


@asynccontextmanager
async def servers(lease_s: float = 1.0) -> AsyncIterator[Servers]:
    """Have servers, and end them."""
    found = Servers(Town(lease_s))
    try:
        yield found
    finally:
        await found.end()


@asynccontextmanager
async def pair(
    behaviour: Callable[[Attempt], Awaitable[str]] = echo, *, lease_s: float = 1.0, **settings: Any
) -> AsyncIterator[tuple[Servers, Served, Served, httpx.AsyncClient]]:
    """Have two servers, the second of which owns everything, and a client of the first."""
    async with servers(lease_s) as found:
        first = await found.start(behaviour, **settings)
        owner = await found.start(behaviour, **settings)
        found.town.give(owner, *range(PARTITIONS))
        async with httpx.AsyncClient(base_url=first.url, timeout=DEADLINE_S, trust_env=False) as client:
            yield found, first, owner, client


def partition(session: str, principal: str = ANONYMOUS) -> int:
    """Return the partition of a session."""
    return partition_of(SessionKey(Principal(principal), SessionId(session)))


def run(scene: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Play a scene within a deadline."""
    return asyncio.run(asyncio.wait_for(scene(), DEADLINE_S))


async def until(condition: Callable[[], object], what: str) -> None:
    """Return when a condition is true."""
    async with asyncio.timeout(DEADLINE_S / 2):
        while not condition():
            await asyncio.sleep(0.005)

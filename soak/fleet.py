"""Several servers over one database: any of them answers, all of them serve.

`Fleet` keeps so many alive, and gives a client one of them by chance, as a balancer does that knows only whose process
is there.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from soak.database import Database
from soak.proxy import HOST, Proxy, to_port, to_socket
from soak.server import Relay, Server

BEHIND: Final = "127.0.0.2"
"""Where servers listen for each other, at the port of the proxy before them: all of 127.0.0.0/8 is this machine."""
MARK: Final = b"renew("
"""What a server says on the connection on which it writes, and on no other."""

EXCUSED: Final = (
    "the database cannot be reached",
    "a waiting run could not be claimed; retrying",
    "not ready: the journal can store nothing",
    "another server has taken the journal over",
    "exited at once: the lease on the journal is over",
    'violates unique constraint "runs_run_id_key"',
)
"""What a server logs whose database restarts, whose lease is over, or that gets a request again under its run id."""


class Lines(Struct, frozen=True):
    """The network of a server: to the database, and from the other servers to it."""

    database: Proxy
    inner: Proxy


class Fleet(Relay):
    """The servers over one database. `database` is there from `__aenter__` on."""

    database: Database
    excused = EXCUSED

    def __init__(
        self,
        target: str,
        flags: Sequence[str],
        folder: Path,
        *,
        servers: int,
        lease_ms: int,
        workers: Callable[[int], bool],
        clock_s: Callable[[int], float],
    ) -> None:
        super().__init__(target, flags, folder, workers=workers)
        self.lines: dict[Server, Lines] = {}
        """The network of each server that is there."""
        self._clock = clock_s
        self._proxies: list[Proxy] = []
        self._servers = servers
        self._lease_ms = lease_ms
        self._chance = random.Random()

    async def __aenter__(self) -> "Fleet":
        """Start the database and the first servers."""
        starting = asyncio.ensure_future(asyncio.to_thread(Database, lease_ms=self._lease_ms))
        try:
            self.database = await asyncio.shield(starting)
        except asyncio.CancelledError:
            (await starting).close()
            raise
        self.listing = self.database
        try:
            await super().__aenter__()
        except BaseException:
            self.database.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        """Kill what still runs, see it end, and end the database."""
        try:
            await super().__aexit__(*error)
        finally:
            for proxy in self._proxies:
                await proxy.close()
            self.database.close()

    async def _options(self, server: Server) -> list[str]:
        """Return where the database is for a server, and where other servers reach it: behind proxies of its own."""
        lines = Lines(Proxy(to_socket(self.database.socket), mark=MARK), Proxy(lambda make: connect(make)))
        connect = to_port(BEHIND, lambda: lines.inner.port)
        for proxy in (lines.database, lines.inner):
            self._proxies.append(proxy)
            await proxy.start()
        self.lines[server] = lines
        listen = ("--cluster-listen", f"{BEHIND}:{lines.inner.port}")
        address = ("--cluster-address", f"{HOST}:{lines.inner.port}")
        return ["--journal", self.database.through(lines.database.port), *listen, *address]

    async def _live(self, server: Server) -> None:
        try:
            await super()._live(server)
        finally:
            if (lines := self.lines.pop(server, None)) is not None:
                for proxy in (lines.database, lines.inner):
                    proxy.stop()

    @property
    def owner(self) -> Server | None:
        """One of the servers that answer, by chance; None: there is none."""
        healthy = [server for server in self._tasks if server.healthy]
        return self._chance.choice(healthy) if healthy else None

    @property
    def within_reach(self) -> list[Server]:
        """The servers that something can befall: that nobody has stopped, or frozen."""
        return [server for server in self._tasks if not server.is_stopped and not server.is_frozen]

    async def all_ready(self, deadline_s: float) -> None:
        """Return when every server that can be is ready. Raises `NotReady`."""
        try:
            async with asyncio.timeout(deadline_s):
                while not self.within_reach or any(server.phase != "ready" for server in self.within_reach):
                    await self._changed.wait()
        except TimeoutError:
            raise self._not_ready(f"within {deadline_s:g} s") from None

    def right_clocks(self) -> None:
        """Have all servers that start from now on know the time."""
        self._clock = lambda number: 0.0

    def fill(self) -> None:
        """Start servers until so many are there as should be."""
        there = sum(1 for server in self._tasks if not server.is_stopped)
        self._start(self._servers - there)

    _fill = fill

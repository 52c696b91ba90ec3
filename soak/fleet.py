"""Several servers over one database: any of them answers, all of them serve.

`Fleet` keeps so many alive, and gives a client one of them by chance, as a balancer does that knows only whose process
is there.
"""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from soak.database import Database
from soak.server import Relay, Server

EXCUSED: Final = (
    "the database cannot be reached",
    "a waiting run could not be claimed; retrying",
    "not ready: the journal can store nothing",
    "exited at once: another server has taken the journal over",
    "exited at once: the lease on the journal is over",
    'violates unique constraint "runs_run_id_key"',
)
"""What a server logs whose database restarts, whose lease is over, or that gets a request again under its run id."""


class Fleet(Relay):
    """The servers over one database. `database` is there from `__aenter__` on."""

    database: Database
    excused = EXCUSED

    def __init__(self, target: str, flags: Sequence[str], folder: Path, *, servers: int, lease_ms: int) -> None:
        super().__init__(target, flags, folder)
        self._servers = servers
        self._lease_ms = lease_ms
        self._chance = random.Random()

    async def __aenter__(self) -> "Fleet":
        """Start the database and the first servers."""
        self.database = await asyncio.to_thread(Database, lease_ms=self._lease_ms)
        self.listing, self._journal = self.database, self.database.url
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
            self.database.close()

    @property
    def owner(self) -> Server | None:
        """One of the servers that answer, by chance; None: there is none."""
        healthy = [server for server in self._tasks if server.healthy]
        return self._chance.choice(healthy) if healthy else None

    @property
    def within_reach(self) -> list[Server]:
        """The servers that something can befall: that nobody has stopped, or frozen."""
        return [server for server in self._tasks if not server.is_stopped and not server.is_frozen]

    def fill(self) -> None:
        """Start servers until so many are there as should be."""
        there = sum(1 for server in self._tasks if not server.is_stopped)
        self._start(self._servers - there)

    _fill = fill

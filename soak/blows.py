"""Has strikes befall the servers of a fleet, their database and their network, and counts them.

What lasts (a freeze, a cut) is ended by a task of its own, so that the next strike may come meanwhile.
"""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from soak.desk import POLL_S
from soak.fleet import Fleet
from soak.proxy import Proxy
from soak.records import Records
from soak.server import NotReady, Server
from soak.stored import Unreadable
from soak.strikes import LEASE_S, Strike

BATCH_S: Final = 2.0
"""How long a batch is waited for that is to be halved: a server that owns nothing sends none."""
BATCH_BYTES: Final = 400
"""What is larger is a batch with rows; what is smaller renews the lease."""
TAKEOVER_S: Final = LEASE_S + 1.0
"""How long the next takeover is waited for."""
NAMES: Final = {
    "half": "half batch",
    "cut": "cut from the database",
    "part": "cut from other servers",
    "stop": "SIGTERM",
    "deploy": "rolling deploy",
    "restart": "restart of the database",
    "crash": "crash of the database",
}


class Blows:
    """Counts, by name: `done` what was done, `kills` how kills came, `missed` what there was no server for."""

    def __init__(self, fleet: Fleet, records: Records, *, patience_s: float) -> None:
        self.done: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self._fleet = fleet
        self._records = records
        self._patience_s = patience_s

    async def strike(self, strike: Strike, lasting: asyncio.TaskGroup) -> None:
        """Do it, if there is a server for it. What lasts is ended in `lasting`."""
        name = NAMES.get(strike.what, strike.what)
        match strike.what:
            case "restart" | "crash":
                mode = "fast" if strike.what == "restart" else "immediate"
                self._note()
                await asyncio.to_thread(self._fleet.database.restart, mode)
            case "deploy":
                self._note()
                await self._deploy()
            case "kill":
                if not await self._kill(strike):
                    self.missed[name] += 1
                    return
            case _:
                servers = self._fleet.within_reach
                first = strike.whom % len(servers) if servers else 0
                for server in [*servers[first:], *servers[:first]]:
                    if await self._befall(server, strike, lasting):
                        break
                else:
                    self.missed[name] += 1
                    return
        self.done[name] += 1

    def _note(self) -> None:
        """Write down when something befalls anything."""
        self._records.blows.append(time.time())

    async def _kill(self, strike: Strike) -> bool:
        """Kill a server, of those that answer if there is one; return whether one was there."""
        server = await self._taker() if strike.how == "took over" else None
        if server is not None:
            self.kills["right after it took sessions over"] += 1
        else:
            reach = self._fleet.within_reach
            servers = (strike.how != "any" and [each for each in reach if each.phase == "ready"]) or reach
            if not servers:
                return False
            server = servers[strike.whom % len(servers)]
        if any(each.is_frozen and each is not server for each in self._fleet.alive):
            self.kills["while another was frozen"] += 1
        if server.phase != "ready":
            self.kills["before it was ready"] += 1
        self._note()
        server.send("KILL")
        return True

    async def _taker(self) -> Server | None:
        """Return the next server that takes over sessions of another, as soon as it does; None if none does soon."""
        database = self._fleet.database
        since: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(TAKEOVER_S):
                while True:
                    with suppress(Unreadable):  # the database restarts
                        if since is None:
                            since = database.newest_owner()
                        elif (pid := database.taker(since)) is not None:
                            return next((each for each in self._fleet.within_reach if each.pid == pid), None)
                    await asyncio.sleep(POLL_S)
        return None

    async def _befall(self, server: Server, strike: Strike, lasting: asyncio.TaskGroup) -> bool:
        """Have it befall a server; return whether it did."""
        self._note()
        match strike.what:
            case "stop":
                server.send("TERM")
                self._fleet.fill()
            case "freeze":
                self._freeze(server, strike, lasting)
            case "half":
                return await self._halve(server, strike, lasting)
            case "cut" | "part":
                lines = self._fleet.lines.get(server)
                if lines is None:
                    return False
                self._cut(lines.database if strike.what == "cut" else lines.inner, strike, lasting)
        return True

    def _freeze(self, server: Server, strike: Strike, lasting: asyncio.TaskGroup) -> None:
        workers = server.workers() if strike.how != "it" else []
        server.send("STOP")
        for pid in workers:  # (none of them ends for good meanwhile: its parent stands still)
            _send(pid, signal.SIGSTOP)

        def thaw() -> None:
            for pid in workers:
                _send(pid, signal.SIGCONT)
            server.thaw()

        lasting.create_task(_later(strike.still_s, thaw))

    async def _halve(self, server: Server, strike: Strike, lasting: asyncio.TaskGroup) -> bool:
        """Let a share of a batch through, and nothing after it. A server that sends none is left alone."""
        lines = self._fleet.lines.get(server)
        if lines is None:
            return False
        try:
            async with asyncio.timeout(BATCH_S):
                await lines.database.halve(strike.share, BATCH_BYTES)
        except TimeoutError:
            return False
        match strike.how:
            case "killed":
                server.send("KILL")
            case "cut off":
                lines.database.hold()
                lasting.create_task(_later(strike.still_s, lines.database.restore))
        return True

    def _cut(self, proxy: Proxy, strike: Strike, lasting: asyncio.TaskGroup) -> None:
        match strike.how:
            case "reset":
                proxy.reset()
                return
            case "refused":
                proxy.refuse()
            case _:
                proxy.hold()
        lasting.create_task(_later(strike.still_s, proxy.restore))

    async def _deploy(self) -> None:
        """Replace every server, one after another. Raises `NotReady` if one does not end, or the next is not ready."""
        for server in self._fleet.within_reach:
            if server.is_stopped:
                continue
            server.send("TERM")
            self._fleet.fill()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._fleet.ended(server)
            except TimeoutError:
                raise NotReady(f"a server does not end after SIGTERM: {server.account}") from None
            await self._fleet.all_ready(self._patience_s)


async def _later(after_s: float, end: Callable[[], None]) -> None:
    """End something after a while, or when the strikes are over."""
    try:
        await asyncio.sleep(after_s)
    finally:
        end()


def _send(pid: int, which: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, which)

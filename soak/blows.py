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

from soak.fleet import Fleet
from soak.proxy import Proxy
from soak.records import Records
from soak.server import NotReady, Server
from soak.strikes import Strike

BATCH_S: Final = 2.0
"""How long a batch is waited for that is to be halved: a server that owns nothing sends none."""
BATCH_BYTES: Final = 400
"""What is larger is a batch with rows; what is smaller renews the lease."""
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
    """`done` counts what was done, by name."""

    def __init__(self, fleet: Fleet, records: Records, *, patience_s: float) -> None:
        self.done: Counter[str] = Counter()
        self._fleet = fleet
        self._records = records
        self._patience_s = patience_s

    async def strike(self, strike: Strike, lasting: asyncio.TaskGroup) -> None:
        """Do it, if there is a server for it. What lasts is ended in `lasting`."""
        self._records.blows.append(time.time())
        match strike.what:
            case "restart" | "crash":
                mode = "fast" if strike.what == "restart" else "immediate"
                await asyncio.to_thread(self._fleet.database.restart, mode)
            case "deploy":
                await self._deploy()
            case _:
                servers = self._fleet.within_reach
                if not servers or not await self._befall(servers[strike.whom % len(servers)], strike, lasting):
                    return
        self.done[NAMES.get(strike.what, strike.what)] += 1

    async def _befall(self, server: Server, strike: Strike, lasting: asyncio.TaskGroup) -> bool:
        """Have it befall a server; return whether it did."""
        match strike.what:
            case "kill":
                server.send("KILL")
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

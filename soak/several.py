"""A soak with several servers over one PostgreSQL: what befalls them, and what is known of it in the end."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from soak.feeds import Feeds
from soak.fleet import Fleet
from soak.judge import LOST_LEASE
from soak.server import Relay, Server
from soak.stored import Unreadable
from soak.strikes import LEASE_S, Strike, strikes
from soak.trial import QUIET_S, TARGET, Trial

LATE_S: Final = 15.0
"""How late a run may end that succeeded: its server may stand still for a while, or wait for the database."""


class SeveralTrial(Trial):
    """A soak of `servers` servers, so many at a time. A *kill* is here anything that befalls them or their database."""

    def __init__(self, folder: Path, *, kills: int, seed: int, servers: int, target: str = TARGET) -> None:
        self._count = servers
        super().__init__(folder, kills=kills, seed=seed, target=target)
        self._rules = replace(self._rules, lease_s=LEASE_S, undisturbed_s=LATE_S)
        self._desk.may_refuse = True
        self._done: Counter[str] = Counter()
        self._feeds = Feeds(self._desk, seed=seed)
        self._following: asyncio.Task[None] | None = None

    def _servers(self, target: str, flags: list[str], workers: Callable[[int], bool]) -> Relay:
        del workers  # agents run in the servers' own processes
        self._fleet = Fleet(target, flags, self._folder, servers=self._count, lease_ms=round(LEASE_S * 1000))
        return self._fleet

    def summary(self) -> str:
        """Return, in lines, what was played; true after `run`."""
        owned = self._records.owned
        over = len({(each.at_ns // 10**9) for each in owned if each.over})
        codes = Counter(
            "after a freeze" if "STOP" in each.signals else "otherwise"
            for each in self._records.exits
            if each.code == LOST_LEASE
        )
        lines = [
            "struck: " + ", ".join(f"{count} {what}" for what, count in self._done.most_common()),
            f"takeovers: {over}, {sum(1 for each in owned if each.pid)} times a partition got an owner",
            "leases lost: " + (", ".join(f"{count} {why}" for why, count in codes.most_common()) or "none"),
            super().summary(),
        ]
        return "\n".join(lines)

    def _read_journal(self) -> None:
        super()._read_journal()
        with suppress(Unreadable):
            self._records.owned = self._fleet.database.owned()
            self._records.ends = self._fleet.database.ends()

    async def run(self) -> list[str]:
        """Return everything that was wrong."""
        try:
            return await super().run()
        finally:
            if self._following is not None:
                self._following.cancel()
                await asyncio.wait([self._following])

    async def _quiet(self) -> None:
        await super()._quiet()
        if self._following is not None:
            await self._feeds.finish()
            self._following.cancel()

    async def _kill(self) -> None:
        async with asyncio.TaskGroup() as thaws:
            for _ in range(self._count):  # all of them are there before anything happens
                if not await self._unless_stopped(self._fleet.ready(QUIET_S)):
                    return
            self._following = asyncio.create_task(self._feeds.run())
            for strike in strikes(self._seed, self._planned):
                if not await self._unless_stopped(asyncio.sleep(strike.after_s)):
                    return
                await self._strike_one(strike, thaws)
                self._kills += 1

    async def _strike_one(self, strike: Strike, thaws: asyncio.TaskGroup) -> None:
        await self._fleet.ready(QUIET_S)
        self._done[strike.what] += 1
        self._records.blows.append(time.time())
        if strike.what in ("restart", "crash"):
            mode = "fast" if strike.what == "restart" else "immediate"
            await asyncio.to_thread(self._fleet.database.restart, mode)
            return
        servers = self._fleet.within_reach
        if not servers:
            return
        server = servers[strike.whom % len(servers)]
        match strike.what:
            case "kill":
                server.send("KILL")
            case "stop":
                server.send("TERM")
                self._fleet.fill()
            case _:
                server.send("STOP")
                thaws.create_task(self._thaw(server, strike.still_s))

    async def _thaw(self, server: Server, still_s: float) -> None:
        try:
            await asyncio.sleep(still_s)
        finally:
            server.thaw()

    async def _strike(self) -> None:
        """Nothing else befalls anything."""
        await asyncio.Event().wait()

"""A soak with several servers over one PostgreSQL: what befalls them, and what is known of it in the end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from soak.blows import Blows
from soak.feeds import Feeds
from soak.fleet import Fleet
from soak.judge import LOST_LEASE
from soak.server import Relay
from soak.stored import Unreadable
from soak.strikes import CLOCK_S, LEASE_S, Strike, clock_s, strikes
from soak.summary import counted
from soak.trial import QUIET_S, TARGET, Trial

DRAWN_S: Final = 1.0
"""By how much the clocks may differ from which servers draw the sequences of runs."""
DISTURBED_S: Final = 3 * LEASE_S
"""How long after a strike a session may be without a server: for as long as that stands still, and for its lease."""
LATE_S: Final = 15.0
"""How late a run may end that succeeded: its server may stand still for a while, or wait for the database."""


class SeveralTrial(Trial):
    """A soak of `servers` servers, so many at a time. A *kill* is here anything that befalls them or their database."""

    def __init__(
        self,
        folder: Path,
        *,
        kills: int,
        seed: int,
        servers: int,
        target: str = TARGET,
        schedule: Sequence[Strike] | None = None,
    ) -> None:
        """`schedule` is what is done, in place of `kills` things that the seed has."""
        self._count = servers
        self._schedule = list(strikes(seed, kills)) if schedule is None else [*schedule]
        super().__init__(folder, kills=len(self._schedule), seed=seed, target=target)
        self._rules = replace(self._rules, lease_s=LEASE_S, undisturbed_s=LATE_S, drawn_s=DRAWN_S, drain_s=DISTURBED_S)
        self._desk.may_refuse = True
        self._desk.answer_s = self._quiet_s = QUIET_S + CLOCK_S + LATE_S
        self._feeds = Feeds(self._desk, seed=seed)
        self._following: asyncio.Task[None] | None = None

    def _servers(self, target: str, flags: list[str], workers: Callable[[int], bool]) -> Relay:
        self._fleet = Fleet(
            target,
            flags,
            self._folder,
            servers=self._count,
            lease_ms=round(LEASE_S * 1000),
            workers=workers,
            clock_s=partial(clock_s, self._seed),
        )
        self._blows = Blows(self._fleet, self._records, patience_s=QUIET_S)
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
            f"struck: {counted(self._blows.done)}",
            *(
                [f"missed, since no server was there for it: {counted(missed)}"]
                if (missed := self._blows.missed)
                else []
            ),
            *([f"of the kills: {counted(kills)}"] if (kills := self._blows.kills) else []),
            f"takeovers: {over}, {sum(1 for each in owned if each.pid)} times a partition got an owner",
            f"servers: {sum(1 for each in self._records.exits if each.clock_s)} had a clock that is off by a minute",
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

    def _look_around(self) -> None:
        with suppress(Unreadable):
            self._records.faults += self._fleet.database.activity()

    async def _calm(self) -> None:
        """Have servers with the right time only: what was to end at a time may end a minute too late now."""
        self._fleet.right_clocks()
        for server in [server for server in self._fleet.alive if server.clock_s]:
            server.send("TERM")
            self._fleet.fill()
            await self._fleet.ended(server)

    async def _quiet(self) -> None:
        await super()._quiet()
        if self._following is not None:
            await self._feeds.finish(self._fleet.database.ends)
            self._following.cancel()

    async def _kill(self) -> None:
        async with asyncio.TaskGroup() as lasting:
            for there in (self._fleet.ready, self._fleet.all_ready):  # all of them, before anything happens
                if not await self._unless_stopped(there(QUIET_S)):
                    return
            self._following = asyncio.create_task(self._feeds.run())
            for strike in self._schedule:
                if not await self._unless_stopped(asyncio.sleep(strike.after_s)):
                    return
                await self._fleet.ready(QUIET_S)
                await self._blows.strike(strike, lasting)
                self._kills += 1

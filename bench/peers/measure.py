"""The measurements of one subject, by a load generator on the other core."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from bench.load import MESSAGE, Client, Load, Speech, connect_as, drive, quantile, request
from bench.peers.protocols import Dialect, quickly_answered
from bench.peers.record import Figures
from bench.peers.script import PIECE, text_of
from bench.processes import Loop, Server, cpu_s, rss_bytes

MANY: Final = 64
HOT: Final = 32
HOT_SESSION: Final = "hot"
PROBE_S: Final = 0.02
AT_ONCE: Final = 50
TURNS: Final = 3
"""How many turns each session of the memory measurement has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long everything takes."""

    repetitions: int
    one_s: float
    many_s: float
    hot_s: float
    streams: int
    sessions: int
    warm_turns: int
    """A turn is two messages; 20 fill a window of 40."""
    restart_s: float
    """How long a server has, after kill -9, to do what it had accepted."""


FULL: Final = Plan(3, one_s=1.0, many_s=2.0, hot_s=1.5, streams=40, sessions=300, warm_turns=20, restart_s=12.0)
QUICK: Final = Plan(1, one_s=0.4, many_s=0.8, hot_s=0.5, streams=10, sessions=60, warm_turns=3, restart_s=6.0)


class Listener(Client):
    """A client that notes when a text first came."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self._text = text
        self._seen = b""
        self.first_at: float | None = None

    def data_received(self, data: bytes) -> None:
        """Look at what came, then treat it as any client does."""
        if self.first_at is None:
            self._seen += data
            if self._text in self._seen:
                self.first_at = time.perf_counter()
        super().data_received(data)


@dataclass(slots=True)
class Measured:
    """All repetitions of one subject."""

    one: list[Load] = field(default_factory=list)
    many: list[Load] = field(default_factory=list)
    hot: list[Load] = field(default_factory=list)
    first_text_s: list[float] = field(default_factory=list)
    idle_bytes: int = 0
    session_bytes: float | None = None

    def put(self, figures: Figures) -> None:
        """Write medians into the figures; loads that failed are named instead."""
        figures.idle_mb = self.idle_bytes / 1e6
        figures.session_kb = None if self.session_bytes is None else self.session_bytes / 1e3
        failures = [each for load in (*self.one, *self.many) for each in load.failures]
        if failures:
            figures.failures.append(f"{len(failures)} requests failed, e.g. {failures[0]}")
        elif self.one and self.many:
            figures.one_p50_ms = _median(self.one, lambda load: quantile(load.latencies_s, 0.5) * 1e3)
            figures.one_p95_ms = _median(self.one, lambda load: quantile(load.latencies_s, 0.95) * 1e3)
            figures.many_per_s = _median(self.many, lambda load: load.per_s)
            figures.many_cpu_us = _median(self.many, lambda load: load.cpu_s / len(load.latencies_s) * 1e6)
        if self.many and self.many[0].health_s:
            figures.health_p50_ms = _median(self.many, lambda load: quantile(load.health_s, 0.5) * 1e3)
            figures.health_max_ms = max(max(load.health_s) for load in self.many) * 1e3
        if self.hot:
            figures.hot_per_s = _median(self.hot, lambda load: _answers(load) / load.seconds)
            figures.hot_refused = _median(self.hot, lambda load: len(load.failures) / len(load.latencies_s))
        if self.first_text_s:
            figures.first_text_p50_ms = median(self.first_text_s) * 1e3


def _answers(load: Load) -> int:
    return len(load.latencies_s) - len(load.failures)


def _median(loads: list[Load], figure: Callable[[Load], float]) -> float:
    return median(figure(load) for load in loads)


class Peer:
    """A server under measurement."""

    def __init__(self, server: Server, dialect: Dialect) -> None:
        self._server = server
        self._dialect = dialect
        self._speech = Speech(
            ask=lambda url, session: dialect.turn(url, session, MESSAGE),
            probe=lambda url: request(url, "GET", dialect.health),
            answered=quickly_answered,
        )
        self.taken = Measured(idle_bytes=rss_bytes(server.pid))

    async def warm(self, plan: Plan) -> None:
        """Take the memory of sessions, then fill the windows of those that are measured."""
        await self._turns(plan.sessions // 3, TURNS, "first")
        before = rss_bytes(self._server.pid)
        await self._turns(plan.sessions, TURNS, "then")
        self.taken.session_bytes = (rss_bytes(self._server.pid) - before) / plan.sessions
        for count in (1, MANY):
            await drive(self._server.url, count, turns=plan.warm_turns, speech=self._speech)
        await drive(self._server.url, 1, turns=plan.warm_turns, speech=self._speech, session=HOT_SESSION)

    async def repeat(self, plan: Plan) -> None:
        """Measure once."""
        url = self._server.url
        self.taken.one.append(await drive(url, 1, seconds=plan.one_s, speech=self._speech))
        before = cpu_s(self._server.pid)
        many = await drive(url, MANY, seconds=plan.many_s, probe_s=PROBE_S, speech=self._speech)
        many.cpu_s = cpu_s(self._server.pid) - before
        self.taken.many.append(many)
        hot = await drive(url, HOT, seconds=plan.hot_s, speech=self._speech, session=HOT_SESSION)
        self.taken.hot.append(hot)
        self.taken.first_text_s += [await self._first_text(number) for number in range(plan.streams)]

    async def _first_text(self, number: int) -> float:
        """Return how long a lone client waits for the first text of a stream."""
        message = f"{number:04} {MESSAGE}"
        client = await connect_as(self._server.url, lambda: Listener(text_of(message)[:PIECE].encode()))
        try:
            begin = time.perf_counter()
            await client.ask(self._dialect.stream(self._server.url, "stream", message))
            if client.first_at is None:
                raise LookupError(f"a stream ended without its text (request {number})")
            return client.first_at - begin
        finally:
            client.close()

    async def _turns(self, sessions: int, turns: int, prefix: str) -> None:
        for start in range(0, sessions, AT_ONCE):
            count = min(AT_ONCE, sessions - start)
            load = await drive(self._server.url, count, turns=turns, prefix=f"{prefix}-{start}", speech=self._speech)
            if load.failures:
                raise LookupError(f"a turn was not answered: {load.failures[0]}")


class Called:
    """The agent in a loop under measurement."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.taken = Measured()

    async def warm(self, plan: Plan) -> None:
        """Do what is done to servers."""
        await self._loop.warm(0, 0)  # answered when everything is imported
        self.taken.idle_bytes = rss_bytes(self._loop.pid)
        await self._loop.warm(plan.sessions // 3, TURNS)
        before = rss_bytes(self._loop.pid)
        await self._loop.warm(plan.sessions, TURNS)
        self.taken.session_bytes = (rss_bytes(self._loop.pid) - before) / plan.sessions
        for count in (1, MANY):
            await self._loop.warm(count, plan.warm_turns)

    async def repeat(self, plan: Plan) -> None:
        """Measure once."""
        self.taken.one.append(await self._loop.load(1, plan.one_s))
        self.taken.many.append(await self._loop.load(MANY, plan.many_s))

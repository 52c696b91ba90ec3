"""Servers whose machines disagree about the time, on one database: what is stored is by its clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine_support import Played
from postgres_support import DEADLINE_S, asking, lease_of, until
from strandline._agents.port import Attempt
from strandline._clock import FollowingClock, SystemClock
from strandline._composition import build_service
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._journal.partitions import partition_of
from strandline._journal.postgres.journal import PostgresJournal
from strandline._model import ErrorCode, RunStatus, SessionKey
from strandline._settings import Settings
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.testing._desk import key
from strandline.testing._virtual import InlineLoops

QUEUE_S = 4.0
"""For how long runs of these tests may wait: longer than a takeover takes."""


class Ahead(SystemClock):
    """The clock of a machine that somebody has set wrong."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s

    def now(self) -> float:
        return SystemClock.now() + self._ahead_s


class Server:
    """A service on a machine whose clock is wrong. Its runs never end by themselves."""

    def __init__(self, database: str, ahead_s: float) -> None:
        self.clock = FollowingClock(Ahead(ahead_s))
        self.journal = PostgresJournal(
            database, self.clock, lock_wait_s=DEADLINE_S, on_time=self.clock.measured, address=lambda: "127.0.0.1:1"
        )
        settings = Settings(journal="postgresql://", queue_timeout_s=QUEUE_S, timeout_s=QUEUE_S)
        self.service: Service = build_service(
            settings, Played(self._forever), self.journal, InlineLoops(), self.clock, MetricsRecorder(), Traces()
        )

    async def _forever(self, attempt: Attempt) -> str:
        await asyncio.Event().wait()
        return ""

    async def die(self) -> None:
        """Stop, as a process does that is killed."""
        assert self.journal._transactions is not None
        self.journal._transactions.lease.lose("it is dead")
        await self.service.abort()

    def session(self) -> SessionKey:
        """Return a session that it owns."""
        found = (key(f"s{number}") for number in range(10_000))
        return next(each for each in found if self.journal.cluster.owns(partition_of(each)))


@asynccontextmanager
async def two(database: str) -> AsyncIterator[tuple[Server, Server]]:
    lease_of(database, 1_000)
    first, second = Server(database, 60.0), Server(database, -60.0)
    await first.service.start()
    await second.service.start()
    try:
        await until(lambda: second.journal.cluster.owner(0) and any(map(second.journal.cluster.owns, range(256))))
        yield first, second
    finally:
        await first.die()
        await second.die()
        await first.service.close()
        await second.service.close()


def test_times_of_runs_are_the_databases_whatever_the_clocks_of_servers_say(database: str) -> None:
    async def main() -> None:
        async with two(database) as servers:
            accepted = []
            for n in range(6):
                server = servers[n % 2]
                accepted.append((await server.service.submit(Request(key=server.session(), input="go"))).run_id)
            with asking(database) as wire:
                (now,) = wire.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
                found = wire.execute(
                    "SELECT run_id, created_at, coalesce(started_at, created_at), queue_deadline FROM runs"
                    " ORDER BY created_at"
                ).fetchall()
            assert [run_id for run_id, *_ in found] == accepted
            for server, ahead_s in zip(servers, (60.0, -60.0), strict=True):
                vitals = await server.service.database()
                assert vitals is not None
                assert vitals.clock_ahead_s == pytest.approx(ahead_s, abs=1.0), "what people see is the machine's clock"
            for _, created_at, started_at, queue_deadline in found:
                assert now - DEADLINE_S < created_at <= started_at <= now + 0.1
                assert queue_deadline is None or queue_deadline == pytest.approx(created_at + QUEUE_S)

    asyncio.run(main())


def test_a_deadline_of_a_run_is_the_same_at_the_server_that_takes_it_over(database: str) -> None:
    async def main() -> None:
        async with two(database) as (first, second):
            session = second.session()
            await second.service.submit(Request(key=session, input="go"))
            waits = await second.service.submit(Request(key=session, input="go"))
            accepted_at = first.clock.now()
            await second.die()
            await until(lambda: first.journal.cluster.owns(partition_of(session)))
            assert first.clock.now() < accepted_at + QUEUE_S, "the machine is too slow for this test"
            async with asyncio.timeout(DEADLINE_S):
                view = await first.service.wait(session.principal, waits.run_id, DEADLINE_S)
            run = view.run
            assert run.outcome is not None
            assert run.outcome.error is not None
            assert (run.status, run.outcome.error.code) == (RunStatus.FAILED, ErrorCode.QUEUE_TIMEOUT)
            assert run.ended_at is not None
            assert -0.1 < run.ended_at - (accepted_at + QUEUE_S) < 5.0

    asyncio.run(main())

"""Two servers own the sessions of one PostgreSQL journal, and nobody who asks the right one can tell.

The machine of one journal and its list model, over a pair of journals: each operation goes to the owner of its session.
Besides, sessions change their owner at any step: handed over, or lost with their server. Bounds and last attempts count
for each owner.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import precondition, rule

from properties.test_journal_machine import JournalMachine, ListModel, ModelRun, picks, sessions
from strandline._clock import Clock
from strandline._journal.partitions import partition_of
from strandline._journal.port import (
    A,
    AcceptAnswer,
    AsRead,
    Bounds,
    Cancel,
    Change,
    ChangeAnswer,
    ClaimResult,
    Edit,
    Journal,
    Move,
    NoteDeliveries,
    Pause,
    Query,
    Refused,
    Resend,
    Restore,
)
from strandline._journal.postgres import membership
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.wire import Wire
from strandline._journal.rules import as_sent
from strandline._model import (
    AgentRecord,
    Checkpoint,
    Claim,
    Completion,
    FencingToken,
    JoinedInput,
    Message,
    NewRun,
    RunId,
    SessionKey,
)
from strandline.errors import NotOwner
from tools.postgres import Cluster

FOR_EVER_S = 1e9


class Servers:
    """Two journals on one database, and who owns which session. Nothing moves by itself."""

    def __init__(self, database: str, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.journals: list[PostgresJournal] = []
        self.runs: dict[RunId, SessionKey] = {}
        self.claimed: asyncio.Queue[Claim | None] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []

    def owner(self, key: SessionKey) -> int:
        """Return which of the two owns a session."""
        (owner,) = (n for n, each in enumerate(self.journals) if each.cluster.owns(partition_of(key)))
        return owner

    def of(self, key: SessionKey) -> PostgresJournal:
        return self.journals[self.owner(key)]

    async def start(self) -> list[Claim]:
        """Start another server, which owns what nobody owns."""
        journal = PostgresJournal(self.database, self.clock, lock_wait_s=0.0)
        orphans = await journal.open("machine", max_attempts=2)
        self.journals.append(journal)
        self.tasks.append(asyncio.create_task(self._follow(journal)))
        return orphans

    async def _follow(self, journal: PostgresJournal) -> None:
        async for claim in journal.claims():
            self.claimed.put_nowait(claim)

    async def hand_over(self, key: SessionKey) -> bool:
        """Have the other server own a session, if nothing of it is claimed."""
        giver, taker = self.of(key), self.journals[1 - self.owner(key)]
        ceded = await giver.cluster.cede([partition_of(key)], 0.0)
        if not ceded:
            return False
        gained = await taker.cluster.adopt([partition_of(key)])
        assert (gained.partitions, gained.orphans) == (ceded, [])
        return True

    async def lose(self, number: int) -> list[Claim]:
        """Let a server be declared dead, the other one take over, and a new one come that owns nothing."""
        lost = self.journals.pop(number)
        owned = [partition for partition in range(256) if lost.cluster.owns(partition)]
        wire = Wire(self.database)
        wire.execute("UPDATE servers SET alive = false WHERE id = ?", (lost.cluster.me,))
        wire.execute("UPDATE partitions SET owner = NULL WHERE owner = ?", (lost.cluster.me,))
        wire.close()
        gained = await self.journals[0].cluster.adopt(owned)
        assert gained.partitions == set(owned)
        await lost.close()
        await self.start()
        return gained.orphans

    async def close(self) -> None:
        for each in self.journals:
            await each.close()
        await asyncio.gather(*self.tasks)
        self.journals.clear()
        self.tasks.clear()
        self.claimed.put_nowait(None)


class PairSessions:
    """What waits and executes in both."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    @property
    def waiting(self) -> int:
        return sum(each.sessions.waiting for each in self._servers.journals)

    def position(self, run_id: RunId) -> int | None:
        return self._servers.of(self._servers.runs[run_id]).sessions.position(run_id)

    def is_paused(self, key: SessionKey) -> bool:
        return self._servers.of(key).sessions.is_paused(key)

    def due(self, now: float) -> list[SessionKey]:
        return [key for each in self._servers.journals for key in each.sessions.due(now)]

    def input_until(self, key: SessionKey, now: float) -> float | None:
        return self._servers.of(key).sessions.input_until(key, now)


class Pair:
    """The journal that clients see who always ask the right server."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers

    @property
    def sessions(self) -> PairSessions:
        return PairSessions(self.servers)

    async def open(self, owner: str, *, max_attempts: int) -> list[Claim]:
        orphans = await self.servers.start()
        assert await self.servers.start() == []
        return orphans

    async def close(self) -> None:
        await self.servers.close()

    async def claims(self) -> AsyncIterator[Claim]:
        while (claim := await self.servers.claimed.get()) is not None:
            yield claim

    async def accept(self, new: NewRun, bounds: Bounds, *, claim_next: bool) -> AcceptAnswer:
        self.servers.runs[new.run_id] = new.key
        return await self.servers.of(new.key).accept(new, bounds, claim_next=claim_next)

    async def claim_next(self, key: SessionKey) -> ClaimResult:
        return await self.servers.of(key).claim_next(key)

    def _of(self, token: FencingToken) -> PostgresJournal:
        return self.servers.of(self.servers.runs[token.run_id])

    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        await self._of(token).checkpoint(token, checkpoint)

    async def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead = as_sent
    ) -> list[JoinedInput]:
        return await self._of(token).apply_joins(token, messages, as_read)

    async def finish(
        self, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        return await self._of(token).finish(token, completion, claim_next=claim_next, hold=hold)

    async def release(self, token: FencingToken, *, counted: bool) -> None:
        await self._of(token).release(token, counted=counted)

    async def change(self, change: Change) -> ChangeAnswer:
        if isinstance(change, NoteDeliveries | Resend):
            return await self.servers.journals[0].change(change)
        key = self.servers.runs[change.run_id] if isinstance(change, Cancel | Edit | Move | Restore) else change.key
        return await self.servers.of(key).change(change)

    async def prune(self, before: float, limit: int) -> int:
        return sum([await each.prune(before, limit) for each in self.servers.journals])

    async def load(self, key: SessionKey) -> AgentRecord:
        return await self.servers.journals[1 - self.servers.owner(key)].load(key)

    async def read(self, query: Query[A]) -> A:
        found = [await each.read(query) for each in self.servers.journals]
        assert found[0] == found[1]
        return found[0]


class PairModel(ListModel):
    """The list model of each owner's sessions: bounds and last attempts count for them alone."""

    servers: Servers

    def beside(self, key: SessionKey) -> list[ModelRun]:
        owner = self.servers.owner(key)
        return [run for run in self.executing() if self.servers.owner(run.key) == owner]

    def _over(self, run: ModelRun, bounds: Bounds, position: int, length: int) -> Refused | None:
        if length <= bounds.per_session:
            owner = self.servers.owner(run.key)
            ours = [each for each in self.waiting() if self.servers.owner(each.key) == owner]
            if len(ours) <= bounds.total and (
                bounds.per_principal is None
                or sum(each.key.principal == run.key.principal for each in ours) <= bounds.per_principal
            ):
                return None
            bounds = Bounds(bounds.per_session, min(bounds.total, len(ours) - 1), bounds.per_principal)
        return super()._over(run, bounds, position, length)


class TwoOwnersMachine(JournalMachine):
    cluster: Cluster
    database: str

    def make(self) -> Journal:
        if not hasattr(self, "servers"):
            self.patch = pytest.MonkeyPatch()
            self.patch.setattr(membership, "LOOK_S", FOR_EVER_S)
            self.patch.setattr(membership, "LOOK_SHARE", FOR_EVER_S)
            self.database = self.cluster.new_database()
            self.servers = Servers(self.database, self.clock)
            self.model = PairModel()
            self.model.servers = self.servers
        pair: Any = Pair(self.servers)
        made: Journal = pair
        return made

    def teardown(self) -> None:
        super().teardown()
        self.patch.undo()
        self.cluster.drop_database(self.database)

    @rule(key=sessions)
    def hand_over(self, key: SessionKey) -> None:
        busy = self.model.claimed(key)
        before = self.servers.owner(key)
        assert self.call(self.servers.hand_over(key)) == [not busy]
        assert (self.servers.owner(key) == before) == busy

    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        lost = pick % 2
        others = {key for key in self.model.sessions if self.servers.owner(key) == lost}
        orphans = self.runner.run(self.servers.lose(lost))
        for run in self.model.runs:
            if run.held and run.key in others:
                self.model.end_hold(run, self.clock.at)
        executing = [run for run in self.model.executing() if run.key in others]
        assert [orphan.run.run_id for orphan in orphans] == [run.run_id for run in executing]
        for orphan, run in zip(orphans, executing, strict=True):
            self._check_claim(orphan, run)

    @precondition(lambda self: self.model.runs)
    @rule(key=sessions, pick=picks)
    def ask_the_wrong_one(self, key: SessionKey, pick: int) -> None:
        """It refuses, and changes nothing: the next comparison finds it if it does."""
        self.made += 1
        run = self._named(pick)
        new = NewRun(run_id=RunId(f"r{self.made}"), key=key, input="?", created_at=self.clock.at)
        wrong, of_run = (self.servers.journals[1 - self.servers.owner(each)] for each in (key, run.key))
        results = self.call(
            wrong.accept(new, Bounds(9, 99), claim_next=True),
            wrong.claim_next(key),
            wrong.change(Pause(key)),
            of_run.change(Cancel(run.key.principal, run.run_id)),
            of_run.change(Move(run.key.principal, run.run_id, 1)),
        )
        assert [type(each) for each in results] == [NotOwner] * 5


@pytest.fixture(scope="class")
def _cluster(postgres: Cluster) -> None:
    TwoOwnersMachine.cluster = postgres


TestTwoOwnersMachine: Any = pytest.mark.usefixtures("_cluster")(TwoOwnersMachine.TestCase)
TestTwoOwnersMachine.settings = settings(
    max_examples=10, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)

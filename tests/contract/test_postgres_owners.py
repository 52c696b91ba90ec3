"""Several servers on one database: each owns some partitions, and what one lets go another one takes up."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Literal

import pytest

from postgres_support import DEADLINE_S, asking, lease_of, opened, until
from strandline._clock import Clock, SystemClock, boottime
from strandline._journal.deletion import COUNT_STORED_BYTES
from strandline._journal.partitions import partition_of
from strandline._journal.port import (
    Accepted,
    Bounds,
    Cancel,
    CancelSession,
    Ceded,
    Changed,
    ClaimResult,
    Delete,
    DeletedQuery,
    Gained,
    HistoryQuery,
    Move,
    Pause,
    Refused,
    RunQuery,
    RunsOfQuery,
    SessionQuery,
    StoredQuery,
)
from strandline._journal.postgres import membership, rows, shares
from strandline._journal.postgres.journal import PostgresJournal
from strandline._journal.postgres.ownership import join
from strandline._journal.postgres.roster import set_leaving
from strandline._journal.postgres.wire import Wire
from strandline._journal.table import SessionTable
from strandline._model import ANONYMOUS, Claim, NewRun, Principal, RoundStarted, RunId, SessionKey
from strandline.errors import NotOwner, RecordDamaged
from strandline.testing._contract.resolutions import crashed, open_tools
from strandline.testing._desk import WIDE, Desk, StillClock, done, key, said

LEASE_MS = 1_000


@pytest.fixture
def leased(database: str) -> str:
    """Where a database is whose servers hold short leases."""
    lease_of(database, LEASE_MS)
    return database


class Server:
    """A journal as one server has it, with what it was told."""

    def __init__(self, database: str, clock: Clock | None = None) -> None:
        self.journal = PostgresJournal(database, clock or SystemClock(), lock_wait_s=DEADLINE_S)
        self.moves: list[Gained | Ceded] = []
        self.orphans: list[Claim] = []
        self._following: asyncio.Task[None] | None = None
        self._claims: AsyncIterator[Claim] | None = None

    async def start(self) -> "Server":
        self.orphans += await self.journal.open("test", max_attempts=3)
        self._claims = self.journal.claims()
        self._following = asyncio.create_task(self._follow())
        return self

    async def _follow(self) -> None:
        async for moved in self.journal.moves():
            self.moves.append(moved)
            if isinstance(moved, Gained):
                self.orphans += moved.orphans

    async def stop(self) -> None:
        await self.journal.close()
        assert self._following is not None
        await self._following

    def die(self) -> None:
        """Do nothing more, as a process that is killed."""
        assert self.journal._transactions is not None
        self.journal._transactions.lease.lose("it is dead")
        for task in (self.journal._tending, self.journal._watching):
            assert task is not None
            task.cancel()

    @property
    def owned(self) -> set[int]:
        return {p for p in range(256) if self.journal.cluster.owns(p)}

    async def claim(self) -> Claim:
        assert self._claims is not None
        return await asyncio.wait_for(anext(self._claims), DEADLINE_S)


@contextlib.asynccontextmanager
async def two(database: str, clock: Clock | None = None) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers, each with its share; the first has another clock."""
    first, second = Server(database, clock), Server(database)
    await first.start()
    assert len(first.owned) == 256
    await second.start()
    try:
        await until(lambda: len(first.owned | second.owned) == 256 and len(second.owned) > 80)
        await until(lambda: first.journal.cluster.owner(min(second.owned)) is not None)
        yield first, second
    finally:
        await first.stop()
        await second.stop()


def session_in(partitions: set[int], skip: int = 0) -> SessionKey:
    """Return a session in one of some partitions."""
    found = (key(f"s{number}") for number in range(10_000))
    return [
        each for each, _ in zip((k for k in found if partition_of(k) in partitions), range(skip + 1), strict=False)
    ][skip]


def run(run_id: str, session: SessionKey) -> NewRun:
    return NewRun(run_id=RunId(run_id), key=session, input="ask", created_at=1.0)


def test_two_servers_share_the_partitions_and_know_who_owns_which(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            assert not first.owned & second.owned
            for a, b in ((first, second), (second, first)):
                cluster = a.journal.cluster
                assert set(cluster.peers) == {first.journal.cluster.me, second.journal.cluster.me}
                for partition in b.owned:
                    owner = cluster.owner(partition)
                    assert owner is not None
                    assert owner.id == b.journal.cluster.me
            assert first.journal.cluster.secret == second.journal.cluster.secret
            assert len(first.journal.cluster.secret) == 32
            assert first.journal.cluster.lease_s == LEASE_MS / 1000

    asyncio.run(main())


def test_an_operation_on_a_session_of_another_server_is_refused_and_changes_nothing(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            theirs = session_in(second.owned)
            await second.journal.accept(run("a", theirs), WIDE, claim_next=True)
            claim = await second.claim()
            await second.journal.accept(run("b", theirs), WIDE, claim_next=False)
            journal = first.journal
            for refused in (
                journal.accept(run("c", theirs), WIDE, claim_next=True),
                journal.claim_next(theirs),
                journal.change(Cancel(ANONYMOUS, RunId("b"))),
                journal.change(Move(ANONYMOUS, RunId("b"), None)),
                journal.change(Pause(theirs)),
                journal.change(Delete(theirs)),
            ):
                with pytest.raises(NotOwner) as raised:
                    await refused
                assert raised.value.partition == partition_of(theirs)
            await second.journal.finish(claim.token, done("hi", "ho"), claim_next=True)
            assert (await second.claim()).run.run_id == "b"

    asyncio.run(main())


def test_lists_runs_and_history_are_read_of_all_servers(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine, theirs = session_in(first.owned), session_in(second.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            await second.journal.accept(run("b", theirs), WIDE, claim_next=True)
            await first.journal.accept(run("c", mine), WIDE, claim_next=False)
            await second.journal.finish((await second.claim()).token, done("hi", "ho"), claim_next=False)
            for each in (first, second):
                page = await each.journal.read(RunsOfQuery(ANONYMOUS))
                assert [found.run_id for found in page.runs] == ["c", "b", "a"]
                assert await each.journal.read(RunQuery(ANONYMOUS, RunId("b"))) is not None
                assert await each.journal.read(SessionQuery(mine)) is not None
                assert (await each.journal.read(HistoryQuery(theirs))).messages == said("hi", "ho")

    asyncio.run(main())


def test_a_drained_server_takes_everything_if_no_other_is_left_and_one_that_stops_takes_nothing(
    leased: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            member = first.journal.cluster
            assert set_leaving(leased, member.me, leaving=True)
            await until(lambda: len(second.owned) == 256 and not first.owned)
            await second.stop()
            await until(lambda: len(first.owned) == 256)
            await first.journal.leave()
            assert await member.cede([7], 0.0) == {7}
            monkeypatch.setattr(shares, "FREE_S", 0.0)
            for _ in range(2):
                await member.refresh()
                await member._adopt()
            assert 7 not in first.owned

    asyncio.run(main())


def test_what_a_server_leaves_goes_on_at_the_other_with_rising_numbers(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            theirs = session_in(second.owned)
            epoch = second.journal.epoch_of(theirs)
            await second.journal.accept(run("a", theirs), WIDE, claim_next=True)
            claim = await second.claim()
            await second.journal.checkpoint(claim.token, RoundStarted(said("go")))
            await second.journal.accept(run("b", theirs), WIDE, claim_next=False)
            await second.stop()
            await until(lambda: len(first.owned) == 256 and first.orphans)
            (orphan,) = first.orphans
            assert (orphan.run.run_id, orphan.checkpoints) == ("a", (RoundStarted(said("go")),))
            assert orphan.token.fence > claim.token.fence
            assert first.journal.epoch_of(theirs) > epoch
            assert await first.journal.accept(run("c", theirs), WIDE, claim_next=False) == Accepted(2)
            await first.journal.finish(orphan.token, done("hi", "ho"), claim_next=True)
            second_claim = await first.claim()
            assert second_claim.run.run_id == "b"
            assert second_claim.token.fence > orphan.token.fence
            await first.journal.finish(second_claim.token, done("hi", "ho"), claim_next=True)
            assert (await first.claim()).run.run_id == "c"
            with asking(leased) as wire:
                found = wire.execute("SELECT run_id, seq, session FROM runs ORDER BY seq").fetchall()
                assert [each for each, _, _ in found] == ["a", "b", "c"]
                assert {seq % 256 for _, seq, _ in found} == {partition_of(theirs)}
                assert {no % 256 for _, _, no in found} == {partition_of(theirs)}

    asyncio.run(main())


def test_a_deletion_is_known_to_every_later_owner(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            theirs, began = session_in(second.owned), SystemClock().now()

            async def deleted(journal: PostgresJournal, session: SessionKey, since: float) -> bool:
                return await journal.read(DeletedQuery(session, since))

            for run_id in ("a", "b"):  # (deleted, there again, and deleted again)
                await second.journal.accept(run(run_id, theirs), WIDE, claim_next=True)
                await second.journal.finish((await second.claim()).token, done("hi", "ho"), claim_next=False)
                assert not await deleted(second.journal, theirs, SystemClock().now())
                assert await second.journal.change(Delete(theirs)) == Changed(existed=True)
                assert await deleted(second.journal, theirs, began)
            assert not await deleted(second.journal, session_in(second.owned, 1), began)
            second.die()
            await until(lambda: len(first.owned) == 256)
            assert await deleted(first.journal, theirs, began)
            assert not await deleted(first.journal, theirs, SystemClock().now() + 60.0)

    asyncio.run(main())


def test_deletions_are_forgotten_when_they_are_old(leased: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FORGOTTEN_AT_ONCE", 2)

    async def main() -> None:
        async with two(leased) as (first, _):
            left = []
            for number in range(7):
                if number == 3:
                    monkeypatch.setattr(rows, "DELETIONS_KEPT_S", 0.0)
                session = session_in(first.owned, number)
                await first.journal.accept(run(f"{number}", session), WIDE, claim_next=True)
                await first.journal.finish((await first.claim()).token, done("hi", "ho"), claim_next=False)
                await first.journal.change(Delete(session))
                with asking(leased) as wire:
                    left.append(wire.execute("SELECT count(*) FROM deletions").fetchone()[0])
            assert left == [1, 2, 3, 2, 1, 1, 1]

    asyncio.run(main())


def test_what_a_dead_server_executed_is_taken_over_when_its_lease_is_over(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            theirs = session_in(second.owned)
            await second.journal.accept(run("a", theirs), WIDE, claim_next=True)
            claim = await second.claim()
            second.die()
            assert not second.owned
            await until(lambda: len(first.owned) == 256 and first.orphans)
            (orphan,) = first.orphans
            assert (orphan.run.run_id, orphan.token.fence > claim.token.fence) == ("a", True)
            await first.journal.finish(orphan.token, done("hi", "ho"), claim_next=False)
            assert list(first.journal.cluster.peers) == [first.journal.cluster.me]

    asyncio.run(main())


def test_a_partition_with_work_is_ceded_with_its_queue_when_the_work_has_ended(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine = session_in(first.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            claim = await first.claim()
            await first.journal.accept(run("b", mine), WIDE, claim_next=False)
            ceding = asyncio.create_task(first.journal.cluster.cede([partition_of(mine)], DEADLINE_S))
            await asyncio.sleep(0)
            assert first.journal.sessions.cannot_claim(mine, 1.0) is ClaimResult.NOTHING
            assert await first.journal.accept(run("c", mine), WIDE, claim_next=True) == Accepted(2)
            assert await first.journal.finish(claim.token, done("hi", "ho"), claim_next=True) is ClaimResult.NOTHING
            assert await ceding == {partition_of(mine)}
            with pytest.raises(NotOwner):
                await first.journal.accept(run("d", mine), WIDE, claim_next=True)
            await until(
                lambda: any(isinstance(each, Ceded) and partition_of(mine) in each.partitions for each in first.moves)
            )
            holder = second
            await until(lambda: partition_of(mine) in first.owned | second.owned)
            holder = second if partition_of(mine) in second.owned else first
            assert not holder.orphans
            assert await holder.journal.claim_next(mine) is ClaimResult.CLAIMED
            assert (await holder.claim()).run.run_id == "b"

    asyncio.run(main())


def test_a_session_whose_code_still_works_stays_until_its_server_ends(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine = session_in(first.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            claim = await first.claim()
            first.journal.stay(mine)
            await first.journal.release(claim.token, counted=False)
            assert await first.journal.cluster.cede([partition_of(mine)], 0.0) == frozenset()
            await first.journal.leave()
            await until(lambda: first.owned == {partition_of(mine)})
            await first.stop()
            await until(lambda: partition_of(mine) in second.owned)
            assert await second.journal.claim_next(mine) is ClaimResult.CLAIMED
            again = (await second.claim()).run
            assert (again.run_id, again.attempt, second.orphans) == ("a", 1, [])

    asyncio.run(main())


def test_work_in_other_partitions_makes_nobody_look_whether_one_that_is_to_be_ceded_rests(
    leased: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with two(leased) as (first, _):
            mine = session_in(first.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            claim = await first.claim()
            looks, at_rest = [0], SessionTable.at_rest

            def counted(self: SessionTable, partitions: Collection[int]) -> set[int]:
                looks[0] += 1
                return at_rest(self, partitions)

            ceding = asyncio.create_task(first.journal.cluster.cede([partition_of(mine)], DEADLINE_S))
            await asyncio.sleep(0)
            monkeypatch.setattr(SessionTable, "at_rest", counted)
            other = session_in(first.owned - {partition_of(mine)})
            for number in range(100):
                await first.journal.accept(run(f"b{number}", other), WIDE, claim_next=True)
                await first.journal.finish((await first.claim()).token, done("hi", "ho"), claim_next=False)
            assert looks == [0]
            await first.journal.finish(claim.token, done("hi", "ho"), claim_next=False)
            assert await ceding == {partition_of(mine)}

    asyncio.run(main())


def test_a_partition_whose_work_does_not_end_in_time_goes_on_where_it_was(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, _):
            mine = session_in(first.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            claim = await first.claim()
            await first.journal.accept(run("b", mine), WIDE, claim_next=False)
            moved: list[SessionKey] = []
            first.journal.sessions.watch(moved.append)
            moved.clear()
            assert await first.journal.cluster.cede([partition_of(mine)], 0.1) == frozenset()
            assert moved == [mine]
            assert await first.journal.finish(claim.token, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED

    asyncio.run(main())


def test_a_server_whose_cede_cannot_be_stored_keeps_its_partitions_with_their_queues(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine = session_in(first.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=False)
            with asking(leased) as wire:  # (a row that is not as it should be undoes the whole batch)
                wire.execute(
                    "UPDATE partitions SET owner = ? WHERE p = ?", (second.journal.cluster.me, partition_of(mine))
                )
                before = first.owned
                ceded = await asyncio.gather(
                    first.journal.cluster.cede([partition_of(mine)], 0.0), return_exceptions=True
                )
                assert isinstance(ceded[0], Exception)
                assert first.owned == before
                wire.execute(
                    "UPDATE partitions SET owner = ? WHERE p = ?", (first.journal.cluster.me, partition_of(mine))
                )
            assert first.journal.sessions.waiting == 1
            assert await first.journal.claim_next(mine) is ClaimResult.CLAIMED

    asyncio.run(main())


def test_servers_count_what_is_stored_together_and_never_wait_for_each_other(leased: str) -> None:
    """A row that both had to write would be locked by one of them until its commit."""

    async def main() -> None:
        async with two(leased) as (first, second):
            mine, theirs = session_in(first.owned), session_in(second.owned)
            await first.journal.accept(run("a", mine), WIDE, claim_next=True)
            await first.journal.finish((await first.claim()).token, done("hi", "ho", state={"a": 1}), claim_next=False)
            with asking(leased) as open_batch:
                open_batch.execute("BEGIN")
                open_batch.execute("SELECT set_config('strandline.server', '1', true)")
                open_batch.execute("SELECT count_stored('anonymous', 0)")
                async with asyncio.timeout(DEADLINE_S):
                    await second.journal.accept(run("b", theirs), WIDE, claim_next=True)
                    claim = await second.claim()
                    await second.journal.finish(claim.token, done("hi", "ho", state={"a": 1}), claim_next=False)
                open_batch.execute("ROLLBACK")
            stored = await first.journal.read(StoredQuery())
            assert stored == await second.journal.read(StoredQuery())
            with asking(leased) as wire:
                count = COUNT_STORED_BYTES.replace('"', "").replace("window", '"window"')
                counted = wire.execute(f"SELECT sum(sum)::bigint FROM ({count}) AS each (principal, sum)")
                assert counted.fetchone() == (stored.total,)
            assert stored.total == stored.largest > 0
        with asking(leased) as wire:
            assert wire.execute("SELECT principal, bytes FROM stored").fetchall() == [("anonymous", stored.total)]
            assert wire.execute("SELECT 1::bigint FROM stored_by").fetchall() == []

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bounds", "refusal"), [(Bounds(9, 3), "server_full"), (Bounds(9, 99, per_principal=3), "principal_full")]
)
def test_bounds_of_all_and_of_a_principal_count_what_waits_at_other_servers(
    leased: str, bounds: Bounds, refusal: Literal["server_full", "principal_full"]
) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine, theirs = session_in(first.owned), session_in(second.owned)
            for n in range(3):
                assert isinstance(await second.journal.accept(run(f"b{n}", theirs), bounds, claim_next=False), Accepted)
            await second.journal.cluster.refresh()
            await first.journal.cluster.refresh()
            assert await first.journal.accept(run("a", mine), bounds, claim_next=False) == Refused(refusal, 1)
            other = SessionKey(Principal("other"), mine.session_id)
            if refusal == "principal_full" and partition_of(other) in first.owned:
                assert await first.journal.accept(run("c", other), bounds, claim_next=False) == Accepted(1)
            await second.journal.change(CancelSession(theirs, running=False))
            await second.journal.cluster.refresh()
            await first.journal.cluster.refresh()
            assert await first.journal.accept(run("a", mine), bounds, claim_next=False) == Accepted(1)

    asyncio.run(main())


def test_what_waits_at_a_server_that_died_counts_once_when_it_is_taken_over(leased: str) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            mine, theirs = session_in(first.owned), session_in(second.owned)
            for n in range(3):
                await second.journal.accept(run(f"b{n}", theirs), WIDE, claim_next=False)
            await second.journal.cluster.refresh()
            second.die()
            await until(lambda: len(first.owned) == 256 and len(first.journal.cluster.peers) == 1)
            assert await first.journal.accept(run("a", mine), Bounds(9, 4), claim_next=False) == Accepted(1)
            assert await first.journal.accept(run("c", mine), Bounds(9, 4), claim_next=False) == Refused(
                "server_full", 2
            )

    asyncio.run(main())


def test_bytes_that_another_server_has_freed_are_free_here_soon(leased: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "COUNT_AGAIN_S", 0.1)

    async def main() -> None:
        async with two(leased) as (first, second):
            mine, theirs = session_in(first.owned), session_in(second.owned)
            await second.journal.accept(run("a", theirs), WIDE, claim_next=True)
            await second.journal.finish((await second.claim()).token, done("hi" * 500, "ho"), claim_next=False)
            full = Bounds(9, 99, stored_bytes=500)
            assert await first.journal.accept(run("b", mine), full, claim_next=False) == Refused("storage_full", 1)
            assert await second.journal.change(Delete(theirs)) == Changed(existed=True)
            async with asyncio.timeout(DEADLINE_S):
                while await first.journal.accept(run("b", mine), full, claim_next=False) != Accepted(1):
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_an_idle_server_sends_at_most_two_statements_a_second(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    run = Wire.run

    def counted(self: Wire, statements: Sequence[tuple[str, Any]]) -> list[Any]:
        sent.extend(sql for sql, _ in statements)
        return run(self, statements)

    async def main() -> None:
        async with opened(database) as journal:
            monkeypatch.setattr(Wire, "run", counted)
            await until(lambda: sent)
            began = time.monotonic()
            sent.clear()
            await until(lambda: sum("look(" in each for each in sent) >= 4)
            assert len(sent) <= 2 * (time.monotonic() - began)
            assert journal.trouble is None

    asyncio.run(main())


def test_one_damaged_session_keeps_nobody_from_taking_the_others_over(
    leased: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with two(leased) as (first, second):
            damaged, sound = session_in(second.owned), session_in(second.owned, 1)
            for session in (damaged, sound):
                await second.journal.accept(run(f"a {session.session_id}", session), WIDE, claim_next=True)
                await second.journal.finish((await second.claim()).token, done("hi", "ho"), claim_next=False)
                await second.journal.accept(run(f"b {session.session_id}", session), WIDE, claim_next=False)
            with asking(leased) as wire:
                wire.execute(
                    "UPDATE history SET session = -1 WHERE session = (SELECT no FROM sessions WHERE session_id = ?)",
                    (damaged.session_id,),
                )
            second.die()
            await until(lambda: len(first.owned) == 256)
            with pytest.raises(RecordDamaged, match=f"session {damaged.session_id} is damaged"):
                await first.journal.claim_next(damaged)
            assert await first.journal.claim_next(sound) is ClaimResult.CLAIMED

    asyncio.run(main())
    assert "is damaged" in caplog.text


class Behind:
    """A clock that is an hour behind."""

    def now(self) -> float:
        return time.time() - 3600.0

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return boottime()


def test_numbers_of_a_session_rise_although_the_clock_of_its_next_owner_is_behind(leased: str) -> None:
    async def main() -> None:
        async with two(leased, Behind()) as (first, second):
            theirs = session_in(second.owned)
            await second.journal.accept(run("a", theirs), WIDE, claim_next=True)
            claim = await second.claim()
            await second.journal.finish(claim.token, done("hi", "ho"), claim_next=False)
            await second.journal.accept(run("b", theirs), WIDE, claim_next=True)
            fences = [claim.token.fence, (await second.claim()).token.fence]
            second.die()
            await until(lambda: len(first.owned) == 256 and first.orphans)
            fences.append(first.orphans[0].token.fence)
            await first.journal.accept(run("c", theirs), WIDE, claim_next=False)
            await first.journal.finish(first.orphans[0].token, done("hi", "ho"), claim_next=True)
            fences.append((await first.claim()).token.fence)
            assert fences == sorted(set(fences))
            with asking(leased) as wire:
                runs = wire.execute("SELECT run_id FROM runs ORDER BY seq").fetchall()
                rows = wire.execute("SELECT nth FROM history ORDER BY no").fetchall()
            assert ([each for (each,) in runs], [each for (each,) in rows]) == (["a", "b", "c"], [1, 2])

    asyncio.run(main())


def test_a_journal_that_is_closed_as_soon_as_it_is_open_ends_its_moves(database: str) -> None:
    async def main() -> None:
        journal = PostgresJournal(database, SystemClock())
        await journal.open("test", max_attempts=3)
        await journal.close()
        async with asyncio.timeout(DEADLINE_S):
            assert [moved async for moved in journal.moves()] == []

    asyncio.run(main())


def test_a_server_knows_whether_all_others_know_what_it_stores(leased: str) -> None:
    """One of an earlier version publishes no schema; nobody who starts is taken for one, not even for a moment."""

    async def main() -> None:
        async with two(leased) as (first, second):
            for each in (first, second):
                assert all(map(each.journal.cluster.knows, shares.SINCE))
            with asking(leased) as wire:
                wire.execute(
                    "INSERT INTO servers (address, name, version, until)"
                    " VALUES ('', 'older', '0.1.0', clock_timestamp() + interval '1 h')"
                )
            await first.journal.cluster.refresh()
            assert not any(map(first.journal.cluster.knows, shares.SINCE))
            with asking(leased) as wire:
                wire.execute("UPDATE servers SET alive = false WHERE name = 'older'")
                wire.execute("UPDATE meta SET value = 3600000 WHERE name = 'lease_ms'")
                third = join(wire, "", SystemClock())
            await first.journal.cluster.refresh()
            assert third.id in first.journal.cluster.peers
            assert all(map(first.journal.cluster.knows, shares.SINCE))

    asyncio.run(main())


def test_a_crashed_run_is_not_left_to_be_resolved_while_an_older_server_may_continue_its_history(
    leased: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened(leased) as journal:

            async def again() -> PostgresJournal:
                return journal

            desk, found = Desk(journal, StillClock(), again), []
            desk.follow_anew()
            for name, is_known in (("a", True), ("b", False)):
                monkeypatch.setattr(shares.Shares, "knows", lambda _shares, _feature, is_known=is_known: is_known)
                await crashed(desk, name, key(name))
                found.append(len(await open_tools(desk, name)))
            assert found == [2, 0]

    asyncio.run(main())

"""Claims: delivered once and durable, fenced, requeued, taken over by the next owner."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress

import pytest

from strandline._journal.errors import ClaimLost
from strandline._journal.port import Accepted, ClaimResult, Delete
from strandline._model import (
    AgentRecord,
    Claim,
    FencingToken,
    Lane,
    RoundDone,
    RoundStarted,
    Run,
    RunId,
    RunStatus,
    ToolDone,
)
from strandline.errors import JournalUnavailable
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said


class ClaimsContract(Contract):
    """Fencing, delivery, requeueing and restarts."""

    # -- fencing ---------------------------------------------------------------------------------------

    @scenario
    async def test_after_its_end_a_claim_is_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.finish(claim, done("hi", "ho"))
        await self._all_operations_fail(desk, claim.token)

    @scenario
    async def test_after_a_run_was_given_back_its_claim_is_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.release(claim.token, counted=True)
        await self._all_operations_fail(desk, claim.token)
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        again = await desk.claim(of="a")
        assert again.token.fence > claim.token.fence
        await self._all_operations_fail(desk, claim.token)
        assert again.checkpoints == ()
        await desk.finish(again)

    @scenario
    async def test_after_a_restart_older_claims_are_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        (orphan,) = await desk.restart()
        assert orphan.token.fence > claim.token.fence
        await self._all_operations_fail(desk, claim.token)
        await desk.finish(orphan)

    @scenario
    async def test_each_owner_has_an_epoch_of_its_own_larger_than_those_before(self, desk: Desk) -> None:
        epochs = [desk.journal.epoch]
        for _ in range(2):
            await desk.restart()
            epochs.append(desk.journal.epoch)
        assert 0 < epochs[0] < epochs[1] < epochs[2]

    @scenario
    async def test_operations_that_fail_by_themselves_are_no_trouble_of_the_journal(self, desk: Desk) -> None:
        assert desk.journal.trouble is None
        claim = await desk.start("a")
        await self._all_operations_fail(desk, FencingToken(RunId("none"), 1))
        await desk.finish(claim)
        await desk.restart()
        assert desk.journal.trouble is None

    @scenario
    async def test_a_claim_on_no_run_is_lost(self, desk: Desk) -> None:
        await desk.start("a")
        await self._all_operations_fail(desk, FencingToken(RunId("none"), 1))

    async def _all_operations_fail(self, desk: Desk, stale: FencingToken) -> None:
        before = await desk.seen(["a"])
        with pytest.raises(ClaimLost):
            await desk.journal.checkpoint(stale, RoundStarted(said("stale")))
        for checkpoint in (ToolDone("t", {"stale": True}), RoundDone(said("stale"), {"stale": True})):
            with suppress(ClaimLost):  # these two may return before it is known
                await desk.journal.checkpoint(stale, checkpoint)
        with pytest.raises(ClaimLost):
            await desk.journal.finish(stale, done("stale", "stale", window=(), state={"stale": True}), claim_next=True)
        with pytest.raises(ClaimLost):
            await desk.release(stale, counted=False, claim_next=True)
        assert await desk.seen(["a"]) == before

    @scenario
    async def test_stale_checkpoints_never_reach_a_later_claim(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.release(claim.token, counted=True, claim_next=True)
        again = await desk.claim(of="a")
        with suppress(ClaimLost):
            await desk.journal.checkpoint(claim.token, ToolDone("t", {"stale": True}))
        await desk.journal.checkpoint(again.token, RoundStarted(said("mine")))
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == (RoundStarted(said("mine")),)

    # -- claims ----------------------------------------------------------------------------------------

    @scenario
    async def test_a_claim_arrives_though_the_caller_of_accept_is_gone(self, desk: Desk) -> None:
        await _call_and_leave(desk.accept("a"))
        claim = await desk.claim(of="a")
        assert (await desk.run("a")).status is RunStatus.RUNNING
        await desk.finish(claim)

    @scenario
    async def test_a_claim_arrives_although_the_finish_that_made_it_was_cancelled(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await _call_and_leave(desk.finish(claim, done("hi", "ho"), claim_next=True))
        await desk.claim(of="b")
        assert await desk.history() == said("hi", "ho")

    @scenario
    async def test_a_claim_arrives_though_the_caller_of_take_is_gone(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        await _call_and_leave(desk.journal.claim_next(key()))
        claim = await desk.claim(of="a")
        await _call_and_leave(desk.release(claim.token, counted=True))
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert (await desk.claim(of="a")).run.attempt == 2

    @scenario
    async def test_what_a_claim_rests_on_can_be_read_as_soon_as_it_arrives(self, desk: Desk) -> None:
        """An agent rebuilt for the next run knows what the last one said, although its finish still waits."""
        claim = await desk.start("r0")
        for index in range(1, 20):
            await desk.accept(f"r{index}")
            finishing = asyncio.create_task(desk.finish(claim, done("hi", "ho"), claim_next=True))
            claim = await desk.claim(of=f"r{index}")
            assert (await desk.journal.load(key())).length == 2 * index
            assert (await desk.run(f"r{index}")).status is RunStatus.RUNNING
            assert await finishing is ClaimResult.CLAIMED

    @scenario
    async def test_a_claim_comes_after_the_answers_of_its_operation_and_all_earlier_ones(self, desk: Desk) -> None:
        """An observer of waiting and claimed runs learns of a run before its claim comes."""
        log: list[str] = []

        async def noted(operation: Awaitable[object], name: str) -> None:
            await operation
            log.append(name)

        async def claims() -> Claim:
            claim = await desk.claim()
            log.append(f"claim of {claim.run.run_id}")
            return claim

        claiming = asyncio.create_task(claims())
        await asyncio.sleep(0)
        await asyncio.gather(noted(desk.accept("a"), "a accepted"), claiming)
        assert log == ["a accepted", "claim of a"]
        for number in range(20):
            log.clear()
            claim, claiming = claiming.result(), asyncio.create_task(claims())
            accept = noted(desk.accept(f"b{number}", claim_next=False), "accepted")
            await asyncio.gather(accept, noted(desk.finish(claim, claim_next=True), "finished"), claiming)
            assert log == ["accepted", "finished", f"claim of b{number}"]

    @scenario
    async def test_a_consumer_that_is_cancelled_loses_no_claim(self, desk: Desk) -> None:
        consumer = asyncio.create_task(desk.claim())
        await asyncio.sleep(0)
        consumer.cancel()
        await asyncio.wait([consumer])
        await desk.accept("a")
        desk.follow_anew()
        await desk.claim(of="a")

    @scenario
    async def test_claims_of_runs_that_are_not_resumable_arrive_too(self, desk: Desk) -> None:
        claim = await desk.start("a", resumable=False)
        assert not claim.run.resumable
        await desk.accept("b", resumable=False)
        await desk.finish(claim, claim_next=True)
        assert not (await desk.claim(of="b")).run.resumable

    @scenario
    async def test_claims_that_are_there_at_the_close_are_delivered(self, desk: Desk) -> None:
        await desk.accept("a")
        await desk.journal.close()
        assert [claim.run.run_id for claim in await desk.rest()] == ["a"]
        with pytest.raises(JournalUnavailable):
            await desk.accept("b")
        with pytest.raises(JournalUnavailable):
            await desk.journal.load(key())
        await desk.journal.close()

    # -- requeueing and restarts ------------------------------------------------------------------------

    @scenario
    async def test_a_run_that_is_given_back_goes_first(self, desk: Desk) -> None:
        """It keeps its sequence and first start, and its attempt counts, or not."""
        claim = await desk.start("a", priority=5)
        await desk.accept("b", lane=Lane.ANSWER, priority=1)
        started_at = desk.clock.at
        desk.clock.at += 10
        assert await desk.release(claim.token, counted=True) is ClaimResult.NOTHING
        run = await desk.run("a")
        assert (run.status, run.lane, run.position, run.attempt) == (RunStatus.QUEUED, Lane.REQUEUED, 1, 1)
        assert (run.sequence, run.priority) == (claim.run.sequence, 5)
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        again = await desk.claim(of="a")
        assert (again.run.attempt, again.run.started_at) == (2, started_at)
        assert await desk.release(again.token, counted=False, claim_next=True) is ClaimResult.CLAIMED
        again = await desk.claim(of="a")
        assert again.run.attempt == 2
        assert await desk.drain(again) == ["a", "b"]

    @scenario
    async def test_after_a_restart_what_executed_is_given_to_the_opener(self, desk: Desk) -> None:
        """With new tokens, in order of sequence, not through `claims()`; also claims that were never fetched."""
        await desk.start("a", key("s1"))
        await desk.accept("b", key("s1"))
        finished = await desk.start("c", key("s2"))
        await desk.finish(finished, done("hi", "ho", state={"n": 1}))
        await desk.start("d", key("s3"), resumable=False, metadata={"x": 1})
        await desk.accept("e", key("s4"))
        orphans = await desk.restart()
        assert [orphan.run.run_id for orphan in orphans] == ["a", "d", "e"]
        assert all(orphan.run.status is RunStatus.RUNNING and orphan.run.attempt == 1 for orphan in orphans)
        assert (orphans[1].run.resumable, orphans[1].run.metadata) == (False, {"x": 1})
        assert await desk.waiting() == ["b"]
        assert (await desk.run("c")).status is RunStatus.SUCCEEDED
        assert await desk.history(key("s2")) == said("hi", "ho")
        assert (await desk.journal.load(key("s2"))).state == {"n": 1}
        assert await desk.journal.claim_next(key("s1")) is ClaimResult.NOTHING
        await desk.finish(orphans[0], claim_next=True)
        await desk.claim(of="b")
        await desk.release(orphans[1].token, counted=True, claim_next=True, at=key("s3"))
        assert (await desk.claim(of="d")).run.attempt == 2

    @scenario
    async def test_order_survives_a_restart(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id, priority in (("b", 3), ("c", 3), ("d", 1)):
            await desk.accept(run_id, priority=priority)
        (orphan,) = await desk.restart()
        assert orphan.run == claim.run
        assert await desk.accept("e", priority=1) == Accepted(2)
        assert await desk.accept("f") == Accepted(5)
        assert (await desk.run("e")).sequence > (await desk.run("d")).sequence
        assert await desk.drain(orphan) == ["a", "d", "e", "b", "c", "f"]

    @scenario
    async def test_fences_rise_over_restarts(self, desk: Desk) -> None:
        claim = await desk.start("a")
        fence = claim.token.fence
        for _ in range(3):
            (claim,) = await desk.restart()
            assert claim.token.fence > fence
            fence = claim.token.fence
            claim = await desk.start("b", key("s2"))
            assert claim.token.fence > fence
            fence = claim.token.fence
            await desk.finish(claim)
            await desk.journal.change(Delete(key("s2")))

    # -- event loops and threads -----------------------------------------------------------------------

    @scenario
    async def test_operations_work_from_another_event_loop(self, desk: Desk) -> None:
        """The claims arrive on the consumer's loop all the same."""
        waiter = asyncio.create_task(desk.claim(of="a"))
        await asyncio.sleep(0)

        async def elsewhere() -> None:
            await desk.accept("a")
            await desk.accept("b")

        await asyncio.to_thread(asyncio.run, elsewhere())
        claim = await waiter

        async def end() -> tuple[ClaimResult, AgentRecord, Run]:
            await desk.journal.checkpoint(claim.token, RoundStarted(said("x")))
            taken = await desk.finish(claim, done("hi", "ho"), claim_next=True)
            return taken, await desk.journal.load(key()), await desk.run("a")

        taken, record, run = await asyncio.to_thread(asyncio.run, end())
        assert (taken, record.length, run.status) == (ClaimResult.CLAIMED, 2, RunStatus.SUCCEEDED)
        await desk.claim(of="b")

    @scenario
    async def test_many_threads_at_once_keep_one_line(self, desk: Desk) -> None:
        async def accept_some(thread: int) -> None:
            await asyncio.gather(*(desk.accept(f"{thread}.{index}") for index in range(25)))

        await asyncio.gather(*(asyncio.to_thread(asyncio.run, accept_some(thread)) for thread in range(4)))
        claim = await desk.claim()
        order = await desk.drain(claim)
        sequences = [(await desk.run(run_id)).sequence for run_id in order]
        assert sequences == sorted(set(sequences))
        assert len(order) == 100


async def _call_and_leave(operation: Awaitable[object]) -> None:
    """Begin an operation and cancel it while it is under way, or just after."""
    call = asyncio.ensure_future(operation)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])

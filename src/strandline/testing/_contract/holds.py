"""Holds: a run that has ended while a thread of it still works keeps its session locked."""

import asyncio
from contextlib import suppress

import pytest

from strandline._journal.errors import ClaimLost
from strandline._journal.port import Accepted, Bounds, Busy, Changed, ClaimResult, Delete, Refused
from strandline._model import Claim, Completion, ErrorCode, Lane, Outcome, RoundDone, RoundStarted, RunError, RunStatus
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said, waiting_runs


class HoldsContract(Contract):
    """A hold from begin to end, and the queue deadlines that stand still meanwhile."""

    # -- while it is held -----------------------------------------------------------------------------

    @scenario
    async def test_a_held_run_has_ended_as_any_other(self, desk: Desk) -> None:
        claim = await desk.start("a", timeout_s=5.0)
        desk.clock.at += 5
        outcome = Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.TIMEOUT, "too long"))
        completion = Completion(outcome=outcome, messages=said("hi", "ho"), window=(), state={"n": 1})
        assert await desk.finish(claim, completion, hold=True) is ClaimResult.NOTHING
        run = await desk.run("a")
        assert (run.status, run.outcome, run.ended_at) == (RunStatus.FAILED, outcome, desk.clock.at)
        assert (run.held, run.position, run.attempt) == (True, None, 1)
        assert await desk.history() == said("hi", "ho")
        record = await desk.journal.load(key())
        assert (record.window, record.length, record.state) == ((), 2, {"n": 1})

    @scenario
    async def test_a_held_session_is_not_taken_from(self, desk: Desk) -> None:
        """Neither by the finish itself, nor by an accept or a claim; and it is not deleted."""
        claim = await desk.start("a")
        await desk.accept("b")
        assert await desk.finish(claim, claim_next=True, hold=True) is ClaimResult.NOTHING
        assert await desk.accept("c") == Accepted(2)
        assert await desk.accept("d", priority=1) == Accepted(1)
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        assert await desk.accept("e", bounds=Bounds(per_session=3, total=10)) == Refused("queue_full", 4)
        assert await desk.waiting() == ["b", "c", "d"]
        for run_id in "bcd":
            assert await desk.end(run_id) == Changed(existed=True)
        assert await desk.journal.change(Delete(key())) == Busy()
        assert (await desk.run("a")).held

    @scenario
    async def test_other_sessions_go_on_beside_a_held_one(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), hold=True)
        assert await desk.drain(await desk.start("b", key("other"))) == ["b"]

    @scenario
    async def test_the_token_of_a_held_run_is_good_for_its_release_only(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.journal.checkpoint(claim.token, RoundStarted(said("x")))
        await desk.finish(claim, done("hi", "ho", state={"n": 1}), hold=True)
        before = await desk.seen(["a"])
        for hold in (True, False):
            with pytest.raises(ClaimLost):
                await desk.finish(claim, done("no", "no", window=(), state={"n": 2}), claim_next=True, hold=hold)
        with pytest.raises(ClaimLost):
            await desk.journal.checkpoint(claim.token, RoundStarted(said("no")))
        with suppress(ClaimLost):  # this one may return before it is known
            await desk.journal.checkpoint(claim.token, RoundDone(said("no"), {"n": 2}))
        stale = claim.token._replace(fence=claim.token.fence - 1)
        with pytest.raises(ClaimLost):
            await desk.release(stale, counted=True, claim_next=True)
        assert await desk.seen(["a"]) == before
        await desk.release(claim.token, counted=True)
        assert not (await desk.run("a")).held
        assert (await desk.start("b")).checkpoints == ()

    @scenario
    async def test_a_held_last_attempt_keeps_no_other_waiting(self, desk: Desk) -> None:
        """It has ended. A claim after the release is blocked if the next run and another one are last attempts."""
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.release(claim.token, counted=True)
        assert await desk.journal.claim_next(key("a")) is ClaimResult.CLAIMED
        first = await desk.claim(of="a")
        assert await desk.journal.claim_next(key("b")) is ClaimResult.BLOCKED
        await desk.finish(first, hold=True)
        assert await desk.journal.claim_next(key("b")) is ClaimResult.CLAIMED
        await desk.claim(of="b")
        before = await desk.start("c", key("c"))
        await desk.release(before.token, counted=True)
        overtaking = await desk.start("c0", key("c"), lane=Lane.REQUEUED - 1)
        await desk.finish(overtaking, hold=True)
        assert await desk.release(overtaking.token, counted=True, claim_next=True, at=key("c")) is ClaimResult.BLOCKED
        assert not (await desk.run("c0")).held

    # -- its end --------------------------------------------------------------------------------------

    @scenario
    async def test_a_release_ends_the_hold_and_leaves_the_end_as_it_is(self, desk: Desk) -> None:
        for claim_next in (False, True):
            claim = await desk.start("a" if claim_next else "b")
            await desk.finish(claim, done("hi", "ho"), hold=True)
            held = await desk.run(claim.run.run_id)
            desk.clock.at += 7
            assert await desk.release(claim.token, counted=False, claim_next=claim_next) is ClaimResult.NOTHING
            freed = await desk.run(claim.run.run_id)
            assert (held.held, freed.held, freed.status) == (True, False, RunStatus.SUCCEEDED)
            assert (freed.outcome, freed.ended_at, freed.attempt) == (held.outcome, held.ended_at, held.attempt)
            with pytest.raises(ClaimLost):
                await desk.release(claim.token, counted=True, claim_next=True)
        assert await desk.waiting() == []
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

    @scenario
    async def test_a_release_takes_what_waited_for_the_end_of_the_hold(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id in ("b", "c"):
            await desk.accept(run_id)
        await desk.finish(claim, done("hi", "ho"), hold=True)
        assert await desk.release(claim.token, counted=True, claim_next=True) is ClaimResult.CLAIMED
        held, claim = claim, await desk.claim(of="b")
        assert claim.token.fence > held.token.fence
        await desk.finish(claim, hold=True)
        assert await desk.release(claim.token, counted=True) is ClaimResult.NOTHING
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="c")) == ["c"]

    @scenario
    async def test_a_hold_that_begins_and_ends_in_one_burst_is_one_end(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        answers = await asyncio.gather(
            desk.finish(claim, done("hi", "ho"), claim_next=True, hold=True),
            desk.journal.claim_next(key()),
            desk.release(claim.token, counted=True, claim_next=True),
        )
        assert [*answers] == [ClaimResult.NOTHING, ClaimResult.NOTHING, ClaimResult.CLAIMED]
        await desk.claim(of="b")
        assert await desk.history() == said("hi", "ho")

    @scenario
    async def test_opening_ends_all_holds(self, desk: Desk) -> None:
        """A held run is no orphan: it has ended. The runs behind it can be claimed."""
        held = await desk.start("a", key("s1"))
        await desk.accept("b", key("s1"), queue_deadline=1_100.0)
        running = await desk.start("c", key("s2"))
        last = await desk.start("d", key("s3"))
        for claim in (held, last):
            await desk.finish(claim, done("hi", "ho"), hold=True)
        desk.clock.at += 25
        assert [orphan.run.run_id for orphan in await desk.restart()] == [running.run.run_id]
        for run_id in ("a", "d"):
            run = await desk.run(run_id)
            assert (run.held, run.status, run.ended_at) == (False, RunStatus.SUCCEEDED, 1_000.0)
        assert (await desk.run("b")).queue_deadline == 1_125.0
        with pytest.raises(ClaimLost):
            await desk.release(held.token, counted=True, claim_next=True)
        assert await desk.journal.claim_next(key("s1")) is ClaimResult.CLAIMED
        await desk.claim(of="b")
        assert await desk.journal.change(Delete(key("s3"))) == Changed(existed=True)
        desk.clock.at += 25
        await desk.restart()
        assert (await desk.run("b")).queue_deadline == 1_125.0

    # -- time that stands still -----------------------------------------------------------------------

    async def _held(self, desk: Desk) -> Claim:
        """Return the claim of a run that has been held since 1,010, while three wait in its session."""
        claim = await desk.start("a")
        await desk.accept("b", queue_deadline=1_100.0)
        await desk.accept("c", key("other"), claim_next=False, queue_deadline=1_100.0)
        desk.clock.at = 1_010
        await desk.finish(claim, hold=True)
        desk.clock.at = 1_015
        await desk.accept("d", queue_deadline=1_200.5)
        await desk.accept("e")
        desk.clock.at = 1_040
        return claim

    async def _deadlines(self, desk: Desk) -> dict[str, float | None]:
        waiting = await waiting_runs(desk.journal)
        deadlines: dict[str, float | None] = {each.run_id: each.queue_deadline for each in waiting}
        assert deadlines == {run_id: (await desk.run(run_id)).queue_deadline for run_id in deadlines}
        return deadlines

    @scenario
    async def test_queue_deadlines_move_on_by_the_time_that_a_hold_stood(self, desk: Desk) -> None:
        """From its beginning, or from the acceptance of the run that waits; those of other sessions do not."""
        claim = await self._held(desk)
        before = {"b": 1_100.0, "c": 1_100.0, "d": 1_200.5, "e": None}
        assert await self._deadlines(desk) == before
        await desk.release(claim.token, counted=True)
        after = {"b": 1_130.0, "c": 1_100.0, "d": 1_225.5, "e": None}
        assert await self._deadlines(desk) == after
        await desk.restart()
        assert await self._deadlines(desk) == after

    @scenario
    async def test_what_a_release_takes_has_its_deadline_moved_too(self, desk: Desk) -> None:
        claim = await self._held(desk)
        await desk.release(claim.token, counted=True, claim_next=True)
        assert (await desk.claim(of="b")).run.queue_deadline == 1_130.0

    @scenario
    async def test_each_hold_moves_deadlines_on_by_its_own_time(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await desk.accept("c", queue_deadline=1_100.0)
        for held_s in (10, 5):
            await desk.finish(claim, hold=True)
            desk.clock.at += held_s
            if held_s == 10:
                await desk.release(claim.token, counted=True, claim_next=True)
                claim = await desk.claim(of="b")
                desk.clock.at += 1_000
            else:
                await desk.release(claim.token, counted=True)
        assert (await desk.run("c")).queue_deadline == 1_115.0

    @scenario
    async def test_a_clock_that_went_back_takes_no_time_from_a_deadline(self, desk: Desk) -> None:
        claim = await self._held(desk)
        desk.clock.at = 1_005
        await desk.release(claim.token, counted=True)
        assert await self._deadlines(desk) == {"b": 1_100.0, "c": 1_100.0, "d": 1_200.5, "e": None}

    @scenario
    async def test_a_run_that_is_given_back_has_no_queue_deadline_and_moves_no_other(self, desk: Desk) -> None:
        claim = await desk.start("a", queue_deadline=1_050.0)
        await desk.accept("b", queue_deadline=1_100.0)
        desk.clock.at += 10
        await desk.release(claim.token, counted=True)
        assert await self._deadlines(desk) == {"a": None, "b": 1_100.0}

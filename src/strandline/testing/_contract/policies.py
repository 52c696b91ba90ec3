"""Runs that do not simply wait: refused, or started after a cancel of what has begun."""

import asyncio
from typing import Any

import pytest

from strandline._journal.errors import CancelRequested
from strandline._journal.port import AcceptAnswer, Accepted, Attached, Bounds, ClaimResult, Refused, Stopped
from strandline._model import Completion, IfBusy, Keyed, Lane, Outcome, RoundStarted, RunId, RunStatus
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, said

CANCELLED = Outcome(status=RunStatus.CANCELLED)
BOTH = (IfBusy.INTERRUPT, IfBusy.ROLLBACK)


def stopped(*run_ids: str) -> Stopped:
    """Return the answer to an interrupt of executing runs."""
    return Stopped(ended={}, cancelling=[RunId(run_id) for run_id in run_ids])


def as_cancelled(*texts: str, discarded: bool = False) -> Completion:
    """Return the completion of a cancelled run."""
    return Completion(outcome=CANCELLED, messages=said(*texts), discarded=discarded)


class PoliciesContract(Contract):
    """`if_busy`, decided in the accept itself."""

    async def _interrupt(
        self, desk: Desk, run_id: str, if_busy: IfBusy = IfBusy.INTERRUPT, **more: Any
    ) -> AcceptAnswer:
        return await desk.accept(run_id, if_busy=if_busy, lane=Lane.FRONT, **more)

    # -- reject ---------------------------------------------------------------------------------------

    @scenario
    async def test_a_run_that_may_not_wait_is_refused_while_another_executes_waits_or_is_held(self, desk: Desk) -> None:
        assert await desk.accept("a", if_busy=IfBusy.REJECT) == Accepted(0)
        claim = await desk.claim(of="a")
        assert claim.run.if_busy is IfBusy.REJECT
        assert await desk.accept("b", if_busy=IfBusy.REJECT) == Refused("session_busy", 1)
        await desk.accept("c")
        await desk.finish(claim, hold=True)
        assert await desk.accept("b", if_busy=IfBusy.REJECT) == Refused("session_busy", 2)
        await desk.release(claim.token, counted=True)
        assert await desk.accept("b", if_busy=IfBusy.REJECT) == Refused("session_busy", 2)
        assert await desk.cancel("c") == Stopped(ended={RunId("c"): CANCELLED}, cancelling=[])
        assert not await desk.exists("b")
        assert await desk.accept("b", if_busy=IfBusy.REJECT, claim_next=False) == Accepted(1), "nothing runs there"
        assert (await desk.run("b")).if_busy is IfBusy.REJECT

    # -- interrupt and rollback -----------------------------------------------------------------------

    @scenario
    async def test_an_interrupt_cancels_what_executes_and_goes_before_what_waits(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b", priority=1)
        assert await self._interrupt(desk, "i", priority=5) == Accepted(1, stopped("a"))
        run = await desk.run("a")
        assert (run.cancel_requested, run.discard, run.status) == (True, False, RunStatus.RUNNING)
        run = await desk.run("i")
        assert (run.if_busy, run.position, run.priority) == (IfBusy.INTERRUPT, 1, 5)
        with pytest.raises(CancelRequested):
            await desk.finish(claim, done("hi", "ho"))
        assert await desk.finish(claim, as_cancelled("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        assert await desk.history() == said("hi", "ho")
        assert await desk.drain(await desk.claim(of="i")) == ["i", "b"]

    @scenario
    async def test_a_rollback_has_what_it_cancels_discarded(self, desk: Desk) -> None:
        claim = await desk.start("a")
        assert await self._interrupt(desk, "i", IfBusy.ROLLBACK) == Accepted(1, stopped("a"))
        assert (await desk.run("a")).discard
        (orphan,) = await desk.restart()
        assert (orphan.run.cancel_requested, orphan.run.discard) == (True, True)
        for wrong in (done("hi", "ho"), as_cancelled("hi", "ho")):
            with pytest.raises(CancelRequested) as raised:
                await desk.finish(orphan, wrong)
            assert raised.value.discard
        assert claim.token != orphan.token
        assert (
            await desk.finish(orphan, as_cancelled("hi", "ho", discarded=True), claim_next=True) is ClaimResult.CLAIMED
        )
        assert (await desk.history(), await desk.history(discarded=True)) == ([], said("hi", "ho"))
        assert (await desk.run("a")).discarded
        await desk.finish(await desk.claim(of="i"))

    @scenario
    async def test_interrupts_start_in_the_order_in_which_they_were_accepted(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b", priority=1)
        assert await self._interrupt(desk, "i1", priority=5) == Accepted(1, stopped("a"))
        assert await self._interrupt(desk, "i2", priority=1) == Accepted(2, stopped("a"))
        assert await self._interrupt(desk, "i3", IfBusy.ROLLBACK) == Accepted(3, stopped("a"))
        await desk.finish(claim, as_cancelled("hi", "ho", discarded=True), claim_next=True)
        claim = await desk.claim(of="i1")
        assert await self._interrupt(desk, "i4") == Accepted(3, stopped("i1")), "an interrupt can be interrupted"
        assert await desk.finish(claim, as_cancelled("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="i2")) == ["i2", "i3", "i4", "b"]

    @scenario
    async def test_an_interrupt_of_a_free_session_is_taken_at_once(self, desk: Desk) -> None:
        for number, if_busy in enumerate(BOTH):
            assert await self._interrupt(desk, f"i{number}", if_busy) == Accepted(0)
            await desk.finish(await desk.claim(of=f"i{number}"), done("hi", "ho"))
        assert len(await desk.history()) == 4

    @scenario
    async def test_a_run_that_has_ended_is_not_touched(self, desk: Desk) -> None:
        """Held or not: it has succeeded, and stays so."""
        claim = await desk.start("a")
        await desk.finish(claim, done("hi", "ho"), hold=True)
        assert await self._interrupt(desk, "i", IfBusy.ROLLBACK) == Accepted(1)
        run = await desk.run("a")
        assert (run.status, run.discarded, run.cancel_requested) == (RunStatus.SUCCEEDED, False, False)
        assert await desk.history() == said("hi", "ho")
        await desk.release(claim.token, counted=True, claim_next=True)
        await desk.finish(await desk.claim(of="i"))

    @scenario
    async def test_what_was_given_back_has_begun_and_is_cancelled_too(self, desk: Desk) -> None:
        for number, if_busy in enumerate(BOTH):
            claim = await desk.start(f"a{number}")
            await desk.journal.checkpoint(claim.token, RoundStarted(said(f"ask {number}", "half")))
            await desk.release(claim.token, counted=True)
            await desk.accept(f"b{number}", claim_next=False)
            answer = await self._interrupt(desk, f"i{number}", if_busy)
            assert isinstance(answer, Accepted)
            assert answer.position == 0
            assert answer.stopped is not None
            assert [*answer.stopped.ended] == [f"a{number}"]
            assert answer.stopped.cancelling == []
            run = await desk.run(f"a{number}")
            assert (run.status, run.discarded) == (RunStatus.CANCELLED, if_busy is IfBusy.ROLLBACK)
            assert await desk.drain(await desk.claim(of=f"i{number}")) == [f"i{number}", f"b{number}"]
        texts = [message["content"][0]["text"] for message in await desk.history()]
        assert texts == ["ask 0", "half"]
        assert len(await desk.history(discarded=True)) == 4

    @scenario
    async def test_one_that_is_refused_cancels_nothing(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        before = await desk.seen(["a", "b"])
        for if_busy in BOTH:
            for bounds, why in ((Bounds(1, 9), "queue_full"), (Bounds(9, 1), "server_full")):
                answer = await self._interrupt(desk, "i", if_busy, bounds=bounds)
                assert answer == Refused(why, 1)  # type: ignore[arg-type]
        assert await desk.seen(["a", "b"]) == before
        assert await desk.drain(claim) == ["a", "b"]

    @scenario
    async def test_what_it_cancels_makes_room_for_it(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.release(claim.token, counted=True)
        assert (await self._interrupt(desk, "i", bounds=Bounds(1, 1), claim_next=False)) == Accepted(
            1, Stopped(ended={RunId("a"): CANCELLED}, cancelling=[])
        )
        assert await desk.waiting() == ["i"]

    @scenario
    async def test_one_that_is_sent_again_cancels_nothing_again(self, desk: Desk) -> None:
        claim = await desk.start("a")
        keyed = Keyed("k", b"x" * 32, 0.0)
        assert await self._interrupt(desk, "i", keyed=keyed) == Accepted(1, stopped("a"))
        await desk.finish(claim, as_cancelled("hi", "ho"), claim_next=True)
        claim = await desk.claim(of="i")
        assert await self._interrupt(desk, "again", keyed=keyed) == Attached(RunId("i"))
        assert not (await desk.run("i")).cancel_requested
        await desk.finish(claim, done("hi", "ho"))

    @scenario
    async def test_of_an_interrupt_and_an_end_the_first_wins(self, desk: Desk) -> None:
        first = await desk.start("a")
        taken, answer = await asyncio.gather(
            desk.finish(first, done("hi", "ho"), claim_next=True), self._interrupt(desk, "i", IfBusy.ROLLBACK)
        )
        assert (taken, answer) == (ClaimResult.NOTHING, Accepted(0))
        assert (await desk.run("a")).status is RunStatus.SUCCEEDED
        await desk.finish(await desk.claim(of="i"), done("hi", "ho"))
        assert len(await desk.history()) == 4

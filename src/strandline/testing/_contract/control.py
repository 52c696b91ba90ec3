"""Cancels: if one races an end the first wins, and history stays true."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.port import Accepted, Busy, Changed, ClaimResult, Delete, Ended, Stopped
from strandline._model import (
    Claim,
    Completion,
    Lane,
    Message,
    Outcome,
    RoundDone,
    RoundStarted,
    RunId,
    RunStatus,
    ToolDone,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

CANCELLED = Outcome(status=RunStatus.CANCELLED)
UNKNOWN = "The outcome of this tool call is unknown: the run ended before it returned. It may have taken effect."
EARLY: Message = {"role": "assistant", "content": [{"text": "(This run ended early: cancelled.)"}]}


def cancelling(*run_ids: str) -> Stopped:
    """Return the answer to a cancel of executing runs."""
    return Stopped(ended={}, cancelling=[RunId(run_id) for run_id in run_ids])


def ended(*run_ids: str) -> Stopped:
    """Return the answer to a cancel of waiting runs that had never begun."""
    return Stopped(ended={RunId(run_id): CANCELLED for run_id in run_ids}, cancelling=[])


def as_cancelled(*texts: str, discarded: bool = False) -> Completion:
    """Return the completion of a cancelled run."""
    return Completion(outcome=CANCELLED, messages=said(*texts), discarded=discarded)


def tools(*names: str) -> list[Any]:
    """Return a prompt and an answer that calls tools."""
    uses = [{"toolUse": {"toolUseId": name, "name": name, "input": {}}} for name in names]
    return [*said("ask"), {"role": "assistant", "content": uses}]


def result(name: str, text: str, status: str = "success") -> dict[str, Any]:
    """Return the result of a tool."""
    return {"toolUseId": name, "status": status, "content": [{"text": text}]}


class ControlContract(Contract):
    """Cancels of runs and of sessions."""

    # -- of what waits --------------------------------------------------------------------------------

    @scenario
    async def test_a_waiting_run_that_is_cancelled_has_ended_and_leaves_no_trace(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id in ("b", "c"):
            await desk.accept(run_id)
        desk.clock.at += 5
        assert await desk.cancel("b") == ended("b")
        run = await desk.run("b")
        assert (run.status, run.outcome, run.ended_at) == (RunStatus.CANCELLED, CANCELLED, 1_005.0)
        assert (run.position, run.started_at, run.attempt, run.cancel_requested) == (None, None, 0, False)
        assert (await desk.run("c")).position == 1
        assert await desk.waiting() == ["c"]
        assert await desk.cancel("b") == Ended()
        assert await desk.drain(claim) == ["a", "c"]
        assert await desk.history() == []
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

    @scenario
    async def test_a_requeued_run_is_closed_by_its_checkpoints(self, desk: Desk) -> None:
        """It has begun, so history shows what it did; a tool without a result may have run."""
        claim = await desk.start("a")
        await desk.journal.checkpoint(claim.token, RoundStarted(tools("t", "u")))
        await desk.journal.checkpoint(claim.token, ToolDone("t", result("t", "did t")))
        await desk.release(claim.token, counted=True)
        await desk.accept("b", claim_next=False)
        answer = await desk.cancel("a")
        results = [result("t", "did t"), result("u", UNKNOWN, "error")]
        left = [*tools("t", "u"), {"role": "user", "content": [{"toolResult": each} for each in results]}, EARLY]
        assert isinstance(answer, Stopped)
        assert answer.ended[RunId("a")] == Outcome(status=RunStatus.CANCELLED, message=EARLY)
        assert await desk.history() == left
        run = await desk.run("a")
        assert (run.status, run.outcome, run.attempt) == (RunStatus.CANCELLED, answer.ended[RunId("a")], 1)
        await desk.restart()
        assert await desk.history() == left
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="b")
        assert claim.checkpoints == ()
        await desk.finish(claim, done("hi", "ho"))
        assert (await desk.journal.load(key())).length == 6

    @scenario
    async def test_a_run_requeued_before_its_first_checkpoint_leaves_no_trace(self, desk: Desk) -> None:
        """By design, although it had started: no tool begins before its round has a checkpoint, and a run that is not
        resumable is not requeued once its agent has begun."""
        claim = await desk.start("a")
        await desk.release(claim.token, counted=False)
        assert await desk.cancel("a") == ended("a")
        assert await desk.history() == []
        assert (await desk.run("a")).started_at == 1_000.0

    @scenario
    async def test_what_a_closed_round_of_it_has_left_is_kept_as_it_is(self, desk: Desk) -> None:
        claim = await desk.start("a")
        closed: Message = {"role": "user", "content": [{"toolResult": result("t", "did t")}]}
        await desk.journal.checkpoint(claim.token, RoundStarted(tools("t")))
        await desk.journal.checkpoint(claim.token, RoundDone([closed], {"n": 1}))
        await desk.release(claim.token, counted=True)
        await desk.cancel("a")
        assert await desk.history() == [*tools("t"), closed, EARLY]
        record = await desk.journal.load(key())
        assert (record.length, record.state) == (4, None)

    # -- of what executes -----------------------------------------------------------------------------

    @scenario
    async def test_a_cancelled_run_that_executes_can_only_end_as_cancelled(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        assert await desk.cancel("a") == cancelling("a")
        run = await desk.run("a")
        assert (run.status, run.cancel_requested, run.discard, run.outcome) == (RunStatus.RUNNING, True, False, None)
        await desk.journal.checkpoint(claim.token, RoundStarted(said("x")))
        before = await desk.seen(["a", "b"])
        for wrong in (done("hi", "ho", state={"n": 1}), done("hi", window=())):
            for hold in (False, True):
                with pytest.raises(CancelRequested) as raised:
                    await desk.finish(claim, wrong, claim_next=True, hold=hold)
                assert not raised.value.discard
        assert await desk.seen(["a", "b"]) == before
        assert await desk.finish(claim, as_cancelled("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        run = await desk.run("a")
        assert (run.status, run.cancel_requested, run.outcome) == (RunStatus.CANCELLED, True, CANCELLED)
        assert await desk.history() == said("hi", "ho")
        await desk.claim(of="b")

    @scenario
    async def test_it_cannot_be_given_back(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.cancel("a")
        for counted in (True, False):
            with pytest.raises(CancelRequested):
                await desk.release(claim.token, counted=counted, claim_next=True)
        assert (await desk.run("a")).status is RunStatus.RUNNING
        assert await desk.finish(claim, as_cancelled("hi", "ho"), hold=True) is ClaimResult.NOTHING
        assert await desk.release(claim.token, counted=True) is ClaimResult.NOTHING
        assert not (await desk.run("a")).held

    @scenario
    async def test_a_run_can_be_cancelled_twice(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for _ in range(2):
            assert await desk.cancel("a") == cancelling("a")
        await desk.finish(claim, as_cancelled("hi", "ho"))

    @scenario
    async def test_a_cancel_survives_a_crash(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.cancel("a")
        (orphan,) = await desk.restart()
        assert orphan.run.cancel_requested
        for claim_next in (True, False):
            with pytest.raises(CancelRequested):
                await desk.journal.finish(orphan.token, done("hi"), claim_next=claim_next)
            with pytest.raises(CancelRequested):
                await desk.release(orphan.token, counted=True, claim_next=claim_next)
            with pytest.raises(ClaimLost):
                await desk.journal.finish(claim.token, as_cancelled("hi"), claim_next=claim_next)
        await desk.finish(orphan, as_cancelled("hi", "ho"))
        assert (await desk.run("a")).cancel_requested

    @scenario
    async def test_a_run_sent_after_a_cancel_is_accepted_and_waits(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.cancel("a")
        assert await desk.accept("b") == Accepted(1)
        await desk.finish(claim, as_cancelled("hi", "ho"), hold=True)
        assert await desk.accept("c") == Accepted(2)
        assert await desk.release(claim.token, counted=True, claim_next=True) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="b")) == ["b", "c"]

    # -- of what has ended ----------------------------------------------------------------------------

    @scenario
    async def test_a_run_that_has_ended_stays_as_it_is(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.finish(claim, done("hi", "ho"), hold=True)
        before = await desk.seen(["a"])
        assert await desk.cancel("a") == Ended()
        await desk.release(claim.token, counted=True)
        assert await desk.cancel("a") == Ended()
        before[0][0] = await desk.run("a")  # type: ignore[index]
        assert await desk.seen(["a"]) == before
        assert (await desk.run("a")).status is RunStatus.SUCCEEDED

    @scenario
    async def test_a_run_that_is_not_there_or_another_principals(self, desk: Desk) -> None:
        claim = await desk.start("a", key("s", "other"))
        await desk.accept("b", key("s", "other"))
        for run_id in ("a", "b", "none"):
            assert await desk.cancel(run_id) == Changed(existed=False)
        for running in (True, False):
            assert await desk.cancel_all(running=running) == Changed(existed=False)
        assert not (await desk.run("a", "other")).cancel_requested
        assert await desk.drain(claim) == ["a", "b"]

    # -- of a session ---------------------------------------------------------------------------------

    @scenario
    async def test_a_session_is_cancelled_but_for_what_executes(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await desk.accept("c", priority=1)
        await desk.accept("d", key("other"), claim_next=False)
        answer = await desk.cancel_all()
        assert answer == ended("b", "c")
        assert isinstance(answer, Stopped)
        assert list(answer.ended) == ["c", "b"], "in the order in which they would have started"
        assert not (await desk.run("a")).cancel_requested
        assert await desk.waiting() == ["d"]
        assert await desk.cancel_all() == ended()
        assert await desk.drain(claim) == ["a"]

    @scenario
    async def test_a_session_is_cancelled_with_what_executes(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        assert await desk.cancel_all(running=True) == Stopped(ended={RunId("b"): CANCELLED}, cancelling=[RunId("a")])
        with pytest.raises(CancelRequested):
            await desk.finish(claim)
        await desk.finish(claim, as_cancelled("hi", "ho"), hold=True)
        await desk.accept("c")
        assert await desk.cancel_all(running=True) == ended("c"), "a held run has ended"
        await desk.release(claim.token, counted=True)
        assert await desk.cancel_all(running=True) == ended()

    @scenario
    async def test_cancelling_a_session_reports_what_had_begun(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.journal.checkpoint(claim.token, RoundStarted(tools("t")))
        await desk.release(claim.token, counted=True)
        await desk.accept("b", claim_next=False)
        answer = await desk.cancel_all()
        assert isinstance(answer, Stopped)
        assert list(answer.ended) == ["a", "b"]
        assert (await desk.history())[-1] == EARLY
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

    @scenario
    async def test_what_is_cancelled_gives_its_place_and_its_room_away(self, desk: Desk) -> None:
        """A cancelled last attempt blocks no other; positions behind it are recounted."""
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.release(claim.token, counted=True)
        assert await desk.journal.claim_next(key("a")) is ClaimResult.CLAIMED
        first = await desk.claim(of="a")
        await desk.accept("c", key("b"), claim_next=False)
        assert await desk.journal.claim_next(key("b")) is ClaimResult.BLOCKED
        assert await desk.cancel("b") == ended("b")
        assert await desk.journal.claim_next(key("b")) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="c"))
        await desk.finish(first)

    # -- races ----------------------------------------------------------------------------------------

    @scenario
    async def test_of_a_cancel_and_an_end_the_first_wins(self, desk: Desk) -> None:
        first = await desk.start("a")
        answers: Sequence[object] = await asyncio.gather(desk.cancel("a"), self._try(desk, first, done("hi", "ho")))
        assert [*answers] == [cancelling("a"), "cancel requested"]
        await desk.finish(first, as_cancelled("hi", "ho"))
        second = await desk.start("b")
        answers = await asyncio.gather(self._try(desk, second, done("hi", "ho")), desk.cancel("b"))
        assert [*answers] == [ClaimResult.NOTHING, Ended()]
        assert (await desk.run("b")).status is RunStatus.SUCCEEDED

    @scenario
    async def test_of_a_cancel_and_a_giving_back_the_first_wins(self, desk: Desk) -> None:
        first = await desk.start("a")
        await desk.journal.checkpoint(first.token, RoundStarted(tools("t")))
        answers: Sequence[object] = await asyncio.gather(desk.cancel("a"), self._try(desk, first))
        assert [*answers] == [cancelling("a"), "cancel requested"]
        await desk.finish(first, as_cancelled("hi", "ho"))
        second = await desk.start("b")
        await desk.journal.checkpoint(second.token, RoundStarted(tools("t")))
        given, answer = await asyncio.gather(self._try(desk, second), desk.cancel("b"))
        assert given is ClaimResult.NOTHING
        assert isinstance(answer, Stopped)
        assert list(answer.ended) == ["b"]
        assert (await desk.history())[-1] == EARLY

    @scenario
    async def test_of_a_cancel_and_a_take_the_first_wins(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        answers: Sequence[object] = await asyncio.gather(desk.cancel("a"), desk.journal.claim_next(key()))
        assert [*answers] == [ended("a"), ClaimResult.NOTHING]
        await desk.accept("b", claim_next=False, lane=Lane.FRONT)
        answers = await asyncio.gather(desk.journal.claim_next(key()), desk.cancel("b"))
        assert [*answers] == [ClaimResult.CLAIMED, cancelling("b")]
        claim = await desk.claim(of="b")
        assert not claim.run.cancel_requested
        await desk.finish(claim, as_cancelled("hi", "ho"))

    async def _try(self, desk: Desk, claim: Claim, completion: Completion | None = None) -> object:
        """End or requeue a run, and return the result."""
        try:
            if completion is None:
                return await desk.release(claim.token, counted=True)
            return await desk.finish(claim, completion)
        except CancelRequested:
            return "cancel requested"

    @scenario
    async def test_a_session_with_a_cancelled_run_is_busy_until_that_has_ended(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.cancel("a")
        assert await desk.journal.change(Delete(key())) == Busy()
        await desk.finish(claim, as_cancelled("hi", "ho", discarded=True))
        assert await desk.history() == []
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

"""Runs with a time before which they do not start: they block nobody, and queue when it has come."""

from typing import Any

from strandline._journal.port import Accepted, Bounds, Changed, Ended, Move, Pause, Refused, Resume, RunsQuery, Stopped
from strandline._model import (
    ANONYMOUS,
    Completion,
    IfBusy,
    InputRequest,
    Keyed,
    Lane,
    Outcome,
    Question,
    RunId,
    RunStatus,
    Sender,
    responses,
)
from strandline.testing._contract.queue_time import ROUND
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, key, said

AT = 1_100.0
"""When delayed runs are due, 100 s after the beginning."""


class DelaysContract(Contract):
    """Runs with `not_before`."""

    async def _due(self, desk: Desk, at: float = AT) -> None:
        """Let a time come, and have queue what is due."""
        desk.clock.at = at
        assert desk.journal.sessions.due(at) == [key()]
        assert await desk.end_overdue() == []

    @scenario
    async def test_a_delayed_run_blocks_nobody(self, desk: Desk) -> None:
        """Runs that come later start at once in a free session, are ahead of it, and are not busy because of it."""
        assert await desk.accept("late", not_before=AT) == Accepted(1)
        assert desk.journal.sessions.is_idle(key())
        assert desk.journal.sessions.delayed_until(key()) == AT
        claim = await desk.start("a", if_busy=IfBusy.REJECT)
        assert desk.journal.sessions.delayed_until(key()) == AT
        assert await desk.accept("b") == Accepted(1)
        assert desk.journal.sessions.delayed_until(key()) is None
        assert [(await desk.run(each)).position for each in ("b", "late")] == [1, 2]
        assert (desk.journal.sessions.position(RunId("b")), desk.journal.sessions.position(RunId("late"))) == (1, 2)
        assert await desk.drain(claim) == ["a", "b"]
        assert (await desk.run("late")).status is RunStatus.QUEUED
        await desk.cancel("late")

    @scenario
    async def test_nothing_is_due_before_its_time(self, desk: Desk) -> None:
        await desk.accept("late", not_before=AT, queue_deadline=AT + 50.0)
        assert desk.journal.sessions.next_due == AT
        assert not desk.journal.sessions.due(AT - 0.001)
        desk.clock.at = AT - 0.001
        assert await desk.end_overdue() == []
        assert (await desk.run("late")).lane == Lane.DELAYED
        assert desk.journal.sessions.not_before(RunId("late")) == AT
        await desk.cancel("late")

    @scenario
    async def test_a_run_draws_its_sequence_when_it_is_due(self, desk: Desk) -> None:
        """Behind all runs that were accepted until then, and before those that come later; with all of its request."""
        claim = await desk.start("a")
        request: dict[str, Any] = {
            "input": [{"text": "hi"}],
            "metadata": {"k": [1]},
            "trace": {"traceparent": "x"},
            "sender": Sender("U1", "Ada"),
            "timeout_s": 7.0,
        }
        await desk.accept("late", not_before=AT, queue_deadline=AT + 50.0, **request)
        before = await desk.run("late")
        await desk.accept("b")
        await self._due(desk)
        await desk.accept("c")
        due = await desk.run("late")
        assert due.sequence > (await desk.run("b")).sequence > before.sequence
        assert (due.lane, due.position, due.created_at, due.not_before) == (Lane.NORMAL, 2, 1_000.0, AT)
        assert desk.journal.sessions.not_before(RunId("late")) is None
        await desk.finish(claim, claim_next=True)
        await desk.finish(await desk.claim(of="b"), claim_next=True)
        taken = await desk.claim(of="late")
        assert (taken.run.input, taken.run.metadata, taken.run.trace, taken.run.sender) == (
            [{"text": "hi"}],
            {"k": [1]},
            request["trace"],
            request["sender"],
        )
        assert (taken.run.sequence, taken.run.timeout_s, taken.damaged) == (due.sequence, 7.0, False)
        assert await desk.drain(taken) == ["late", "c"]
        assert (await desk.run("late")).status is RunStatus.SUCCEEDED

    @scenario
    async def test_runs_that_are_due_together_queue_by_their_times(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id, at, priority in (("x", AT + 2, 3), ("y", AT, 3), ("z", AT + 3, 1), ("w", AT + 1, 3)):
            await desk.accept(run_id, not_before=at, priority=priority)
        await self._due(desk, AT + 5)
        assert await desk.drain(claim) == ["a", "z", "y", "w", "x"]

    @scenario
    async def test_a_time_that_has_passed_delays_nothing(self, desk: Desk) -> None:
        claim = await desk.start("a", not_before=desk.clock.at)
        assert (claim.run.lane, claim.run.not_before) == (Lane.NORMAL, desk.clock.at)
        await desk.finish(claim)

    @scenario
    async def test_a_delayed_run_survives_a_restart(self, desk: Desk) -> None:
        """It is delayed then as before, or due at once if its time came meanwhile."""
        await desk.accept("late", not_before=AT, input="x" * 10_000, keyed=Keyed("k", bytes(32), 0.0))
        await desk.restart()
        assert (await desk.run("late")).lane == Lane.DELAYED
        assert desk.journal.sessions.next_due == AT
        desk.clock.at = AT + 1000
        await desk.restart()
        await self._due(desk, AT + 1000)
        await desk.restart()
        assert await desk.accept("again", keyed=Keyed("k", bytes(32), 0.0)) != Accepted(0)
        claim = await desk.start("first", priority=1)
        await desk.finish(claim, claim_next=True)
        claim = await desk.claim(of="late")
        assert (claim.run.input, claim.damaged) == ("x" * 10_000, False)
        await desk.finish(claim)

    @scenario
    async def test_delayed_runs_count_in_bounds(self, desk: Desk) -> None:
        bounds = Bounds(2, 10)
        for run_id in ("x", "y"):
            await desk.accept(run_id, not_before=AT, bounds=bounds)
        assert await desk.accept("z", not_before=AT, bounds=bounds) == Refused("queue_full", 3)
        claim = await desk.start("a", bounds=bounds)
        assert isinstance(await desk.accept("b", bounds=bounds), Refused)
        assert (desk.journal.sessions.waiting, desk.journal.sessions.delayed) == (2, 2)
        await desk.cancel_all()
        assert (desk.journal.sessions.waiting, desk.journal.sessions.delayed) == (0, 0)
        await desk.finish(claim)

    @scenario
    async def test_a_delayed_run_has_waited_only_from_its_time_on(self, desk: Desk) -> None:
        await desk.accept("late", not_before=AT)
        assert (desk.journal.sessions.oldest,) == (None,)
        await self._due(desk, AT + 5)
        assert desk.journal.sessions.oldest == AT
        await desk.cancel("late")

    @scenario
    async def test_a_delayed_run_is_cancelled_like_one_that_waits(self, desk: Desk) -> None:
        await desk.accept("late", not_before=AT)
        answers = [await desk.cancel("late") for _ in range(2)]
        assert answers == [Stopped({RunId("late"): Outcome(status=RunStatus.CANCELLED)}, []), Ended()]
        assert desk.journal.sessions.next_due is None

    @scenario
    async def test_a_delayed_run_keeps_its_time_with_another_priority_and_loses_it_in_front(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        for run_id in ("x", "y"):
            await desk.accept(run_id, not_before=AT)
        assert await desk.journal.change(Move(ANONYMOUS, RunId("x"), 1)) == Changed(existed=True)
        assert await desk.journal.change(Move(ANONYMOUS, RunId("y"), None)) == Changed(existed=True)
        assert [(await desk.run(each)).lane for each in "xy"] == [Lane.DELAYED, Lane.FRONT]
        assert (await desk.run("x")).priority == 1
        await desk.restart()
        (claim,) = desk.orphans
        await self._due(desk)
        assert await desk.drain(claim) == ["a", "y", "x", "b"]

    @scenario
    async def test_the_time_in_a_queue_counts_from_when_a_run_is_due(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("late", not_before=AT, queue_deadline=AT + 50.0)
        await self._due(desk)
        assert desk.journal.sessions.next_due == AT + 50.0
        desk.clock.at = AT + 50.0
        assert await desk.end_overdue() == ["late"]
        await desk.finish(claim)

    @scenario
    async def test_a_pause_stops_a_queue_deadline_only_from_when_a_run_is_due(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("late", not_before=AT, queue_deadline=AT + 50.0)
        await desk.accept("later", not_before=AT + 500, queue_deadline=AT + 550.0)
        await desk.journal.change(Pause(key()))
        await self._due(desk)
        desk.clock.at = AT + 30
        await desk.journal.change(Resume(key()))
        assert (await desk.run("late")).queue_deadline == AT + 80.0
        assert (await desk.run("later")).queue_deadline == AT + 550.0
        await desk.cancel_all()
        await desk.finish(claim)

    @scenario
    async def test_a_question_stops_a_queue_deadline_only_from_when_a_run_is_due(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("late", not_before=AT, queue_deadline=AT + 50.0)
        requests = [InputRequest("i", "sure")]
        question = Question(requests=requests, message=ROUND, results={}, state={})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        left = Completion(outcome=outcome, messages=[*said("go"), ROUND], question=question, answer_within_s=500.0)
        await desk.finish(claim, left)
        await self._due(desk)
        desk.clock.at = AT + 30
        await desk.accept("x", input=responses({"i": "yes"}), lane=Lane.ANSWER, claim_next=False)
        assert (await desk.run("late")).queue_deadline == AT + 80.0
        await desk.cancel_all()

    @scenario
    async def test_a_session_with_a_delayed_run_is_listed_with_it_last(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("soon", not_before=AT)
        await desk.accept("late", not_before=AT + 1)
        await desk.accept("b")
        page = await desk.journal.read(RunsQuery(key()))
        assert [(run.run_id, run.position) for run in page.runs] == [("late", 3), ("soon", 2), ("b", 1), ("a", None)]
        await desk.cancel_all()
        await desk.finish(claim)

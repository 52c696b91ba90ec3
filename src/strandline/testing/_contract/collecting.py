"""Runs that collect: those next to each other in the queue start as one turn, after a moment of silence."""

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from strandline._history import fold, joined_in, with_collected
from strandline._journal.errors import ClaimLost
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Bounds,
    Busy,
    Changed,
    ClaimResult,
    Edit,
    Edited,
    JoinedQuery,
    Move,
    Pause,
    Refused,
    Resume,
    SessionQuery,
    SetOptions,
    Stopped,
)
from strandline._model import (
    ANONYMOUS,
    Claim,
    Collect,
    CollectOptions,
    Completion,
    GoBack,
    IfBusy,
    InputRequest,
    JoinedInput,
    JoinState,
    Lane,
    NeedsInput,
    OnQuestion,
    Outcome,
    Question,
    RoundStarted,
    RunId,
    RunsCollected,
    RunStatus,
    Sender,
    ToolDone,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

BY = Collect(quiet=2.0, max_wait=10.0, max_items=4, max_bytes=1_000)
ADA, BOB = Sender("u1", "Ada"), Sender("u2", "Bob")
APPLIED = JoinState.APPLIED


async def collect(
    desk: Desk, run_id: str, by: Collect = BY, *, claim_next: bool = True, **more: object
) -> AcceptAnswer:
    """Accept a run that collects."""
    given: dict[str, object] = {"if_busy": IfBusy.COLLECT, "collect": by, **more}
    return await desk.accept(run_id, claim_next=claim_next, **given)  # type: ignore[arg-type]


async def begins(desk: Desk, head: str) -> Claim:
    """Claim the next run, which must be this one."""
    assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
    return await desk.claim(of=head)


async def waits(desk: Desk) -> bool:
    """Return whether the next run of the session waits for others."""
    until = desk.journal.sessions.collects_until(key(), desk.clock.at)
    claimed = await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
    assert claimed is (until is None)
    return not claimed


def collected(claim: Claim) -> list[str]:
    """Return the runs that were collected into the run of a claim."""
    return [str(run.run_id) for run in claim.collected]


def ended_with(completion: Completion, run_ids: Iterable[str]) -> Completion:
    """Return the completion of a host whose messages have those of these runs."""
    return replace(completion, joined=tuple(map(RunId, run_ids)))


async def stands(desk: Desk, run_id: str) -> tuple[RunStatus, JoinState | None, str | None]:
    """Return the status of a run, where it stands, and its host."""
    run = await desk.run(run_id)
    return run.status, run.join, run.joined


WAITS = (RunStatus.QUEUED, None, None)


class CollectingContract(Contract):
    """`IfBusy.COLLECT`: how long the first one waits, what starts with it, and every end of it."""

    # -- how long ---------------------------------------------------------------------------------------

    @scenario
    async def test_it_waits_for_silence_and_for_no_longer_than_it_may(self, desk: Desk) -> None:
        began = desk.clock.at
        assert await collect(desk, "a") == Accepted(1)
        sessions = desk.journal.sessions
        assert sessions.next_due == began + 2
        for number in range(2):
            desk.clock.at += 1.5
            assert await waits(desk)
            await collect(desk, f"b{number}")
            assert sessions.next_due == desk.clock.at + 2
        assert [(await desk.run(each)).position for each in ("a", "b0", "b1")] == [1, 2, 3]
        desk.clock.at += 2
        assert sessions.due(desk.clock.at) == [], "no run is overdue: its session may move"
        claim = await begins(desk, "a")
        assert collected(claim) == ["b0", "b1"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b0", "b1"]))
        await collect(desk, "c", replace(BY, max_wait=3.0))
        desk.clock.at += 1.9
        await collect(desk, "d")
        desk.clock.at += 1.0
        assert await waits(desk)
        assert sessions.next_due == pytest.approx(desk.clock.at + 0.1)
        desk.clock.at += 0.2
        claim = await begins(desk, "c")
        assert collected(claim) == ["d"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["d"]))

    @scenario
    async def test_a_restart_changes_nothing_of_how_long(self, desk: Desk) -> None:
        began = desk.clock.at
        await collect(desk, "a")
        desk.clock.at += 1
        await collect(desk, "b")
        assert await desk.restart() == []
        assert desk.journal.sessions.next_due == began + 3
        assert await waits(desk)
        desk.clock.at = began + 3
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b"]))

    @scenario
    async def test_one_that_waits_for_nothing_starts_at_once(self, desk: Desk) -> None:
        alone = (replace(BY, quiet=0.0), replace(BY, max_wait=0.0), replace(BY, max_items=1), replace(BY, max_bytes=1))
        for number, by in enumerate(alone):
            assert await collect(desk, f"a{number}", by) == Accepted(0)
            claim = await desk.claim(of=f"a{number}")
            assert claim.checkpoints == ()
            assert claim.run.if_busy is IfBusy.COLLECT
            await desk.finish(claim)

    @scenario
    async def test_as_many_as_may_start_at_once_and_the_rest_is_the_next_turn(self, desk: Desk) -> None:
        for number in range(3):
            await collect(desk, f"a{number}")
        assert await waits(desk)
        await collect(desk, "a3")
        await collect(desk, "a4")
        claim = await begins(desk, "a0")
        assert collected(claim) == ["a1", "a2", "a3"]
        assert await stands(desk, "a4") == WAITS
        left = ended_with(done("hi", "ho"), ["a1", "a2", "a3"])
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.NOTHING, "it waits for silence"
        desk.clock.at += 2
        await desk.finish(await begins(desk, "a4"))

    @scenario
    async def test_no_more_bytes_than_may_and_a_first_one_whatever_it_has(self, desk: Desk) -> None:
        await collect(desk, "a", input="x" * 500)
        await collect(desk, "b", input="x" * 400)
        assert await waits(desk)
        await collect(desk, "c", input="x" * 400)
        await desk.restart()
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        await desk.journal.change(Edit(ANONYMOUS, RunId("c"), "x" * 2_000, None, None, None, None))
        left = ended_with(done("hi", "ho"), ["b"])
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED, "too large to wait for others"
        claim = await desk.claim(of="c")
        assert claim.run.input == "x" * 2_000
        await desk.finish(claim)

    @scenario
    async def test_what_gathers_while_another_one_executes_starts_when_that_ends(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await collect(desk, "a")
        await collect(desk, "b", input=[{"text": "blocks"}])
        desk.clock.at += 2
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        assert claim.collected == [JoinedInput(RunId("b"), [{"text": "blocks"}])]
        assert with_collected(claim.run.input, None, claim.checkpoints) == (
            [{"text": "ask a"}, {"text": "blocks"}],
            None,
        )
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b"]))

    # -- what is part of it -----------------------------------------------------------------------------

    @scenario
    async def test_only_those_next_to_each_other_and_nothing_is_overtaken(self, desk: Desk) -> None:
        for run_id in ("a", "b"):
            await collect(desk, run_id)
        await desk.accept("plain", claim_next=False)
        await collect(desk, "c")
        until = [desk.journal.sessions.collects_until(key(), desk.clock.at, position) for position in range(1, 5)]
        assert until == [desk.clock.at + 2] * 2 + [None] * 2, "those of the turn wait for it to be whole"
        assert await waits(desk)
        desk.clock.at += 2
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        left = ended_with(done("hi", "ho"), ["b"])
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="plain")) == ["plain", "c"]

    @scenario
    async def test_only_those_of_one_sender_unless_any_may(self, desk: Desk) -> None:
        await collect(desk, "a", sender=ADA)
        await collect(desk, "b", sender=ADA)
        await collect(desk, "c", sender=BOB)
        await desk.restart()
        desk.clock.at += 2
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        await collect(desk, "d", sender=ADA, joins_any=True)
        left = ended_with(done("hi", "ho"), ["b"])
        desk.clock.at += 2
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="c")
        assert collected(claim) == [], "its own request lets it take those of its sender only"
        await collect(desk, "e", sender=BOB, joins_any=True)
        desk.clock.at += 2
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="d")
        assert [(run.run_id, run.sender) for run in claim.collected] == [("e", BOB)]
        assert with_collected(claim.run.input, ADA, claim.checkpoints)[1] is None, "several say it"
        await desk.finish(claim, ended_with(done("hi", "ho"), ["e"]))

    @scenario
    async def test_what_goes_before_all_others_waits_for_none(self, desk: Desk) -> None:
        await collect(desk, "a")
        await collect(desk, "b")
        await desk.journal.change(Move(ANONYMOUS, RunId("b"), None))
        claim = await begins(desk, "b")
        assert collected(claim) == [], "it was moved to the front"
        await desk.accept("i", if_busy=IfBusy.INTERRUPT, lane=Lane.FRONT)
        desk.clock.at += 2
        assert (await desk.run("a")).position == 2
        await desk.finish(claim, Completion(outcome=Outcome(status=RunStatus.CANCELLED), messages=[]), claim_next=True)
        assert await desk.drain(await desk.claim(of="i")) == ["i", "a"]

    @scenario
    async def test_another_request_finds_its_session_busy(self, desk: Desk) -> None:
        await collect(desk, "a")
        assert await desk.accept("r", if_busy=IfBusy.REJECT) == Refused("session_busy", 2)
        assert await desk.accept("g", back=GoBack()) == Refused("session_busy", 2)
        assert await collect(desk, "b", bounds=Bounds(1, 1)) == Refused("queue_full", 2)
        desk.clock.at += 2
        await desk.finish(await begins(desk, "a"))
        assert await collect(desk, "g", back=GoBack()) == Accepted(0), "one that goes back is a turn of its own"
        await desk.finish(await desk.claim(of="g"))

    @scenario
    async def test_an_answer_is_never_collected(self, desk: Desk) -> None:
        requests = [InputRequest("i1", "approve")]
        needs = NeedsInput(requests, {})
        message = said("hi", "ho")[-1]
        question = Question(requests=needs.requests, message=message, results={}, state={})
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        claim = await desk.start("h")
        left = Completion(outcome=outcome, messages=said("hi", "ho"), question=question, answer_within_s=60)
        await desk.finish(claim, left)
        await collect(desk, "a")
        await collect(desk, "b")
        desk.clock.at += 2
        assert await waits_for_input(desk)
        assert await collect(desk, "yes", on_question=OnQuestion.ANSWER) == Accepted(0)
        claim = await desk.claim(of="yes")
        assert (claim.run.if_busy, collected(claim)) == (IfBusy.ENQUEUE, [])
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        assert collected(claim) == ["b"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b"]))

    @scenario
    async def test_a_session_has_its_runs_collect(self, desk: Desk) -> None:
        await desk.finish(await desk.start("h"))
        options = {"if_busy": IfBusy.COLLECT, "collect": CollectOptions(quiet=5.0)}
        await desk.journal.change(SetOptions(key(), options, None))
        for run_id in ("a", "b"):
            accepted = await desk.accept(run_id, collect=BY)
            assert isinstance(accepted, Accepted)
        assert desk.journal.sessions.next_due == desk.clock.at + 5
        own = frozenset({"if_busy"})
        assert isinstance(await desk.accept("plain", collect=BY, own_options=own), Accepted)
        desk.clock.at += 5
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b"]), claim_next=True)
        await desk.finish(await desk.claim(of="plain"))

    @scenario
    async def test_how_it_collects_counts_where_it_does(self, desk: Desk) -> None:
        own = frozenset({"collect"})
        refused = Refused("not_collecting", 0)
        assert await desk.accept("x", collect=BY, own_options=own) == refused
        assert not await desk.exists("x")
        await desk.finish(await desk.start("h"))
        assert await desk.accept("x", collect=BY, own_options=own) == refused, "its session does not"
        await desk.journal.change(
            SetOptions(key(), {"if_busy": IfBusy.COLLECT, "collect": CollectOptions(quiet=5.0)}, None)
        )
        assert await desk.accept("x", collect=BY, own_options=own | {"if_busy"}) == refused, "it is to be enqueued"
        assert isinstance(await desk.accept("a", collect=BY, own_options=own), Accepted)
        assert desk.journal.sessions.next_due == desk.clock.at + BY.quiet, "its own"
        desk.clock.at += BY.quiet
        await desk.finish(await begins(desk, "a"))

    # -- while they wait --------------------------------------------------------------------------------

    @scenario
    async def test_each_can_be_edited_and_cancelled_while_it_waits_and_not_once_it_is_part_of_a_turn(
        self, desk: Desk
    ) -> None:
        for run_id in ("a", "b", "c", "d"):
            await collect(desk, run_id, replace(BY, max_items=5))
        edit = Edit(ANONYMOUS, RunId("c"), "edited", None, None, None, None)
        assert await desk.journal.change(edit) == Edited(("input",))
        assert isinstance(await desk.cancel("a"), Stopped)
        assert isinstance(await desk.cancel("d"), Stopped)
        desk.clock.at += 2
        claim = await begins(desk, "b")
        assert [run.input for run in claim.collected] == ["edited"]
        assert isinstance(await desk.journal.change(replace(edit, input="late")), Busy)
        assert isinstance(await desk.cancel("c"), Busy)
        assert isinstance(await desk.journal.change(Move(ANONYMOUS, RunId("c"), 1)), Busy)
        await desk.finish(claim, ended_with(done("hi", "ho"), ["c"]))

    @scenario
    async def test_a_pause_lets_none_start_and_a_resume_does_at_once(self, desk: Desk) -> None:
        await collect(desk, "a")
        await desk.journal.change(Pause(key()))
        desk.clock.at += 5
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        await collect(desk, "b")
        await desk.journal.change(Resume(key()))
        assert await waits(desk), "for silence after the last one"
        desk.clock.at += 2
        claim = await begins(desk, "a")
        assert collected(claim) == ["b"]
        await desk.finish(claim, ended_with(done("hi", "ho"), ["b"]))

    # -- once they are part of a turn -------------------------------------------------------------------

    @scenario
    async def test_it_is_running_with_its_host_and_ends_with_it(self, desk: Desk) -> None:
        for run_id in ("a", "b", "c"):
            await collect(desk, run_id, timeout_s=1.0 if run_id == "b" else None, queue_deadline=desk.clock.at + 100)
        assert await stands(desk, "b") == WAITS
        desk.clock.at += 2
        claim = await begins(desk, "a")
        run = await desk.run("b")
        assert (run.status, run.join, run.joined) == (RunStatus.RUNNING, APPLIED, "a")
        assert (run.attempt, run.started_at, run.position) == (0, desk.clock.at, None)
        sessions = desk.journal.sessions
        assert (sessions.waiting, sessions.host_of(RunId("b")), sessions.host_of(RunId("a"))) == (0, "a", None)
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert (session.waiting, session.claimed) == (0, "a")
        desk.clock.at += 200
        assert await desk.end_overdue() == [], "its own times do not count"
        assert await desk.journal.read(JoinedQuery(key(), RunId("a"))) == ["ask b", "ask c"]
        outcome = Outcome(status=RunStatus.FAILED, output="ho", usage={"inputTokens": 3})
        left = ended_with(Completion(outcome=outcome, messages=said("hi", "ho")), ["b", "c"])
        await desk.finish(claim, left)
        for run_id in ("b", "c"):
            run = await desk.run(run_id)
            assert (run.outcome, run.ended_at, run.attempt) == (replace(outcome, usage=None), desk.clock.at, 0)
        assert len(await desk.history()) == 2
        assert isinstance(await desk.cancel("b"), Changed | Busy) is False

    @scenario
    async def test_what_the_messages_of_its_host_lack_is_the_next_turn(self, desk: Desk) -> None:
        for run_id in ("a", "b", "c"):
            await collect(desk, run_id)
        desk.clock.at += 2
        claim = await begins(desk, "a")
        await desk.accept("plain")
        assert await desk.finish(claim, done("hi", "ho"), claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="b")
        assert (claim.run.attempt, collected(claim)) == (1, ["c"])
        await desk.finish(claim, ended_with(done("hi", "ho"), ["c"]), claim_next=True)
        await desk.finish(await desk.claim(of="plain"))

    @scenario
    async def test_a_host_that_is_requeued_or_crashes_keeps_them_each_once(self, desk: Desk) -> None:
        for run_id in ("a", "b"):
            await collect(desk, run_id)
        desk.clock.at += 2
        claim = await begins(desk, "a")
        first = claim
        await collect(desk, "later")
        desk.clock.at += 2
        for how in ("requeue", "crash"):
            if how == "crash":
                (claim,) = await desk.restart()
            await desk.release(claim.token, counted=False)
            assert await stands(desk, "b") == (RunStatus.RUNNING, APPLIED, "a")
            assert await desk.waiting() == ["a", "later"]
            claim = await begins(desk, "a")
            assert claim.checkpoints == (RunsCollected([JoinedInput(RunId("b"), "ask b")]),)
            assert (claim.resumes, claim.has_progress) == (True, False)
        await desk.journal.checkpoint(claim.token, RoundStarted(said("ask a", "call")))
        (claim,) = await desk.restart()
        assert fold(claim.checkpoints).messages == said("ask a", "call")
        assert joined_in(claim.checkpoints) == ("b",)
        with pytest.raises(ClaimLost):
            await desk.finish(first)
        left = ended_with(done("hi", "ho"), ["b"])
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="later")) == ["later"]

    @scenario
    async def test_a_requeued_host_that_is_cancelled_or_times_out_ends_them_all(self, desk: Desk) -> None:
        for ending in ("cancel", "timeout"):
            head, other = f"a {ending}", f"b {ending}"
            for run_id in (head, other):
                await collect(desk, run_id, timeout_s=10.0)
            desk.clock.at += 2
            claim = await begins(desk, head)
            await desk.release(claim.token, counted=True)
            if ending == "cancel":
                stopped = await desk.cancel(head)
                assert isinstance(stopped, Stopped)
                assert sorted(stopped.ended) == [head, other]
                assert await desk.history() == [], "nothing of it was said to an agent, as far as anybody knows"
            else:
                desk.clock.at += 10
                assert sorted(await desk.end_overdue()) == [head, other]
                first = (await desk.history())[0]
                assert [block["text"] for block in first["content"]] == [f"ask {head}", f"ask {other}"]
            run = await desk.run(other)
            assert run.outcome is not None
            assert run.status is (RunStatus.CANCELLED if ending == "cancel" else RunStatus.FAILED)

    @scenario
    async def test_a_tool_of_its_host_has_its_own_checkpoints_after_it(self, desk: Desk) -> None:
        for run_id in ("a", "b"):
            await collect(desk, run_id)
        desk.clock.at += 2
        claim = await begins(desk, "a")
        await desk.journal.checkpoint(claim.token, RoundStarted(said("ask a", "call")))
        await desk.journal.checkpoint(claim.token, ToolDone("t1", {"toolUseId": "t1"}))
        (orphan,) = await desk.restart()
        assert [type(each) for each in orphan.checkpoints] == [RunsCollected, RoundStarted, ToolDone]
        await desk.finish(orphan, ended_with(done("hi", "ho"), ["b"]))


async def waits_for_input(desk: Desk) -> bool:
    """Return whether a session's next run waits for an answer, and is not claimed."""
    nothing = await desk.journal.claim_next(key()) is ClaimResult.NOTHING
    return nothing and desk.journal.sessions.input_until(key(), desk.clock.at) is not None

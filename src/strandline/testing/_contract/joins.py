"""Runs that join the one that executes: pending until they reach it, then with its outcome, or runs of their own.

The table in `docs/adr/0098-a-run-that-joins-has-no-turn.md` has every pair of states; each test is a part of it.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from strandline._history import fold, named_sender, prompt_message, sender_of
from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    Busy,
    Changed,
    ClaimResult,
    Delete,
    HistoryQuery,
    JoinedSince,
    Move,
    Pause,
    Refused,
    Resume,
    RunsOfQuery,
    RunsQuery,
    SessionQuery,
    Stopped,
)
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    GoBack,
    IfBusy,
    InputRequest,
    JoinedInput,
    JoinState,
    Keyed,
    Lane,
    Message,
    NeedsInput,
    OnQuestion,
    Outcome,
    Question,
    RoundStarted,
    RunId,
    RunsJoined,
    RunStatus,
    Sender,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

CANCELLED = Outcome(status=RunStatus.CANCELLED)
NEXT = JoinState.BECAME_NEXT_RUN


async def steer(
    desk: Desk, run_id: str, *, expected: str | None = None, claim_next: bool = True, **more: object
) -> AcceptAnswer:
    """Accept a run that joins the one that executes."""
    expected_run_id = None if expected is None else RunId(expected)
    given: dict[str, object] = {"if_busy": IfBusy.STEER, "expected_run_id": expected_run_id, **more}
    return await desk.accept(run_id, claim_next=claim_next, **given)  # type: ignore[arg-type]


async def reach(desk: Desk, host: Claim) -> list[str]:
    """Have what is pending reach its host."""
    return [str(run.run_id) for run in await desk.journal.apply_joins(host.token, [])]


def with_joined(completion: Completion, *run_ids: str) -> Completion:
    """Return the completion of a host whose messages have those of these runs."""
    return replace(completion, joined=tuple(map(RunId, run_ids)))


async def stands(desk: Desk, run_id: str) -> tuple[RunStatus, JoinState | None, str | None]:
    """Return the status of a run, where it stands, and its host."""
    run = await desk.run(run_id)
    return run.status, run.join, run.joined


async def steered(desk: Desk, *run_ids: str, host: str = "h") -> Claim:
    """Return the claim of a host that these runs are to join."""
    claim = await desk.start(host)
    for run_id in run_ids:
        assert await steer(desk, run_id) == Accepted(0, joined=RunId(host))
    return claim


class JoinsContract(Contract):
    """`IfBusy.STEER`: pending, applied, and every end of its host."""

    # -- accepting ------------------------------------------------------------------------------------

    @scenario
    async def test_it_joins_the_run_that_executes_and_is_in_no_queue(self, desk: Desk) -> None:
        claim = await steered(desk, "j1", "j2")
        await desk.accept("b")
        assert await stands(desk, "j1") == (RunStatus.QUEUED, JoinState.PENDING, "h")
        run = await desk.run("j2")
        assert (run.position, run.attempt, run.started_at, run.if_busy) == (None, 0, None, IfBusy.STEER)
        assert (await desk.run("b")).position == 1
        sessions = desk.journal.sessions
        assert (sessions.waiting, sessions.most_waiting, dict(sessions.waiting_of())) == (3, 3, {ANONYMOUS: 3})
        assert (sessions.has_pending(RunId("h")), sessions.has_pending(RunId("j1"))) == (True, False)
        assert [sessions.position(RunId(each)) for each in ("j1", "b")] == [None, 1]
        assert sessions.is_waiting(RunId("j1"))
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert (session.waiting, session.claimed) == (3, "h")
        assert await desk.waiting() == ["j1", "j2", "b"]
        assert await desk.drain(claim) == ["h", "j1", "j2", "b"], "no model call came: they are the next runs"

    @scenario
    async def test_without_a_run_that_executes_it_is_the_next_run(self, desk: Desk) -> None:
        assert await steer(desk, "a") == Accepted(0)
        claim = await desk.claim(of="a")
        assert (claim.run.join, claim.run.joined, claim.run.if_busy) == (NEXT, None, IfBusy.STEER)
        await desk.finish(claim, hold=True)
        assert await desk.accept("b", priority=3) == Accepted(1)
        assert await desk.accept("urgent", priority=1) == Accepted(1)
        assert await steer(desk, "j1") == Accepted(2), "before others of its priority"
        assert await steer(desk, "j2") == Accepted(3), "several keep their order"
        assert await stands(desk, "j1") == (RunStatus.QUEUED, NEXT, None)
        assert [(await desk.run(each)).position for each in ("urgent", "j1", "j2", "b")] == [1, 2, 3, 4]
        await desk.release(claim.token, counted=True, claim_next=True)
        assert await desk.drain(await desk.claim(of="urgent")) == ["urgent", "j1", "j2", "b"]

    @scenario
    async def test_one_whose_target_has_no_model_call_to_be_seen_is_the_next_run(self, desk: Desk) -> None:
        claim = await desk.start("h", resumable=False)
        assert await steer(desk, "j", resumable=False) == Accepted(1)
        assert await stands(desk, "j") == (RunStatus.QUEUED, NEXT, None)
        assert await desk.drain(claim) == ["h", "j"]

    @scenario
    async def test_it_joins_a_run_of_any_sender_if_it_may(self, desk: Desk) -> None:
        """A message in which several speak says of none that it is theirs."""
        ada, bob = Sender("1", "Ada"), Sender("2", "Bob")
        claim = await desk.start("h", sender=ada)
        assert await steer(desk, "j1", sender=bob, joins_any=True) == Accepted(0, joined=RunId("h"))
        prompt = prompt_message("ask h", ada)
        assert [each.sender for each in await desk.journal.apply_joins(claim.token, [prompt])] == [bob]
        for run_id in ("j2", "j3"):
            assert await steer(desk, run_id, sender=bob, joins_any=True) == Accepted(0, joined=RunId("h"))
        results: Message = {"role": "user", "content": [{"toolResult": {"toolUseId": "t"}}]}
        call: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
        await desk.journal.apply_joins(claim.token, [call, results])
        (orphan,) = await desk.restart()
        messages = fold(orphan.checkpoints).messages
        assert [named_sender(each) for each in messages] == [None, None, bob]
        assert await steer(desk, "j4", sender=ada, joins_any=True) == Accepted(0, joined=RunId("h"))
        await desk.journal.apply_joins(orphan.token, [])
        (orphan,) = await desk.restart()
        messages = fold(orphan.checkpoints).messages
        assert [named_sender(each) for each in messages] == [None, None, None]

    @scenario
    async def test_it_joins_a_run_of_the_same_sender_only(self, desk: Desk) -> None:
        ada, bob = Sender("1", "Ada"), Sender("2", "Bob")
        claim = await desk.start("h", sender=ada)
        assert await steer(desk, "j1", sender=ada) == Accepted(0, joined=RunId("h"))
        assert await steer(desk, "j2", sender=bob) == Accepted(1)
        assert await steer(desk, "j3") == Accepted(2)
        prompt = prompt_message("ask h", ada)
        joined = await desk.journal.apply_joins(claim.token, [prompt], lambda given, sender: f"{sender}: {given}")
        assert joined == [JoinedInput(RunId("j1"), f"{ada}: ask j1", ada)]
        (orphan,) = await desk.restart()
        (message,) = fold(orphan.checkpoints).messages
        assert sender_of(message, ANONYMOUS) == ada
        assert await desk.finish(orphan, with_joined(done("hi", "ho"), "j1"), claim_next=True) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="j2")) == ["j2", "j3"]

    @scenario
    async def test_a_run_that_was_expected_to_execute_and_does_not_refuses_it(self, desk: Desk) -> None:
        assert await steer(desk, "j", expected="h") == Refused("not_running", 0)
        claim = await desk.start("h")
        assert await steer(desk, "j", expected="other", bounds=Bounds(0, 0)) == Refused("not_running", 0), (
            "before bounds"
        )
        assert not await desk.exists("j")
        keyed = Keyed("k", b"x" * 32, 0.0)
        assert await steer(desk, "j", expected="h", keyed=keyed) == Accepted(0, joined=RunId("h"))
        await desk.finish(claim, hold=True)
        assert await steer(desk, "again", expected="h", keyed=keyed) == Attached(RunId("j")), "the key comes first"
        assert await steer(desk, "late", expected="h") == Refused("not_running", 0)
        await desk.release(claim.token, counted=True, claim_next=True)
        await desk.finish(await desk.claim(of="j"))

    @scenario
    async def test_it_counts_in_the_bounds_of_queues_while_it_is_pending(self, desk: Desk) -> None:
        claim = await steered(desk, "j1")
        assert await steer(desk, "j2", bounds=Bounds(1, 9)) == Refused("queue_full", 1)
        assert await desk.accept("b", bounds=Bounds(1, 9)) == Refused("queue_full", 1)
        assert await steer(desk, "j2", bounds=Bounds(9, 1)) == Refused("server_full", 1)
        assert await steer(desk, "j2", bounds=Bounds(9, 9, per_principal=1)) == Refused("principal_full", 1)
        assert await reach(desk, claim) == ["j1"]
        assert desk.journal.sessions.waiting == 0
        assert await steer(desk, "j2", bounds=Bounds(1, 1)) == Accepted(0, joined=RunId("h"))
        await desk.finish(claim, with_joined(done("hi", "ho"), "j1"), claim_next=True)
        await desk.finish(await desk.claim(of="j2"))

    @scenario
    async def test_with_a_question_open_the_question_decides(self, desk: Desk) -> None:
        claim = await desk.start("q")
        await desk.finish(claim, questioned())
        assert await steer(desk, "j", on_question=OnQuestion.WAIT) == Accepted(1)
        assert await steer(desk, "a", on_question=OnQuestion.ANSWER) == Accepted(0)
        answer = await desk.claim(of="a")
        assert (answer.run.lane, answer.run.join, answer.run.if_busy) == (Lane.ANSWER, None, IfBusy.ENQUEUE)
        assert await steer(desk, "k") == Accepted(0, joined=RunId("a")), "a run executes that answers it"
        assert await reach(desk, answer) == ["k"]
        assert await desk.finish(answer, with_joined(done("gave", "ho"), "k"), claim_next=True) is ClaimResult.CLAIMED
        assert (await desk.run("k")).status is RunStatus.SUCCEEDED
        await desk.finish(await desk.claim(of="j"))

    # -- reaching the host ----------------------------------------------------------------------------

    @scenario
    async def test_all_that_are_pending_reach_their_host_in_order_by_one_checkpoint(self, desk: Desk) -> None:
        claim = await steered(desk, "j1", "j2")
        desk.clock.at += 5
        joined = await desk.journal.apply_joins(claim.token, said("ask h"))
        assert joined == [JoinedInput(RunId("j1"), "ask j1"), JoinedInput(RunId("j2"), "ask j2")]
        assert await reach(desk, claim) == [], "each once"
        run = await desk.run("j1")
        assert (run.status, run.join, run.joined) == (RunStatus.RUNNING, JoinState.APPLIED, "h")
        assert (run.attempt, run.started_at, run.position) == (0, desk.clock.at, None)
        sessions = desk.journal.sessions
        assert not sessions.is_waiting(RunId("j1"))
        assert sessions.is_live(RunId("j1"))
        assert (sessions.host_of(RunId("j1")), sessions.host_of(RunId("h"))) == ("h", None)
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == (RunsJoined(said("ask h"), joined),)
        progress = fold(orphan.checkpoints)
        assert progress.joined == ("j1", "j2")
        assert [block["text"] for block in progress.messages[0]["content"]][0::2][0] == "ask h"
        assert texts(progress.messages[0]["content"]).count("ask j1") == 1
        assert desk.journal.sessions.host_of(RunId("j2")) == "h"
        await desk.finish(orphan, with_joined(done("ask h", "ho"), "j1", "j2"))

    @scenario
    async def test_a_long_message_reaches_the_host_whole(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await steer(desk, "j1", input="x" * 10_000)
        await steer(desk, "j2", input=[{"text": "y" * 10_000}])
        found = await desk.journal.apply_joins(claim.token, [])
        assert [run.input for run in found] == ["x" * 10_000, [{"text": "y" * 10_000}]]
        await desk.finish(claim, with_joined(done("hi", "ho"), "j1", "j2"))

    @scenario
    async def test_a_stale_token_has_nothing_reach_a_host(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        (orphan,) = await desk.restart()
        with pytest.raises(ClaimLost):
            await reach(desk, claim)
        assert await stands(desk, "j") == (RunStatus.QUEUED, JoinState.PENDING, "h")
        assert await reach(desk, orphan) == ["j"]
        await desk.finish(orphan, with_joined(done("hi", "ho"), "j"))

    @scenario
    async def test_nothing_reaches_a_host_whose_cancel_was_accepted(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await desk.cancel("h")
        assert await reach(desk, claim) == []
        await desk.finish(claim, Completion(outcome=CANCELLED, messages=said("hi", "ho")), claim_next=True)
        await desk.finish(await desk.claim(of="j"))

    # -- the host ends --------------------------------------------------------------------------------

    @scenario
    async def test_the_outcome_of_the_host_is_that_of_all_that_reached_it(self, desk: Desk) -> None:
        for number, status in enumerate((RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED)):
            host, reached, late = f"h{number}", f"r{number}", f"l{number}"
            claim = await steered(desk, reached, host=host)
            await reach(desk, claim)
            await steer(desk, late)
            if status is RunStatus.CANCELLED:
                await desk.cancel(host)
            outcome = Outcome(status=status, output="ho", usage={"inputTokens": 3})
            left = with_joined(Completion(outcome=outcome, messages=said("hi", "ho")), reached)
            desk.clock.at += 1
            assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED
            run = await desk.run(reached)
            assert run.outcome == replace(outcome, usage=None)
            assert (run.status, run.join, run.joined) == (status, JoinState.APPLIED, host)
            assert (run.ended_at, run.attempt, run.held) == (desk.clock.at, 0, False)
            assert await desk.finish(await desk.claim(of=late)) is ClaimResult.NOTHING
            assert (await desk.run(late)).join is NEXT
        assert len(await desk.history()) == 6, "what they said is in their host's messages"

    @scenario
    async def test_its_time_in_the_queue_stands_still_while_it_is_applied(self, desk: Desk) -> None:
        """If the end of its host lacks it, it waits on as long as it could before."""
        claim = await steered(desk)
        await steer(desk, "j", queue_deadline=desk.clock.at + 5)
        desk.clock.at += 2
        assert await reach(desk, claim) == ["j"]
        desk.clock.at += 60
        await desk.finish(claim)
        await desk.restart()
        assert await desk.end_overdue() == []
        assert (await desk.run("j")).queue_deadline == desk.clock.at + 3
        desk.clock.at += 3
        assert await desk.end_overdue() == ["j"]

    @scenario
    async def test_one_that_the_hosts_messages_lack_becomes_the_next_run(self, desk: Desk) -> None:
        """Its message had not reached the agent when its host was ended."""
        claim = await steered(desk, "j1", "j2")
        await desk.accept("b")
        await reach(desk, claim)
        assert await desk.finish(claim, with_joined(done("hi", "ho"), "j2"), claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="j1")
        assert (claim.run.input, claim.run.started_at, claim.run.attempt) == ("ask j1", desk.clock.at, 1)
        assert (await desk.run("j2")).status is RunStatus.SUCCEEDED
        assert await desk.drain(claim) == ["j1", "b"]

    @scenario
    async def test_pending_ones_run_before_others_of_their_priority_and_after_more_urgent_ones(
        self, desk: Desk
    ) -> None:
        claim = await desk.start("h")
        await desk.accept("same")
        await desk.accept("urgent", priority=2)
        for run_id, priority in (("j1", 3), ("j2", 3), ("low", 4)):
            await steer(desk, run_id, priority=priority)
        await desk.accept("lowest", priority=4)
        order = ["urgent", "j1", "j2", "same", "low", "lowest"]
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="urgent")
        assert [(await desk.run(each)).position for each in order[1:]] == [1, 2, 3, 4, 5]
        (orphan,) = await desk.restart()
        assert await desk.drain(orphan) == order, "over a restart too"

    @scenario
    async def test_a_host_with_a_question_gives_all_of_them_its_requests(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await reach(desk, claim)
        await steer(desk, "late")
        assert await desk.finish(claim, with_joined(questioned(), "j"), claim_next=True) is ClaimResult.NOTHING
        joined, host = await desk.run("j"), await desk.run("h")
        assert joined.status is host.status is RunStatus.NEEDS_INPUT
        assert joined.outcome is not None
        assert host.outcome is not None
        assert joined.outcome.input_requests == host.outcome.input_requests != []
        assert await stands(desk, "late") == (RunStatus.QUEUED, NEXT, None)
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert session.input_requests == host.outcome.input_requests
        assert await desk.accept("a", on_question=OnQuestion.ANSWER) == Accepted(0)
        assert await desk.drain(await desk.claim(of="a")) == ["a", "late"]

    @scenario
    async def test_a_rollback_of_the_host_takes_those_with_it_that_reached_it(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await reach(desk, claim)
        await steer(desk, "late")
        await desk.accept("i", if_busy=IfBusy.ROLLBACK, lane=Lane.FRONT)
        discarded = Completion(outcome=CANCELLED, messages=said("hi", "ho"), discarded=True)
        with pytest.raises(CancelRequested):
            await desk.finish(claim, with_joined(done("hi", "ho"), "j"))
        assert await desk.finish(claim, with_joined(discarded, "j"), claim_next=True) is ClaimResult.CLAIMED
        run = await desk.run("j")
        assert (run.status, run.discarded) == (RunStatus.CANCELLED, True)
        assert await desk.history() == []
        assert await desk.drain(await desk.claim(of="i")) == ["i", "late"]

    @scenario
    async def test_a_held_host_has_let_go_of_all_that_joined_it(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await reach(desk, claim)
        await steer(desk, "late", queue_deadline=desk.clock.at + 10)
        await desk.finish(claim, with_joined(done("hi", "ho"), "j"), hold=True)
        assert (await desk.run("j")).status is RunStatus.SUCCEEDED
        desk.clock.at += 20
        assert await desk.end_overdue() == [], "its time stands still"
        await desk.release(claim.token, counted=True, claim_next=True)
        await desk.finish(await desk.claim(of="late"))

    # -- the host begins again ------------------------------------------------------------------------

    @scenario
    async def test_a_host_that_is_requeued_or_crashes_keeps_them_each_once(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await desk.journal.apply_joins(claim.token, said("ask h"))
        await steer(desk, "p")
        await desk.accept("b")
        for how in ("requeue", "crash"):
            if how == "crash":
                (claim,) = await desk.restart()
            await desk.release(claim.token, counted=False)
            assert await stands(desk, "j") == (RunStatus.RUNNING, JoinState.APPLIED, "h")
            assert await stands(desk, "p") == (RunStatus.QUEUED, JoinState.PENDING, "h")
            assert desk.journal.sessions.has_pending(RunId("h"))
            assert await desk.waiting() == ["h", "p", "b"]
            await desk.journal.claim_next(key())
            claim = await desk.claim(of="h")
            assert fold(claim.checkpoints).joined == ("j",)
        assert await reach(desk, claim) == ["p"]
        left = with_joined(done("hi", "ho"), "j", "p")
        assert await desk.finish(claim, left, claim_next=True) is ClaimResult.CLAIMED
        assert [(await desk.run(each)).status for each in ("j", "p")] == [RunStatus.SUCCEEDED] * 2
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_a_requeued_host_that_is_cancelled_ends_those_that_reached_it(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await desk.journal.apply_joins(claim.token, said("ask h"))
        await steer(desk, "p")
        await desk.release(claim.token, counted=True)
        stopped = await desk.cancel("h")
        assert isinstance(stopped, Stopped)
        assert sorted(stopped.ended) == ["h", "j"]
        assert {outcome.status for outcome in stopped.ended.values()} == {RunStatus.CANCELLED}
        assert (await desk.run("j")).status is RunStatus.CANCELLED
        (message, _) = await desk.history()
        assert texts(message["content"]).count("ask j") == 1
        assert await stands(desk, "p") == (RunStatus.QUEUED, NEXT, None)
        await desk.journal.claim_next(key())
        await desk.finish(await desk.claim(of="p"))

    @scenario
    async def test_a_requeued_host_that_times_out_ends_those_that_reached_it(self, desk: Desk) -> None:
        claim = await desk.start("h", timeout_s=5.0)
        await steer(desk, "j")
        await desk.journal.apply_joins(claim.token, said("ask h"))
        await desk.release(claim.token, counted=True)
        desk.clock.at += 6
        assert sorted(await desk.end_overdue()) == ["h", "j"]
        joined, host = await desk.run("j"), await desk.run("h")
        assert joined.status is host.status is RunStatus.FAILED
        assert joined.outcome is not None
        assert host.outcome is not None
        assert joined.outcome.error == host.outcome.error

    @scenario
    async def test_an_interrupt_of_a_requeued_host_ends_those_that_reached_it(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await desk.journal.apply_joins(claim.token, said("ask h"))
        await steer(desk, "p")
        await desk.release(claim.token, counted=True)
        answer = await desk.accept("i", if_busy=IfBusy.INTERRUPT, lane=Lane.FRONT)
        assert isinstance(answer, Accepted)
        assert answer.stopped is not None
        assert sorted(answer.stopped.ended) == ["h", "j"]
        assert await desk.drain(await desk.claim(of="i")) == ["i", "p"]

    # -- changes --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("if_busy", [IfBusy.INTERRUPT, IfBusy.ROLLBACK])
    def test_what_replaces_an_executing_host_names_those_whose_input_it_has(
        self, if_busy: IfBusy, tmp_path: Any
    ) -> None:
        @scenario
        async def play(_: Any, desk: Desk) -> None:
            host = await desk.start("h", sender=Sender("ada", "Ada"))
            await steer(desk, "j1", sender=Sender("ada", "Ada"))
            await reach(desk, host)
            await steer(desk, "j2", claim_next=False, sender=Sender("ada", "Ada"))
            back = {"back": GoBack(again=RunId("h")), "if_busy": if_busy, "lane": Lane.FRONT}
            assert await desk.accept("r", expected_joined=2, **back) == JoinedSince()  # type: ignore[arg-type]
            answer = await desk.accept("r", expected_joined=1, **back)  # type: ignore[arg-type]
            joined = JoinedInput(RunId("j1"), "ask j1", Sender("ada", "Ada"))
            assert answer == Accepted(1, Stopped({}, [RunId("h")], repeated=[joined]))
            assert await reach(desk, host) == [], "it is to end"
            discarded = if_busy is IfBusy.ROLLBACK
            end = Completion(outcome=CANCELLED, messages=said("h", "j1"), discarded=discarded)
            await desk.finish(host, with_joined(end, "j1"))
            assert await stands(desk, "j1") == (RunStatus.CANCELLED, JoinState.APPLIED, "h")
            assert await stands(desk, "j2") == (RunStatus.QUEUED, NEXT, None)
            assert await desk.waiting() == ["j2", "r"]

        play(self, tmp_path)

    @scenario
    async def test_a_run_that_interrupts_and_replaces_none_repeats_nothing(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1"))
        host = await desk.start("h")
        await steer(desk, "j1")
        await reach(desk, host)
        for back in (None, GoBack(again=RunId("before")), GoBack(after=RunId("before"))):
            answer = await desk.accept(f"r {back}", back=back, if_busy=IfBusy.INTERRUPT, lane=Lane.FRONT)
            assert isinstance(answer, Accepted)
            assert answer.stopped == Stopped({}, [RunId("h")])

    @scenario
    async def test_a_pending_one_is_taken_back_and_an_applied_one_is_not(self, desk: Desk) -> None:
        claim = await steered(desk, "j1", "j2", "j3")
        assert await desk.cancel("j2") == Stopped(ended={RunId("j2"): CANCELLED}, cancelling=[])
        assert await desk.end("j3") == Changed(existed=True)
        assert await desk.journal.apply_joins(claim.token, []) == [JoinedInput(RunId("j1"), "ask j1")]
        for change in (Move(ANONYMOUS, RunId("j1"), 1), Move(ANONYMOUS, RunId("j1"), None)):
            assert await desk.journal.change(change) == Busy()
        assert await desk.cancel("j1") == Busy()
        assert await desk.end("j1") == Busy()
        assert await desk.cancel("j1", principal="other") == Changed(existed=False)
        await desk.finish(claim, with_joined(done("hi", "ho"), "j1"))
        assert [(await desk.run(each)).status for each in ("j1", "j2", "j3")] == [
            RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.CANCELLED,
        ]  # fmt: skip

    @scenario
    async def test_the_priority_of_a_pending_one_counts_once_it_is_a_run_of_its_own(self, desk: Desk) -> None:
        claim = await steered(desk, "j1", "j2", "j3")
        await desk.accept("b", priority=2)
        assert await desk.journal.change(Move(ANONYMOUS, RunId("j2"), 1)) == Changed(existed=True)
        assert await desk.journal.change(Move(ANONYMOUS, RunId("j3"), None)) == Changed(existed=True)
        assert await stands(desk, "j3") == (RunStatus.QUEUED, JoinState.PENDING, "h")
        assert (await desk.run("j2")).priority == 1
        assert await desk.drain(claim) == ["h", "j3", "j2", "b", "j1"]

    @scenario
    async def test_a_pending_one_ends_when_it_has_waited_too_long(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await steer(desk, "j1", queue_deadline=desk.clock.at + 5)
        await steer(desk, "j2", queue_deadline=desk.clock.at + 5, timeout_s=1.0)
        assert await desk.cancel("j2") is not None
        await steer(desk, "j3", queue_deadline=desk.clock.at + 5, timeout_s=1.0)
        assert desk.journal.sessions.next_due == desk.clock.at + 5
        desk.clock.at += 6
        assert desk.journal.sessions.due(desk.clock.at) == [key()]
        assert await desk.end_overdue() == ["j1", "j3"]
        await steer(desk, "j4", queue_deadline=desk.clock.at + 5, timeout_s=1.0)
        assert await reach(desk, claim) == ["j4"]
        desk.clock.at += 60
        assert await desk.end_overdue() == [], "it waits no longer, and its timeout is that of a run of its own"
        await desk.finish(claim, with_joined(done("hi", "ho"), "j4"))

    @scenario
    async def test_the_time_of_a_pending_one_stands_still_while_its_session_is_paused(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await steer(desk, "j", queue_deadline=desk.clock.at + 5)
        await desk.journal.change(Pause(key()))
        assert desk.journal.sessions.is_paused(key()), "a run waits in it, if not for its turn"
        desk.clock.at += 60
        assert await desk.end_overdue() == []
        await desk.journal.change(Resume(key()))
        assert (await desk.run("j")).queue_deadline == desk.clock.at + 5
        assert await desk.drain(claim) == ["h", "j"]

    @scenario
    async def test_a_cancel_of_the_session_takes_back_what_is_pending(self, desk: Desk) -> None:
        claim = await steered(desk, "j1")
        await reach(desk, claim)
        await steer(desk, "j2")
        stopped = await desk.cancel_all()
        assert stopped == Stopped(ended={RunId("j2"): CANCELLED}, cancelling=[])
        stopped = await desk.cancel_all(running=True)
        assert stopped == Stopped(ended={}, cancelling=[RunId("h")])
        left = with_joined(Completion(outcome=CANCELLED, messages=said("hi", "ho")), "j1")
        await desk.finish(claim, left)
        assert (await desk.run("j1")).status is RunStatus.CANCELLED

    @scenario
    async def test_a_key_of_one_that_joined_gives_it_and_lives_from_its_end(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await steer(desk, "j", keyed=Keyed("k", b"x" * 32, 0.0))
        await reach(desk, claim)
        assert await steer(desk, "again", keyed=Keyed("k", b"x" * 32, 0.0)) == Attached(RunId("j"))
        desk.clock.at += 100
        ended_at = desk.clock.at
        await desk.finish(claim, with_joined(done("hi", "ho"), "j"))
        assert await steer(desk, "again", keyed=Keyed("k", b"x" * 32, ended_at)) == Attached(RunId("j"))
        assert await steer(desk, "new", keyed=Keyed("k", b"x" * 32, ended_at + 1)) == Accepted(0)
        await desk.finish(await desk.claim(of="new"))

    # -- what is shown, kept and deleted --------------------------------------------------------------

    @scenario
    async def test_lists_show_each_once_whatever_the_size_of_a_page(self, desk: Desk) -> None:
        claim = await desk.start("e")
        await desk.finish(claim)
        claim = await desk.start("h")
        await desk.accept("b")
        await steer(desk, "a1")
        await steer(desk, "a2")
        await reach(desk, claim)
        await steer(desk, "p1")
        await steer(desk, "p2")
        expected = ["b", "p2", "p1", "a2", "a1", "h", "e"]
        assert await listed(desk, 100) == await listed(desk, 1) == await listed(desk, 2) == expected
        running = await desk.journal.read(RunsOfQuery(ANONYMOUS, frozenset({RunStatus.RUNNING})))
        assert [run.run_id for run in running.runs] == ["a2", "a1", "h"]
        await desk.finish(claim, with_joined(done("hi", "ho"), "a1", "a2"))
        await desk.accept("c", claim_next=False)
        expected = ["c", "b", "p2", "p1", "a2", "a1", "h", "e"]
        assert await listed(desk, 100) == await listed(desk, 1) == await listed(desk, 3) == expected
        await desk.journal.claim_next(key())
        assert await desk.drain(await desk.claim(of="p1")) == ["p1", "p2", "b", "c"]

    @scenario
    async def test_their_session_can_be_pruned_and_deleted(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await reach(desk, claim)
        assert isinstance(await delete(desk), Busy)
        await desk.finish(claim, with_joined(done("hi", "ho"), "j"))
        assert await desk.journal.prune(desk.clock.at + 1, 1) == 1
        assert await desk.journal.prune(desk.clock.at + 1, 10) == 1
        assert not await desk.exists("j")
        assert len((await desk.journal.read(HistoryQuery(key()))).messages) == 2
        claim = await steered(desk, "j2", host="h2")
        await reach(desk, claim)
        await desk.finish(claim, with_joined(done("hi", "ho"), "j2"))
        assert await delete(desk) == Changed(existed=True)
        assert not await desk.exists("j2")

    @scenario
    async def test_another_session_is_not_touched(self, desk: Desk) -> None:
        claim = await desk.start("h")
        other = await desk.start("o", key("other"))
        assert await steer(desk, "j", at=key("other")) == Accepted(0, joined=RunId("o"))
        assert await reach(desk, claim) == []
        assert await reach(desk, other) == ["j"]
        await desk.finish(claim)
        await desk.finish(other, with_joined(done("hi", "ho"), "j"))

    @scenario
    async def test_checkpoints_go_on_after_those_that_joined(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        await desk.journal.apply_joins(claim.token, said("ask h"))
        await desk.journal.checkpoint(claim.token, RoundStarted([{"role": "assistant", "content": [{"text": "hm"}]}]))
        (orphan,) = await desk.restart()
        progress = fold(orphan.checkpoints)
        assert [message["role"] for message in progress.messages] == ["user", "assistant"]
        assert "ask j" in texts(progress.messages[0]["content"])
        await desk.finish(orphan, with_joined(done("hi", "ho"), "j"))


def questioned() -> Completion:
    """Return the completion of a run that needs a person's input."""
    request = InputRequest("i1", "sure")
    needs = NeedsInput([request], {})
    use = {"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}
    message = {"role": "assistant", "content": [use]}
    question = Question(requests=needs.requests, message=message, results={}, state={})  # type: ignore[arg-type]
    outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=[request])
    messages = [*said("hi"), message]
    return Completion(outcome=outcome, messages=messages, question=question, answer_within_s=60.0)  # type: ignore[arg-type]


def texts(content: Sequence[dict[str, object]]) -> list[object]:
    """Return the texts of blocks."""
    return [block["text"] for block in content if "text" in block]


async def listed(desk: Desk, limit: int) -> list[str]:
    """Return the ids of all runs of the session, page by page."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await desk.journal.read(RunsQuery(key(), cursor, limit))
        assert len(page.runs) <= limit
        found += [str(run.run_id) for run in page.runs]
        if (cursor := page.after) is None:
            return found


async def delete(desk: Desk) -> object:
    """Delete the session."""
    return await desk.journal.change(Delete(key()))

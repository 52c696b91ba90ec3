"""Crashed runs that a person takes up, and the messages that these supersede."""

from typing import Any

import pytest

from strandline._encoding import encode_messages
from strandline._history import fold
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Bounds,
    Changed,
    Delete,
    EndWaiting,
    HistoryPage,
    HistoryQuery,
    OpenTool,
    Pause,
    Resume,
    RunsQuery,
    Unresolvable,
    UnresolvedQuery,
)
from strandline._model import (
    ANONYMOUS,
    Checkpoint,
    Completion,
    ErrorCode,
    GoBack,
    IfBusy,
    Lane,
    Message,
    Outcome,
    Principal,
    Resolution,
    RoundDone,
    RoundStarted,
    RunError,
    RunId,
    RunStatus,
    SessionKey,
    ToolDone,
    ToolNotDone,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

_CRASHED = Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.CRASHED, "the server died"))
_WITHDRAWN = Outcome(status=RunStatus.CANCELLED)
_FINISHED = RoundDone(said("ask a", "thought"), {"round": 1})
_CALL: Message = {
    "role": "assistant",
    "content": [
        {"toolUse": {"toolUseId": "t1", "name": "pay", "input": {"sum": 5}}},
        {"toolUse": {"toolUseId": "t2", "name": "mail", "input": {}}},
    ],
}
_BEGUN: tuple[Checkpoint, ...] = (_FINISHED, RoundStarted([*said("more"), _CALL]))
_PAID = ToolDone("t1", {"toolUseId": "t1", "status": "success", "content": [{"text": "paid"}]})
_NOT_MAILED = ToolNotDone("t2", "ada")


async def crashed(desk: Desk, run_id: str = "a", at: SessionKey | None = None, *, discarded: bool = False) -> None:
    """Have a run crash in its two tools."""
    claim = await desk.start(run_id, at)
    for checkpoint in _BEGUN:
        await desk.journal.checkpoint(claim.token, checkpoint)
    left = said("ask a", "thought", "more", "crashed")
    await desk.finish(claim, Completion(outcome=_CRASHED, messages=left, unresolved=True, discarded=discarded))


async def resolve(
    desk: Desk, run_id: str, of: str = "a", tools: Any = (_PAID, _NOT_MAILED), at: SessionKey | None = None, **more: Any
) -> AcceptAnswer:
    """Accept a run that continues a crashed one."""
    resolution = Resolution(run_id=RunId(of), tools=tuple(tools))
    return await desk.accept(run_id, at, resolution=resolution, lane=Lane.REQUEUED, **more)


async def page(desk: Desk, *, superseded: bool = True) -> HistoryPage:
    """Return all of a history."""
    return await desk.journal.read(HistoryQuery(key(), limit=1000, discarded=True, superseded=superseded))


async def open_tools(desk: Desk, run_id: str, principal: str = ANONYMOUS) -> list[str]:
    """Return the ids of a run's tools of unknown outcome."""
    found = await desk.journal.read(UnresolvedQuery(Principal(principal), RunId(run_id)))
    return [each.tool_use_id for each in found]


class ResolutionsContract(Contract):
    """Runs that continue crashed ones."""

    @scenario
    async def test_a_resolved_run_goes_on_from_the_last_checkpoint(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1", state={"n": 1}))
        await crashed(desk)
        assert await desk.journal.read(UnresolvedQuery(ANONYMOUS, RunId("a"))) == [
            OpenTool("t1", "pay", {"sum": 5}),
            OpenTool("t2", "mail", {}),
        ]
        assert await resolve(desk, "b", input="ask a") == Accepted(0)
        claim = await desk.claim(of="b")
        assert claim.checkpoints == (*_BEGUN, _PAID, _NOT_MAILED)
        assert (claim.run.input, claim.run.lane, claim.run.attempt) == ("ask a", Lane.REQUEUED, 1)
        assert claim.resumes
        progress = fold(claim.checkpoints)
        assert progress.state == {"round": 1}
        assert progress.to_restart == {"t2"}
        assert not progress.open_tools()
        record = await desk.journal.load(key())
        assert (record.messages, record.origins, record.length) == (said("0", "1"), [0, 1], 6)
        await desk.finish(claim, done("ask a", "thought", "more", "well"))
        record = await desk.journal.load(key())
        assert record.messages == said("0", "1", "ask a", "thought", "more", "well")
        assert record.origins == [0, 1, 6, 7, 8, 9]
        assert record.state == {"n": 1}

    @scenario
    async def test_what_a_resolved_run_had_said_is_superseded_and_kept(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1"))
        await crashed(desk)
        shown = await desk.history()
        assert shown == said("0", "1", "ask a", "thought", "more", "crashed")
        await resolve(desk, "b")
        claim = await desk.claim(of="b")
        assert await desk.history() == said("0", "1")
        whole = await page(desk)
        assert (whole.messages, whole.superseded) == (shown, [2, 3, 4, 5])
        await desk.restart()
        assert await page(desk) == whole
        (orphan,) = desk.orphans
        assert orphan.checkpoints == claim.checkpoints
        await desk.finish(orphan, done("again", "well"))
        assert await desk.history() == said("0", "1", "again", "well")
        assert (await desk.run("a")).outcome == _CRASHED

    @scenario
    async def test_none_is_resolved_while_one_waits_that_goes_back(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1"))
        await crashed(desk)
        await desk.journal.change(Pause(key()))
        assert await desk.accept("c", back=GoBack(after=RunId("before")), input="x" * 5000) == Accepted(1)
        assert await resolve(desk, "b") == Unresolvable("gone"), "it would be superseded as soon as it has ended"
        await desk.restart()
        assert await resolve(desk, "b") == Unresolvable("gone")

    @scenario
    async def test_a_run_is_resolved_once(self, desk: Desk) -> None:
        await crashed(desk)
        await resolve(desk, "b", claim_next=False)
        assert await resolve(desk, "c") == Unresolvable("gone")
        assert await open_tools(desk, "a") == []
        await desk.journal.claim_next(key())
        assert await resolve(desk, "c") == Unresolvable("gone")
        await desk.finish(await desk.claim(of="b"), done("x", "y"))
        assert await resolve(desk, "c") == Unresolvable("gone")
        assert await resolve(desk, "c", of="b") == Unresolvable("gone")
        assert await desk.waiting() == []

    @scenario
    async def test_one_that_crashes_again_is_resolved_again(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1"))
        await crashed(desk)
        tools: tuple[Any, ...] = (_PAID, _NOT_MAILED)
        for run_id, of in (("b", "a"), ("c", "b"), ("d", "c")):
            assert await resolve(desk, run_id, of=of, tools=tools) == Accepted(0)
            claim = await desk.claim(of=run_id)
            await desk.journal.checkpoint(claim.token, RoundStarted([]))
            (claim,) = await desk.restart()
            assert list(fold(claim.checkpoints).open_tools()) == ["t2"]
            left = said(run_id, "crashed")
            await desk.finish(claim, Completion(outcome=_CRASHED, messages=left, unresolved=True))
            assert await desk.history() == said("0", "1", run_id, "crashed")
            tools = (_NOT_MAILED,)
        assert (await page(desk)).superseded == list(range(2, 10))

    @scenario
    async def test_it_goes_before_what_waits_and_waits_for_a_pause(self, desk: Desk) -> None:
        await crashed(desk)
        await desk.journal.change(Pause(key()))
        await desk.accept("first", priority=1)
        await desk.accept("front", lane=Lane.FRONT)
        desk.clock.at += 5
        assert await resolve(desk, "b", timeout_s=60.0) == Accepted(1)
        run = await desk.run("b")
        assert (run.position, run.attempt, run.status, run.started_at) == (1, 0, RunStatus.QUEUED, desk.clock.at)
        assert run.deadline == desk.clock.at + 60
        await desk.restart()
        assert [each.run_id for each in await self._waiting(desk)] == ["b", "front", "first"]
        await desk.journal.change(Resume(key()))
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="b")
        assert claim.checkpoints == (*_BEGUN, _PAID, _NOT_MAILED)
        assert await desk.drain(claim) == ["b", "front", "first"]

    async def _waiting(self, desk: Desk) -> list[Any]:
        found = await desk.journal.read(RunsQuery(key(), limit=10))
        return sorted((run for run in found.runs if run.position), key=lambda run: run.position or 0)

    @scenario
    async def test_a_crash_before_its_claim_loses_nothing(self, desk: Desk) -> None:
        await crashed(desk)
        await resolve(desk, "b", claim_next=False)
        assert await desk.restart() == []
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="b")
        assert claim.checkpoints == (*_BEGUN, _PAID, _NOT_MAILED)
        await desk.finish(claim)
        assert await desk.history() == []

    @scenario
    async def test_cancelled_while_it_waits_it_is_closed_by_its_checkpoints(self, desk: Desk) -> None:
        await crashed(desk)
        await resolve(desk, "b", claim_next=False)
        await desk.cancel("b")
        texts = encode_messages(await desk.history()).decode()
        assert "paid" in texts
        assert "It was not started again" in texts
        assert "ended early: cancelled" in texts
        assert "unknown" not in texts

    @pytest.mark.parametrize("since", ["executes", "waits again", "ended", "rests"])
    def test_none_is_resolved_once_another_run_has_begun(self, since: str, tmp_path: Any) -> None:
        @scenario
        async def play(_: Any, desk: Desk) -> None:
            await crashed(desk)
            if since == "rests":
                await desk.accept("c", claim_next=False)
                assert await resolve(desk, "b") == Accepted(0)
                await desk.finish(await desk.claim(of="b"))
                return
            claim = await desk.start("c")
            if since == "waits again":
                await desk.release(claim.token, counted=True)
            if since == "ended":
                await desk.finish(claim)
            assert await open_tools(desk, "a") == []
            assert await resolve(desk, "b") == Unresolvable("gone")
            assert await desk.waiting() == (["c"] if since == "waits again" else [])

        play(self, tmp_path)

    @pytest.mark.parametrize("how", ["cancelled", "by its session", "overdue", "disconnected"])
    def test_what_is_withdrawn_before_it_began_leaves_the_crashed_run_resolvable(self, how: str, tmp_path: Any) -> None:
        """It said nothing: history still ends with the crashed run, whose messages are superseded as ever."""

        @scenario
        async def play(_: Any, desk: Desk) -> None:
            await desk.finish(await desk.start("before"), done("0", "1"))
            await crashed(desk)
            await desk.accept("c", claim_next=False, queue_deadline=desk.clock.at + 5)
            match how:
                case "cancelled":
                    await desk.cancel("c")
                case "by its session":
                    await desk.cancel_all()
                case "disconnected":
                    await desk.journal.change(EndWaiting(key(), RunId("c"), _WITHDRAWN))
                case _:
                    desk.clock.at += 10
                    assert await desk.end_overdue() == ["c"]
            assert await open_tools(desk, "a") == ["t1", "t2"]
            await desk.restart()
            assert await open_tools(desk, "a") == ["t1", "t2"]
            assert await resolve(desk, "b") == Accepted(0)
            await desk.finish(await desk.claim(of="b"), done("2", "3"))
            assert await desk.history() == said("0", "1", "2", "3")
            assert await open_tools(desk, "a") == []

        play(self, tmp_path)

    @scenario
    async def test_nothing_is_resolved_while_a_thread_of_it_still_works(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for checkpoint in _BEGUN:
            await desk.journal.checkpoint(claim.token, checkpoint)
        await desk.finish(claim, Completion(outcome=_CRASHED, messages=said("x", "y"), unresolved=True), hold=True)
        assert await resolve(desk, "b") == Unresolvable("gone")
        await desk.release(claim.token, counted=False)
        assert await resolve(desk, "b", claim_next=False) == Accepted(1)

    @scenario
    async def test_all_tools_of_unknown_outcome_are_named_together(self, desk: Desk) -> None:
        await crashed(desk)
        assert await resolve(desk, "b", tools=()) == Unresolvable("incomplete", ["t1", "t2"])
        assert await resolve(desk, "b", tools=(_PAID,)) == Unresolvable("incomplete", ["t2"])
        strange = ToolDone("t3", {"content": []})
        assert await resolve(desk, "b", tools=(_PAID, _NOT_MAILED, strange)) == Unresolvable("known", ["t3"])
        assert await desk.history() == said("ask a", "thought", "more", "crashed")
        assert await open_tools(desk, "a") == ["t1", "t2"]

    @scenario
    async def test_only_a_run_of_the_session_that_is_unresolved_is_resolved(self, desk: Desk) -> None:
        assert await resolve(desk, "b") == Unresolvable("gone")
        await crashed(desk)
        assert await resolve(desk, "b", at=key("other")) == Unresolvable("gone")
        await desk.finish(await desk.start("x", key("other")), Completion(outcome=_CRASHED, messages=said("x", "y")))
        assert await resolve(desk, "b", of="x", at=key("other")) == Unresolvable("gone")
        assert await resolve(desk, "b", of="a", at=key("other")) == Unresolvable("gone")
        assert await open_tools(desk, "a", "mallory") == []

    @scenario
    async def test_a_refused_resolution_changes_nothing(self, desk: Desk) -> None:
        await crashed(desk)
        before = await desk.seen(["a"])
        await desk.journal.change(Pause(key()))
        assert not isinstance(await resolve(desk, "b", bounds=Bounds(0, 0)), Accepted)
        await desk.journal.change(Resume(key()))
        assert await desk.seen(["a"]) == before
        assert await open_tools(desk, "a") == ["t1", "t2"]
        assert await resolve(desk, "b") == Accepted(0)
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_an_interrupt_ends_a_resolved_run_that_waits(self, desk: Desk) -> None:
        await crashed(desk)
        await desk.journal.change(Pause(key()))
        await resolve(desk, "b")
        await desk.accept("c", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT)
        assert (await desk.run("b")).status is RunStatus.CANCELLED
        assert await desk.waiting() == ["c"]

    @scenario
    async def test_its_time_is_over_while_it_waits(self, desk: Desk) -> None:
        await crashed(desk)
        await resolve(desk, "b", timeout_s=10.0, claim_next=False)
        desk.clock.at += 11
        assert await desk.end_overdue() == ["b"]
        assert (await desk.run("b")).status is RunStatus.FAILED
        assert "paid" in encode_messages(await desk.history()).decode()

    @scenario
    async def test_a_discarded_crash_is_resolved_too(self, desk: Desk) -> None:
        await desk.finish(await desk.start("before"), done("0", "1"))
        await crashed(desk, discarded=True)
        assert await resolve(desk, "b") == Accepted(0)
        await desk.finish(await desk.claim(of="b"), done("2", "3"))
        assert await desk.history() == said("0", "1", "2", "3")

    @scenario
    async def test_what_was_said_to_a_crashed_run_is_said_to_the_one_that_continues(self, desk: Desk) -> None:
        """The runs that said it have ended, and do not end a second time."""
        await desk.finish(await desk.start("before"), done("0", "1"))
        claim = await desk.start("a")
        await desk.journal.checkpoint(claim.token, _FINISHED)
        for run_id in ("j1", "j2", "late"):
            await desk.accept(run_id, if_busy=IfBusy.STEER)
            if run_id == "j2":
                await desk.journal.apply_joins(claim.token, said("more"))
        await desk.journal.checkpoint(claim.token, RoundStarted([_CALL]))
        (orphan,) = await desk.restart()
        progress = fold(orphan.checkpoints)
        crash = Completion(
            outcome=_CRASHED, messages=[*progress.messages, *said("?")], unresolved=True, joined=progress.joined
        )
        await desk.finish(orphan, crash)
        assert await open_tools(desk, "a") == ["t1", "t2"]
        assert await resolve(desk, "b") == Accepted(0)
        claim = await desk.claim(of="b")
        again = fold(claim.checkpoints)
        assert (again.messages, again.joined) == (progress.messages, ())
        assert "j1" in encode_messages(again.messages).decode()
        assert await desk.history() == said("0", "1")
        (orphan,) = await desk.restart()
        assert orphan.checkpoints == claim.checkpoints
        await desk.finish(orphan, done("ask a", "well"))
        assert await desk.history() == said("0", "1", "ask a", "well")
        assert [(await desk.run(each)).outcome for each in ("j1", "j2")] == [_CRASHED, _CRASHED]
        assert await desk.waiting() == ["late"]

    @scenario
    async def test_checkpoints_go_with_the_session_or_the_run(self, desk: Desk) -> None:
        await crashed(desk)
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        await crashed(desk)
        desk.clock.at += 100
        assert await desk.journal.prune(desk.clock.at, 10) == 1
        assert await resolve(desk, "b") == Unresolvable("gone")
        await desk.finish(await desk.start("c"), done("2", "3"))
        assert await desk.history() == [*said("ask a", "thought", "more", "crashed"), *said("2", "3")]

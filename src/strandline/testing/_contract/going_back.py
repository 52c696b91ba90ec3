"""Histories that continue from an earlier place, and what that supersedes."""

from typing import Any

import pytest
from msgspec.structs import replace

from strandline._history.texts import NOT_DONE
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    Busy,
    Changed,
    ClaimResult,
    Delete,
    Edit,
    Edited,
    Effect,
    HistoryPage,
    HistoryQuery,
    JoinedQuery,
    JoinedSince,
    Move,
    Pause,
    Refused,
    Restore,
    Restored,
    Resume,
    Reused,
    Stopped,
    Superseded,
    SupersededQuery,
    Unreachable,
)
from strandline._model import (
    ANONYMOUS,
    WHOLE_HISTORY,
    Completion,
    GoBack,
    IfBusy,
    Inline,
    InputRequest,
    Keyed,
    Lane,
    Message,
    Outcome,
    Principal,
    Question,
    Range,
    RoundDone,
    RunId,
    RunStatus,
    SessionKey,
    responses,
)
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

_USED: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t1", "name": "pay", "input": {}}}]}
_RESULT: Message = {
    "role": "user",
    "content": [{"toolResult": {"toolUseId": "t1", "status": "success", "content": [{"text": "paid"}]}}],
}
_UNTOUCHED: Message = {
    "role": "user",
    "content": [
        {
            "toolResult": {
                "toolUseId": "t1",
                "status": "error",
                "content": [{"text": NOT_DONE.format(by="ada")}],
            }
        }
    ],
}


async def turn(desk: Desk, run_id: str, at: SessionKey | None = None, **fields: Any) -> None:
    """Have a run start and say `ask RUN_ID`, and be answered."""
    completion = fields.pop("completion", None) or done(f"ask {run_id}", f"answer {run_id}")
    claim = await desk.start_any(run_id, at, **fields)
    await desk.finish(claim, completion)


def turns(*run_ids: str) -> list[Message]:
    """Return what such runs have said."""
    return [each for run_id in run_ids for each in said(f"ask {run_id}", f"answer {run_id}")]


async def go_back(desk: Desk, run_id: str, after: str | None = None, **fields: Any) -> AcceptAnswer:
    """Accept a run that continues after another one, or (None) from the beginning."""
    return await desk.accept(run_id, back=GoBack(after=None if after is None else RunId(after)), **fields)


async def follow(desk: Desk, run_id: str, after: str, **fields: Any) -> AcceptAnswer:
    """Accept a run that continues at the end if another one is the last, and after that one if it is not."""
    return await desk.accept(run_id, back=GoBack(after=RunId(after)), unless_last=True, **fields)


async def again(desk: Desk, run_id: str, of: str, **fields: Any) -> AcceptAnswer:
    """Accept a run that continues where another one began."""
    return await desk.accept(run_id, back=GoBack(again=RunId(of)), **fields)


async def restore(desk: Desk, run_id: str, principal: str = ANONYMOUS) -> Any:
    """Restore a superseded run."""
    return await desk.journal.change(Restore(Principal(principal), RunId(run_id)))


async def whole(desk: Desk) -> HistoryPage:
    """Return all of a history."""
    return await desk.journal.read(HistoryQuery(key(), limit=1000, discarded=True, superseded=True))


async def superseded(desk: Desk, run_id: str) -> Superseded:
    """Return what a run supersedes."""
    return await desk.journal.read(SupersededQuery(key(), run_id=RunId(run_id)))


class GoingBackContract(Contract):
    """Runs that go back, and superseded ones that are restored."""

    @scenario
    async def test_history_goes_on_after_an_earlier_run(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        assert await go_back(desk, "d", "a") == Accepted(0)
        claim = await desk.claim(of="d")
        assert claim.run.back is not None
        assert claim.run.back.after == "a"
        record = await desk.journal.load(key())
        assert (record.messages, record.length) == (turns("a"), 6)
        assert await desk.history() == turns("a")
        await desk.finish(claim, done("ask d", "answer d"))
        assert await desk.history() == turns("a", "d")
        page = await whole(desk)
        assert (page.messages, page.superseded) == (turns("a", "b", "c", "d"), [2, 3, 4, 5])
        assert await superseded(desk, "d") == Superseded([RunId("b"), RunId("c")], [])
        await turn(desk, "e")
        await desk.restart()
        assert await desk.history() == turns("a", "d", "e")
        assert await superseded(desk, "d") == Superseded([RunId("b"), RunId("c")], [])

    @scenario
    async def test_history_begins_anew(self, desk: Desk) -> None:
        await go_back(desk, "a")
        await desk.finish(await desk.claim(of="a"), done("ask a", "answer a"))
        assert (await whole(desk)).superseded == []
        await go_back(desk, "b")
        await desk.finish(await desk.claim(of="b"), done("ask b", "answer b"))
        assert await desk.history() == turns("b")
        assert (await desk.journal.load(key())).messages == turns("b")
        assert (await whole(desk)).superseded == [0, 1]

    @scenario
    async def test_nothing_is_superseded_before_the_run_is_claimed(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        assert await go_back(desk, "c", "a", claim_next=False) == Accepted(1)
        assert await desk.history() == turns("a", "b")
        assert await superseded(desk, "c") == Superseded([RunId("b")], [])
        await desk.restart()
        assert await desk.history() == turns("a", "b")
        await desk.cancel("c")
        assert await desk.history() == turns("a", "b")
        assert (await whole(desk)).superseded == []
        await go_back(desk, "d", "a", claim_next=False)
        await desk.restart()
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="d")
        assert await desk.history() == turns("a")
        await desk.finish(claim, done("ask d", "answer d"))
        assert await desk.history() == turns("a", "d")

    @scenario
    async def test_a_crash_in_the_middle_of_a_branch_goes_on_in_it(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await go_back(desk, "c", "a")
        claim = await desk.claim(of="c")
        await desk.journal.checkpoint(claim.token, RoundDone(said("ask c", "thought"), None))
        (claim,) = await desk.restart()
        assert claim.run.run_id == "c"
        assert len(claim.checkpoints) == 1
        assert (await desk.journal.load(key())).messages == turns("a")
        await desk.release(claim.token, counted=True)
        await desk.restart()
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="c")
        await desk.finish(claim, done("ask c", "answer c"))
        assert await desk.history() == turns("a", "c")
        assert (await whole(desk)).superseded == [2, 3]
        assert await superseded(desk, "c") == Superseded([RunId("b")], [])

    @scenario
    async def test_what_waits_behind_it_goes_on_in_the_branch(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await go_back(desk, "c", "a", claim_next=False)
        await desk.accept("d", claim_next=False)
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="c")
        await desk.finish(claim, done("ask c", "answer c"), claim_next=True)
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await desk.history() == turns("a", "c", "d")

    @scenario
    async def test_a_finish_claims_a_run_that_goes_back(self, desk: Desk) -> None:
        await turn(desk, "a")
        claim = await desk.start("b")
        await go_back(desk, "c", "a", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT)
        assert (await desk.run("b")).cancel_requested
        ended = Completion(outcome=Outcome(status=RunStatus.CANCELLED), messages=said("ask b", "ended"))
        await desk.finish(claim, ended, claim_next=True)
        claim = await desk.claim(of="c")
        assert (await desk.journal.load(key())).messages == turns("a")
        await desk.finish(claim, done("ask c", "answer c"))
        assert await desk.history() == turns("a", "c")
        assert (await whole(desk)).superseded == [2, 3]
        assert await superseded(desk, "c") == Superseded([RunId("b")], [])

    @scenario
    async def test_window_and_state_are_as_they_were(self, desk: Desk) -> None:
        summary: Message = {"role": "user", "content": [{"text": "summary"}]}
        window = (Inline(summary), Range(3, None))
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        await turn(desk, "b", completion=done("ask b", "answer b", window=window))
        await turn(desk, "c")
        await turn(desk, "d", completion=done("ask d", "answer d", window=WHOLE_HISTORY, state={"n": 4}))
        await go_back(desk, "e", "c")
        claim = await desk.claim(of="e")
        record = await desk.journal.load(key())
        assert (record.window, record.state) == (window, {"n": 1})
        assert record.messages == [summary, *said("", "answer b")[1:], *turns("c")]
        await desk.finish(claim, done("ask e", "answer e", state={"n": 5}))
        record = await desk.journal.load(key())
        assert (record.origins, record.state) == ([None, 3, 4, 5, 8, 9], {"n": 5})
        await go_back(desk, "f", "a")
        claim = await desk.claim(of="f")
        await desk.restart()
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == (turns("a"), WHOLE_HISTORY, {"n": 1})
        (claim,) = desk.orphans
        await desk.finish(claim)
        await go_back(desk, "g")
        await desk.claim(of="g")
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == ([], WHOLE_HISTORY, None)

    @scenario
    async def test_what_was_not_kept_is_the_whole_history(self, desk: Desk) -> None:
        window = (Range(1, None),)
        await turn(desk, "a", completion=done("ask a", "answer a", window=window, state={"n": 1}))
        desk.clock.at += 100
        await turn(desk, "b")
        await turn(desk, "c", completion=done("ask c", "answer c", state={"n": 3}))
        assert await desk.journal.prune(desk.clock.at, 10) == 1
        await go_back(desk, "d", "b")
        claim = await desk.claim(of="d")
        assert (await superseded(desk, "d")).forgotten
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == (turns("a", "b"), WHOLE_HISTORY, None)
        await desk.finish(claim)
        assert await restore(desk, "c") == Restored(key(), 6)
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "b", "c")[1:], {"n": 3})

    @scenario
    async def test_what_has_not_changed_needs_not_be_kept(self, desk: Desk) -> None:
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        desk.clock.at += 100
        for each in "bc":
            await turn(desk, each)
        assert await desk.journal.prune(desk.clock.at, 10) == 1
        await go_back(desk, "d", "b")
        claim = await desk.claim(of="d")
        assert not (await superseded(desk, "d")).forgotten
        assert (await desk.journal.load(key())).state == {"n": 1}
        await desk.finish(claim)

    @scenario
    async def test_a_run_is_made_again(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"of": each}))
        await again(desk, "c", "b")
        claim = await desk.claim(of="c")
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a"), {"of": "a"})
        await desk.finish(claim, done("ask c", "answer c"))
        await again(desk, "d", "c")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await desk.history() == turns("a", "d")
        assert await superseded(desk, "d") == Superseded([RunId("c")], [])
        await again(desk, "e", "a")
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        assert await desk.history() == turns("e")
        await again(desk, "f", "b")  # (which was superseded long ago)
        await desk.finish(await desk.claim(of="f"), done("ask f", "answer f"))
        assert await desk.history() == turns("a", "f")

    @scenario
    async def test_a_run_is_made_again_while_it_executes(self, desk: Desk) -> None:
        await turn(desk, "a")
        claim = await desk.start("b")
        assert isinstance(await again(desk, "c", "b"), Refused)
        await again(desk, "c", "b", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK)
        outcome = Outcome(status=RunStatus.CANCELLED)
        await desk.finish(claim, Completion(outcome=outcome, messages=said("x", "y"), discarded=True), claim_next=True)
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await desk.history() == turns("a", "c")

    @scenario
    async def test_one_that_left_nothing_is_made_again_at_the_end_only(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b", completion=done())
        await again(desk, "c", "b")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await desk.history() == turns("a", "c")
        assert (await whole(desk)).superseded == []
        assert await again(desk, "d", "b") == Unreachable("left_nothing")
        assert await go_back(desk, "d", "b") == Unreachable("left_nothing")

    @scenario
    async def test_one_that_left_nothing_behind_a_question_is_made_again_after_what_closes_it(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), asking("q"))
        await desk.accept("b")
        await desk.cancel("b")
        interrupts: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        assert await again(desk, "c", "b", **interrupts) == Accepted(0)
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        shown = await desk.history()
        assert [each["role"] for each in shown] == ["user", "assistant", "user", "assistant", "user", "assistant"]
        assert "toolResult" in shown[2]["content"][0]
        assert shown[4:] == turns("c")
        assert (await whole(desk)).superseded == []

    @scenario
    async def test_one_that_left_nothing_is_not_made_again_while_a_question_is_answered(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), asking("q"))
        await desk.accept("b")
        await desk.cancel("b")
        claim = await desk.start_any("c", input=responses({"q": "yes"}), lane=Lane.ANSWER)
        interrupts: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        assert await again(desk, "d", "b", **interrupts) == Unreachable("left_nothing")
        await desk.finish(claim, left(_RESULT, *said("", "x")[1:]))
        assert await again(desk, "d", "b", **interrupts) == Unreachable("left_nothing")

    @scenario
    async def test_superseded_runs_are_restored(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"of": each}))
        await go_back(desk, "d", "a")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d", state={"of": "d"}))
        restored = await restore(desk, "b")
        assert restored == Restored(key(), 8)
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "b", "c"), {"of": "c"})
        assert (await whole(desk)).superseded == [6, 7]
        gone = await desk.journal.read(SupersededQuery(key(), start=8))
        assert gone == Superseded([RunId("d")], [])
        assert await restore(desk, "c") == Restored(key())
        await turn(desk, "e")
        await desk.restart()
        assert await desk.history() == turns("a", "b", "c", "e")
        assert await restore(desk, "d") == Restored(key(), 10)
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "d"), {"of": "d"})
        assert await restore(desk, "e") == Restored(key(), 10)
        assert await desk.history() == turns("a", "b", "c", "e")

    @scenario
    async def test_what_was_restored_is_what_there_was_last(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        await go_back(desk, "d", "b")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        await go_back(desk, "e")
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        await restore(desk, "a")
        assert await desk.history() == turns("a", "b", "d")
        await restore(desk, "c")
        assert await desk.history() == turns("a", "b", "c")
        await go_back(desk, "f", "d")
        await desk.finish(await desk.claim(of="f"), done("ask f", "answer f"))
        assert await desk.history() == turns("a", "b", "d", "f")

    @scenario
    async def test_what_was_restored_and_replaced_without_a_message_is_restored(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b", completion=done("ask b", "answer b", state={"of": "b"}))
        await go_back(desk, "c", "a")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c", state={"of": "c"}))
        await restore(desk, "b")
        await go_back(desk, "d")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        await desk.restart()
        assert await restore(desk, "a") == Restored(key(), 8)
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "b"), {"of": "b"}), "it was the last one with this run"
        await restore(desk, "d")
        assert await desk.history() == turns("d")
        await restore(desk, "a")
        assert await desk.history() == turns("a", "b")
        await restore(desk, "c")
        await restore(desk, "d")
        await restore(desk, "a")
        assert await desk.history() == turns("a", "c"), "of those without a message that replaced each other the last"

    @scenario
    async def test_what_a_restore_replaced_is_superseded_next(self, desk: Desk) -> None:
        """Branches that begin at the same message, since a restore leaves none."""
        await turn(desk, "a")
        await desk.finish(await desk.start("b"), left(*said("ask b"), _USED, _RESULT, *said("", "answer b")[1:]))
        await go_back(desk, "c", "a")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        start = 8
        for run_id, gone in (("b", "c"), ("c", "b"), ("b", "c")):
            assert await restore(desk, run_id) == Restored(key(), start)
            found = await desk.journal.read(SupersededQuery(key(), start=start))
            assert found.runs == [RunId(gone)]
        await desk.journal.change(Pause(key()))
        await go_back(desk, "d", "a")
        expected = Superseded([RunId("b")], [Effect(RunId("b"), "t1", "pay")])
        assert await superseded(desk, "d") == expected
        await desk.journal.change(Resume(key()))
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="d")
        assert await superseded(desk, "d") == expected
        await desk.finish(claim, done("ask d", "answer d"))
        await desk.restart()
        assert await superseded(desk, "d") == expected

    @scenario
    async def test_what_is_kept_no_more_when_a_run_starts_is_forgotten(self, desk: Desk) -> None:
        for number, each in enumerate("abc"):
            await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"n": number}))
        await desk.journal.change(Pause(key()))
        await go_back(desk, "d", "b")
        assert not (await superseded(desk, "d")).forgotten
        desk.clock.at += 100
        assert await desk.journal.prune(desk.clock.at, 2) == 2
        assert (await superseded(desk, "d")).forgotten
        await desk.journal.change(Resume(key()))
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="d")
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == (turns("a", "b"), WHOLE_HISTORY, None)
        assert (await superseded(desk, "d")).forgotten
        await desk.finish(claim)

    @scenario
    async def test_what_was_not_kept_since_nothing_had_changed_is_forgotten_once_it_has(self, desk: Desk) -> None:
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        desk.clock.at += 100
        await turn(desk, "b")
        assert await desk.journal.prune(desk.clock.at, 10) == 1
        executing = await desk.start("x")
        await go_back(desk, "c", "b", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT)
        ended = Outcome(status=RunStatus.CANCELLED)
        completion = replace(done("ask x", "answer x", state={"n": 2}), outcome=ended)
        assert await desk.finish(executing, completion, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="c")
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "b"), None)
        found = await superseded(desk, "c")
        assert (found.runs, found.forgotten) == ([RunId("x")], True)
        await desk.finish(claim)

    @pytest.mark.parametrize("why", ["executes", "held", "waits", "asks", "waits again"])
    def test_a_session_that_is_not_at_rest_goes_not_back(self, why: str, tmp_path: Any) -> None:
        @scenario
        async def play(_: Any, desk: Desk) -> None:
            for each in "ab":
                await turn(desk, each)
            claim = None
            if why == "waits":
                await desk.accept("c", claim_next=False)
            else:
                claim = await desk.start("c")
                if why == "held":
                    await desk.finish(claim, hold=True)
                if why == "waits again":
                    await desk.release(claim.token, counted=True)
                if why == "asks":
                    await desk.finish(claim, asking("q"))
            before = await desk.seen("abc")
            assert isinstance(await go_back(desk, "d", "a", priority=1), Refused)
            assert isinstance(await again(desk, "d", "a"), Refused)
            assert await restore(desk, "a") == Busy()
            assert await desk.seen("abc") == before
            assert isinstance(
                await go_back(desk, "d", "a", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK, claim_next=False), Accepted
            )
            if why == "executes" and claim is not None:
                outcome = Outcome(status=RunStatus.CANCELLED)
                await desk.finish(claim, Completion(outcome=outcome, messages=[], discarded=True))
            if why == "held" and claim is not None:
                await desk.release(claim.token, counted=False)
            await desk.journal.claim_next(key())
            await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
            assert await desk.history() == turns("a", "d")

        play(self, tmp_path)

    @scenario
    async def test_delayed_runs_and_a_pause_do_not_matter(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await desk.accept("later", not_before=desk.clock.at + 100)
        await desk.journal.change(Pause(key()))
        assert await go_back(desk, "c", "a") == Accepted(1)
        assert await desk.history() == turns("a", "b")
        await desk.journal.change(Resume(key()))
        await desk.journal.claim_next(key())
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await restore(desk, "b") == Restored(key(), 6)

    @scenario
    async def test_nothing_that_comes_later_starts_before_one_that_goes_back(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await desk.accept("delayed", not_before=desk.clock.at + 1.0, priority=1)
        await desk.journal.change(Pause(key()))
        assert await go_back(desk, "c", "a", input="x" * 5000) == Accepted(1)
        assert await desk.accept("first", priority=1) == Accepted(2)
        assert await desk.accept("stops", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT) == Accepted(2)
        await desk.journal.change(Move(ANONYMOUS, RunId("first"), None))
        desk.clock.at += 2.0
        await desk.end_overdue()
        for priority in (None, 5):
            await desk.journal.change(Move(ANONYMOUS, RunId("c"), priority))
        assert ((await desk.run("c")).position, (await desk.run("c")).priority) == (1, 5)
        await desk.restart()
        assert isinstance(await desk.journal.change(Edit(ANONYMOUS, RunId("c"), priority=4, input="ask c")), Edited)
        assert ((await desk.run("c")).position, (await desk.run("c")).priority) == (1, 4)
        await desk.restart()
        assert ((await desk.run("c")).position, (await desk.run("c")).priority) == (1, 4)
        await desk.journal.change(Resume(key()))
        await desk.journal.claim_next(key())
        order = []
        for _ in range(4):
            claim = await desk.claim()
            order.append(claim.run.run_id)
            messages = (f"ask {claim.run.run_id}", f"answer {claim.run.run_id}")
            await desk.finish(claim, done(*messages), claim_next=True)
        assert order == ["c", "stops", "first", "delayed"]
        assert await desk.history() == turns("a", *order)

    @scenario
    async def test_earlier_interrupts_have_their_turns_before_one_that_goes_back(self, desk: Desk) -> None:
        """Nothing that was accepted is dropped for another: they are answered, and then superseded with all else."""
        await turn(desk, "a")
        executing = await desk.start("x")
        interrupts: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        assert await desk.accept("first", **interrupts) == Accepted(1, Stopped({}, [RunId("x")]))
        await desk.accept("waits", claim_next=False)
        assert await go_back(desk, "b", "a", **interrupts) == Accepted(2, Stopped({}, [RunId("x")]))
        cancelled = Completion(outcome=Outcome(status=RunStatus.CANCELLED), messages=said("ask x", "ended"))
        await desk.finish(executing, cancelled, claim_next=True)
        first = await desk.claim(of="first")
        assert (await desk.journal.load(key())).messages == [*turns("a"), *said("ask x", "ended")]
        await desk.finish(first, done("ask first", "answer first"), claim_next=True)
        await desk.finish(await desk.claim(of="b"), done("ask b", "answer b"))
        assert await desk.history() == turns("a", "b")
        assert (await superseded(desk, "b")).runs == ["x", "first"]
        assert await desk.waiting() == ["waits"]

    @scenario
    async def test_where_no_run_goes_back_to(self, desk: Desk) -> None:
        assert await go_back(desk, "x", "a") == Unreachable("unknown")
        for each in "ab":
            await turn(desk, each)
        await turn(desk, "other", key("other"))
        await turn(desk, "bad", completion=done("ask bad", "answer bad", discarded=True))
        assert await go_back(desk, "x", "other") == Unreachable("unknown")
        assert await go_back(desk, "x", "nobody") == Unreachable("unknown")
        assert await again(desk, "x", "nobody") == Unreachable("unknown")
        assert await go_back(desk, "x", "bad") == Unreachable("discarded")
        assert await restore(desk, "bad") == Unreachable("discarded")
        assert await restore(desk, "nobody") == Changed(existed=False)
        assert await restore(desk, "a", "mallory") == Changed(existed=False)
        await desk.accept("waits", claim_next=False)
        interrupts: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        assert await go_back(desk, "x", "waits", **interrupts) == Unreachable("not_ended")
        assert await again(desk, "x", "waits", **interrupts) == Unreachable("not_ended")
        await desk.journal.claim_next(key())
        assert await go_back(desk, "x", "waits", **interrupts) == Unreachable("not_ended")
        assert await desk.waiting() == []
        await desk.finish(await desk.claim(of="waits"))
        await again(desk, "y", "bad")
        await desk.finish(await desk.claim(of="y"), done("ask y", "answer y"))
        assert await desk.history() == turns("a", "b", "y")

    @scenario
    async def test_a_question_is_closed_or_answered(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), asking("q"))
        interrupts: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        await go_back(desk, "b", "a", **interrupts)
        await desk.finish(await desk.claim(of="b"), done("ask b", "answer b"))
        closed = (await desk.history())[:-2]
        assert len(closed) == 4
        assert closed[2]["role"] == "user"
        assert (await whole(desk)).superseded == []
        await turn(desk, "c")
        await go_back(desk, "d", "a")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await desk.history() == [*closed, *turns("d")]
        await desk.finish(await desk.start("e"), asking("r"))
        claim = await desk.start_any("f", input=responses({"r": "yes"}), lane=Lane.ANSWER)
        await desk.finish(claim, left(_RESULT, *said("", "x")[1:]))
        assert await go_back(desk, "g", "e") == Unreachable("answered", RunId("f"))
        assert await go_back(desk, "g", "f") == Accepted(0)
        await desk.finish(await desk.claim(of="g"), done("ask g", "answer g"))
        assert (await whole(desk)).superseded == [4, 5, 6, 7]

    @scenario
    async def test_one_that_answered_and_needs_input_again_is_no_place(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), replace(asking("q"), state={"n": 1}))
        claim = await desk.start_any("b", input=responses({"q": "yes"}), lane=Lane.ANSWER)
        await desk.finish(claim, replace(asking("r"), messages=[], state={"n": 2}))
        desk.clock.at += 60.0
        assert await go_back(desk, "c", "b") == Unreachable("left_nothing")
        await turn(desk, "d")
        record = await desk.journal.load(key())
        assert record.state == {"n": 2}, "what comes next has the state of the last one"
        assert await go_back(desk, "e", "a") == Accepted(0)
        await desk.claim(of="e")
        record = await desk.journal.load(key())
        assert (record.state, [each["role"] for each in record.messages]) == ({"n": 1}, ["user", "assistant"] * 2)

    @scenario
    async def test_a_question_whose_time_is_over_keeps_nothing_from_going_back(self, desk: Desk) -> None:
        await turn(desk, "a")
        await desk.finish(await desk.start("b"), asking("q"))
        assert await go_back(desk, "c", "a") == Refused("session_busy", 1)
        assert await restore(desk, "a") == Busy()
        desk.clock.at += 60.0
        assert await go_back(desk, "d", "a") == Accepted(0)
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await desk.history() == [*turns("a"), *turns("d")]
        assert len((await superseded(desk, "d")).runs) == 1
        await desk.finish(await desk.start("e"), asking("r"))
        desk.clock.at += 60.0
        restored = await restore(desk, "b")
        assert isinstance(restored, Restored)
        assert restored.start is not None
        closed = await desk.history()
        assert [each["role"] for each in closed[2:]] == ["user", "assistant", "user", "assistant"], "it is closed"
        await desk.restart()
        assert await desk.history() == closed
        await turn(desk, "f")
        assert await desk.history() == [*closed, *turns("f")]

    @scenario
    async def test_what_an_answer_that_needs_input_again_has_changed_is_undone_at_the_end_of_history(
        self, desk: Desk
    ) -> None:
        await desk.finish(await desk.start("a"), replace(asking("q"), state={"n": 1}))
        answer = await desk.start_any("b", input=responses({"q": "yes"}), lane=Lane.ANSWER)
        await desk.finish(answer, replace(asking("r"), messages=[], state={"n": 2}))
        await desk.cancel("b")
        closed = (await desk.journal.load(key())).messages
        for run_id in "cd":
            assert await go_back(desk, run_id, "a") == Accepted(0)
            claim = await desk.claim(of=run_id)
            record = await desk.journal.load(key())
            assert (record.messages, record.state) == (closed, {"n": 1})
            gone = [] if run_id == "c" else [RunId("c")]
            assert await superseded(desk, run_id) == Superseded(gone, [])
            await desk.finish(claim, done(f"ask {run_id}", f"answer {run_id}", state={"n": 3}))
        assert await desk.history() == [*closed, *turns("d")]
        await desk.restart()
        assert await restore(desk, "c") == Restored(key(), 8)
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == ([*closed, *turns("c")], {"n": 3})

    @scenario
    async def test_what_is_kept_no_more_is_forgotten_at_the_end_of_history(self, desk: Desk) -> None:
        await turn(desk, "a", completion=done("ask a", "answer a", state={"n": 1}))
        await turn(desk, "b")
        await turn(desk, "c", completion=replace(done(), state={"n": 2}))
        desk.clock.at += 100
        assert await desk.journal.prune(desk.clock.at, 1) == 1
        assert await go_back(desk, "d", "b") == Accepted(0)
        claim = await desk.claim(of="d")
        record = await desk.journal.load(key())
        assert (record.messages, record.state) == (turns("a", "b"), None)
        assert await superseded(desk, "d") == Superseded([], [], forgotten=True)
        await desk.finish(claim)

    @scenario
    async def test_a_turn_of_several_runs_goes_whole(self, desk: Desk) -> None:
        await turn(desk, "a")
        host = await desk.start("b")
        assert await desk.accept("c", if_busy=IfBusy.STEER) == Accepted(0, joined=RunId("b"))
        await desk.journal.apply_joins(host.token, said("ask b"))
        assert await desk.journal.read(JoinedQuery(key(), RunId("b"))) == ["ask c"]
        outcome = Outcome(status=RunStatus.SUCCEEDED)
        both = Completion(outcome=outcome, messages=said("ask b and c", "answer both"), joined=(RunId("c"),))
        await desk.finish(host, both)
        assert await desk.journal.read(JoinedQuery(key(), RunId("b"))) == ["ask c"]
        assert await desk.journal.read(JoinedQuery(key(), RunId("a"))) == []
        await turn(desk, "d")
        await go_back(desk, "e", "c")
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        both_said = said("ask b and c", "answer both")
        assert await desk.history() == [*turns("a"), *both_said, *turns("e")]
        await again(desk, "f", "c")
        await desk.finish(await desk.claim(of="f"), done("ask f", "answer f"))
        assert await desk.history() == turns("a", "f")
        await restore(desk, "c")
        assert await desk.history() == [*turns("a"), *both_said, *turns("e")]

    @scenario
    async def test_a_run_is_made_again_with_all_that_joined_or_not_at_all(self, desk: Desk) -> None:
        host = await desk.start("a")

        async def again_if(joined: int, run_id: str, **fields: Any) -> AcceptAnswer:
            return await again(desk, run_id, "a", expected_joined=joined, **fields)

        front: dict[str, Any] = {"lane": Lane.FRONT, "if_busy": IfBusy.INTERRUPT}
        assert await again_if(1, "x", **front) == JoinedSince()
        await desk.accept("b", if_busy=IfBusy.STEER)
        assert not await desk.exists("x")
        assert not (await desk.run("a")).cancel_requested
        await desk.journal.apply_joins(host.token, said("ask a"))
        assert await again_if(0, "x", **front) == JoinedSince()
        assert not (await desk.run("a")).cancel_requested, "what is refused changes nothing"
        await desk.restart()
        (host,) = desk.orphans
        assert await again_if(0, "x", **front) == JoinedSince()
        outcome = Outcome(status=RunStatus.SUCCEEDED)
        both = Completion(outcome=outcome, messages=said("ask a and b", "answer both"), joined=(RunId("b"),))
        await desk.finish(host, both)
        for wrong in (0, 2):
            assert await again_if(wrong, "x") == JoinedSince()
        assert await again_if(1, "c") == Accepted(0)
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await desk.history() == turns("c")
        assert await again_if(0, "d", keyed=Keyed("k", b"f" * 32, 0.0)) == JoinedSince()
        assert await again_if(1, "e", keyed=Keyed("k", b"f" * 32, 0.0)) == Accepted(0), "a refusal keeps no key"
        assert await again_if(0, "f", keyed=Keyed("k", b"f" * 32, 0.0)) == Attached(RunId("e"))
        await desk.claim(of="e")

    @scenario
    async def test_a_question_of_several_runs_is_closed_for_all_of_them(self, desk: Desk) -> None:
        host = await desk.start("a")
        await desk.accept("b", if_busy=IfBusy.STEER)
        await desk.journal.apply_joins(host.token, said("ask a"))
        await desk.finish(host, replace(asking("q"), joined=(RunId("b"),)))
        await desk.accept("c", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT)
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        closed = (await desk.history())[:-2]
        assert len(closed) == 4
        for number, named in enumerate("ab"):
            assert await go_back(desk, f"d{number}", named) == Accepted(0)
            await desk.finish(await desk.claim(of=f"d{number}"), done("ask d", "answer d"))
            assert await desk.history() == [*closed, *turns("d")]

    @scenario
    async def test_the_tools_of_superseded_runs_are_named(self, desk: Desk) -> None:
        await turn(desk, "a")
        await turn(desk, "b", completion=left(*said("ask b"), _USED, _RESULT, *said("", "answer b")[1:]))
        await turn(desk, "c", completion=left(*said("ask c"), _USED, _UNTOUCHED, *said("", "answer c")[1:]))
        await again(desk, "d", "c")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await superseded(desk, "d") == Superseded([RunId("c")], [])
        await go_back(desk, "e", "a")
        assert await superseded(desk, "e") == Superseded([RunId("b"), RunId("d")], [Effect(RunId("b"), "t1", "pay")])
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        await turn(desk, "hidden", resumable=False)
        await go_back(desk, "f", "a")
        assert await superseded(desk, "f") == Superseded([RunId("e"), RunId("hidden")], None)
        await desk.finish(await desk.claim(of="f"))

    @scenario
    async def test_a_request_that_is_sent_again_goes_back_once(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        keyed = Keyed("k", b"same", 0.0)
        assert await go_back(desk, "c", "a", keyed=keyed) == Accepted(0)
        claim = await desk.claim(of="c")
        assert await go_back(desk, "d", "a", keyed=keyed) == Attached(RunId("c"))
        assert await go_back(desk, "d", "a", keyed=Keyed("k", b"other", 0.0)) == Reused()
        await desk.finish(claim, done("ask c", "answer c"))
        assert await go_back(desk, "d", "a", keyed=keyed) == Attached(RunId("c"))
        assert await desk.history() == turns("a", "c")

    @scenario
    async def test_a_refused_one_changes_nothing(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await desk.journal.change(Pause(key()))
        before = await desk.seen("ab")
        assert isinstance(await go_back(desk, "c", "a", bounds=Bounds(0, 0)), Refused)
        assert isinstance(await go_back(desk, "c", "a", bounds=Bounds(9, 9, stored_bytes=1)), Refused)
        assert await desk.seen("ab") == before

    @scenario
    async def test_one_that_ends_without_a_word_may_be_followed_by_another(self, desk: Desk) -> None:
        for each in "abc":
            await turn(desk, each)
        await go_back(desk, "d", "b")
        await desk.finish(await desk.claim(of="d"))
        await go_back(desk, "e", "a")
        await desk.finish(await desk.claim(of="e"), done("ask e", "answer e"))
        assert await desk.history() == turns("a", "e")
        await restore(desk, "c")
        assert await desk.history() == turns("a", "b", "c")

    @scenario
    async def test_one_that_follows_the_last_run_continues_at_the_end(self, desk: Desk) -> None:
        """Whatever becomes of that one meanwhile; it goes back only if a later run was accepted."""
        assert await follow(desk, "x", "a") == Unreachable("unknown")
        await turn(desk, "a")
        answer = await follow(desk, "b", "a")
        assert isinstance(answer, Accepted)
        assert answer.new is not None
        assert answer.new.back is None
        assert isinstance(await follow(desk, "c", "b"), Accepted)
        assert isinstance(await follow(desk, "x", "a"), Refused)
        assert isinstance(await follow(desk, "x", "b"), Refused)
        await desk.finish(await desk.claim(of="b"), done("ask b", "answer b"), claim_next=True)
        await desk.finish(await desk.claim(of="c"))
        assert await desk.history() == turns("a", "b")
        for before, each in (("c", "d"), ("b", "e"), ("e", "f")):
            answer = await follow(desk, each, before)
            assert isinstance(answer, Accepted)
            claim = await desk.claim(of=each)
            assert (claim.run.back is None) == (each != "e"), each
            await desk.finish(claim, done(f"ask {each}", f"answer {each}"))
        assert await desk.history() == turns("a", "b", "e", "f")
        await turn(desk, "other", key("other"))
        assert await follow(desk, "x", "other") == Unreachable("unknown")

    @scenario
    async def test_what_was_restored_is_followed_and_what_that_superseded_is_not(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each)
        await go_back(desk, "c", "a")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        await restore(desk, "b")
        assert await desk.history() == turns("a", "b")
        await follow(desk, "d", "c")
        await desk.finish(await desk.claim(of="d"), done("ask d", "answer d"))
        assert await desk.history() == turns("a", "c", "d")

    @scenario
    async def test_all_of_it_goes_with_the_session(self, desk: Desk) -> None:
        for each in "ab":
            await turn(desk, each, completion=done(f"ask {each}", f"answer {each}", state={"of": each}))
        await go_back(desk, "c", "a")
        await desk.finish(await desk.claim(of="c"), done("ask c", "answer c"))
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        await turn(desk, "a")
        await turn(desk, "b")
        assert await desk.history() == turns("a", "b")
        assert (await desk.journal.load(key())).state is None


def left(*messages: Message) -> Completion:
    """Return the completion of a run that succeeded and left these messages."""
    return Completion(outcome=Outcome(status=RunStatus.SUCCEEDED), messages=list(messages))


def asking(request: str) -> Completion:
    """Return the completion of a run that asks a person."""
    requests = [InputRequest(id=request, name="pay", reason="?")]
    question = Question(requests=requests, message=_USED, results={}, state={})
    outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
    return Completion(outcome=outcome, messages=[*said("ask"), _USED], question=question, answer_within_s=60.0)

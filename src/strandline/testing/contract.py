"""What every journal has to do, as tests: subclass `JournalContract`, say how yours is made, run pytest.

    class TestMine(JournalContract):
        def make_journal(self, folder, clock):
            return MyJournal(folder / "journal", clock)

        async def reopen(self, journal, folder, clock):
            await journal.close()
            return self.make_journal(folder, clock)

Each test is named for the invariant that it shows. None sleeps, each has a deadline. Every test ends by closing the
journal and checking that no claim was delivered but those that the test has seen. A journal that does not pass does
not exist.
"""

# ruff: noqa: D102 (a test's name is its claim)

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from strandline.clock import Clock
from strandline.errors import ClaimLost, InvariantBroken, JournalUnavailable
from strandline.journal.port import (
    Accepted,
    Bounds,
    Busy,
    Changed,
    Delete,
    HistoryPage,
    HistoryQuery,
    Journal,
    Refused,
    Take,
    WaitingQuery,
)
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Block,
    ErrorCode,
    Fact,
    Inline,
    Lane,
    Message,
    Outcome,
    Range,
    RoundDone,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
    Settlement,
    Token,
    ToolDone,
    Window,
)
from strandline.testing.desk import DEADLINE_S, Desk, StillClock, done, key, said

Scenario = Callable[[Any, Desk], Awaitable[None]]


def scenario(test: Scenario) -> Callable[[Any, Path], None]:
    """Make a pytest method out of an async test that gets an open desk."""

    def method(self: "JournalContract", tmp_path: Path) -> None:
        async def play() -> None:
            async with asyncio.timeout(DEADLINE_S):
                clock = StillClock()

                async def reopened() -> Journal:
                    return await self.reopen(desk.journal, tmp_path, clock)

                desk = Desk(self.make_journal(tmp_path, clock), clock, reopened)
                await desk.open()
                try:
                    await test(self, desk)
                except BaseException:
                    await desk.journal.close()
                    raise
                await desk.finish()

        asyncio.run(play())

    method.__name__ = test.__name__
    method.__doc__ = test.__doc__
    return method


class JournalContract:
    """The conformance suite: subclass it with a name that starts with `Test`."""

    def make_journal(self, folder: Path, clock: Clock) -> Journal:
        """Return a journal that is not open yet and keeps what it keeps in `folder`."""
        raise NotImplementedError

    async def reopen(self, journal: Journal, folder: Path, clock: Clock) -> Journal:
        """Return a journal, not open yet, on what `journal` kept, as if its process had stopped in the middle."""
        raise NotImplementedError

    # -- order ----------------------------------------------------------------------------------------

    @scenario
    async def test_a_free_session_runs_at_once(self, desk: Desk) -> None:
        """A run of a free session is claimed in its accept; the claim holds the run as it was asked for."""
        claim = await desk.start("a", input=[{"text": "hi"}], metadata={"k": [1]}, priority=2, created_at=7.5)
        assert claim.run == Run(
            run_id=RunId("a"),
            key=key(),
            input=[{"text": "hi"}],
            lane=Lane.NORMAL,
            priority=2,
            opaque=False,
            metadata={"k": [1]},
            sequence=claim.run.sequence,
            status=RunStatus.RUNNING,
            attempt=1,
            created_at=7.5,
            started_at=desk.clock.at,
        )
        assert claim.facts == ()
        assert await desk.run("a") == claim.run

    @scenario
    async def test_a_run_that_waited_is_claimed_as_it_was_asked_for(self, desk: Desk) -> None:
        first = await desk.start("a")
        await desk.accept("b", input=[{"text": "hi"}], metadata={"k": [1]}, priority=2, opaque=True, created_at=7.5)
        waits = await desk.run("b")
        assert (waits.status, waits.position, waits.started_at, waits.attempt) == (RunStatus.QUEUED, 1, None, 0)
        desk.clock.at += 5
        await desk.settle(first, take=True)
        claim = await desk.claim(of="b")
        assert claim.run.sequence > first.run.sequence
        assert claim.run == Run(
            run_id=RunId("b"),
            key=key(),
            input=[{"text": "hi"}],
            lane=Lane.NORMAL,
            priority=2,
            opaque=True,
            metadata={"k": [1]},
            sequence=waits.sequence,
            status=RunStatus.RUNNING,
            attempt=1,
            created_at=7.5,
            started_at=desk.clock.at,
        )
        assert await desk.run("b") == claim.run

    @scenario
    async def test_equal_runs_start_in_the_order_of_acceptance(self, desk: Desk) -> None:
        first = await desk.start("r0")
        for index in range(1, 20):
            assert await desk.accept(f"r{index}") == Accepted(index)
        assert await desk.drain(first) == [f"r{index}" for index in range(20)]

    @scenario
    async def test_runs_start_by_lane_then_priority_then_sequence(self, desk: Desk) -> None:
        """Priority counts in the normal lane only; positions are told in that order, then and later."""
        first = await desk.start("first")
        asked = [(3, 3), (3, 1), (1, 5), (3, 5), (2, 4), (0, 5), (3, 1), (1, 1), (2, 1), (3, 3), (0, 1)]
        ranks: list[tuple[tuple[int, int, int], str]] = []
        for index, (lane, priority) in enumerate(asked):
            run_id = f"{lane}{priority}-{index}"
            mine = (lane, priority if lane == Lane.NORMAL else 0, index)
            ahead = sum(rank < mine for rank, _ in ranks)
            assert await desk.accept(run_id, lane=lane, priority=priority) == Accepted(ahead + 1)
            ranks.append((mine, run_id))
        expected = [run_id for _, run_id in sorted(ranks)]
        for position, run_id in enumerate(expected, start=1):
            assert (await desk.run(run_id)).position == position
        assert await desk.drain(first) == ["first", *expected]

    @scenario
    async def test_a_new_run_never_passes_one_that_waits_before_it(self, desk: Desk) -> None:
        """Also when the session is free: `take` claims the new run only if it is first itself."""
        assert await desk.accept("a", take=False) == Accepted(1)
        assert await desk.accept("b") == Accepted(2)
        first = await desk.start("c", priority=1)
        assert await desk.drain(first) == ["c", "a", "b"]

    @scenario
    async def test_without_take_a_run_waits_until_it_is_asked_for(self, desk: Desk) -> None:
        assert await desk.accept("a", take=False) == Accepted(1)
        assert await desk.waiting() == ["a"]
        assert await desk.journal.take(key()) is Take.TAKEN
        claim = await desk.claim(of="a")
        assert (claim.run.attempt, claim.run.position) == (1, None)
        assert await desk.waiting() == []

    @scenario
    async def test_sequences_rise_over_all_sessions(self, desk: Desk) -> None:
        sequences = []
        for index in range(6):
            await desk.accept(f"r{index}", key(f"s{index % 3}"), take=False)
            sequences.append((await desk.run(f"r{index}")).sequence)
        assert sequences == sorted(set(sequences))

    # -- exclusivity ----------------------------------------------------------------------------------

    @scenario
    async def test_a_session_has_one_claim_at_most(self, desk: Desk) -> None:
        claim = await desk.start("a")
        assert await desk.accept("b") == Accepted(1)
        assert await desk.journal.take(key()) is Take.NOTHING
        assert await desk.settle(claim, take=False) is Take.NOTHING
        assert await desk.journal.take(key()) is Take.TAKEN
        assert await desk.journal.take(key()) is Take.NOTHING
        second = await desk.claim(of="b")
        assert await desk.settle(second, take=True) is Take.NOTHING
        assert await desk.journal.take(key()) is Take.NOTHING

    @scenario
    async def test_of_many_at_once_one_is_claimed(self, desk: Desk) -> None:
        answers = await asyncio.gather(*(desk.accept(f"r{index}") for index in range(30)))
        assert sorted(answer.position for answer in answers) == list(range(30))
        claim = await desk.claim()
        assert len(await desk.drain(claim)) == 30

    @scenario
    async def test_sessions_go_on_side_by_side(self, desk: Desk) -> None:
        claims = [await desk.start(f"r{index}", key(f"s{index}")) for index in range(5)]
        assert len({claim.token.fence for claim in claims}) == 5

    @scenario
    async def test_principals_do_not_share_a_session(self, desk: Desk) -> None:
        mine, yours = key("s", "me"), key("s", "you")
        claim = await desk.start("a", mine)
        other = await desk.start("b", yours)
        await desk.settle(claim, done("mine", "yes", state={"of": "me"}))
        assert await desk.history(yours) == []
        assert (await desk.journal.load(yours)).state is None
        assert not await desk.exists("a", "you")
        assert await desk.exists("a", "me")
        assert await desk.journal.change(Delete(mine)) == Changed(existed=True)
        await desk.settle(other, done("yours", "yes"))
        assert await desk.history(yours) == said("yours", "yes")

    @scenario
    async def test_there_is_nothing_to_take_in_an_unknown_session(self, desk: Desk) -> None:
        assert await desk.journal.take(key("nobody")) is Take.NOTHING

    @scenario
    async def test_a_run_id_is_accepted_once(self, desk: Desk) -> None:
        """A second one is a defect of the caller; whatever is accepted at the same moment is none the worse for it."""
        claim = await desk.start("a")
        results = await asyncio.gather(
            desk.accept("b"), desk.accept("a", input="other"), desk.accept("c"), return_exceptions=True
        )
        assert results[0] == Accepted(1)
        assert isinstance(results[1], InvariantBroken)
        assert results[2] == Accepted(2)
        assert (await desk.run("a")).input == "ask a"
        assert await desk.drain(claim) == ["a", "b", "c"]

    # -- fencing --------------------------------------------------------------------------------------

    @scenario
    async def test_after_its_end_a_claim_is_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.settle(claim, done("hi", "ho"))
        await self._all_verbs_fail(desk, claim.token)

    @scenario
    async def test_after_a_run_was_given_back_its_claim_is_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.journal.release(claim.token, counted=True, take=False)
        await self._all_verbs_fail(desk, claim.token)
        assert await desk.journal.take(key()) is Take.TAKEN
        again = await desk.claim(of="a")
        assert again.token.fence > claim.token.fence
        await self._all_verbs_fail(desk, claim.token)
        assert again.facts == ()
        await desk.settle(again)

    @scenario
    async def test_after_a_restart_older_claims_are_lost(self, desk: Desk) -> None:
        claim = await desk.start("a")
        (orphan,) = await desk.restart()
        assert orphan.token.fence > claim.token.fence
        await self._all_verbs_fail(desk, claim.token)
        await desk.settle(orphan)

    @scenario
    async def test_a_claim_on_no_run_is_lost(self, desk: Desk) -> None:
        await desk.start("a")
        await self._all_verbs_fail(desk, Token(RunId("none"), 1))

    async def _all_verbs_fail(self, desk: Desk, stale: Token) -> None:
        before = await desk.seen(["a"])
        with pytest.raises(ClaimLost):
            await desk.journal.stage(stale, RoundStarted(said("stale")))
        for fact in (ToolDone("t", {"stale": True}), RoundDone(said("stale"), {"stale": True})):
            with suppress(ClaimLost):  # these two may return before it is known
                await desk.journal.stage(stale, fact)
        with pytest.raises(ClaimLost):
            await desk.journal.settle(stale, done("stale", "stale", window=(), state={"stale": True}), take=True)
        with pytest.raises(ClaimLost):
            await desk.journal.release(stale, counted=False, take=True)
        assert await desk.seen(["a"]) == before

    @scenario
    async def test_stale_facts_never_reach_a_later_claim(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.journal.release(claim.token, counted=True, take=True)
        again = await desk.claim(of="a")
        with suppress(ClaimLost):
            await desk.journal.stage(claim.token, ToolDone("t", {"stale": True}))
        await desk.journal.stage(again.token, RoundStarted(said("mine")))
        (orphan,) = await desk.restart()
        assert orphan.facts == (RoundStarted(said("mine")),)

    # -- bounds ---------------------------------------------------------------------------------------

    @scenario
    async def test_a_full_queue_refuses_before_anything_is_kept(self, desk: Desk) -> None:
        bounds = Bounds(per_session=2, total=10)
        claim = await desk.start("a", bounds=bounds)
        await desk.accept("b", bounds=bounds)
        await desk.accept("c", bounds=bounds)
        before = await desk.seen(["a", "b", "c"])
        assert await desk.accept("d", bounds=bounds) == Refused("queue_full", 3)
        assert await desk.accept("e", bounds=bounds, lane=Lane.ANSWER) == Refused("queue_full", 1)
        assert not await desk.exists("d")
        assert await desk.seen(["a", "b", "c"]) == before
        await desk.settle(claim, take=True)
        assert await desk.accept("d", bounds=bounds) == Accepted(2)
        claim = await desk.claim(of="b")
        assert await desk.drain(claim) == ["b", "c", "d"]

    @scenario
    async def test_a_full_server_refuses_before_anything_is_kept(self, desk: Desk) -> None:
        bounds = Bounds(per_session=10, total=2)
        await desk.accept("a", key("s1"), bounds=bounds, take=False)
        await desk.accept("b", key("s2"), bounds=bounds, take=False)
        assert await desk.accept("c", key("s1"), bounds=bounds) == Refused("server_full", 2)
        assert await desk.accept("d", key("new"), bounds=bounds, take=False) == Refused("server_full", 1)
        assert not await desk.exists("c")
        assert await desk.journal.change(Delete(key("new"))) == Changed(existed=False)
        await desk.start("e", key("free"), bounds=bounds)
        assert await desk.journal.take(key("s1")) is Take.TAKEN
        await desk.claim(of="a")
        assert await desk.accept("f", key("s1"), bounds=bounds) == Accepted(1)
        assert await desk.accept("g", key("s1"), bounds=bounds) == Refused("server_full", 2)

    @scenario
    async def test_a_run_that_is_taken_at_once_does_not_wait(self, desk: Desk) -> None:
        nothing = Bounds(per_session=0, total=0)
        await desk.start("a", bounds=nothing)
        assert await desk.accept("b", bounds=nothing) == Refused("queue_full", 1)
        assert await desk.accept("c", key("s2"), bounds=nothing, take=False) == Refused("queue_full", 1)

    @scenario
    async def test_a_run_that_is_given_back_waits_and_is_never_refused(self, desk: Desk) -> None:
        bounds = Bounds(per_session=1, total=1)
        claim = await desk.start("a", bounds=bounds)
        await desk.accept("b", bounds=bounds)
        await desk.journal.release(claim.token, counted=True, take=False)
        assert await desk.waiting() == ["a", "b"]
        assert await desk.accept("c", key("s2"), bounds=bounds, take=False) == Refused("server_full", 1)

    @scenario
    async def test_bounds_hold_over_a_restart(self, desk: Desk) -> None:
        bounds = Bounds(per_session=2, total=3)
        for run_id, session in (("a", "s"), ("b", "s"), ("c", "s2")):
            await desk.accept(run_id, key(session), take=False)
        await desk.restart()
        assert await desk.accept("d", bounds=bounds, take=False) == Refused("queue_full", 3)
        assert await desk.accept("d", key("s2"), bounds=bounds, take=False) == Refused("server_full", 2)

    # -- claims ---------------------------------------------------------------------------------------

    @scenario
    async def test_a_claim_arrives_though_the_caller_of_accept_is_gone(self, desk: Desk) -> None:
        await _call_and_leave(desk.accept("a"))
        claim = await desk.claim(of="a")
        assert (await desk.run("a")).status is RunStatus.RUNNING
        await desk.settle(claim)

    @scenario
    async def test_a_claim_arrives_though_the_caller_of_settle_is_gone(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await _call_and_leave(desk.settle(claim, done("hi", "ho"), take=True))
        await desk.claim(of="b")
        assert await desk.history() == said("hi", "ho")

    @scenario
    async def test_a_claim_arrives_though_the_caller_of_take_or_release_is_gone(self, desk: Desk) -> None:
        await desk.accept("a", take=False)
        await _call_and_leave(desk.journal.take(key()))
        claim = await desk.claim(of="a")
        await _call_and_leave(desk.journal.release(claim.token, counted=True, take=True))
        assert (await desk.claim(of="a")).run.attempt == 2

    @scenario
    async def test_what_a_claim_rests_on_can_be_read_as_soon_as_it_arrives(self, desk: Desk) -> None:
        """An agent that is built anew for the next run knows what the last one said, though that settle still waits."""
        claim = await desk.start("r0")
        for index in range(1, 20):
            await desk.accept(f"r{index}")
            settling = asyncio.create_task(desk.settle(claim, done("hi", "ho"), take=True))
            claim = await desk.claim(of=f"r{index}")
            assert (await desk.journal.load(key())).length == 2 * index
            assert (await desk.run(f"r{index}")).status is RunStatus.RUNNING
            assert await settling is Take.TAKEN

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
    async def test_claims_of_opaque_runs_arrive_too(self, desk: Desk) -> None:
        claim = await desk.start("a", opaque=True)
        assert claim.run.opaque
        await desk.accept("b", opaque=True)
        await desk.settle(claim, take=True)
        assert (await desk.claim(of="b")).run.opaque

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

    # -- the end of a run -----------------------------------------------------------------------------

    @scenario
    async def test_a_settled_run_keeps_its_outcome(self, desk: Desk) -> None:
        ends = [
            Outcome(status=RunStatus.SUCCEEDED, output="yes", message=said("", "yes")[1], usage={"totalTokens": 7}),
            Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.AGENT_ERROR, "it broke")),
            Outcome(status=RunStatus.CANCELLED),
            Outcome(status=RunStatus.NEEDS_INPUT),
        ]
        for index, outcome in enumerate(ends):
            claim = await desk.start(f"r{index}")
            desk.clock.at += 1
            await desk.settle(claim, Settlement(outcome=outcome, messages=[]))
            run = await desk.run(f"r{index}")
            assert (run.status, run.outcome, run.ended_at) == (outcome.status, outcome, desk.clock.at)
            assert (run.position, run.attempt) == (None, 1)

    @scenario
    async def test_a_run_ends_in_an_end_only(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for status in (RunStatus.QUEUED, RunStatus.RUNNING):
            with pytest.raises(InvariantBroken):
                await desk.settle(claim, Settlement(outcome=Outcome(status=status), messages=said("a", "b")))
        assert await desk.history() == []
        await desk.settle(claim, done("hi", "ho"))
        assert await desk.history() == said("hi", "ho")

    @scenario
    async def test_history_is_appended_to_and_never_rewritten(self, desk: Desk) -> None:
        expected: list[Message] = []
        for index in range(4):
            claim = await desk.start(f"r{index}")
            texts = [f"{index}.{part}" for part in range(2 * index)]
            expected += said(*texts)
            await desk.settle(claim, done(*texts, window=(Range(0, 0),) if index == 2 else None))
            assert await desk.history() == expected

    @scenario
    async def test_a_settle_without_messages_appends_nothing(self, desk: Desk) -> None:
        await desk.settle(await desk.start("a"), done())
        assert await desk.history() == []
        assert (await desk.journal.load(key())).length == 0

    @scenario
    async def test_messages_come_out_as_they_went_in(self, desk: Desk) -> None:
        """Bytes, further keys, nested values; what a caller does to its objects later changes nothing."""
        content: list[Block] = [
            {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}},
            {"toolUse": {"toolUseId": "t", "name": "n", "input": {"x": [1, 2.5, None, True, "ü\n"]}}},
        ]
        message: Message = {"role": "assistant", "content": content, "metadata": {"usage": {"n": 1}}}
        copy: Message = {"role": "assistant", "content": list(content), "metadata": {"usage": {"n": 1}}}
        claim = await desk.start("a", input=[{"document": {"source": {"bytes": b"\x00\x01"}}}])
        assert claim.run.input == [{"document": {"source": {"bytes": b"\x00\x01"}}}]
        fact = ToolDone("t", {"content": [{"image": {"source": {"bytes": b"\x02"}}}]})
        await desk.journal.stage(claim.token, fact)
        (orphan,) = await desk.restart()
        assert orphan.facts == (fact,)
        assert orphan.run.input == claim.run.input
        inline: Message = {"role": "user", "content": [{"image": {"source": {"bytes": b"\x03"}}}]}
        outcome = Outcome(status=RunStatus.SUCCEEDED, message=message)
        window: Window = (Inline(inline), Range(0, None))
        settlement = Settlement(outcome=outcome, messages=[message], window=window, state={"blob": b"\x04"})
        await desk.settle(orphan, settlement)
        message["content"].clear()
        assert await desk.history() == [copy]
        record = await desk.journal.load(key())
        assert (record.messages, record.window, record.state) == ([inline, copy], window, {"blob": b"\x04"})
        assert (await desk.run("a")).outcome == Outcome(status=RunStatus.SUCCEEDED, message=copy)
        (await desk.history())[0]["content"].clear()
        assert await desk.history() == [copy]

    # -- window and state -----------------------------------------------------------------------------

    @scenario
    async def test_an_unknown_session_has_the_empty_record(self, desk: Desk) -> None:
        empty = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        assert await desk.journal.load(key()) == empty
        await desk.accept("a", take=False)
        assert await desk.journal.load(key()) == empty

    @scenario
    async def test_the_window_is_the_whole_history_until_it_changes(self, desk: Desk) -> None:
        await desk.settle(await desk.start("a"), done("0", "1"))
        await desk.settle(await desk.start("b"), done("2", "3"))
        assert await desk.journal.load(key()) == AgentRecord(
            messages=said("0", "1", "2", "3"), origins=[0, 1, 2, 3], window=WHOLE_HISTORY, length=4, state=None
        )

    @scenario
    async def test_a_window_is_ranges_of_history_and_inline_messages(self, desk: Desk) -> None:
        """Its open end follows history; a settle that names no window or state keeps the last ones."""
        summary = said("summary")[0]
        window: Window = (Range(0, 1), Inline(summary), Range(3, 5), Range(6, None))
        await desk.settle(await desk.start("a"), done(*"0123"))
        await desk.settle(await desk.start("b"), done(*"4567", window=window, state={"n": 1}))
        texts = said(*"01234567")
        record = await desk.journal.load(key())
        assert record.messages == [texts[0], summary, texts[3], texts[4], texts[6], texts[7]]
        assert record.origins == [0, None, 3, 4, 6, 7]
        assert (record.window, record.length, record.state) == (window, 8, {"n": 1})
        await desk.settle(await desk.start("c"), done("8", "9"))
        record = await desk.journal.load(key())
        assert record.origins == [0, None, 3, 4, 6, 7, 8, 9]
        assert (record.window, record.state) == (window, {"n": 1})
        await desk.settle(await desk.start("d"), done(state={"n": 2}))
        record = await desk.journal.load(key())
        assert (record.window, record.state) == (window, {"n": 2})
        await desk.settle(await desk.start("e"), done(window=()))
        record = await desk.journal.load(key())
        assert (record.messages, record.origins, record.window, record.state) == ([], [], (), {"n": 2})
        assert await desk.history() == said(*"0123456789")

    @scenario
    async def test_a_range_ends_with_history(self, desk: Desk) -> None:
        window: Window = (Range(1, 100), Range(50, None), Range(1, 1))
        await desk.settle(await desk.start("a"), done(*"0123", window=window))
        assert (await desk.journal.load(key())).origins == [1, 2, 3]

    @scenario
    async def test_a_long_history_is_read_from_anywhere(self, desk: Desk) -> None:
        """Two sessions side by side, runs that leave any number of messages, or none, or many."""
        other = key("other")
        expected: list[str] = []
        for index in range(150):
            texts = [f"{index}.{part}" for part in range(40 if index == 75 else index % 3)]
            expected += texts
            await desk.settle(await desk.start(f"r{index}"), done(*texts))
            await desk.settle(await desk.start(f"o{index}", other), done("other"))
        length = len(expected)
        for before in range(length + 2):
            page = await desk.journal.read(HistoryQuery(key(), before=before, limit=7))
            end = min(before, length)
            assert page.first == max(0, end - 7)
            assert [message["content"][0]["text"] for message in page.messages] == expected[page.first : end]
        window: Window = (Range(0, 1), Range(100, 140), Range(length - 5, None))
        await desk.settle(await desk.start("last"), done("end", window=window))
        for _ in range(2):
            record = await desk.journal.load(key())
            assert record.origins == [0, *range(100, 140), *range(length - 5, length + 1)]
            texts = [message["content"][0]["text"] for message in record.messages]
            assert texts == [[*expected, "end"][origin] for origin in record.origins if origin is not None]
            await desk.restart()
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert not await desk.exists("r0")
        assert not await desk.exists("r149")
        assert await desk.history(other) == [said("other")[0] for _ in range(150)]

    # -- what is staged -------------------------------------------------------------------------------

    @scenario
    async def test_facts_are_given_to_the_next_attempt_in_order(self, desk: Desk) -> None:
        facts: list[Fact] = [
            RoundStarted(said("a", "b")),
            ToolDone("t1", {"toolUseId": "t1", "content": [{"text": "one"}]}),
            ToolDone("t2", {"toolUseId": "t2", "content": []}),
            RoundDone(said("c"), {"n": 1}),
            RoundStarted(said("d")),
        ]
        claim = await desk.start("a")
        for fact in facts[:3]:
            await desk.journal.stage(claim.token, fact)
        await desk.journal.release(claim.token, counted=True, take=True)
        again = await desk.claim(of="a")
        assert again.facts == tuple(facts[:3])
        for fact in facts[3:]:
            await desk.journal.stage(again.token, fact)
        (orphan,) = await desk.restart()
        assert orphan.facts == tuple(facts)
        await desk.journal.stage(orphan.token, facts[1])
        (orphan,) = await desk.restart()
        assert orphan.facts == (*facts, facts[1])
        await desk.settle(orphan)
        assert (await desk.start("b")).facts == ()

    @scenario
    async def test_facts_of_one_run_are_not_those_of_another(self, desk: Desk) -> None:
        claims = [await desk.start(f"r{index}", key(f"s{index}")) for index in range(3)]
        for index, claim in enumerate(claims):
            await desk.journal.stage(claim.token, RoundStarted(said(f"{index}")))
        await desk.settle(claims[1])
        orphans = await desk.restart()
        assert [orphan.facts for orphan in orphans] == [(RoundStarted(said("0")),), (RoundStarted(said("2")),)]

    # -- giving back and restarting -------------------------------------------------------------------

    @scenario
    async def test_a_run_that_is_given_back_goes_first(self, desk: Desk) -> None:
        """Its sequence and its first start are kept, and its attempt counts, or not."""
        claim = await desk.start("a", priority=5)
        await desk.accept("b", lane=Lane.ANSWER, priority=1)
        started_at = desk.clock.at
        desk.clock.at += 10
        assert await desk.journal.release(claim.token, counted=True, take=False) is Take.NOTHING
        run = await desk.run("a")
        assert (run.status, run.lane, run.position, run.attempt) == (RunStatus.QUEUED, Lane.GIVEN_BACK, 1, 1)
        assert (run.sequence, run.priority) == (claim.run.sequence, 5)
        assert await desk.journal.take(key()) is Take.TAKEN
        again = await desk.claim(of="a")
        assert (again.run.attempt, again.run.started_at) == (2, started_at)
        assert await desk.journal.release(again.token, counted=False, take=True) is Take.TAKEN
        again = await desk.claim(of="a")
        assert again.run.attempt == 2
        assert await desk.drain(again) == ["a", "b"]

    @scenario
    async def test_after_a_restart_what_executed_is_given_to_the_opener(self, desk: Desk) -> None:
        """With fresh tokens, in order of sequence, not through `claims()`; also what was never fetched from there."""
        await desk.start("a", key("s1"))
        await desk.accept("b", key("s1"))
        settled = await desk.start("c", key("s2"))
        await desk.settle(settled, done("hi", "ho", state={"n": 1}))
        await desk.start("d", key("s3"), opaque=True, metadata={"x": 1})
        await desk.accept("e", key("s4"))
        orphans = await desk.restart()
        assert [orphan.run.run_id for orphan in orphans] == ["a", "d", "e"]
        assert all(orphan.run.status is RunStatus.RUNNING and orphan.run.attempt == 1 for orphan in orphans)
        assert (orphans[1].run.opaque, orphans[1].run.metadata) == (True, {"x": 1})
        assert await desk.waiting() == ["b"]
        assert (await desk.run("c")).status is RunStatus.SUCCEEDED
        assert await desk.history(key("s2")) == said("hi", "ho")
        assert (await desk.journal.load(key("s2"))).state == {"n": 1}
        assert await desk.journal.take(key("s1")) is Take.NOTHING
        await desk.settle(orphans[0], take=True)
        await desk.claim(of="b")
        await desk.journal.release(orphans[1].token, counted=True, take=True)
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
            await desk.settle(claim)
            await desk.journal.change(Delete(key("s2")))

    # -- last attempts --------------------------------------------------------------------------------

    @scenario
    async def test_a_last_attempt_runs_alone_among_last_attempts(self, desk: Desk) -> None:
        """First attempts are not held up by it; when it has ended the next one may start."""
        await desk.restart(max_attempts=2)
        for session in ("a", "b", "c"):
            claim = await desk.start(session, key(session))
            await desk.journal.release(claim.token, counted=True, take=False)
        assert await desk.journal.take(key("a")) is Take.TAKEN
        last = await desk.claim(of="a")
        assert last.run.attempt == 2
        assert await desk.journal.take(key("b")) is Take.BLOCKED
        assert (await desk.run("b")).position == 1
        first = await desk.start("d", key("d"))
        assert await desk.journal.release(first.token, counted=True, take=True) is Take.BLOCKED
        await desk.accept("a2", key("a"))
        assert await desk.settle(last, take=True) is Take.TAKEN
        await desk.claim(of="a2")
        assert await desk.journal.take(key("b")) is Take.TAKEN
        last = await desk.claim(of="b")
        assert await desk.journal.take(key("c")) is Take.BLOCKED
        assert await desk.journal.release(last.token, counted=False, take=False) is Take.NOTHING
        assert await desk.journal.take(key("c")) is Take.TAKEN
        await desk.claim(of="c")

    @scenario
    async def test_a_settle_does_not_take_a_last_attempt_beside_another(self, desk: Desk) -> None:
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.journal.release(claim.token, counted=True, take=False)
        assert await desk.journal.take(key("a")) is Take.TAKEN
        await desk.claim(of="a")
        overtaking = await desk.start("b0", key("b"), lane=Lane.GIVEN_BACK - 1)
        assert await desk.settle(overtaking, take=True) is Take.BLOCKED

    @scenario
    async def test_a_last_attempt_that_a_crash_cut_off_still_counts_until_it_is_settled(self, desk: Desk) -> None:
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.journal.release(claim.token, counted=True, take=False)
        await desk.journal.take(key("a"))
        await desk.claim(of="a")
        (orphan,) = await desk.restart(max_attempts=2)
        assert await desk.journal.take(key("b")) is Take.BLOCKED
        await desk.settle(orphan)
        assert await desk.journal.take(key("b")) is Take.TAKEN
        await desk.claim(of="b")

    @scenario
    async def test_a_first_attempt_is_never_a_last_one(self, desk: Desk) -> None:
        await desk.restart(max_attempts=1)
        await desk.start("a", key("s1"))
        await desk.start("b", key("s2"))
        await desk.accept("c", key("s3"), take=False)
        assert await desk.journal.take(key("s3")) is Take.TAKEN
        await desk.claim(of="c")

    # -- delete ---------------------------------------------------------------------------------------

    @scenario
    async def test_a_session_is_deleted_whole(self, desk: Desk) -> None:
        await desk.settle(await desk.start("other", key("other")), done("hi", "ho"))
        for index in range(3):
            settlement = done("hi", "ho", window=(Range(1, None),), state={"n": 1})
            await desk.settle(await desk.start(f"r{index}"), settlement)
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await desk.journal.change(Delete(key())) == Changed(existed=False)
        assert await desk.history() == []
        assert not await desk.exists("r0")
        empty = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
        assert await desk.journal.load(key()) == empty
        assert await desk.history(key("other")) == said("hi", "ho")
        claim = await desk.start("new")
        assert await desk.journal.load(key()) == empty
        await desk.settle(claim, done("again", "yes"))
        assert await desk.history() == said("again", "yes")
        await desk.restart()
        assert await desk.history() == said("again", "yes")
        assert not await desk.exists("r0")

    @scenario
    async def test_a_session_with_work_is_not_deleted(self, desk: Desk) -> None:
        await desk.accept("a", take=False)
        assert await desk.journal.change(Delete(key())) == Busy()
        await desk.journal.take(key())
        claim = await desk.claim(of="a")
        assert await desk.journal.change(Delete(key())) == Busy()
        (claim,) = await desk.restart()
        assert await desk.journal.change(Delete(key())) == Busy()
        await desk.settle(claim, done("hi", "ho"))
        assert await desk.history() == said("hi", "ho")
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)

    @scenario
    async def test_an_unknown_session_cannot_be_deleted(self, desk: Desk) -> None:
        assert await desk.journal.change(Delete(key("nobody"))) == Changed(existed=False)

    # -- reading --------------------------------------------------------------------------------------

    @scenario
    async def test_history_is_read_in_pages_from_its_end(self, desk: Desk) -> None:
        await desk.settle(await desk.start("a"), done(*"012"))
        await desk.settle(await desk.start("b"), done(*"34567"))
        texts = [*said(*"012"), *said(*"34567")]

        async def page(before: int | None, limit: int) -> HistoryPage:
            return await desk.journal.read(HistoryQuery(key(), before=before, limit=limit))

        assert await page(None, 3) == HistoryPage(texts[5:8], 5)
        assert await page(5, 3) == HistoryPage(texts[2:5], 2)
        assert await page(2, 3) == HistoryPage(texts[0:2], 0)
        assert await page(0, 3) == HistoryPage([], 0)
        assert await page(99, 2) == HistoryPage(texts[6:8], 6)
        assert await page(None, 99) == HistoryPage(texts, 0)
        assert await desk.journal.read(HistoryQuery(key("nobody"))) == HistoryPage([], 0)

    @scenario
    async def test_waiting_runs_are_read_in_pages_by_sequence(self, desk: Desk) -> None:
        claim = await desk.start("busy", key("s0"))
        for index in range(7):
            await desk.accept(f"r{index}", key(f"s{index % 3}"), take=False, priority=5 - index % 5, created_at=index)
        read: list[str] = []
        after = -1
        for size in (3, 3, 1, 0):
            page = await desk.journal.read(WaitingQuery(after=after, limit=3))
            assert len(page) == size
            read += [each.run_id for each in page]
            for each in page:
                after = each.sequence
                assert each.created_at == int(each.run_id[1:])
                assert each.key == key(f"s{int(each.run_id[1:]) % 3}")
        assert read == [f"r{index}" for index in range(7)]
        await desk.settle(claim, take=True)
        taken = await desk.claim()
        assert await desk.waiting() == [each for each in read if each != taken.run.run_id]

    @scenario
    async def test_an_unknown_run_is_none(self, desk: Desk) -> None:
        assert not await desk.exists("nothing")

    # -- event loops and threads ----------------------------------------------------------------------

    @scenario
    async def test_verbs_work_from_another_event_loop(self, desk: Desk) -> None:
        """The claims arrive on the consumer's loop all the same."""
        waiter = asyncio.create_task(desk.claim(of="a"))
        await asyncio.sleep(0)

        async def elsewhere() -> None:
            await desk.accept("a")
            await desk.accept("b")

        await asyncio.to_thread(asyncio.run, elsewhere())
        claim = await waiter

        async def end() -> tuple[Take, AgentRecord, Run]:
            await desk.journal.stage(claim.token, RoundStarted(said("x")))
            taken = await desk.settle(claim, done("hi", "ho"), take=True)
            return taken, await desk.journal.load(key()), await desk.run("a")

        taken, record, run = await asyncio.to_thread(asyncio.run, end())
        assert (taken, record.length, run.status) == (Take.TAKEN, 2, RunStatus.SUCCEEDED)
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


async def _call_and_leave(verb: Awaitable[object]) -> None:
    """Begin a verb and be cancelled while it is under way, or just after."""
    call = asyncio.ensure_future(verb)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])

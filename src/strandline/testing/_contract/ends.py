"""Deadlines, runs that end while they wait, discarded runs, pruning."""

import asyncio

import pytest

from strandline._journal.port import (
    Accepted,
    Bounds,
    Busy,
    Changed,
    ClaimResult,
    Delete,
    EndWaiting,
    HistoryPage,
    HistoryQuery,
    Pause,
    Resume,
)
from strandline._model import (
    ErrorCode,
    Outcome,
    Range,
    RoundStarted,
    Run,
    RunError,
    RunId,
    RunStatus,
)
from strandline.errors import InvariantBroken
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said, waiting_runs


class EndsContract(Contract):
    """Deadlines, ends of waiting runs, discarded runs and pruning."""

    # -- deadlines ------------------------------------------------------------------------------------

    @scenario
    async def test_a_run_keeps_its_timeout_and_its_queue_deadline(self, desk: Desk) -> None:
        """Its deadline counts from its first start, over attempts and restarts; once begun, it has no queue
        deadline."""
        claim = await desk.start("a", timeout_s=30.0, queue_deadline=1_060.5)
        await desk.accept("b", timeout_s=2.5, queue_deadline=1_070.0)
        await desk.accept("c")

        def times(run: Run) -> tuple[float | None, float | None, float | None]:
            return run.timeout_s, run.queue_deadline, run.deadline

        assert times(claim.run) == (30.0, 1_060.5, 1_030.0)
        for _ in range(2):
            assert times(await desk.run("a")) == (30.0, 1_060.5, 1_030.0)
            assert times(await desk.run("b")) == (2.5, 1_070.0, None)
            assert times(await desk.run("c")) == (None, None, None)
            b, c = await waiting_runs(desk.journal)
            assert (b.run_id, b.key, b.created_at, b.queue_deadline) == ("b", key(), 1_000.0, 1_070.0)
            assert (c.run_id, c.queue_deadline) == ("c", None)
            assert desk.journal.sessions.next_due == 1_070.0
            await desk.restart()
        (orphan,) = desk.orphans
        assert times(orphan.run) == (30.0, 1_060.5, 1_030.0)
        desk.clock.at += 10
        await desk.release(orphan.token, counted=True, claim_next=True)
        claim = await desk.claim(of="a")
        assert times(claim.run) == (30.0, None, 1_030.0)
        await desk.finish(claim, claim_next=True)
        claim = await desk.claim(of="b")
        assert times(claim.run) == (2.5, 1_070.0, 1_012.5)
        await desk.finish(claim)
        assert times(await desk.run("b")) == (2.5, 1_070.0, 1_012.5)

    # -- runs that end while they wait ----------------------------------------------------------------

    @scenario
    async def test_a_run_that_waits_can_end_and_leaves_no_trace_in_history(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await desk.accept("c")
        ends = {
            "b": Outcome(status=RunStatus.CANCELLED),
            "c": Outcome(status=RunStatus.FAILED, error=RunError(ErrorCode.QUEUE_TIMEOUT, "waited too long")),
        }
        desk.clock.at += 3
        for run_id, outcome in ends.items():
            assert await desk.end(run_id, outcome=outcome) == Changed(existed=True)
        assert await desk.waiting() == []
        assert await desk.finish(claim, done("hi", "ho"), claim_next=True) is ClaimResult.NOTHING
        await desk.finish(await desk.start("d"), done("and", "so"))
        for _ in range(2):
            for run_id, outcome in ends.items():
                run = await desk.run(run_id)
                assert (run.status, run.outcome, run.ended_at) == (outcome.status, outcome, 1_003.0)
                assert (run.position, run.attempt, run.started_at, run.held) == (None, 0, None, False)
            assert await desk.history(discarded=True) == said("hi", "ho", "and", "so")
            assert (await desk.journal.load(key())).origins == [0, 1, 2, 3]
            await desk.restart()
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        for run_id in "abcd":
            assert not await desk.exists(run_id)
            await desk.finish(await desk.start(run_id))  # even its id is free again

    @scenario
    async def test_a_session_whose_only_run_ended_while_it_waited_can_be_deleted(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        await desk.end("a")
        await desk.restart()
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert not await desk.exists("a")
        await desk.start("a", key("other"))

    @scenario
    async def test_what_is_claimed_or_has_ended_does_not_end_again(self, desk: Desk) -> None:
        claim = await desk.start("a")
        before = await desk.seen(["a"])
        assert await desk.end("a") == Busy()
        assert await desk.seen(["a"]) == before
        await desk.finish(claim, done("hi", "ho"), hold=True)
        before = await desk.seen(["a"])
        assert await desk.end("a") == Busy()
        await desk.release(claim.token, counted=True)
        assert await desk.end("a") == Busy()
        await desk.accept("b", claim_next=False)
        await desk.end("b")
        before = await desk.seen(["a", "b"])
        assert await desk.end("b", outcome=Outcome(status=RunStatus.FAILED)) == Busy()
        assert await desk.seen(["a", "b"]) == before

    @scenario
    async def test_who_is_to_end_because_it_waits_too_long_waits_too_long_by_the_time_of_the_journal(
        self, desk: Desk
    ) -> None:
        """Not before its deadline, and not while its time stands still."""
        await desk.start("a")
        await desk.accept("b", queue_deadline=desk.clock.at + 10)
        await desk.accept("c")
        desk.clock.at += 9.999
        assert await desk.end_overdue() == []
        await desk.journal.change(Pause(key()))
        desk.clock.at += 5
        assert await desk.end_overdue() == [], "it is paused"
        await desk.restart()
        (claim,) = desk.orphans
        await desk.finish(claim, done("hi", "ho"), hold=True)
        await desk.journal.change(Resume(key()))
        assert await desk.end_overdue() == [], "it is held"
        desk.clock.at += 5
        await desk.release(claim.token, counted=True)
        assert await desk.end_overdue() == []
        assert await desk.waiting() == ["b", "c"]
        desk.clock.at = 1_020.0
        assert await desk.end_overdue() == ["b"]
        assert await desk.end_overdue() == []
        assert await desk.end_overdue(key("nobody")) == []
        assert await desk.waiting() == ["c"], "it has no deadline"
        assert (await desk.run("b")).status is RunStatus.FAILED

    @scenario
    async def test_overdue_runs_are_reported_in_time_and_again_until_they_have_ended(self, desk: Desk) -> None:
        """After a restart too; not of runs that have begun, of ended ones, and while their time stands still."""
        other, sessions = key("other"), desk.journal.sessions
        await desk.start("a")
        await desk.start("x", other)
        for run_id, at, wait_s in (("b", key(), 10), ("c", key(), 20), ("y", other, 10), ("z", other, 10)):
            await desk.accept(run_id, at, queue_deadline=desk.clock.at + wait_s)
        assert sessions.next_due == 1_010.0
        assert sessions.due(1_009.0) == []
        await desk.end("y", other)
        await desk.journal.change(Pause(other))
        assert sessions.due(1_010.0) == [key()]
        assert sessions.due(1_010.5) == []
        assert sessions.due(1_012.0) == [key()], "it was not ended"
        desk.clock.at = 1_012.0
        assert await desk.end_overdue() == ["b"]
        assert sessions.due(1_019.0) == []
        await desk.journal.change(Resume(other))
        assert sessions.due(1_019.0) == [], "its time stood still for 12 seconds"
        assert sorted(sessions.due(1_022.0)) == [other, key()]
        for claim in await desk.restart():
            await desk.finish(claim)
        sessions = desk.journal.sessions
        assert sorted(sessions.due(1_022.0)) == [other, key()]

    @scenario
    async def test_of_an_end_and_a_take_at_once_one_wins(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        await desk.accept("b", claim_next=False)
        answers = await asyncio.gather(desk.end("a"), desk.journal.claim_next(key()), desk.end("b"))
        assert [*answers] == [Changed(existed=True), ClaimResult.CLAIMED, Busy()]
        await desk.claim(of="b")

    @scenario
    async def test_only_a_run_of_that_session_ends(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        await desk.accept("b", key("other"), claim_next=False)
        await desk.accept("c", key("s", "you"), claim_next=False)
        before = await desk.seen(["a", "b"])
        for run_id, at in (("a", key("other")), ("b", key()), ("a", key("nobody")), ("none", key()), ("c", key())):
            assert await desk.end(run_id, at) == Changed(existed=False)
        assert await desk.seen(["a", "b"]) == before
        assert (await desk.run("c", "you")).status is RunStatus.QUEUED

    @scenario
    async def test_a_run_that_waits_ends_failed_or_cancelled_only(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        before = await desk.seen(["a"])
        for status in set(RunStatus) - {RunStatus.FAILED, RunStatus.CANCELLED}:
            with pytest.raises(InvariantBroken):
                await desk.journal.change(EndWaiting(key(), RunId("a"), Outcome(status=status)))
        assert await desk.seen(["a"]) == before

    @scenario
    async def test_the_line_closes_up_wherever_a_run_leaves_it(self, desk: Desk) -> None:
        """At its head, in its middle and at its end; positions, bounds and order follow."""
        bounds = Bounds(per_session=6, total=6)
        first = await desk.start("first")
        for run_id, priority in (("a", 3), ("b", 3), ("c", 1), ("d", 5), ("e", 3), ("f", 5)):
            await desk.accept(run_id, priority=priority, bounds=bounds)
        line = ["c", "a", "b", "e", "d", "f"]
        for n, gone in enumerate(["b", "f", "c", "d", "e"]):
            assert await desk.end(gone) == Changed(existed=True)
            line.remove(gone)
            assert sorted(await desk.waiting()) == sorted(line)
            for position, run_id in enumerate(line, start=1):
                assert (await desk.run(run_id)).position == position
            if n % 2:
                ahead = sum(run_id not in "df" for run_id in line)
                assert await desk.accept(f"x{n}", priority=4, bounds=bounds) == Accepted(ahead + 1)
                line.insert(ahead, f"x{n}")
        assert await desk.accept("last", priority=5, bounds=bounds) == Accepted(len(line) + 1)
        assert await desk.drain(first) == ["first", *line, "last"]

    @scenario
    async def test_a_run_that_has_begun_and_waits_again_does_not_end_without_a_trace(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.journal.checkpoint(claim.token, RoundStarted(said("x")))
        await desk.release(claim.token, counted=False)
        before = await desk.seen(["a"])
        assert await desk.end("a") == Busy()
        assert await desk.seen(["a"]) == before
        await desk.journal.claim_next(key())
        claim = await desk.claim(of="a")
        assert claim.checkpoints == (RoundStarted(said("x")),)
        await desk.finish(claim, done("hi", "ho"))

    # -- discarded runs -------------------------------------------------------------------------------

    @scenario
    async def test_what_a_discarded_run_left_is_in_no_window(self, desk: Desk) -> None:
        """Its messages count in every index, and are never in the record, whatever the window says."""
        await desk.finish(await desk.start("a"), done("0", "1"))
        await desk.finish(await desk.start("b"), done("2", "3", "4", discarded=True))
        await desk.finish(await desk.start("c"), done("5", "6"))
        texts = said("0", "1"), said("5", "6")
        for _ in range(2):
            record = await desk.journal.load(key())
            assert (record.origins, record.length) == ([0, 1, 5, 6], 7)
            assert record.messages == [*texts[0], *texts[1]]
            assert [(await desk.run(run_id)).discarded for run_id in "abc"] == [False, True, False]
            await desk.restart()
        await desk.finish(await desk.start("d"), done(window=(Range(1, 4), Range(3, 6), Range(2, 5))))
        record = await desk.journal.load(key())
        assert record.origins == [1, 5]
        assert record.messages == [texts[0][1], texts[1][0]]
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        await desk.finish(await desk.start("e"), done(*"0123"))
        assert (await desk.journal.load(key())).origins == [0, 1, 2, 3]

    @scenario
    async def test_what_a_discarded_run_left_is_read_by_those_who_ask_for_it(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done("0", "1"))
        await desk.finish(await desk.start("b"), done("2", "3", "4", discarded=True), hold=True)
        await desk.restart()
        await desk.finish(await desk.start("c"), done("5", "6"))
        every = [*said("0", "1"), *said("2", "3", "4"), *said("5", "6")]
        runs: list[RunId | None] = [RunId(each) for each in "aabbbcc"]

        async def page(before: int | None, limit: int, discarded: bool) -> HistoryPage:
            query = HistoryQuery(key(), before=before, limit=limit, discarded=discarded)
            return await desk.journal.read(query)

        assert await desk.history() == [*every[:2], *every[5:]]
        assert await desk.history(discarded=True) == every
        for before in range(8):
            for limit in (1, 3, 9):
                first = max(0, before - limit)
                assert await page(before, limit, True) == HistoryPage(
                    every[first:before],
                    first,
                    [n - first for n in range(2, 5) if first <= n < before],
                    indices=[*range(first, before)],
                    runs=runs[first:before],
                )
                seen = [index for index in range(first, before) if not 2 <= index < 5]
                assert await page(before, limit, False) == HistoryPage(
                    [every[index] for index in seen], first, indices=seen, runs=[runs[index] for index in seen]
                )
        assert await page(5, 3, False) == HistoryPage([], 2)

    @scenario
    async def test_a_discarded_run_may_leave_nothing(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done(discarded=True, state={"n": 1}))
        assert (await desk.run("a")).discarded
        record = await desk.journal.load(key())
        assert (record.length, record.state) == (0, {"n": 1})

    # -- pruning --------------------------------------------------------------------------------------

    @scenario
    async def test_runs_that_ended_long_ago_are_forgotten_and_their_messages_stay(self, desk: Desk) -> None:
        for n in range(4):
            await desk.finish(await desk.start(f"r{n}", key(f"s{n % 2}")), done(f"{n}", "yes", state={"n": n}))
            desk.clock.at += 10
        assert await desk.journal.prune(1_000.0, 100) == 0
        assert await desk.journal.prune(1_020.0, 100) == 2
        for _ in range(2):
            assert [await desk.exists(f"r{n}") for n in range(4)] == [False, False, True, True]
            assert await desk.history(key("s0")) == [*said("0", "yes"), *said("2", "yes")]
            record = await desk.journal.load(key("s1"))
            assert (record.origins, record.state) == ([0, 1, 2, 3], {"n": 3})
            assert await desk.journal.prune(1_020.0, 100) == 0
            await desk.restart()
        await desk.finish(await desk.start("r4", key("s0")), done("4", "yes"))
        assert (await desk.journal.load(key("s0"))).length == 6

    @scenario
    async def test_the_oldest_are_forgotten_first_and_no_more_than_the_limit(self, desk: Desk) -> None:
        for n in range(7):
            await desk.finish(await desk.start(f"r{n}", key(f"s{n % 3}")))
        desk.clock.at += 10
        left = [f"r{n}" for n in range(7)]
        for limit, forgotten in ((0, 0), (3, 3), (1, 1), (3, 3), (3, 0)):
            assert await desk.journal.prune(1_005.0, limit) == forgotten
            left = left[forgotten:]
            assert [f"r{n}" for n in range(7) if await desk.exists(f"r{n}")] == left

    @scenario
    async def test_a_run_that_was_accepted_by_a_clock_ahead_of_time_keeps_no_other_from_being_forgotten(
        self, desk: Desk
    ) -> None:
        start = desk.clock.at
        desk.clock.at += 10**9
        await desk.finish(await desk.start("ahead", key("s0")))
        early = await desk.start("early", key("s1"))
        desk.clock.at = start
        await desk.finish(early)
        await desk.finish(await desk.start("right", key("s2")))
        desk.clock.at += 10
        assert await desk.journal.prune(desk.clock.at - 5, 100) == 2
        assert [each for each in ("ahead", "early", "right") if await desk.exists(each)] == ["ahead"]

    @scenario
    async def test_only_runs_that_have_ended_and_are_not_held_are_forgotten(self, desk: Desk) -> None:
        held = await desk.start("held", key("s1"))
        await desk.accept("waits", key("s1"))
        running = await desk.start("runs", key("s2"))
        back = await desk.start("back", key("s3"))
        late = await desk.start("late", key("s4"))
        await desk.finish(await desk.start("old", key("s5")))
        await desk.accept("cancelled", key("s1"))
        await desk.end("cancelled", key("s1"))
        await desk.finish(held, hold=True)
        await desk.release(back.token, counted=True)
        desk.clock.at += 100
        await desk.finish(late)
        everyone = ["held", "waits", "runs", "back", "late", "old", "cancelled"]
        assert await desk.journal.prune(1_100.0, 100) == 2
        assert [each for each in everyone if not await desk.exists(each)] == ["old", "cancelled"]
        assert await desk.release(held.token, counted=True, claim_next=True, at=key("s1")) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="waits")) == ["waits"]
        await desk.finish(running)
        assert await desk.journal.prune(1_100.0, 100) == 1
        assert await desk.journal.prune(1_101.0, 100) == 3
        assert [each for each in everyone if await desk.exists(each)] == ["back"]

    @scenario
    async def test_a_session_whose_runs_were_forgotten_is_deleted_whole(self, desk: Desk) -> None:
        """It prunes no run of another session, although that one was accepted after a restart."""
        for n in range(3):
            await desk.finish(await desk.start(f"r{n}"), done("hi", "ho"))
        desk.clock.at += 10
        assert await desk.journal.prune(1_005.0, 100) == 3
        await desk.restart()
        for n in range(3):
            await desk.finish(await desk.start(f"o{n}", key("other")), done("hi", "ho"))
        assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await desk.history() == []
        assert [(await desk.run(f"o{n}")).key for n in range(3)] == [key("other")] * 3
        await desk.finish(await desk.start("r0"), done("new", "yes"))
        assert await desk.history() == said("new", "yes")

    @scenario
    async def test_sequences_rise_though_the_last_runs_were_forgotten(self, desk: Desk) -> None:
        last = -1
        for n in range(3):
            claim = await desk.start(f"r{n}")
            assert claim.run.sequence > last
            last = claim.run.sequence
            await desk.finish(claim)
            desk.clock.at += 10
            assert await desk.journal.prune(desk.clock.at, 100) == 1
            await desk.restart()

    @scenario
    async def test_many_runs_that_stay_hide_no_old_one(self, desk: Desk) -> None:
        """However many were accepted before it and wait: fewer than the limit means that none are left."""
        wide = Bounds(per_session=10_000, total=10_000)
        waits = (desk.accept(f"w{n}", key("line"), claim_next=False, bounds=wide) for n in range(2_500))
        await asyncio.gather(*waits)
        for n in range(2):
            await desk.finish(await desk.start(f"old{n}"), done())
        desk.clock.at += 10
        assert await desk.journal.prune(desk.clock.at, 100) == 2
        assert not await desk.exists("old0")
        assert len(await desk.waiting()) == 2_500

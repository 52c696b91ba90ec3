"""Order, exclusivity and bounds: which run is next, and which is refused."""

import asyncio

import pytest

from strandline._journal.errors import RunIdTaken
from strandline._journal.port import Accepted, Bounds, Changed, ClaimResult, Delete, Refused, RunsQuery
from strandline._model import Keyed, Lane, Run, RunId, RunStatus, Sender
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said


class QueuesContract(Contract):
    """Order, exclusivity, bounds and last attempts."""

    # -- the request of a run ---------------------------------------------------------------------------

    @scenario
    async def test_a_run_keeps_the_trace_of_its_request(self, desk: Desk) -> None:
        """Claimed at once, after a wait, in a later process, and after its end; for every kind of query."""
        trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=\u00e4"}
        keyed = Keyed("k", bytes(32), 0.0)
        claim = await desk.start("a", trace=trace)
        await desk.accept("b", trace={**trace, "of": "b"}, keyed=keyed)
        await desk.accept("c")
        assert claim.run.trace == trace
        assert [(await desk.run(each)).trace for each in "abc"] == [trace, {**trace, "of": "b"}, None]
        await desk.restart()
        (claim,) = desk.orphans
        assert claim.run.trace == trace
        await desk.finish(claim, claim_next=True)
        assert (await desk.claim(of="b")).run.trace == {**trace, "of": "b"}
        assert (await desk.run("a")).trace == trace

    @scenario
    async def test_a_run_keeps_its_sender(self, desk: Desk) -> None:
        """Claimed at once, after a wait, in a later process, and after its end; for lists, too."""
        ada, bob = Sender("U1", "Ada \u00e4"), Sender("U2", "Bob")
        claim = await desk.start("a", sender=ada)
        await desk.accept("b", sender=bob, input="x" * 5000)
        await desk.accept("c")
        assert claim.run.sender == ada
        for _ in range(2):
            assert [(await desk.run(each)).sender for each in "abc"] == [ada, bob, None]
            page = await desk.journal.read(RunsQuery(key()))
            assert [each.sender for each in page.runs] == [None, bob, ada]
            await desk.restart()
        (claim,) = desk.orphans
        assert claim.run.sender == ada
        await desk.finish(claim, claim_next=True)
        assert (await desk.claim(of="b")).run.sender == bob
        assert (await desk.run("a")).sender == ada

    @scenario
    async def test_a_run_that_times_out_waiting_leaves_its_input_with_its_sender(self, desk: Desk) -> None:
        ada = Sender("U1", "Ada")
        claim = await desk.start("a", sender=ada, timeout_s=5.0)
        await desk.release(claim.token, counted=True)
        desk.clock.at += 10
        assert await desk.end_overdue() == ["a"]
        prompt, _ = await desk.history()
        assert prompt["metadata"] == {"custom": {"sender": {"id": "U1", "name": "Ada"}}}

    # -- order -----------------------------------------------------------------------------------------

    @scenario
    async def test_a_free_session_runs_at_once(self, desk: Desk) -> None:
        """A run of a free session is claimed in its accept; the claim has all fields of its request."""
        claim = await desk.start("a", input=[{"text": "hi"}], metadata={"k": [1]}, priority=2, created_at=7.5)
        assert claim.run == Run(
            run_id=RunId("a"),
            key=key(),
            input=[{"text": "hi"}],
            lane=Lane.NORMAL,
            priority=2,
            resumable=True,
            metadata={"k": [1]},
            sequence=claim.run.sequence,
            status=RunStatus.RUNNING,
            attempt=1,
            created_at=7.5,
            started_at=desk.clock.at,
        )
        assert claim.checkpoints == ()
        assert await desk.run("a") == claim.run

    @scenario
    async def test_a_run_that_waited_is_claimed_as_it_was_accepted(self, desk: Desk) -> None:
        first = await desk.start("a")
        await desk.accept("b", input=[{"text": "hi"}], metadata={"k": [1]}, priority=2, resumable=False, created_at=7.5)
        waits = await desk.run("b")
        assert (waits.status, waits.position, waits.started_at, waits.attempt) == (RunStatus.QUEUED, 1, None, 0)
        desk.clock.at += 5
        await desk.finish(first, claim_next=True)
        claim = await desk.claim(of="b")
        assert claim.run.sequence > first.run.sequence
        assert claim.run == Run(
            run_id=RunId("b"),
            key=key(),
            input=[{"text": "hi"}],
            lane=Lane.NORMAL,
            priority=2,
            resumable=False,
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
        """Priority counts in the normal lane only; positions follow that order, then and later."""
        first = await desk.start("first")
        arrivals = [(3, 3), (3, 1), (1, 5), (3, 5), (2, 4), (0, 5), (3, 1), (1, 1), (2, 1), (3, 3), (0, 1)]
        ranks: list[tuple[tuple[int, int, int], str]] = []
        for index, (lane, priority) in enumerate(arrivals):
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
        """Also when the session is free: `claim_next` claims the new run only if it is first itself."""
        assert await desk.accept("a", claim_next=False) == Accepted(1)
        assert await desk.accept("b") == Accepted(2)
        first = await desk.start("c", priority=1)
        assert await desk.drain(first) == ["c", "a", "b"]

    @scenario
    async def test_without_claim_next_a_run_waits_until_it_is_claimed(self, desk: Desk) -> None:
        assert await desk.accept("a", claim_next=False) == Accepted(1)
        assert await desk.waiting() == ["a"]
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        assert (claim.run.attempt, claim.run.position) == (1, None)
        assert await desk.waiting() == []

    @scenario
    async def test_sequences_rise_over_all_sessions(self, desk: Desk) -> None:
        sequences = []
        for index in range(6):
            await desk.accept(f"r{index}", key(f"s{index % 3}"), claim_next=False)
            sequences.append((await desk.run(f"r{index}")).sequence)
        assert sequences == sorted(set(sequences))

    # -- exclusivity -----------------------------------------------------------------------------------

    @scenario
    async def test_a_session_has_one_claim_at_most(self, desk: Desk) -> None:
        claim = await desk.start("a")
        assert await desk.accept("b") == Accepted(1)
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        assert await desk.finish(claim, claim_next=False) is ClaimResult.NOTHING
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        second = await desk.claim(of="b")
        assert await desk.finish(second, claim_next=True) is ClaimResult.NOTHING
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING

    @scenario
    async def test_of_many_at_once_one_is_claimed(self, desk: Desk) -> None:
        answers = await asyncio.gather(*(desk.accept(f"r{index}") for index in range(30)))
        positions = [answer.position for answer in answers if isinstance(answer, Accepted)]
        assert sorted(positions) == list(range(30))
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
        await desk.finish(claim, done("mine", "yes", state={"of": "me"}))
        assert await desk.history(yours) == []
        assert (await desk.journal.load(yours)).state is None
        assert not await desk.exists("a", "you")
        assert await desk.exists("a", "me")
        assert await desk.journal.change(Delete(mine)) == Changed(existed=True)
        await desk.finish(other, done("yours", "yes"))
        assert await desk.history(yours) == said("yours", "yes")

    @scenario
    async def test_there_is_nothing_to_take_in_an_unknown_session(self, desk: Desk) -> None:
        assert await desk.journal.claim_next(key("nobody")) is ClaimResult.NOTHING

    @scenario
    async def test_a_run_id_is_accepted_once(self, desk: Desk) -> None:
        """A second one is refused, whatever became of it, and harms no run that is accepted at the same moment."""
        claim = await desk.start("a")
        results = await asyncio.gather(
            desk.accept("b"), desk.accept("a", input="other"), desk.accept("c"), return_exceptions=True
        )
        assert results[0] == Accepted(1)
        assert isinstance(results[1], RunIdTaken)
        assert results[2] == Accepted(2)
        assert (await desk.run("a")).input == "ask a"
        assert await desk.drain(claim) == ["a", "b", "c"]
        before, taken, after = await asyncio.gather(
            *(desk.accept(run_id, claim_next=False) for run_id in ("d", "a", "e")), return_exceptions=True
        )
        assert [before, after] == [Accepted(1), Accepted(2)]
        assert isinstance(taken, RunIdTaken)
        with pytest.raises(RunIdTaken):
            await desk.accept("a", key("another"), claim_next=False)

    # -- bounds ----------------------------------------------------------------------------------------

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
        await desk.finish(claim, claim_next=True)
        assert await desk.accept("d", bounds=bounds) == Accepted(2)
        claim = await desk.claim(of="b")
        assert await desk.drain(claim) == ["b", "c", "d"]

    @scenario
    async def test_a_full_server_refuses_before_anything_is_kept(self, desk: Desk) -> None:
        bounds = Bounds(per_session=10, total=2)
        await desk.accept("a", key("s1"), bounds=bounds, claim_next=False)
        await desk.accept("b", key("s2"), bounds=bounds, claim_next=False)
        assert await desk.accept("c", key("s1"), bounds=bounds) == Refused("server_full", 2)
        assert await desk.accept("d", key("new"), bounds=bounds, claim_next=False) == Refused("server_full", 1)
        assert not await desk.exists("c")
        assert await desk.journal.change(Delete(key("new"))) == Changed(existed=False)
        await desk.start("e", key("free"), bounds=bounds)
        assert await desk.journal.claim_next(key("s1")) is ClaimResult.CLAIMED
        await desk.claim(of="a")
        assert await desk.accept("f", key("s1"), bounds=bounds) == Accepted(1)
        assert await desk.accept("g", key("s1"), bounds=bounds) == Refused("server_full", 2)

    @scenario
    async def test_a_run_that_is_taken_at_once_does_not_wait(self, desk: Desk) -> None:
        nothing = Bounds(per_session=0, total=0)
        await desk.start("a", bounds=nothing)
        assert await desk.accept("b", bounds=nothing) == Refused("queue_full", 1)
        assert await desk.accept("c", key("s2"), bounds=nothing, claim_next=False) == Refused("queue_full", 1)

    @scenario
    async def test_a_run_that_is_given_back_waits_and_is_never_refused(self, desk: Desk) -> None:
        bounds = Bounds(per_session=1, total=1)
        claim = await desk.start("a", bounds=bounds)
        await desk.accept("b", bounds=bounds)
        await desk.release(claim.token, counted=True)
        assert await desk.waiting() == ["a", "b"]
        assert await desk.accept("c", key("s2"), bounds=bounds, claim_next=False) == Refused("server_full", 1)

    @scenario
    async def test_bounds_hold_over_a_restart(self, desk: Desk) -> None:
        bounds = Bounds(per_session=2, total=3)
        for run_id, session in (("a", "s"), ("b", "s"), ("c", "s2")):
            await desk.accept(run_id, key(session), claim_next=False)
        await desk.restart()
        assert await desk.accept("d", bounds=bounds, claim_next=False) == Refused("queue_full", 3)
        assert await desk.accept("d", key("s2"), bounds=bounds, claim_next=False) == Refused("server_full", 2)

    # -- last attempts ---------------------------------------------------------------------------------

    @scenario
    async def test_a_last_attempt_runs_alone_among_last_attempts(self, desk: Desk) -> None:
        """It does not block first attempts; after its end the next one may start."""
        await desk.restart(max_attempts=2)
        for session in ("a", "b", "c"):
            claim = await desk.start(session, key(session))
            await desk.release(claim.token, counted=True)
        assert await desk.journal.claim_next(key("a")) is ClaimResult.CLAIMED
        last = await desk.claim(of="a")
        assert last.run.attempt == 2
        assert await desk.journal.claim_next(key("b")) is ClaimResult.BLOCKED
        assert (await desk.run("b")).position == 1
        first = await desk.start("d", key("d"))
        assert await desk.release(first.token, counted=True, claim_next=True, at=key("d")) is ClaimResult.BLOCKED
        await desk.accept("a2", key("a"))
        assert await desk.finish(last, claim_next=True) is ClaimResult.CLAIMED
        await desk.claim(of="a2")
        assert await desk.journal.claim_next(key("b")) is ClaimResult.CLAIMED
        last = await desk.claim(of="b")
        assert await desk.journal.claim_next(key("c")) is ClaimResult.BLOCKED
        assert await desk.release(last.token, counted=False) is ClaimResult.NOTHING
        assert await desk.journal.claim_next(key("c")) is ClaimResult.CLAIMED
        await desk.claim(of="c")

    @scenario
    async def test_a_finish_claims_no_last_attempt_beside_another(self, desk: Desk) -> None:
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.release(claim.token, counted=True)
        assert await desk.journal.claim_next(key("a")) is ClaimResult.CLAIMED
        await desk.claim(of="a")
        overtaking = await desk.start("b0", key("b"), lane=Lane.REQUEUED - 1)
        assert await desk.finish(overtaking, claim_next=True) is ClaimResult.BLOCKED

    @scenario
    async def test_a_last_attempt_that_crashed_counts_until_it_is_finished(self, desk: Desk) -> None:
        await desk.restart(max_attempts=2)
        for session in ("a", "b"):
            claim = await desk.start(session, key(session))
            await desk.release(claim.token, counted=True)
        await desk.journal.claim_next(key("a"))
        await desk.claim(of="a")
        (orphan,) = await desk.restart(max_attempts=2)
        assert await desk.journal.claim_next(key("b")) is ClaimResult.BLOCKED
        await desk.finish(orphan)
        assert await desk.journal.claim_next(key("b")) is ClaimResult.CLAIMED
        await desk.claim(of="b")

    @scenario
    async def test_a_first_attempt_is_never_a_last_one(self, desk: Desk) -> None:
        await desk.restart(max_attempts=1)
        await desk.start("a", key("s1"))
        await desk.start("b", key("s2"))
        await desk.accept("c", key("s3"), claim_next=False)
        assert await desk.journal.claim_next(key("s3")) is ClaimResult.CLAIMED
        await desk.claim(of="c")

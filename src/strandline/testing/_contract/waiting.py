"""The runs of a session that wait, in the order in which an agent gets what they say, with their inputs."""

from typing import Any

from strandline._journal.port import Accepted, ClaimResult, Edit, Move, WaitingQuery
from strandline._model import ANONYMOUS, Collect, IfBusy, Lane, RunId, Sender
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key

ADA = Sender("u1", "Ada")
BY = Collect(quiet=60.0, max_wait=60.0, max_items=9, max_bytes=9_000)
LARGE = "x" * 40_000


async def waiting(desk: Desk, *, runs: int = 10, inputs: int = 10, most_bytes: int | None = None) -> tuple[Any, ...]:
    """Return how many wait, the ids of the first ones, and what the first of these say."""
    found = await desk.journal.read(WaitingQuery(key(), runs, inputs, most_bytes))
    return found.count, [run.run_id for run in found.runs], found.inputs


class WaitingContract(Contract):
    """`WaitingQuery`."""

    @scenario
    async def test_what_waits_is_read_in_order_first_what_is_to_join_then_the_queue(self, desk: Desk) -> None:
        assert await waiting(desk) == (0, [], [])
        claim = await desk.start("h")
        await desk.accept("low", priority=5)
        await desk.accept("late", not_before=5_000.0)
        await desk.accept("c", if_busy=IfBusy.COLLECT, collect=BY, sender=ADA)
        await desk.accept("high", priority=1)
        await desk.accept("elsewhere", key("other", "ada"), claim_next=False)
        assert await desk.accept("j", if_busy=IfBusy.STEER, priority=5) == Accepted(0, joined=RunId("h"))
        assert await waiting(desk) == (
            4,
            ["j", "high", "c", "low"],
            ["ask j", "ask high", "ask c", "ask low"],
        ), "neither the run that executes nor one for a later time, nor those of another session"
        found = await desk.journal.read(WaitingQuery(key(), 10, 0))
        assert [run.sender for run in found.runs] == [None, None, ADA, None]
        assert [run.if_busy for run in found.runs][:3] == [IfBusy.STEER, IfBusy.ENQUEUE, IfBusy.COLLECT]
        await desk.journal.change(Move(ANONYMOUS, RunId("low"), None))
        assert (await waiting(desk))[1] == ["j", "low", "high", "c"]
        assert await desk.journal.apply_joins(claim.token, []) != []
        assert (await waiting(desk))[:2] == (3, ["low", "high", "c"]), "what has reached the run waits no longer"
        await desk.finish(claim)
        await desk.cancel_all()
        await desk.cancel_all(key("other", "ada"))

    @scenario
    async def test_a_run_that_was_to_join_and_became_the_next_one_is_before_others(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await desk.accept("a")
        await desk.accept("first", priority=1)
        await desk.accept("j1", if_busy=IfBusy.STEER)
        await desk.accept("j2", if_busy=IfBusy.STEER)
        assert (await waiting(desk))[1] == ["j1", "j2", "first", "a"]
        await desk.finish(claim, done("hi", "ho"))
        assert (await waiting(desk))[1] == ["first", "j1", "j2", "a"]
        assert (await waiting(desk, runs=2))[:2] == (4, ["first", "j1"])
        await desk.cancel("first")
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="j1")
        assert (await waiting(desk))[:2] == (2, ["j2", "a"]), "it executes"
        await desk.finish(claim)
        await desk.cancel_all()

    @scenario
    async def test_so_many_runs_and_inputs_are_read_and_all_are_counted(self, desk: Desk) -> None:
        claim = await desk.start("h")
        for each in ("a", "b", "c", "d"):
            await desk.accept(each, input=LARGE if each == "b" else f"ask {each}")
        assert await waiting(desk, runs=3, inputs=1) == (4, ["a", "b", "c"], ["ask a"])
        assert await waiting(desk, runs=3, inputs=3, most_bytes=1_000) == (
            4,
            ["a", "b", "c"],
            ["ask a", None, "ask c"],
        ), "one that is too large is not read, and those behind it are"
        await desk.journal.change(Edit(ANONYMOUS, RunId("c"), input="y" * 600))
        await desk.journal.change(Edit(ANONYMOUS, RunId("d"), input="z" * 600))
        found = await waiting(desk, most_bytes=1_000)
        assert found[2] == ["ask a", None, "y" * 600, None], "all of them together"
        assert (await waiting(desk, inputs=2))[2] == ["ask a", LARGE]
        assert await waiting(desk, runs=0) == (4, [], [])
        await desk.finish(claim)
        await desk.cancel_all()

    @scenario
    async def test_it_is_read_as_it_is_at_that_moment_also_after_a_restart(self, desk: Desk) -> None:
        claim = await desk.start("h")
        await desk.accept("a")
        await desk.accept("b")
        await desk.accept("c")
        await desk.journal.change(Edit(ANONYMOUS, RunId("a"), input=[{"text": "edited"}]))
        await desk.cancel("b")
        assert await waiting(desk) == (2, ["a", "c"], [[{"text": "edited"}], "ask c"])
        await desk.restart()
        assert await waiting(desk) == (2, ["a", "c"], [[{"text": "edited"}], "ask c"])
        (orphan,) = desk.orphans
        assert orphan.run.run_id == claim.run.run_id
        await desk.journal.release(orphan.token, counted=True)
        found = await desk.journal.read(WaitingQuery(key(), 1, 0))
        assert [(run.run_id, run.lane) for run in found.runs] == [("h", Lane.REQUEUED)]
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim()) == ["h", "a", "c"]
        assert await waiting(desk) == (0, [], [])

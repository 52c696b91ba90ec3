"""What waits is edited: kept, counted, refused once it has begun, and once only the edition that was seen."""

from typing import Any

from strandline._journal.editions import edition
from strandline._journal.port import (
    Accepted,
    Attached,
    Bounds,
    Busy,
    ChangeAnswer,
    Changed,
    ClaimResult,
    Edit,
    Edited,
    Ended,
    Outdated,
    Pause,
    Refused,
    StoredQuery,
)
from strandline._model import ANONYMOUS, Claim, JoinedInput, Keyed, Lane, Principal, RunId, responses
from strandline.testing._contract.joins import steered
from strandline.testing._contract.options import asking
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, said

LARGE = "a longer text, " * 400
"""Larger than an input that stays in memory."""


async def edit(desk: Desk, run_id: str, principal: str = ANONYMOUS, **parts: Any) -> ChangeAnswer:
    """Edit a run."""
    return await desk.journal.change(Edit(Principal(principal), RunId(run_id), **parts))


async def claimed(desk: Desk, run_id: str) -> Claim:
    """Claim the next run, which must be this one."""
    assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
    return await desk.claim(of=run_id)


class EditsContract(Contract):
    """Edits of runs that wait."""

    @scenario
    async def test_an_edit_is_what_executes(self, desk: Desk) -> None:
        """Also over a restart, and however large the input was or becomes; the rest of the request stays."""
        await desk.start("a")
        for number, before in enumerate(("short", LARGE)):
            await desk.accept(f"b{number}", input=before, metadata={"k": 1}, timeout_s=7.0, trace={"t": "x"})
        answers = [
            await edit(desk, "b0", input=LARGE),
            await edit(desk, "b0", input=[{"text": "blocks"}], metadata={"other": [2]}, priority=4),
            await edit(desk, "b1", input=LARGE + "!", metadata={}),
        ]
        assert answers == [Edited(("input",)), Edited(("input", "metadata", "priority")), Edited(("input", "metadata"))]
        for restarts in (False, True):
            if restarts:
                await desk.restart()
            first, second = await desk.run("b0"), await desk.run("b1")
            assert (first.input, first.metadata, first.priority) == ([{"text": "blocks"}], {"other": [2]}, 4)
            assert (first.timeout_s, first.trace, first.created_at) == (7.0, {"t": "x"}, 1_000.0)
            assert (second.input, second.metadata, second.priority) == (LARGE + "!", {}, 3)
        (claim,) = desk.orphans
        await desk.finish(claim, claim_next=True)
        taken = await desk.claim(of="b1")
        assert (taken.run.input, taken.run.metadata, taken.damaged) == (LARGE + "!", {}, False)
        await desk.finish(taken, claim_next=True)
        taken = await desk.claim(of="b0")
        assert (taken.run.input, taken.run.metadata, taken.run.priority) == ([{"text": "blocks"}], {"other": [2]}, 4)
        await desk.finish(taken)

    @scenario
    async def test_an_edit_counts_at_once(self, desk: Desk) -> None:
        """Without a restart in between: a claim has the input of the last edit, in memory or not."""
        claim = await desk.start("a")
        await desk.accept("b", input=LARGE)
        for text in ("short", LARGE + "2", "last"):
            assert await edit(desk, "b", input=text) == Edited(("input",))
        await desk.finish(claim, claim_next=True)
        taken = await desk.claim(of="b")
        assert taken.run.input == "last"
        await desk.finish(taken)

    @scenario
    async def test_a_priority_places_a_run_again(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id in ("b", "c", "d"):
            await desk.accept(run_id)
        assert await edit(desk, "d", priority=1) == Edited(("priority",))
        assert await edit(desk, "b", priority=5) == Edited(("priority",))
        assert [(await desk.run(each)).position for each in ("d", "c", "b")] == [1, 2, 3]
        assert await desk.drain(claim) == ["a", "d", "c", "b"]

    @scenario
    async def test_only_what_waits_can_be_edited(self, desk: Desk) -> None:
        assert await edit(desk, "none", input="x") == Changed(existed=False)
        claim = await desk.start("a")
        assert await edit(desk, "a", input="x") == Busy(), "it executes"
        await desk.accept("b")
        assert await edit(desk, "b", "other", input="x") == Changed(existed=False), "it is another principal's"
        await desk.release(claim.token, counted=True)
        assert await edit(desk, "a", input="x") == Busy(), "it has begun"
        claim = await claimed(desk, "a")
        await desk.finish(claim)
        assert await edit(desk, "a", input="x") == Ended()
        await desk.cancel("b")
        assert await edit(desk, "b", input="x") == Ended()

    @scenario
    async def test_an_answer_cannot_be_edited(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), asking("q"))
        assert await desk.journal.change(Pause(key())) == Changed(existed=True)
        await desk.accept("b", input=responses({"q": "yes"}), lane=Lane.ANSWER)
        assert await edit(desk, "b", metadata={"k": 1}) == Busy()
        await desk.cancel("b")

    @scenario
    async def test_an_edition_that_is_not_there_any_more_is_refused(self, desk: Desk) -> None:
        """An edit that was lost with its answer can be made again: it changes nothing."""
        await desk.start("a")
        await desk.accept("b", input="one")
        seen = edition(await desk.run("b"))
        for _ in range(2):
            await desk.restart()
            assert edition(await desk.run("b")) == seen, "it is the same wherever it is read"
        expected = frozenset({"another", seen})
        assert await edit(desk, "b", input="two", expected=expected) == Edited(("input",))
        assert await edit(desk, "b", input="two", expected=expected) == Edited(())
        assert await edit(desk, "b", input="three", expected=expected) == Outdated()
        assert (await desk.run("b")).input == "two"
        await desk.cancel("b")
        (claim,) = desk.orphans
        await desk.finish(claim)

    @scenario
    async def test_a_key_stands_for_what_was_accepted(self, desk: Desk) -> None:
        claim = await desk.start("a")
        keyed = Keyed("k", b"fingerprint", 0.0)
        await desk.accept("b", keyed=keyed)
        assert await edit(desk, "b", input="edited") == Edited(("input",))
        assert await desk.accept("c", keyed=keyed) == Attached(RunId("b"))
        await desk.cancel("b")
        await desk.finish(claim)

    @scenario
    async def test_a_delayed_run_is_edited(self, desk: Desk) -> None:
        await desk.accept("b", not_before=2_000.0, input="one")
        await desk.accept("c", not_before=2_000.0)
        assert await edit(desk, "b", input=LARGE, priority=5) == Edited(("input", "priority"))
        assert desk.journal.sessions.not_before(RunId("b")) == 2_000.0
        desk.clock.at = 2_000.0
        assert desk.journal.sessions.due(2_000.0) == [key()]
        assert await desk.end_overdue() == []
        taken = await claimed(desk, "c")
        await desk.finish(taken, claim_next=True)
        taken = await desk.claim(of="b")
        assert (taken.run.input, taken.damaged) == (LARGE, False)
        await desk.finish(taken)

    @scenario
    async def test_one_that_is_to_join_is_edited_until_it_has(self, desk: Desk) -> None:
        claim = await steered(desk, "j")
        assert await edit(desk, "j", input="edited", priority=1) == Edited(("input", "priority"))
        assert await desk.journal.apply_joins(claim.token, said("ask h")) == [JoinedInput(RunId("j"), "edited")]
        assert await edit(desk, "j", input="again") == Busy()
        await desk.finish(claim, done("hi", "ho"))
        await desk.drain(await claimed(desk, "j"))

    @scenario
    async def test_what_an_edit_adds_is_counted(self, desk: Desk) -> None:
        async def stored() -> int:
            return (await desk.journal.read(StoredQuery())).total

        claim = await desk.start("a")
        await desk.accept("b", input="one", metadata={"k": 1})
        before = await stored()
        more = len(LARGE) - len("one")
        assert await edit(desk, "b", input=LARGE, stored_bytes=before + more - 1) == Refused("storage_full", 0)
        assert (await desk.run("b")).input == "one"
        assert await edit(desk, "b", input=LARGE, stored_bytes=before + more) == Edited(("input",))
        assert await stored() == before + more
        full = Bounds(per_session=100, total=100, stored_bytes=before + more)
        assert await desk.accept("c", bounds=full) == Refused("storage_full", 2)
        assert await edit(desk, "b", input="one", stored_bytes=0) == Edited(("input",)), "it is less"
        assert await stored() == before
        assert await edit(desk, "b", metadata={}) == Edited(("metadata",))
        assert await stored() < before
        assert isinstance(await desk.accept("c", bounds=full), Accepted)
        await desk.cancel("b")
        await desk.cancel("c")
        await desk.finish(claim)

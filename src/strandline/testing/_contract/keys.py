"""Idempotency keys: a repeated request is the same run."""

import asyncio
from collections.abc import Sequence
from typing import Any

from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    Changed,
    ClaimResult,
    Delete,
    Refused,
    Reused,
)
from strandline._model import Keyed, RunId
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key

RETENTION_S = 100.0
NO_ROOM = Bounds(per_session=0, total=0)


class KeysContract(Contract):
    """Keys of runs that wait, execute, have ended, or are pruned."""

    async def _ask(self, desk: Desk, run_id: str, text: str = "what", name: str = "k", **more: Any) -> AcceptAnswer:
        keyed = Keyed(name, text.encode().ljust(32), desk.clock.at - RETENTION_S)
        return await desk.accept(run_id, more.pop("at", None), keyed=keyed, **more)

    @scenario
    async def test_the_same_request_under_the_same_key_is_one_run(self, desk: Desk) -> None:
        """Whether it waits, executes, or has ended; also after a restart."""
        claim = await desk.start("before")
        assert await self._ask(desk, "a") == Accepted(1)
        assert await self._ask(desk, "b") == Attached(RunId("a"))
        assert await desk.finish(claim, claim_next=True) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        assert await self._ask(desk, "c") == Attached(RunId("a"))
        await desk.restart()
        (claim,) = desk.orphans
        assert await self._ask(desk, "d") == Attached(RunId("a"))
        await desk.finish(claim, done("hi", "ho"))
        assert await self._ask(desk, "e") == Attached(RunId("a"))
        await desk.restart()
        assert await self._ask(desk, "f") == Attached(RunId("a"))
        assert [await desk.exists(run_id) for run_id in "abcdef"] == [True] + [False] * 5
        assert await desk.waiting() == []

    @scenario
    async def test_another_request_under_the_same_key_is_reported(self, desk: Desk) -> None:
        claim = await desk.start("before")
        assert await self._ask(desk, "a") == Accepted(1)
        before = await desk.seen(["a", "b"])
        assert await self._ask(desk, "b", "something else") == Reused()
        assert await desk.seen(["a", "b"]) == before
        assert await desk.drain(claim) == ["before", "a"]
        assert await self._ask(desk, "b", "something else") == Reused()

    @scenario
    async def test_a_key_is_one_of_its_session(self, desk: Desk) -> None:
        await desk.start("before")
        await desk.accept("there", at=key("t"), claim_next=False)  # an existing session as well as new ones
        for number, at in enumerate((key("s"), key("t"), key("s", "other"))):
            assert not isinstance(await self._ask(desk, f"a{number}", at=at, claim_next=False), Attached | Reused)
        assert await self._ask(desk, "b", name="another") == Accepted(2)
        assert await desk.accept("c") == Accepted(3), "without a key nothing is looked for"

    @scenario
    async def test_a_request_that_was_refused_is_not_kept(self, desk: Desk) -> None:
        claim = await desk.start("before")
        for _ in range(2):
            assert await self._ask(desk, "a", bounds=NO_ROOM) == Refused("queue_full", 1)
        assert await self._ask(desk, "b", "something else") == Accepted(1)
        assert await desk.drain(claim) == ["before", "b"]

    @scenario
    async def test_a_known_key_is_no_matter_of_bounds(self, desk: Desk) -> None:
        await desk.start("before")
        assert await self._ask(desk, "a") == Accepted(1)
        assert await self._ask(desk, "b", bounds=NO_ROOM) == Attached(RunId("a"))
        assert await self._ask(desk, "b", "something else", bounds=NO_ROOM) == Reused()

    @scenario
    async def test_a_keyed_run_is_taken_at_once_as_any_other(self, desk: Desk) -> None:
        assert await self._ask(desk, "a") == Accepted(0)
        await desk.finish(await desk.claim(of="a"))

    @scenario
    async def test_a_key_stands_for_its_run_for_a_while_after_its_end(self, desk: Desk) -> None:
        await self._ask(desk, "a")
        claim = await desk.claim(of="a")
        desk.clock.at += 10 * RETENTION_S
        assert await self._ask(desk, "b") == Attached(RunId("a")), "it has not ended"
        await desk.finish(claim)
        desk.clock.at += RETENTION_S
        assert await self._ask(desk, "b") == Attached(RunId("a"))
        assert await self._ask(desk, "b", "something else") == Reused()
        desk.clock.at += 1
        assert await self._ask(desk, "b", "something else") == Accepted(0)
        assert await self._ask(desk, "c", "something else") == Attached(RunId("b"))
        assert await self._ask(desk, "c") == Reused()
        assert await desk.exists("a"), "its key is forgotten, not the run"
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_a_key_is_forgotten_with_its_run(self, desk: Desk) -> None:
        """Whether that is pruned, or its session deleted."""
        for number in range(2):
            assert await self._ask(desk, f"a{number}") == Accepted(0)
            await desk.finish(await desk.claim(of=f"a{number}"), done("hi", "ho"))
            desk.clock.at += 1
            if number == 0:
                assert await desk.journal.prune(desk.clock.at, 10) == 1
            else:
                assert await desk.journal.change(Delete(key())) == Changed(existed=True)
        assert await self._ask(desk, "b", "something else") == Accepted(0)
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_an_older_run_that_is_pruned_takes_no_newer_ones_key_with_it(self, desk: Desk) -> None:
        await self._ask(desk, "a")
        await desk.finish(await desk.claim(of="a"))
        desk.clock.at += RETENTION_S + 1
        await self._ask(desk, "b")
        claim = await desk.claim(of="b")
        assert await desk.journal.prune(desk.clock.at, 10) == 1
        assert await self._ask(desk, "c") == Attached(RunId("b"))
        await desk.finish(claim)

    @scenario
    async def test_the_key_of_a_cancelled_run_still_finds_it(self, desk: Desk) -> None:
        await desk.start("before")
        await self._ask(desk, "a")
        await desk.cancel("a")
        assert await self._ask(desk, "b") == Attached(RunId("a"))

    @scenario
    async def test_of_requests_that_come_at_once_under_one_key_one_becomes_a_run(self, desk: Desk) -> None:
        for at_once in (True, False):
            if not at_once:
                await desk.start("before")
            run_ids = [f"{at_once}{number}" for number in range(5)]
            requests = [self._ask(desk, run_id, name=f"k{at_once}") for run_id in run_ids]
            answers: Sequence[object] = await asyncio.gather(*requests)
            assert answers[0] == Accepted(0 if at_once else 1)
            assert answers[1:] == [Attached(RunId(run_ids[0]))] * 4
            if at_once:
                await desk.finish(await desk.claim(of=run_ids[0]))

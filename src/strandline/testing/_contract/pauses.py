"""Pauses of sessions, and moves of waiting runs."""

import asyncio
from typing import Any

from strandline._journal.port import (
    Accepted,
    Busy,
    ChangeAnswer,
    Changed,
    ClaimResult,
    Delete,
    Ended,
    Move,
    Pause,
    Refused,
    Resume,
    SessionQuery,
)
from strandline._model import ANONYMOUS, IfBusy, Lane, Principal, RunId, SessionKey
from strandline.testing._contract.scenario import Contract, scenario
from strandline.testing._desk import Desk, done, key, waiting_runs

YES = Changed(existed=True)


async def pause(desk: Desk, at: SessionKey | None = None) -> ChangeAnswer:
    """Pause a session."""
    return await desk.journal.change(Pause(at or key()))


async def resume(desk: Desk, at: SessionKey | None = None) -> ChangeAnswer:
    """Resume a session."""
    return await desk.journal.change(Resume(at or key()))


async def move(desk: Desk, run_id: str, priority: int | None = None, principal: str = ANONYMOUS) -> ChangeAnswer:
    """Move a run, by default to the front."""
    return await desk.journal.change(Move(Principal(principal), RunId(run_id), priority))


async def deadline(desk: Desk, run_id: str) -> Any:
    """Return the queue deadline of a run, from all places that show it."""
    waiting = {each.run_id: each.queue_deadline for each in await waiting_runs(desk.journal)}
    at = (await desk.run(run_id)).queue_deadline
    assert waiting.get(RunId(run_id), at) == at
    return at


class PausesContract(Contract):
    """Paused sessions and moved runs."""

    # -- while it is paused ---------------------------------------------------------------------------

    @scenario
    async def test_nothing_of_a_paused_session_is_taken(self, desk: Desk) -> None:
        """Neither by an accept, nor by a claim, nor by the end of the run that executed when it was paused."""
        claim = await desk.start("a")
        await desk.accept("b")
        assert await pause(desk) == YES
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert session.paused
        assert await desk.finish(claim, done("hi", "ho"), claim_next=True) is ClaimResult.NOTHING
        assert await desk.accept("c") == Accepted(2)
        interrupt = await desk.accept("i", lane=Lane.FRONT, if_busy=IfBusy.INTERRUPT)
        assert interrupt == Accepted(1)
        assert desk.journal.sessions.is_paused(key())
        assert await desk.accept("r", if_busy=IfBusy.REJECT) == Refused("session_busy", 4)
        assert await desk.journal.claim_next(key()) is ClaimResult.NOTHING
        assert await desk.waiting() == ["b", "c", "i"]
        assert await resume(desk) == YES
        session = await desk.journal.read(SessionQuery(key()))
        assert session is not None
        assert not session.paused
        assert not desk.journal.sessions.is_paused(key())
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="i")) == ["i", "b", "c"]

    @scenario
    async def test_a_paused_session_is_busy_although_nothing_waits_or_executes_in_it(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a"), done("hi", "ho"))
        assert await pause(desk) == YES
        assert await desk.accept("r", if_busy=IfBusy.REJECT) == Refused("session_busy", 1)
        assert await resume(desk) == YES
        assert await desk.accept("r", if_busy=IfBusy.REJECT, claim_next=False) == Accepted(1), "nothing runs there"

    @scenario
    async def test_a_pause_outlives_the_process(self, desk: Desk) -> None:
        """Also of a session in which nothing waits."""
        for name in ("s", "idle"):
            await desk.finish(await desk.start(f"a-{name}", key(name)))
            await pause(desk, key(name))
        await desk.accept("b")
        await desk.restart()
        for name, position in (("s", 2), ("idle", 1)):
            assert await desk.journal.claim_next(key(name)) is ClaimResult.NOTHING
            assert await desk.accept(f"c-{name}", key(name)) == Accepted(position)
            assert desk.journal.sessions.is_paused(key(name))
        await resume(desk)
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        assert await desk.drain(await desk.claim(of="b")) == ["b", "c-s"]

    @scenario
    async def test_other_sessions_go_on(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False)
        await pause(desk)
        for at in (key("t"), key("s", "other")):
            assert await desk.drain(await desk.start(f"b-{at.principal}-{at.session_id}", at))

    @scenario
    async def test_what_waits_in_a_paused_session_can_be_cancelled_and_given_back(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        await pause(desk)
        assert await desk.release(claim.token, counted=True, claim_next=True) is ClaimResult.NOTHING
        assert [*(await desk.cancel_all()).ended] == ["a", "b"]  # type: ignore[union-attr]
        assert await desk.journal.change(Delete(key())) == YES
        assert await desk.accept("c") == Accepted(0), "a deleted session is no longer paused"
        await desk.finish(await desk.claim(of="c"))

    @scenario
    async def test_an_unknown_session_is_neither_paused_nor_resumed(self, desk: Desk) -> None:
        await desk.finish(await desk.start("a", key("s", "other")))
        for change in (pause, resume):
            assert await change(desk) == Changed(existed=False)
        assert await desk.accept("b") == Accepted(0)
        await desk.finish(await desk.claim(of="b"))

    @scenario
    async def test_a_session_can_be_paused_and_resumed_again_and_again(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False, queue_deadline=1_100.0)
        for _ in range(2):
            assert await resume(desk) == YES
        for _ in range(2):
            assert await pause(desk) == YES
            desk.clock.at += 5
        for _ in range(2):
            assert await resume(desk) == YES
            desk.clock.at += 5
        assert await deadline(desk, "a") == 1_110.0
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        await desk.finish(await desk.claim(of="a"))

    # -- time that stands still -----------------------------------------------------------------------

    @scenario
    async def test_queue_deadlines_move_on_by_the_time_that_a_pause_stood(self, desk: Desk) -> None:
        await desk.accept("a", claim_next=False, queue_deadline=1_100.0)
        await desk.accept("other", key("t"), claim_next=False, queue_deadline=1_100.0)
        desk.clock.at = 1_010
        await pause(desk)
        desk.clock.at = 1_015
        await desk.accept("b", queue_deadline=1_200.0)
        await desk.accept("c")
        desk.clock.at = 1_040
        waiting = {run.run_id: desk.journal.sessions.is_paused(run.key) for run in await waiting_runs(desk.journal)}
        assert waiting == {"a": True, "other": False, "b": True, "c": True}
        await desk.restart()
        desk.clock.at = 1_050
        await resume(desk)
        found = [await deadline(desk, run_id) for run_id in ("a", "other", "b", "c")]
        assert found == [1_140.0, 1_100.0, 1_235.0, None]

    async def _held_and_paused(self, desk: Desk, *steps: tuple[float, str]) -> Any:
        """Return by how much the deadline of a run that waits from 1,000 on has moved, after steps at these times."""
        claim = await desk.start("a")
        await desk.accept("w", queue_deadline=5_000.0)
        for at, step in steps:
            desk.clock.at = at
            if step == "hold":
                await desk.finish(claim, hold=True)
            elif step == "release":
                assert await desk.release(claim.token, counted=True) is ClaimResult.NOTHING
            elif step == "restart":
                await desk.restart()
            else:
                await (pause(desk) if step == "pause" else resume(desk))
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        return (await desk.claim(of="w")).run.queue_deadline - 5_000.0  # type: ignore[operator]

    @scenario
    async def test_a_hold_within_a_pause(self, desk: Desk) -> None:
        moved = self._held_and_paused(desk, (1_010, "pause"), (1_020, "hold"), (1_030, "release"), (1_050, "resume"))
        assert await moved == 40.0

    @scenario
    async def test_a_pause_within_a_hold(self, desk: Desk) -> None:
        moved = self._held_and_paused(desk, (1_010, "hold"), (1_020, "pause"), (1_030, "resume"), (1_050, "release"))
        assert await moved == 40.0

    @scenario
    async def test_a_hold_that_ends_while_it_is_paused(self, desk: Desk) -> None:
        moved = self._held_and_paused(desk, (1_010, "hold"), (1_020, "pause"), (1_030, "release"), (1_060, "resume"))
        assert await moved == 50.0

    @scenario
    async def test_a_pause_that_ends_while_it_is_held(self, desk: Desk) -> None:
        moved = self._held_and_paused(desk, (1_010, "pause"), (1_020, "hold"), (1_030, "resume"), (1_060, "release"))
        assert await moved == 50.0

    @scenario
    async def test_a_hold_that_a_restart_ends_while_it_is_paused(self, desk: Desk) -> None:
        steps = ((1_010, "hold"), (1_020, "pause"), (1_030, "restart"), (1_060, "resume"))
        assert await self._held_and_paused(desk, *steps) == 50.0

    @scenario
    async def test_a_hold_that_a_restart_ends_after_a_pause(self, desk: Desk) -> None:
        steps = ((1_010, "pause"), (1_020, "hold"), (1_030, "resume"), (1_060, "restart"))
        assert await self._held_and_paused(desk, *steps) == 50.0

    # -- moves ----------------------------------------------------------------------------------------

    @scenario
    async def test_a_run_is_moved_by_its_priority(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id in ("b", "c", "d"):
            await desk.accept(run_id)
        assert await move(desk, "d", 1) == YES
        assert await move(desk, "b", 4) == YES
        assert [(await desk.run(run_id)).position for run_id in ("d", "c", "b")] == [1, 2, 3]
        assert [(await desk.run(run_id)).priority for run_id in ("d", "c", "b")] == [1, 3, 4]
        await desk.restart()
        (claim,) = desk.orphans
        assert await move(desk, "b", 3) == YES
        assert await desk.accept("e") == Accepted(4)
        assert await desk.drain(claim) == ["a", "d", "b", "c", "e"], "of one priority in the order of acceptance"

    @scenario
    async def test_a_run_that_is_moved_to_the_front_goes_last_of_those_there(self, desk: Desk) -> None:
        claim = await desk.start("a")
        for run_id in ("b", "c", "d", "e"):
            await desk.accept(run_id)
        for run_id in ("d", "b"):
            assert await move(desk, run_id) == YES
        assert await desk.accept("i", lane=Lane.FRONT, if_busy=IfBusy.REJECT) == Refused("session_busy", 3)
        assert await desk.accept("i", lane=Lane.FRONT) == Accepted(3)
        assert await move(desk, "c") == YES
        await desk.restart()
        (claim,) = desk.orphans
        assert await move(desk, "d") == YES
        assert [run.run_id for run in await self._line(desk)] == ["b", "i", "c", "d", "e"]
        assert await desk.drain(claim) == ["a", "b", "i", "c", "d", "e"]

    async def _line(self, desk: Desk) -> list[Any]:
        runs = [await desk.run(run_id) for run_id in await desk.waiting()]
        return sorted(runs, key=lambda run: run.position or 0)

    @scenario
    async def test_a_place_that_was_drawn_is_not_drawn_again_after_a_restart(self, desk: Desk) -> None:
        await desk.start("a")
        for run_id in ("b", "c", "d"):
            await desk.accept(run_id)
        for run_id in ("d", "c"):
            await move(desk, run_id)
        await desk.restart()
        await move(desk, "b")
        assert [run.run_id for run in await self._line(desk)] == ["d", "c", "b"]
        (claim,) = desk.orphans
        assert await desk.drain(claim) == ["a", "d", "c", "b"]

    @scenario
    async def test_a_run_comes_back_from_the_front(self, desk: Desk) -> None:
        await desk.start("a")
        for run_id in ("b", "c"):
            await desk.accept(run_id)
        await move(desk, "c")
        assert (await desk.run("c")).position == 1
        await move(desk, "c", 5)
        run = await desk.run("c")
        assert (run.position, run.priority, run.lane) == (2, 5, Lane.NORMAL)
        await move(desk, "c")
        run = await desk.run("c")
        assert (run.position, run.priority, run.lane) == (1, 5, Lane.FRONT)

    @scenario
    async def test_only_what_waits_and_has_not_begun_can_be_moved(self, desk: Desk) -> None:
        claim = await desk.start("a")
        await desk.accept("b")
        for priority in (None, 1):
            assert await move(desk, "a", priority) == Busy()
        await desk.release(claim.token, counted=True)
        assert await move(desk, "a") == Busy(), "it stands at the head"
        await desk.cancel("b")
        assert await move(desk, "b", 1) == Ended()
        assert await move(desk, "none", 1) == Changed(existed=False)
        assert await move(desk, "a", 1, "other") == Changed(existed=False)
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        await desk.finish(claim, hold=True)
        assert await move(desk, "a") == Ended()

    @scenario
    async def test_of_a_move_and_a_take_the_first_wins(self, desk: Desk) -> None:
        for run_id in ("a", "b"):
            await desk.accept(run_id, claim_next=False)
        answers: list[object] = [
            *await asyncio.gather(desk.journal.claim_next(key()), move(desk, "a"), move(desk, "b"))
        ]
        assert answers == [ClaimResult.CLAIMED, Busy(), YES]
        await desk.finish(await desk.claim(of="a"))
        for run_id in ("c", "d"):
            await desk.accept(run_id, claim_next=False)
        answers = [*await asyncio.gather(move(desk, "d", 1), desk.journal.claim_next(key()), move(desk, "b", 5))]
        assert answers == [YES, ClaimResult.CLAIMED, Busy()]
        assert await desk.drain(await desk.claim(of="b")) == ["b", "d", "c"]

    @scenario
    async def test_a_moved_run_is_none_the_worse(self, desk: Desk) -> None:
        """All fields of its request stay, also when it is requeued and claimed again."""
        await desk.accept("a", claim_next=False, metadata={"k": 1}, timeout_s=9.0, priority=4)
        await move(desk, "a", 2)
        await move(desk, "a")
        await desk.restart()
        assert await desk.journal.claim_next(key()) is ClaimResult.CLAIMED
        claim = await desk.claim(of="a")
        assert (claim.run.metadata, claim.run.timeout_s, claim.run.priority) == ({"k": 1}, 9.0, 2)
        await desk.release(claim.token, counted=True, claim_next=True)
        claim = await desk.claim(of="a")
        assert (claim.run.lane, claim.run.input) == (Lane.REQUEUED, "ask a")
        await desk.finish(claim, done("hi", "ho"))

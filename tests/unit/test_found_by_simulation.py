"""What the simulation has found, each reduced to the least that shows it."""

import asyncio
from typing import Any, cast

import pytest

from engine_support import Played, Stubborn, key, play_round, send, serving, settled, tool_texts
from engine_support import history as history_of
from strandline.agents.port import Attempt, SessionAgent
from strandline.engine.asked import Request
from strandline.engine.dispatcher import Dispatcher
from strandline.engine.pool import AgentPool
from strandline.errors import ClaimLost
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Change, ChangeAnswer, Delete, Take
from strandline.model import ANONYMOUS, Loss, RunId, RunStatus, SessionKey, Settlement, Token
from strandline.testing.virtual import InlineLoops, VirtualClock, run_virtual


def test_a_run_that_had_begun_does_not_end_without_trace_because_it_waits_again_for_too_long() -> None:
    """A server dies after a tool has done something, and comes back when the queue's time is over."""

    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)

        async def behaviour(attempt: Attempt) -> str:
            if len(attempt.messages) == 1:

                async def tool() -> str:
                    return "money sent"

                await play_round(attempt, "t1", tool)
                await asyncio.sleep(1000)
            return "answer"

        async with serving(clock, Played(behaviour), journal, queue_timeout_s=10) as service:
            run_id = (await send(service, "x")).run_id
            await asyncio.sleep(1)
        await asyncio.sleep(20)
        async with serving(clock, Played(behaviour), journal, queue_timeout_s=10, max_running=1) as service:
            await settled(service)
            assert (await service.run(ANONYMOUS, run_id)).run.status is RunStatus.SUCCEEDED
            assert tool_texts(await history_of(service)) == ["money sent"]

    run_virtual(main)


def test_a_take_that_fails_after_its_claim_was_told_frees_its_slot_once() -> None:
    """The claim comes, its run ends as lost, and only then the take is given up."""
    dispatcher = Dispatcher(max_running=1)
    a, b, c = (SessionKey(ANONYMOUS, key(name).session_id) for name in "abc")
    for name, session in (("a", a), ("b", b), ("c", c)):
        dispatcher.restored(RunId(name), session, 0.0)
    assert dispatcher.next() == a
    dispatcher.claimed(RunId("a"), a)
    dispatcher.ended(RunId("a"), a, taken=False)
    dispatcher.untaken(a)
    assert dispatcher.next() == b
    assert dispatcher.next() is None, "there is one slot"


@pytest.mark.parametrize("when", ["before it is put", "while it is there"])
def test_the_agent_of_a_claim_that_was_lost_is_given_to_no_later_run(when: str) -> None:
    """The commit of a settle fails when the next run has begun; that one ends when others have had their turn."""

    async def main(clock: VirtualClock) -> None:
        pool = AgentPool(max_agents=9, agent_idle_s=9, clock=clock, loops=InlineLoops())
        stale, later, loss = cast(SessionAgent, object()), cast(SessionAgent, object()), Loss()
        if when == "while it is there":
            pool.put(key(), stale, None, loss)
            loss.note()
            assert pool.pop(key()) is None
        pool.put(key(), later, None, Loss())
        loss.note()
        pool.put(key(), stale, None, loss)
        assert pool.pop(key()) is later
        assert len(pool) == 0

    run_virtual(main)


def test_a_run_that_was_claimed_again_before_its_lost_claim_was_noticed_can_wait_again() -> None:
    dispatcher = Dispatcher(max_running=1)
    session, run = key(), RunId("r")
    dispatcher.restored(run, session, 0.0)
    assert dispatcher.next() == session
    dispatcher.claimed(run, session)
    dispatcher.claimed(run, session)  # the commit of the first had failed; another take found it waiting
    dispatcher.ended(run, session, taken=True)
    dispatcher.restored(run, session, 0.0)  # looked for because its claim was lost: it does not wait, but is claimed
    assert not dispatcher.is_waiting(run)
    dispatcher.ended(run, session, taken=False)  # lost as well
    dispatcher.restored(run, session, 0.0)
    assert dispatcher.is_waiting(run)
    assert dispatcher.next() == session
    dispatcher.claimed(run, session)
    dispatcher.ended(run, session, taken=False)
    dispatcher.restored(run, session, 0.0)  # it is given back
    assert dispatcher.is_waiting(run)
    assert dispatcher.next() == session


def test_a_run_whose_claim_was_lost_while_a_thread_of_it_works_runs_when_that_is_over() -> None:
    class Loses(MemoryJournal):
        """Finds at the first settle that the commit which made the claim has failed: the run waits as before."""

        lost = False

        async def settle(self, token: Token, settlement: Settlement, **options: Any) -> Take:
            if not self.lost:
                self.lost = True
                await super().release(token, counted=False, take=False)
                raise ClaimLost("its commit failed")
            return await super().settle(token, settlement, **options)

    async def main(clock: VirtualClock) -> None:
        work, began = Stubborn(), list[float]()

        async def behaviour(attempt: Attempt) -> str:
            began.append(clock.monotonic())
            if len(began) == 1:
                work.leave()
            return "done"

        async with serving(clock, Played(behaviour), Loses(clock), hold_limit_s=60) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(10)
            assert len(began) == 1, "it would run beside the thread of its first attempt"
            work.end()
            await settled(service)
            await asyncio.sleep(1)
            assert (await service.run(ANONYMOUS, ticket.run_id)).run.status is RunStatus.SUCCEEDED
            assert len(began) == 2

    run_virtual(main)


def test_an_agent_whose_run_ends_while_its_session_is_being_deleted_does_not_serve_the_next_of_that_name() -> None:
    class Late(MemoryJournal):
        """Deletes as soon as the run that executes has ended: verbs may take effect in another order."""

        ended: asyncio.Event

        async def change(self, change: Change) -> ChangeAnswer:
            if isinstance(change, Delete):
                await self.ended.wait()
            return await super().change(change)

        async def settle(self, token: Token, settlement: Settlement, **options: Any) -> Take:
            taken = await super().settle(token, settlement, **options)
            self.ended.set()
            return taken

    async def main(clock: VirtualClock) -> None:
        journal = Late(clock)
        journal.ended = asyncio.Event()

        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return "done"

        played = Played(behaviour)
        async with serving(clock, played, journal) as service:
            await send(service, "x")
            await asyncio.sleep(0.5)
            assert await service.delete(key())
            await send(service, "y")
            await settled(service)
            assert len(played.built) == 2, "the agent of the deleted conversation is not there any more"

    run_virtual(main)


def test_a_run_behind_one_that_was_blocked_starts_when_that_has_waited_too_long() -> None:
    """It had to wait for another session's last attempt; that nothing else happens meanwhile must not matter."""

    class Blocks(MemoryJournal):
        blocked = False

        async def take(self, key: SessionKey) -> Take:
            if self.blocked:
                return await super().take(key)
            self.blocked = True
            return Take.BLOCKED

    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return "answer"

        async with serving(clock, Played(behaviour), Blocks(clock), max_running=1) as service:
            await send(service, "x", "other")
            first = await service.submit(Request(key=key(), input="one", queue_timeout_s=5))
            second = await service.submit(Request(key=key(), input="two"))
            await settled(service)
            ends = [(await service.run(ANONYMOUS, each.run_id)).run for each in (first, second)]
            assert [end.status for end in ends] == [RunStatus.FAILED, RunStatus.SUCCEEDED]
            assert ends[1].started_at == pytest.approx(ends[0].ended_at)

    run_virtual(main)

"""What the simulation has found, each reduced to the least that shows it."""

import asyncio
from typing import Any

from engine_support import Played, key, play_round, send, serving, tool_texts, until_idle
from engine_support import history as history_of
from strandline._agents.port import Attempt
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Change, ChangeAnswer, ClaimResult, Delete
from strandline._model import ANONYMOUS, Completion, FencingToken, RunStatus
from strandline.testing._virtual import VirtualClock, run_virtual


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
            await until_idle(service)
            assert (await service.run(ANONYMOUS, run_id)).run.status is RunStatus.SUCCEEDED
            assert tool_texts(await history_of(service)) == ["money sent"]

    run_virtual(main)


def test_an_agent_whose_run_ends_while_its_session_is_being_deleted_does_not_serve_the_next_of_that_name() -> None:
    class Late(MemoryJournal):
        """Deletes as soon as the run that executes has ended: operations may take effect in another order."""

        ended: asyncio.Event

        async def change(self, change: Change) -> ChangeAnswer:
            if isinstance(change, Delete):
                await self.ended.wait()
            return await super().change(change)

        async def finish(self, token: FencingToken, completion: Completion, **options: Any) -> ClaimResult:
            taken = await super().finish(token, completion, **options)
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
            await until_idle(service)
            assert len(played.built) == 2, "the agent of the deleted conversation is not there any more"

    run_virtual(main)

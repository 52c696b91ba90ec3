"""An async tool that blocks its loop for good takes its own run with it, and nobody else."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from engine_support import Played, key, outcome, play_round, prompt_of, send, tool_texts
from strandline._agents.port import Attempt
from strandline._clock import SystemClock
from strandline._engine.loops import AgentLoops
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._history import UNKNOWN_OUTCOME
from strandline._journal.errors import ClaimLost
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, Cancelled, ErrorCode, RunId, RunStatus
from strandline.testing import Gate, Signal
from strandline.testing._checker import check_history

NUMBERS = count()


@asynccontextmanager
async def on_threads(behaviour: Callable[[Attempt], Awaitable[str]], **options: Any) -> AsyncIterator[Service]:
    """Serve on a real agent loop, in a thread of its own."""
    clock = SystemClock()
    loops = AgentLoops(executor_threads=8, clock=clock)
    service = Service(
        journal=MemoryJournal(clock),
        target=Played(behaviour),
        loops=loops,
        clock=clock,
        new_run_id=lambda key: RunId(f"run_{next(NUMBERS)}"),
        workspace=lambda key: tempfile.gettempdir(),
        options=Options(cancel_grace_s=0.3, drain_grace_s=0, **options),
    )
    await service.start()
    try:
        yield service
    finally:
        await service.abort()


def test_a_loop_that_is_blocked_for_good_is_given_up_and_all_other_sessions_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate, model, tool = Gate(), Gate(), Gate()
    started: list[tuple[str, int]] = []

    async def behaviour(attempt: Attempt) -> str:
        text, number = prompt_of(attempt), attempt.context.attempt
        started.append((text, number))

        async def blocks() -> str:
            gate.block()
            return "let go"

        async def waits() -> str:
            await tool.wait()
            return "went on"

        if text == "blocks":
            await play_round(attempt, "t1", blocks)
        elif text == "in a tool":
            await play_round(attempt, "t1", waits)
        elif text == "in the model" and number == 1:
            await model.wait()
            await play_round(attempt, "t1", waits)
        return f"answer to {text}"

    async def main() -> None:
        async with on_threads(behaviour, hold_limit_s=60.0, timeout_s=30.0) as service:
            in_model = await send(service, "in the model", "b")
            await model.reached.wait()
            in_tool = await send(service, "in a tool", "c")
            await tool.reached.wait()
            blocked = await send(service, "blocks", "a", timeout_s=0.1)
            await gate.reached.wait()
            end = await outcome(blocked)
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            late = await send(service, "late", "d")
            assert (await asyncio.wait_for(outcome(late), 20)).output == "answer to late"
            assert (await asyncio.wait_for(outcome(in_model), 20)).output == "answer to in the model"
            assert (await service.run(ANONYMOUS, in_model.run_id)).run.attempt == 2
            end = await asyncio.wait_for(outcome(in_tool), 20)
            assert end.error is not None
            assert end.error.code is ErrorCode.CRASHED
            messages = await service.history(key("c"), count=0, include_tool_messages=True)
            assert tool_texts(messages) == [UNKNOWN_OUTCOME]
            assert (await outcome(await send(service, "again", "c"))).status is RunStatus.SUCCEEDED
            assert service.health().held == 1, "the session whose code has the thread waits for it"
            after = await send(service, "after", "a")
            assert after.position == 1
            model.open()
            tool.open()
            gate.open()
            assert (await asyncio.wait_for(outcome(after), 20)).output == "answer to after"
            for session in "abcd":
                messages = await service.history(key(session), count=0, include_tool_messages=True)
                assert check_history(messages) == []
            assert "went on" not in str(await service.history(key("c"), count=0, include_tool_messages=True))

    asyncio.run(main())
    assert started.count(("in the model", 1)) == 1
    assert any("given up" in record.message and "in blocks" in record.message for record in caplog.records)


def test_what_a_stranded_run_does_later_counts_for_nothing() -> None:
    gate, model = Gate(), Gate()
    seen: list[BaseException] = []

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        elif attempt.context.attempt == 1:
            try:
                await model.wait()
            except asyncio.CancelledError as error:
                seen.append(error)
                try:
                    await play_round(attempt, "t1", lambda: asyncio.sleep(0, "never"))
                except BaseException as refused:
                    seen.append(refused)
                    raise
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0) as service:
            loop_lost = await send(service, "waits", "b")
            await model.reached.wait()
            await send(service, "blocks", "a", timeout_s=0.1)
            assert (await asyncio.wait_for(outcome(loop_lost), 20)).output == "fine"
            gate.open()
            async with asyncio.timeout(10):
                while len(seen) < 2:
                    await asyncio.sleep(0.005)
            messages = await service.history(key("b"), count=0, include_tool_messages=True)
            assert [m["role"] for m in messages] == ["user", "assistant"]

    asyncio.run(main())
    assert not isinstance(seen[1], ClaimLost), "it is refused before the journal is asked"


def test_a_run_that_blocks_the_loop_for_a_while_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    gate, logged = Gate(), Signal()

    class Reports(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "blocks the loop" in record.getMessage():
                logged.set()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour) as service:
            blocking = await send(service, "blocks", "a")
            other = await send(service, "waits", "b")
            await asyncio.wait_for(logged.wait(), 20)
            gate.open()
            assert (await outcome(blocking)).output == "fine"
            assert (await outcome(other)).output == "fine"

    handler = Reports()
    logging.getLogger("strandline.runner").addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logging.getLogger("strandline.runner").removeHandler(handler)
    (record,) = [each for each in caplog.records if "blocks the loop" in each.getMessage()]
    assert "in behaviour" in record.getMessage(), "with the line that blocks"


def test_of_runs_that_ended_on_a_loop_given_up_only_the_one_that_blocks_it_is_waited_for() -> None:
    gate = Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        elif prompt_of(attempt) == "waits":
            await asyncio.sleep(1000)
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0) as service:
            late = [await send(service, "waits", session, timeout_s=0.6) for session in "ab"]
            blocking = await send(service, "blocks", "c", timeout_s=0.4)
            after = [await send(service, "next", session) for session in "ab"]
            for ticket in (*late, blocking):
                assert (await asyncio.wait_for(outcome(ticket), 20)).status is RunStatus.FAILED
            for ticket in after:
                assert (await asyncio.wait_for(outcome(ticket), 20)).output == "fine"
            assert [hold.claim.run.key.session_id for hold in service._holds.all()] == ["c"]
            gate.open()

    asyncio.run(main())


@pytest.mark.parametrize(
    "how", [{"idempotent_tools": frozenset({"tool"})}, {"unknown_tool": "resume"}], ids=["started again", "told"]
)
def test_a_stranded_run_does_not_go_on_beside_a_tool_of_its_own_that_still_works(how: dict[str, Any]) -> None:
    gate, tool = Gate(), Gate()
    attempts: list[int] = []

    async def in_a_thread() -> str:
        await asyncio.to_thread(tool.block)
        return "done"

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        elif prompt_of(attempt) == "tool":
            attempts.append(attempt.context.attempt)
            await play_round(attempt, "t1", in_a_thread)
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0, **how) as service:
            loop_lost = await send(service, "tool", "a")
            await tool.reached.wait()
            after = await send(service, "next", "a")
            await send(service, "blocks", "b", timeout_s=0.1)
            end = await asyncio.wait_for(outcome(loop_lost), 20)
            assert end.error is not None
            assert end.error.code is ErrorCode.CRASHED
            assert (await service.run(ANONYMOUS, loop_lost.run_id)).run.held
            tool.open()
            assert (await asyncio.wait_for(outcome(after), 20)).output == "fine"
            assert attempts == [1]
            gate.open()

    asyncio.run(main())


def test_a_run_that_is_stranded_in_its_last_attempt_ends() -> None:
    gate, model = Gate(), Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        await model.wait()
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0, max_attempts=1) as service:
            loop_lost = await send(service, "waits", "a")
            await model.reached.wait()
            await send(service, "blocks", "b", timeout_s=0.1)
            end = await asyncio.wait_for(outcome(loop_lost), 20)
            assert end.error is not None
            assert end.error.code is ErrorCode.CRASHED
            gate.open()

    asyncio.run(main())


def test_stalled_runs_are_cancelled_but_not_those_that_another_one_keeps_from_going_on() -> None:
    gate = Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        elif attempt.context.attempt == 1:
            await asyncio.sleep(1000)
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0, stall_after_s=3.0, stall_action="cancel") as service:
            innocent = await send(service, "waits", "a")
            blocking = await send(service, "blocks", "b")
            assert (await asyncio.wait_for(outcome(blocking), 20)).status is RunStatus.CANCELLED
            assert (await asyncio.wait_for(outcome(innocent), 20)).output == "fine"
            gate.open()

    asyncio.run(main())


def test_a_run_that_was_to_be_cancelled_when_its_loop_is_given_up_is_cancelled() -> None:
    gate, model = Gate(), Gate()
    attempts: list[int] = []

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "blocks":
            gate.block()
        else:
            attempts.append(attempt.context.attempt)
            await model.wait()
        return "fine"

    async def main() -> None:
        async with on_threads(behaviour, timeout_s=30.0) as service:
            cancelled = await send(service, "waits", "a")
            await model.reached.wait()
            blocks = await send(service, "blocks", "b")
            await gate.reached.wait()
            executions = {each.attempt.claim.run.run_id: each for each in service._runner.executing()}
            executions[cancelled.run_id].end(Cancelled(), 60.0)
            executions[blocks.run_id].end(Cancelled(), 0.1)  # (which has its loop given up)
            assert (await asyncio.wait_for(outcome(cancelled), 20)).status is RunStatus.CANCELLED
            assert attempts == [1]
            gate.open()

    asyncio.run(main())

"""The thread loop: user code runs over there, results come back here, and nothing hangs on it."""

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import pytest

from strandline._clock import SystemClock
from strandline._engine.loops import CURRENT, AgentLoops, adopt_current_task
from strandline._engine.loops.thread import AgentLoop, Mailbox
from strandline.testing import Gate, Signal


def test_work_runs_on_the_agent_thread_and_its_result_comes_back() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())

        async def work() -> tuple[str, str]:
            await asyncio.sleep(0)
            return threading.current_thread().name, await asyncio.to_thread(lambda: threading.current_thread().name)

        name, tool = await asyncio.wait_for(loops.start(work).done, 10)
        assert name == "strandline-agents"
        assert tool.startswith("strandline-tool")
        assert loops.close()

    before = threading.active_count()
    asyncio.run(main())
    assert threading.active_count() == before


def test_the_serving_loop_goes_on_while_the_agent_loop_blocks() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        gate = Gate()

        async def blocks() -> str:
            gate.block()
            return "let go"

        call = loops.start(blocks)
        await gate.reached.wait()
        await asyncio.sleep(0)
        assert not call.done.done()
        gate.open()
        assert await asyncio.wait_for(call.done, 10) == "let go"
        loops.close()

    asyncio.run(main())


def test_a_cancel_reaches_the_task_and_an_abandoned_call_ends_here_at_once() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        gate = Gate()
        cancels = [Signal(), Signal()]

        async def stubborn() -> str:
            for cancelled in cancels:
                with suppress(asyncio.CancelledError):
                    await gate.wait()
                    return "opened"
                cancelled.set()
            return "gave up"

        call = loops.start(stubborn)
        await gate.reached.wait()
        for cancelled in cancels:
            loops.cancel(call)
            await asyncio.wait_for(cancelled.wait(), 10)
        assert await asyncio.wait_for(call.done, 10) == "gave up"

        call = loops.start(stubborn)
        call.abandon("left")
        assert await call.done == "left"
        gate.open()
        loops.close()

    asyncio.run(main())


def test_sys_exit_in_user_code_does_not_end_the_agent_loop() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())

        async def leaves() -> str:
            task = asyncio.create_task(leave())
            with suppress(SystemExit):
                await task
            return "still here"

        async def leave() -> None:
            sys.exit(3)

        assert await asyncio.wait_for(loops.start(leaves).done, 10) == "still here"
        loops.close()

    asyncio.run(main())


def test_what_is_discarded_is_dropped_on_the_agent_thread() -> None:
    dropped: list[str] = []
    gone = Signal()

    class Thing:
        def __del__(self) -> None:
            dropped.append(threading.current_thread().name)
            gone.set()

    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        thing = Thing()
        loops.discard(thing)
        del thing
        await asyncio.wait_for(gone.wait(), 10)
        loops.close()

    asyncio.run(main())
    assert dropped == ["strandline-agents"]


@pytest.mark.parametrize("stuck", [False, True])
def test_close_returns_whether_user_code_still_executes_in_a_thread(stuck: bool) -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        gate = Gate()

        async def work() -> None:
            await asyncio.to_thread(gate.block)

        loops.start(work)
        await gate.reached.wait()
        if not stuck:
            gate.open()
        assert loops.close() is not stuck
        gate.open()

    asyncio.run(main())


def test_a_posted_call_that_fails_does_not_hold_up_the_others() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        loops.post(lambda: 1 // 0)

        async def work() -> str:
            return "done"

        assert await asyncio.wait_for(loops.start(work).done, 10) == "done"
        loops.close()

    asyncio.run(main())


def test_what_still_works_for_a_call_is_counted_until_it_ends() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        gate, in_task = Gate(), Gate()

        async def background() -> None:
            adopt_current_task()
            await in_task.wait()

        async def work() -> str:
            task = asyncio.create_task(background())
            await in_task.reached.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(gate.block), 0.01)
            assert not task.done()
            return "left"

        call = loops.start(work)
        assert await asyncio.wait_for(call.done, 10) == "left"
        assert len(call.threads) == 1
        assert len(call.tasks) == 1
        shown = "\n".join(await loops.stack(call))
        assert "in block" in shown, "the thread's stack shows what it does"
        assert "in background" in shown
        in_task.open()
        await _until(lambda: not call.tasks)
        assert call.is_alive
        gate.open()
        await _until(lambda: not call.is_alive)

        async def clean() -> None:
            await asyncio.to_thread(lambda: None)

        other = loops.start(clean)
        await asyncio.wait_for(other.done, 10)
        assert not other.is_alive, "work that is over is not counted by the time that its call ends"
        loops.close()

    asyncio.run(main())


def test_work_that_waits_for_a_thread_counts_as_alive() -> None:
    async def main() -> None:
        loops = AgentLoops(executor_threads=1, clock=SystemClock())
        gate = Gate()

        async def fills() -> None:
            await asyncio.to_thread(gate.block)

        async def forgets() -> None:
            asyncio.get_running_loop().run_in_executor(None, lambda: None)

        filling = loops.start(fills)
        await gate.reached.wait()
        call = loops.start(forgets)
        await asyncio.wait_for(call.done, 10)
        assert call.is_alive
        assert await loops.stack(call) == ["waits for a thread"]
        gate.open()
        await asyncio.wait_for(filling.done, 10)
        await _until(lambda: not call.is_alive)
        loops.close()

    asyncio.run(main())


def test_a_loop_that_is_blocked_is_silent_and_a_fresh_one_takes_over() -> None:
    async def main() -> None:
        clock = SystemClock()
        loops = AgentLoops(executor_threads=2, clock=clock)
        gate, innocent = Gate(), Gate()

        async def blocks() -> str:
            gate.block()
            return "let go"

        async def waits() -> None:
            await innocent.wait()

        waiting = loops.start(waits)
        await innocent.reached.wait()
        blocking = loops.start(blocks)
        await gate.reached.wait()
        loops.beat()
        began = clock.monotonic()
        await _until(lambda: loops.silent_s(blocking) > 0.05)
        assert loops.silent_s(blocking) <= clock.monotonic() - began + 0.05
        assert loops.blocks(blocking)
        assert not loops.blocks(waiting)
        assert "in blocks" in "\n".join(await loops.stack(blocking))
        loops.replace(blocking)
        assert loops.silent_s(blocking) == 0
        assert await asyncio.wait_for(loops.start(_name).done, 10) == "strandline-agents"
        task = waiting.task
        assert task is not None
        gate.open()
        await _until(task.done)
        assert task.cancelled(), "what was left there does not continue"
        assert not blocking.done.done(), "nor does its result come here"
        assert loops.close()

    asyncio.run(main())


async def _name() -> str:
    return threading.current_thread().name


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_loop_that_was_retired_cancels_its_tasks_in_peace_when_it_is_closed() -> None:
    async def main() -> None:
        loop = AgentLoop(2, SystemClock(), asyncio.new_event_loop)
        begun, cancelled, never = Signal(), Signal(), Signal()

        async def lingers() -> None:
            begun.set()
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                cancelled.set()
                await never.wait()  # until the loop leaves it

        loop.start(lingers, Mailbox(asyncio.get_running_loop()))
        await begun.wait()
        loop.abandon()
        await cancelled.wait()
        assert loop.close()

    asyncio.run(main())


def test_a_generator_that_nobody_went_through_is_closed_with_its_loop() -> None:
    closed = Signal()
    kept: list[AsyncGenerator[int, None]] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.set()

    async def first() -> int:
        kept.append(numbers())
        return await anext(kept[0])

    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())
        assert await asyncio.wait_for(loops.start(first).done, 10) == 1
        assert loops.close()

    asyncio.run(main())
    assert closed.is_set()


class Over(StopIteration):
    """One of somebody's own."""


@pytest.mark.parametrize("raised", [StopIteration, Over])
@pytest.mark.parametrize("inside", [True, False], ids=["for a call", "for nobody"])
def test_work_of_a_thread_that_lets_stop_iteration_out_fails_and_hangs_nobody(
    raised: type[StopIteration], inside: bool
) -> None:
    """A future cannot hold it: its waiter would wait for ever, or see a good return."""

    def exhausted() -> None:
        raise raised("of an iterator")

    async def main() -> None:
        loops = AgentLoops(executor_threads=2, clock=SystemClock())

        async def work() -> str:
            if not inside:
                CURRENT.set(None)
            try:
                await asyncio.to_thread(exhausted)
            except RuntimeError as error:
                return f"{error}, {type(error.__cause__).__name__}"
            return "returned"

        shown = await asyncio.wait_for(loops.start(work).done, 10)
        assert shown == f"raised {raised.__name__}('of an iterator'), {raised.__name__}"
        assert loops.close()

    asyncio.run(main())

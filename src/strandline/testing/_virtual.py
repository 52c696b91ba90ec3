"""Runs the engine without sockets, threads or real time: an event loop with virtual time, and agent loops on it.

On a `VirtualLoop` a sleep of an hour takes no time at all: whenever nothing is ready, the clock jumps to the next
timer. Without a timer nothing can happen any more, and the loop raises `Deadlock` instead of hanging.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from strandline._compat.virtual_loop import Deadlock, VirtualLoop
from strandline._engine.loops import Call, Flag, Load

__all__ = ["Deadlock", "InlineLoops", "VirtualClock", "VirtualLoop", "run_virtual"]

T = TypeVar("T")

LEAVE_S = 1.0
"""How many virtual seconds the remaining tasks get for their cancellation at the end."""


class VirtualClock:
    """The time of a virtual loop; the wall clock starts at `epoch` seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: float = 1_800_000_000.0) -> None:
        self._loop = loop
        self._epoch = epoch

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._epoch + self._loop.time()

    def monotonic(self) -> float:
        """Return the loop's time."""
        return self._loop.time()

    def boottime(self) -> float:
        """Return the loop's time."""
        return self._loop.time()


class InlineLoops:
    """Agent loops on the serving loop itself: `strandline._engine.loops.Loops` without threads."""

    accepts_calls = True

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` as a task of this loop."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        task = call.begin(work, copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(call.end)
        return call

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the task once."""
        if call.task is not None:
            call.task.cancel()

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` soon."""
        asyncio.get_running_loop().call_soon(work)

    def discard(self, thing: object) -> None:
        """Drop a reference."""

    def signal(self) -> Flag:
        """Return a flag."""
        return Flag()

    def owned_until(self, until: float | None) -> None:
        """Do nothing: user code here asks the journal itself."""

    def beat(self) -> None:
        """Do nothing: a blocked loop blocks the watchdog too."""

    def silent_s(self, call: Call[Any]) -> float:
        """Return 0."""
        return 0.0

    def blocks(self, call: Call[Any]) -> bool:
        """Return False."""
        return False

    def replace(self, call: Call[Any]) -> bool:
        """Do nothing."""
        return False

    def load(self) -> Load:
        """Return an empty load."""
        return Load()

    def drain(self, call: Call[Any]) -> bool:
        """Do nothing."""
        return True

    def is_current(self, loop: object) -> bool:
        """Return True."""
        return True

    accepts = is_current

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return the names of the call's tasks."""
        return [thread.name for thread in call.threads] + [task.get_name() for task in call.tasks]

    def close(self) -> bool:
        """Cancel the remaining tasks; there are no threads."""
        for task in self._tasks:
            task.cancel()
        return True


def run_virtual(main: Callable[[VirtualClock], Coroutine[Any, Any, T]]) -> T:
    """Run `main(clock)` on a new virtual loop to its end and return its result. Raises `Deadlock` if it cannot end."""
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(VirtualClock(loop)))
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        try:
            if left:
                loop.run_until_complete(asyncio.wait(left, timeout=LEAVE_S))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

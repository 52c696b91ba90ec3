"""A loop, agent loops and a clock that are virtual, and chance that comes from one seed.

What may be reordered: asyncio runs callbacks in the order of `call_soon`, two threads hand each other their calls in
order, and the code may rely on both. So the ready queue is left as it is. What is *not* fixed in life is how long
things take: a commit, a model's answer, a tool, a client's pause, the way between the serving loop and the agent loop.
Each of these seams calls `Chance.pass_time`, which lets nothing, a few steps of others, or some virtual time go by;
whatever else is ready then goes first. Every legal interleaving can come out of that, and no illegal one does.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

from strandline._engine.loops import Call
from strandline.testing._virtual import InlineLoops, VirtualClock

T = TypeVar("T")
EPOCH: Final = 1_800_000_000.0
"""Wall time at virtual second 0."""


class Chance(random.Random):
    """All that is random in a world, drawn from its seed in the order in which things happen there."""

    def __init__(self, seed: int | str) -> None:
        super().__init__(seed)
        self.steps = 0.5
        """How likely others get a step or two at a seam."""
        self.time = 0.3
        """How likely virtual time passes at a seam."""

    def happens(self, probability: float) -> bool:
        """Return whether something happens that does so with this probability."""
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        return low + (high - low) * self.random()

    def up_to(self, most: int) -> int:
        """Return a whole number from 0 to `most`."""
        return int(self.random() * (most + 1))

    async def pass_time(self, most_s: float) -> None:
        """Let nothing, some steps of others, or up to `most_s` seconds go by."""
        draw = self.random()
        if draw < self.time:
            await asyncio.sleep(most_s * self.random())
        elif draw < self.time + self.steps:
            await asyncio.sleep(0)
            if draw < self.time + self.steps / 3:
                await asyncio.sleep(0)


class UnsteadyClock(VirtualClock):
    """A virtual clock whose wall time may be coarse, and be set back or forth; durations are not touched by that."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.offset_s = 0.0
        self.grain_s = 0.0
        """Wall time moves in steps of so many seconds; 0 is smoothly."""

    def now(self) -> float:
        """Return seconds since the epoch, as far as this clock knows."""
        now = super().now() + self.offset_s
        return now - now % self.grain_s if self.grain_s else now


class Way:
    """Calls from one loop to another: in order, each after a while."""

    def __init__(self, chance: Chance, most_s: float) -> None:
        self._chance = chance
        self._most_s = most_s
        self._free_at = 0.0

    def send(self, call: Callable[[], object]) -> None:
        """Have `call` called over there."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._free_at < now and self._chance.happens(0.6):
            loop.call_soon(call)
            return
        # A hair later than the one before: timers of the same instant may come in any order.
        self._free_at = max(self._free_at + 1e-7, now + self._most_s * self._chance.random())
        loop.call_at(self._free_at, call)


class SeededLoops(InlineLoops):
    """Agent loops on the serving loop, as far away as another thread is."""

    def __init__(self, chance: Chance, most_s: float = 0.002) -> None:
        super().__init__()
        self._there = Way(chance, most_s)
        self._back = Way(chance, most_s)
        self._closed = False

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` as a task, a while later."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        self._there.send(lambda: self._begin(call, work))
        return call

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, a while later."""
        self._there.send(lambda: call.task is not None and call.task.cancel())

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` a while later."""
        self._there.send(work)

    def close(self) -> bool:
        """Cancel what is left, and begin nothing more."""
        self._closed = True
        return super().close()

    def _begin(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        if self._closed:
            return
        task = call.begin(work, copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(self._ended, call))

    def _ended(self, call: Call[T], task: "asyncio.Task[T]") -> None:
        call.task = None
        self._back.send(lambda: call.end(task))

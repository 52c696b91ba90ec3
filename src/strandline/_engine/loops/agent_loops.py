"""The current agent loop of this process, and earlier ones that user code has blocked for good."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from strandline._agents.port import Signal
from strandline._clock import Clock
from strandline._engine.loops.calls import Call
from strandline._engine.loops.port import Load
from strandline._engine.loops.stacks import stack_of
from strandline._engine.loops.thread import AgentLoop, Mailbox

T = TypeVar("T")


class Flag(Struct, eq=False):
    """A signal: set once by one thread, read by others, without blocking (reading a field is atomic)."""

    _set: bool = False

    def is_set(self) -> bool:
        """Return whether it was set."""
        return self._set

    def set(self) -> None:
        """Set the flag."""
        self._set = True


class AgentLoops:
    """The current agent loop, and those that were given up."""

    def __init__(
        self,
        *,
        executor_threads: int,
        clock: Clock,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._make = partial(AgentLoop, executor_threads, clock, new_loop)
        self._current = self._make()
        self._replaced: list[AgentLoop] = []
        self._outbox: Mailbox | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the current agent loop."""
        if self._outbox is None:
            self._outbox = Mailbox(asyncio.get_running_loop())
        return self._current.start(work, self._outbox)

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once."""
        _loop_of(call).inbox.post(lambda: call.task is not None and call.task.cancel())

    def post(self, work: Callable[[], object]) -> None:
        """Call `work` on the current agent loop."""
        self._current.inbox.post(work)

    def post_back(self, work: Callable[[], object]) -> None:
        """Call `work` on the serving loop; does nothing once that is closed."""
        if self._outbox is not None:
            self._outbox.post(work)

    def discard(self, thing: object) -> None:
        """Drop a reference on the agent loop."""
        self._current.discard(thing)

    def signal(self) -> Signal:
        """Return a flag."""
        return Flag()

    def owned_until(self, until: float | None) -> None:
        """Do nothing: user code here asks the journal itself."""

    def beat(self) -> None:
        """Request a heartbeat of the current loop."""
        self._current.beat()

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how long the heartbeat of the call's loop is overdue; 0 for one that is replaced already."""
        return self._current.silent_s() if _loop_of(call) is self._current else 0.0

    def blocks(self, call: Call[Any]) -> bool:
        """Return whether the running task of the call's loop is one of the call's."""
        return _loop_of(call).running() in call.tasks

    def replace(self, call: Call[Any]) -> bool:
        """Give up the call's loop and use a fresh one."""
        loop = _loop_of(call)
        if loop is self._current:
            self._current = self._make()
            self._replaced.append(loop)
            loop.abandon()
        return False

    def drain(self, call: Call[Any]) -> bool:
        """Do nothing: a thread cannot be ended."""
        return True

    accepts_calls = True

    def is_current(self, loop: object) -> bool:
        """Return whether a loop is the current one."""
        return loop is self._current

    accepts = is_current

    def load(self) -> Load:
        """Return the current loop's load."""
        current = self._current
        return Load(silent_s=current.silent_s(), backlog=current.backlog(), given_up=len(self._replaced))

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's threads and tasks are."""
        loop = _loop_of(call)
        return stack_of(call, loop.running(), loop.ident)

    def close(self) -> bool:
        """Stop all loops; False if user code still executes in a thread of one."""
        idle = self._current.close()
        for loop in self._replaced:
            idle = loop.close() and idle
        return idle


def _loop_of(call: Call[Any]) -> AgentLoop:
    assert isinstance(call.loop, AgentLoop)
    return call.loop

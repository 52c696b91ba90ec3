"""Gates: code that can be kept from running on, for a while or for good, at whatever place it is.

A loop that user code blocks runs nothing else, and of a process that is killed nothing runs from that instant on. On
one virtual loop both are a matter of who gets the next step: every task that is begun behind a gate gets its steps only
while that is open. A task of a dead process gets none, not even one to clean up.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any


class Gate:
    """Open, shut, or shut for good."""

    def __init__(self) -> None:
        self.is_shut = False
        self.is_dead = False
        self._waits: list[asyncio.Future[None]] = []
        self._calls: deque[Callable[[], object]] = deque()
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def shut(self) -> None:
        """Keep what is behind it from running on."""
        self.is_shut = True

    def open(self) -> None:
        """Let it run on: what was called meanwhile first, in order."""
        if self.is_dead or not self.is_shut:
            return
        self.is_shut = False
        calls, self._calls = self._calls, deque()
        for call in calls:
            call()
        waits, self._waits = self._waits, []
        for wait in waits:
            if not wait.done():
                wait.set_result(None)

    def die(self) -> None:
        """Let nothing run any more."""
        self.is_dead = self.is_shut = True
        self._calls.clear()
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()

    def call(self, work: Callable[[], object]) -> None:
        """Call `work` when it is open, in the context of now; in vain if it never is."""
        if self.is_dead:
            return
        if self.is_shut:
            context = copy_context()
            self._calls.append(lambda: context.run(work))
        else:
            work()

    def wait(self) -> "asyncio.Future[None]":
        """Return what is done when it is open."""
        wait = asyncio.get_running_loop().create_future()
        self._waits.append(wait)
        return wait

    def note(self, task: "asyncio.Task[Any]") -> None:
        """Note a task that is behind it."""
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))


GATE: ContextVar[Gate | None] = ContextVar("simulation_gate", default=None)
"""The gate behind which new tasks begin."""


def gated(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any] | Generator[Any, None, Any], **given: Any
) -> "asyncio.Task[Any]":
    """Make a task, behind the gate of its context: a task factory."""
    context = given.get("context") or copy_context()
    gate = context.get(GATE)
    if gate is None:
        return asyncio.Task(coroutine, loop=loop, **given)
    task = asyncio.Task(_stepped(coroutine, gate), loop=loop, **given)
    gate.note(task)
    task.add_done_callback(lambda _: coroutine.close())  # (it may never have had its first step)
    return task


async def _stepped(coroutine: Any, gate: Gate) -> Any:
    return await _Steps(coroutine, gate)


class _Steps:
    """The steps of a coroutine, each of them through a gate."""

    def __init__(self, coroutine: Any, gate: Gate) -> None:
        self._coroutine = coroutine
        self._gate = gate

    def __await__(self) -> Generator[Any, None, Any]:
        gate, coroutine = self._gate, self._coroutine
        error: BaseException | None = None
        while True:
            while gate.is_shut:
                if gate.is_dead:
                    with suppress(BaseException):  # what it says to its end is heard by nobody
                        coroutine.close()
                    raise asyncio.CancelledError
                try:
                    yield from gate.wait()
                except asyncio.CancelledError as cancelled:
                    error = cancelled
            try:
                waits_for = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as ended:
                return ended.value
            error = None
            try:
                yield waits_for
            except BaseException as thrown:
                error = thrown

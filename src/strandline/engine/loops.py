"""Agent loops: where user code runs. The only module of the engine that imports `threading`.

The loop that serves HTTP never runs a factory, an agent or a hook; `ThreadLoop` runs them on an event loop in a
thread of its own, with a large executor of its own for sync tools. A call is started from the serving loop and its
result comes back there. Many calls and results share one wake-up of the other loop.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from strandline.agents.port import Signal

T = TypeVar("T")
_log = logging.getLogger("strandline.loops")

DISCARD_AFTER_S = 0.5
"""How long a thing that is discarded is held: longer than any caller's frame holds it."""
LEAVE_S = 0.2
"""How long tasks that are left when the loop is closed get to take their cancellation."""


class CallCancelled(Exception):
    """The task of a call was cancelled before its first step, so that it could not turn that into a value."""


class Call(Generic[T]):
    """A coroutine that runs on an agent loop, seen from the serving loop. `done` never holds an exception of ours."""

    def __init__(self, done: "asyncio.Future[T]") -> None:
        self.done = done
        self.task: asyncio.Task[T] | None = None

    def fail(self, error: BaseException) -> None:
        """End the call with an error that the coroutine let out; a defect, since it turns failures into values."""
        if not self.done.done():
            self.done.set_exception(error)

    def abandon(self, value: T) -> None:
        """End the call with `value` as seen from here, whatever the coroutine still does."""
        if not self.done.done():
            self.done.set_result(value)


class Flag:
    """A signal: set once by one thread, read by others."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Tell whether it was set."""
        return self._set

    def set(self) -> None:
        """Set it."""
        self._set = True


class Loops(Protocol):
    """Where user code runs."""

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop. `work` turns every failure into a value."""
        ...

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, like `task.cancel()`; the task may swallow it."""
        ...

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called on the agent loop, after whatever was started there before."""
        ...

    def discard(self, thing: object) -> None:
        """Drop a reference to user objects over there, since dropping may run their code."""
        ...

    def signal(self) -> Signal:
        """Return a new signal."""
        ...

    def close(self) -> bool:
        """Stop. Return False if a thread of user code still works: the process cannot leave by itself."""
        ...


class Mailbox:
    """Callables for a loop from other threads, in order; all that gather until it wakes share one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, item: Callable[[], object]) -> None:
        """Have `item` called on the loop. Raises `RuntimeError` if the loop is closed."""
        self._items.append(item)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._woken = False
        items = self._items
        while items:
            try:
                items.popleft()()
            except Exception:
                _log.exception("a call between two loops failed; the others go on")


class ThreadLoop:
    """One agent loop in a daemon thread, with an executor of `executor_threads` threads for sync tools."""

    def __init__(
        self,
        *,
        executor_threads: int,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._loop = new_loop()
        self._executor = ThreadPoolExecutor(executor_threads, thread_name_prefix="strandline-tool")
        self._loop.set_default_executor(self._executor)
        self._inbox = Mailbox(self._loop)
        self._outbox: Mailbox | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="strandline-agents", daemon=True)
        self._thread.start()

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop."""
        serving = asyncio.get_running_loop()
        if self._outbox is None:
            self._outbox = Mailbox(serving)
        call: Call[T] = Call(serving.create_future())
        self._inbox.post(lambda: self._begin(call, work))
        return call

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once."""
        self._inbox.post(lambda: call.task is not None and call.task.cancel())

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called on the agent loop."""
        self._inbox.post(work)

    def discard(self, thing: object) -> None:
        """Drop a reference on the agent loop, a moment later: the caller still holds it, and must not be the last."""
        box = [thing]
        self._inbox.post(lambda: self._loop.call_later(DISCARD_AFTER_S, box.clear))

    def signal(self) -> Signal:
        """Return a flag; setting and reading a field is atomic, and nobody blocks on it."""
        return Flag()

    def close(self) -> bool:
        """Stop the loop and its idle threads; False if user code still works in one."""
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=1.0)
        self._executor.shutdown(wait=False, cancel_futures=True)
        idle = not self._thread.is_alive()
        if idle:
            self._loop.close()
        for thread in list(getattr(self._executor, "_threads", ())):
            thread.join(timeout=0.1)
            idle = idle and not thread.is_alive()
            if not idle:
                break
        return idle

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._closing:
            try:
                self._loop.run_forever()
            except BaseException:
                # A tool that calls sys.exit() breaks out of run_forever; the loop itself is intact.
                _log.exception("user code tried to end the agent loop; it goes on")
        if tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=LEAVE_S))

    def _begin(self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        call.task = self._loop.create_task(work())
        call.task.add_done_callback(lambda task: self._finish(call, task))

    def _finish(self, call: Call[T], task: "asyncio.Task[T]") -> None:
        outbox = self._outbox
        if outbox is None or self._closing:
            return
        call.task = None
        if task.cancelled():
            outbox.post(lambda: call.fail(CallCancelled()))
        elif (error := task.exception()) is not None:
            outbox.post(lambda: call.fail(error))
        else:
            result = task.result()
            outbox.post(lambda: call.abandon(result))

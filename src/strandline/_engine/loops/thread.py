"""One agent loop in a thread of its own. The engine's only module that imports `threading`.

Many calls and results share one wake-up of the other loop. Sync tools have a large executor, whose threads are counted
for their call.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from strandline._clock import Clock
from strandline._compat.threads import Threads, no_thread
from strandline._engine.loops.calls import CURRENT, Call, LiveThread
from strandline.errors import SetupError

T = TypeVar("T")
_log = logging.getLogger("strandline.loops")

DISCARD_AFTER_S: Final = 0.5
"""How long a discarded object is kept: longer than any frame of its caller keeps it."""
LEAVE_S: Final = 0.2
"""How long remaining tasks get to handle their cancellation when the loop is closed, and then generators to close."""


class Mailbox(Struct, eq=False):
    """Callables for a loop from other threads, in order; those that gather until it wakes share one wake-up."""

    _loop: asyncio.AbstractEventLoop
    _items: deque[Callable[[], object]] = field(default_factory=deque)
    _woken: bool = False

    def post(self, item: Callable[[], object]) -> None:
        """Call `item` on the loop. Raises `RuntimeError` if the loop is closed."""
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
                _log.exception("a call between two loops failed; the others continue")


class CountingExecutor(Threads):
    """A thread pool that counts each call's threads, from the submit until the work is done."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Schedule `fn` for the call whose code submits it."""
        call = CURRENT.get()
        done = partial(_done, fn, *args, **kwargs)
        if call is None:
            return super().submit(done)
        thread = LiveThread(getattr(fn, "__qualname__", type(fn).__name__))

        context = copy_context()  # the run's context is that of its threads

        def work() -> T:
            thread.ident = threading.get_ident()
            return context.run(done)

        call.enter(thread)
        try:
            future = super().submit(work)
        except BaseException:
            call.leave(thread)
            raise
        future.add_done_callback(lambda _: call.leave(thread))  # before the callback that wakes the waiter
        return future


def _done(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Return what `fn` does. Raises `RuntimeError` in place of `StopIteration`, as a coroutine would.

    No asyncio future can hold a `StopIteration`: on Python 3.11 awaiting it would never return.
    """
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError(f"raised {error!r}") from error


class AgentLoop:
    """One agent loop in a daemon thread, with an executor of `executor_threads` threads for sync tools."""

    def __init__(self, executor_threads: int, clock: Clock, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._loop = new_loop()
        self._clock = clock
        self._executor = CountingExecutor(executor_threads, "strandline-tool")
        self._starved = False
        self._loop.set_default_executor(self._executor)
        self.inbox = Mailbox(self._loop)
        """Functions to call on this loop."""
        self._closing = False
        self._beat_requested_at: float | None = None
        self._thread = threading.Thread(target=self._serve, name="strandline-agents", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close()
            raise SetupError(no_thread("agents", error)) from error

    def start(self, work: Callable[[], Coroutine[Any, Any, T]], outbox: Mailbox) -> Call[T]:
        """Run `work()` here; its end is reported through `outbox`."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        # The caller's context, not that of the code that happens to wake the loop.
        context = copy_context()
        self.inbox.post(lambda: self._begin(call, work, outbox, context))
        return call

    def discard(self, thing: object) -> None:
        """Drop a reference here, a moment later: the caller still has it, and must not be the last."""
        box = [thing]
        self.inbox.post(lambda: self._loop.call_later(DISCARD_AFTER_S, box.clear))

    def owned_until(self, until: float | None) -> None:
        """Do nothing: user code here asks the journal itself."""

    def beat(self) -> None:
        """Request a heartbeat, unless one is overdue; start the threads that could not be started before."""
        if self._beat_requested_at is None:
            self._beat_requested_at = self._clock.monotonic()
            self.inbox.post(self._answer)
        self._executor.start_more()
        self._log_missing_threads()

    def _answer(self) -> None:
        self._beat_requested_at = None

    def _log_missing_threads(self) -> None:
        """Log once that no threads are available, and once that this is over."""
        refusal = self._executor.refusal
        if refusal is not None and not self._starved:
            _log.error("%s; %d calls wait", no_thread("sync tools and factories", refusal), self._executor.backlog)
        elif refusal is None and self._starved:
            _log.info("there are threads for sync tools and factories again")
        self._starved = refusal is not None

    def silent_s(self) -> float:
        """Return for how long a heartbeat is overdue."""
        requested_at = self._beat_requested_at
        return 0.0 if requested_at is None else self._clock.monotonic() - requested_at

    def backlog(self) -> int:
        """Return how many sync tools wait for a thread."""
        return self._executor.backlog

    def running(self) -> "asyncio.Task[Any] | None":
        """Return the task that runs here at this moment."""
        return asyncio.current_task(self._loop)

    @property
    def ident(self) -> int | None:
        """The identifier of its thread."""
        return self._thread.ident

    def abandon(self) -> None:
        """Stop as soon as user code releases the thread; its tasks are cancelled before they continue."""
        self._closing = True
        self.inbox.post(self._loop.stop)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def close(self) -> bool:
        """Stop the loop and its idle threads; False if user code still executes in one."""
        if not self._closing:  # a second stop would break into what an abandoned loop does last
            self._closing = True
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=1.0)
        self._executor.shutdown(wait=False, cancel_futures=True)
        idle = not self._thread.is_alive()
        if idle:
            self._loop.close()
        for thread in self._executor.started:
            thread.join(timeout=0.1)
            idle = idle and not thread.is_alive()
            if not idle:
                break
        return idle

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        stopped = False
        while not (stopped and self._closing):  # a stop on its way is awaited
            try:
                self._loop.run_forever()
                stopped = True
            except BaseException:
                # A tool that calls sys.exit() breaks out of run_forever; the loop itself is intact.
                _log.exception("user code tried to end the agent loop; it continues")
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._leave(asyncio.all_tasks(self._loop))
        # A provider client's open stream is a generator that was not exhausted.
        self._leave({self._loop.create_task(self._loop.shutdown_asyncgens())})

    def _leave(self, tasks: "set[asyncio.Task[Any]]") -> None:
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=LEAVE_S))

    def _begin(
        self, call: Call[T], work: Callable[[], Coroutine[Any, Any, T]], outbox: Mailbox, context: Context
    ) -> None:
        call.begin(work, context).add_done_callback(lambda task: self._finish(call, task, outbox))

    def _finish(self, call: Call[T], task: "asyncio.Task[T]", outbox: Mailbox) -> None:
        call.task = None
        if not self._closing:
            outbox.post(lambda: call.end(task))

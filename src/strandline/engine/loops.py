"""Agent loops: where user code runs. The only module of the engine that imports `threading`.

The loop that serves HTTP never runs a factory, an agent or a hook; `AgentLoops` runs them on an event loop in a
thread of its own, with a large executor of its own for sync tools. A call is started from the serving loop and its
result comes back there. Many calls and results share one wake-up of the other loop.

User code can block its loop for good. Such a loop is retired: it is left alone, and a fresh one takes over.
"""

import asyncio
import gc
import inspect
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from strandline.agents.port import Signal
from strandline.clock import Clock
from strandline.engine.calls import CURRENT, Call, LiveThread
from strandline.errors import SetupError
from strandline.threads import Threads, no_thread

T = TypeVar("T")
_log = logging.getLogger("strandline.loops")

DISCARD_AFTER_S = 0.5
"""How long a thing that is discarded is held: longer than any caller's frame holds it."""
DEEPEST = 100
"""How many frames of a coroutine are shown."""
LEAVE_S = 0.2
"""How long tasks that are left when the loop is closed get to take their cancellation, and then generators to close."""


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


class WorkerLoad(Struct, frozen=True, kw_only=True):
    """How a worker process is doing: it has owed a sign of life for `silent_s` seconds; `pid` None: it is starting."""

    pid: int | None
    running: int
    silent_s: float


class Load(Struct, frozen=True, kw_only=True):
    """How the agent loop in use is doing, or all of those in use."""

    silent_s: float = 0.0
    """For how many seconds it has owed a sign of life; of several, the one that has for longest."""
    backlog: int = 0
    """How many sync tools wait for a thread."""
    given_up: int = 0
    """How many loops before it were left alone."""
    workers: list[WorkerLoad] = []
    """The worker processes, if agents are in such."""
    workers_lost: int = 0
    """How many worker processes have ended that nobody had told to."""


class Loops(Protocol):
    """Where user code runs."""

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop, in a copy of the caller's context; it turns every failure into a value."""
        ...

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once, like `task.cancel()`; the task may swallow it."""
        ...

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called on the agent loop, after whatever was started there before."""
        ...

    def tell(self, work: Callable[[], object]) -> None:
        """Have `work` called on the loop that serves, before the end of whatever call told it; from the agent loop."""
        ...

    def discard(self, thing: object) -> None:
        """Drop a reference to user objects over there, since dropping may run their code."""
        ...

    def signal(self) -> Signal:
        """Return a new signal."""
        ...

    def beat(self) -> None:
        """Ask the agent loop for a sign of life; to be called every second or so."""
        ...

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how many seconds the call's loop has owed a sign of life; 0 if it owes none."""
        ...

    def blocks(self, call: Call[Any]) -> bool:
        """Tell whether it is this call's code that has the loop's thread at this moment."""
        ...

    def retire(self, call: Call[Any]) -> bool:
        """Leave the call's loop alone for good and use a fresh one. Should it come back, its tasks are cancelled.

        True if all that works there ends with it, and its calls say so themselves.
        """
        ...

    def relieve(self, call: Call[Any]) -> bool:
        """Have what still works for a call end, for which nobody waits any more, as soon as that harms no other.

        False if it cannot be seen to now: to be asked for again.
        """
        ...

    @property
    def takes_calls(self) -> bool:
        """Whether what is started begins, at once or in a moment."""
        ...

    def lives(self, home: object) -> bool:
        """Tell whether an agent that was built on the loop `home` can still be used."""
        ...

    def suits(self, home: object) -> bool:
        """Tell whether a run had better begin on `home`, where its agent is, than elsewhere with one made anew."""
        ...

    def load(self) -> Load:
        """Return how the loop in use is doing."""
        ...

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's threads and tasks are, one line of text each, for people; in bounded time."""
        ...

    def close(self) -> bool:
        """Stop. Return False if a thread of user code still works: the process cannot leave by itself."""
        ...


@runtime_checkable
class HasLoops(Protocol):
    """A target whose agents live on loops of its own."""

    @property
    def loops(self) -> Loops:
        """They."""
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


class CountingExecutor(Threads):
    """A thread pool that tells each call which threads work for it, from the submit until the work is done."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Schedule `fn` for the call whose code submits it."""
        call = CURRENT.get()
        done = partial(_done, fn, *args, **kwargs)
        if call is None:
            return super().submit(done)
        thread = LiveThread(getattr(fn, "__qualname__", type(fn).__name__))

        context = copy_context()  # what is current for the run is so in its threads, whoever takes them

        def work() -> T:
            thread.ident = threading.get_ident()
            return context.run(done)

        call.enter(thread)
        try:
            future = super().submit(work)
        except BaseException:
            call.leave(thread)
            raise
        future.add_done_callback(lambda _: call.leave(thread))  # before the callback that wakes whoever waits
        return future


def _done(fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Return what `fn` does. Raises `RuntimeError` in place of `StopIteration`, as a coroutine would.

    No future of asyncio can hold that one: on Python 3.11 whoever awaits it would wait for ever.
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
        self._inbox = Mailbox(self._loop)
        self._closing = False
        self._asked_at: float | None = None
        self._thread = threading.Thread(target=self._serve, name="strandline-agents", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close()
            raise SetupError(no_thread("agents", error)) from error

    def start(self, work: Callable[[], Coroutine[Any, Any, T]], outbox: Mailbox) -> Call[T]:
        """Run `work()` here; its end is told through `outbox`."""
        call: Call[T] = Call(asyncio.get_running_loop().create_future(), self)
        # The context of whoever starts it, not of whoever happens to wake the loop.
        context = copy_context()
        self._inbox.post(lambda: self._begin(call, work, outbox, context))
        return call

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called here."""
        self._inbox.post(work)

    def discard(self, thing: object) -> None:
        """Drop a reference here, a moment later: the caller still holds it, and must not be the last."""
        box = [thing]
        self._inbox.post(lambda: self._loop.call_later(DISCARD_AFTER_S, box.clear))

    def beat(self) -> None:
        """Ask for a sign of life, unless one is owed already; start the threads that could not be started before."""
        if self._asked_at is None:
            self._asked_at = self._clock.monotonic()
            self._inbox.post(self._answer)
        self._executor.start_more()
        self._tell_of_threads()

    def _answer(self) -> None:
        self._asked_at = None

    def _tell_of_threads(self) -> None:
        """Say in the log once that there are no threads to be had, and once that this is over."""
        refusal = self._executor.refusal
        if refusal is not None and not self._starved:
            _log.error("%s; %d calls wait", no_thread("sync tools and factories", refusal), self._executor.backlog)
        elif refusal is None and self._starved:
            _log.info("there are threads for sync tools and factories again")
        self._starved = refusal is not None

    def silent_s(self) -> float:
        """Return for how long a sign of life has been owed."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else self._clock.monotonic() - asked_at

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

    def retire(self) -> None:
        """Stop as soon as user code gives the thread back; its tasks are cancelled before they go on."""
        self._closing = True
        self._inbox.post(self._loop.stop)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def close(self) -> bool:
        """Stop the loop and its idle threads; False if user code still works in one."""
        if not self._closing:  # a second stop would break into what a retired loop does last
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
        stopped = False
        while not (stopped and self._closing):  # the stop that is on its way is waited for
            try:
                self._loop.run_forever()
                stopped = True
            except BaseException:
                # A tool that calls sys.exit() breaks out of run_forever; the loop itself is intact.
                _log.exception("user code tried to end the agent loop; it goes on")
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._leave(asyncio.all_tasks(self._loop))
        # A stream that a provider's client has open is a generator that nobody went through to its end.
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


class AgentLoops:
    """The agent loop in use, and those that had to be left alone."""

    def __init__(
        self,
        *,
        executor_threads: int,
        clock: Clock,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    ) -> None:
        self._make = partial(AgentLoop, executor_threads, clock, new_loop)
        self._current = self._make()
        self._retired: list[AgentLoop] = []
        self._outbox: Mailbox | None = None

    def start(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        """Run `work()` on the agent loop in use."""
        if self._outbox is None:
            self._outbox = Mailbox(asyncio.get_running_loop())
        return self._current.start(work, self._outbox)

    def cancel(self, call: Call[Any]) -> None:
        """Cancel the call's task once."""
        _home(call).post(lambda: call.task is not None and call.task.cancel())

    def post(self, work: Callable[[], object]) -> None:
        """Have `work` called on the agent loop in use."""
        self._current.post(work)

    def tell(self, work: Callable[[], object]) -> None:
        """Have `work` called on the serving loop; in vain once that is closed."""
        if self._outbox is not None:
            self._outbox.post(work)

    def discard(self, thing: object) -> None:
        """Drop a reference on the agent loop."""
        self._current.discard(thing)

    def signal(self) -> Signal:
        """Return a flag; setting and reading a field is atomic, and nobody blocks on it."""
        return Flag()

    def beat(self) -> None:
        """Ask the loop in use for a sign of life."""
        self._current.beat()

    def silent_s(self, call: Call[Any]) -> float:
        """Return for how long the call's loop has owed a sign of life; 0 for one that is retired already."""
        return self._current.silent_s() if _home(call) is self._current else 0.0

    def blocks(self, call: Call[Any]) -> bool:
        """Tell whether the task that runs on the call's loop is one of the call's."""
        return _home(call).running() in call.tasks

    def retire(self, call: Call[Any]) -> bool:
        """Leave the call's loop alone and use a fresh one."""
        loop = _home(call)
        if loop is self._current:
            self._current = self._make()
            self._retired.append(loop)
            loop.retire()
        return False

    def relieve(self, call: Call[Any]) -> bool:
        """Do nothing: a thread cannot be ended."""
        return True

    takes_calls = True

    def lives(self, home: object) -> bool:
        """Tell whether a loop is the one in use."""
        return home is self._current

    suits = lives

    def load(self) -> Load:
        """Return how the loop in use is doing."""
        current = self._current
        return Load(silent_s=current.silent_s(), backlog=current.backlog(), given_up=len(self._retired))

    async def stack(self, call: Call[Any]) -> list[str]:
        """Return where the call's threads and tasks are."""
        frames = sys._current_frames()
        lines: list[str] = []
        for thread in call.threads:
            lines.append("a thread:" if thread.ident in frames else "waits for a thread")
            if thread.ident in frames:
                lines += _lines(traceback.extract_stack(frames[thread.ident]))
        running = _home(call).running()
        for task in call.tasks:
            lines.append("a task, which has the loop's thread:" if task is running else "a task, which waits:")
            ident = _home(call).ident
            if task is running and ident in frames:
                lines += _lines(traceback.extract_stack(frames[ident]))
            else:
                lines += _lines(_suspended(task.get_coro()))
        return lines

    def close(self) -> bool:
        """Stop all loops; False if user code still works in a thread of one."""
        idle = self._current.close()
        for loop in self._retired:
            idle = loop.close() and idle
        return idle


def _home(call: Call[Any]) -> AgentLoop:
    assert isinstance(call.home, AgentLoop)
    return call.home


def _suspended(coroutine: Any) -> list[traceback.FrameSummary]:
    """Return where a coroutine waits: its frame, that of what it awaits, and so on."""
    found: list[traceback.FrameSummary] = []
    while coroutine is not None and len(found) < DEEPEST:
        frame = _first(coroutine, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            found.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = _first(coroutine, "cr_await", "ag_await", "gi_yieldfrom") or _generator_of(coroutine)
    return found


def _generator_of(step: object) -> object | None:
    """Return the asynchronous generator whose next step is awaited; only the garbage collector knows it."""
    if not type(step).__name__.startswith("async_generator"):
        return None
    return next((each for each in gc.get_referents(step) if inspect.isasyncgen(each)), None)


def _first(thing: object, *names: str) -> Any:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)


def _lines(frames: "list[traceback.FrameSummary] | traceback.StackSummary") -> list[str]:
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]

"""A call: user code on an agent loop, seen from the serving loop, with everything that executes for it.

A call may execute on after its end: a task that swallows its cancellation, a thread that nobody can stop. The context
decides which call code belongs to: the call's own task, the tasks that report to it, and every thread that its code
took from the loop's executor. Threads that user code starts by itself are not seen.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class CallCancelled(Exception):
    """The task of a call was cancelled before its first step, so that it could not turn that into a value."""


class LiveThread(Struct, eq=False):
    """A thread that executes, or is about to, for a call; `ident` is its identifier once it does."""

    name: str
    ident: int | None = None


class Call(Struct, Generic[T], eq=False):
    """A coroutine on an agent loop. `done` belongs to the serving loop and never has an exception of the engine."""

    done: asyncio.Future[T]
    loop: object
    """The loop that it runs on, for comparison only; set later if it is not yet known which process runs it."""
    task: asyncio.Task[T] | None = None
    _tasks: set[asyncio.Task[Any]] = set()
    _threads: set[LiveThread] = set()

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]], context: Context) -> "asyncio.Task[T]":
        """Run `work()` for it, as a task of the running loop in this context; pass the task to `end` once it is
        done."""
        context.run(CURRENT.set, self)
        self.task = task = asyncio.get_running_loop().create_task(work(), context=context)
        return task

    def end(self, task: "asyncio.Task[T]") -> None:
        """End the call as its task has. An error is a defect, since the coroutine turns failures into values."""
        self.task = None
        error = CallCancelled() if task.cancelled() else task.exception()
        if error is None:
            self.abandon(task.result())
        elif not self.done.done():
            self.done.set_exception(error)

    def abandon(self, value: T) -> None:
        """End the call with `value` as seen from here, whatever the coroutine still does."""
        if not self.done.done():
            self.done.set_result(value)

    # -- what executes for it: written on the agent loop and in its threads, read anywhere -----------------

    @property
    def is_alive(self) -> bool:
        """Whether anything still executes for it."""
        return self.task is not None or bool(self._tasks) or bool(self._threads)

    @property
    def threads(self) -> list[LiveThread]:
        """The threads that execute for it."""
        return list(self._threads)

    @property
    def tasks(self) -> "list[asyncio.Task[Any]]":
        """The tasks that execute for it."""
        return [*([] if self.task is None else [self.task]), *self._tasks]

    def enter(self, thread: LiveThread) -> None:
        """Count a thread."""
        self._threads.add(thread)

    def leave(self, thread: LiveThread) -> None:
        """Stop counting a thread."""
        self._threads.discard(thread)

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Count a task until it is done."""
        if task is not self.task and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def disown_tasks(self) -> None:
        """Stop counting its tasks: their loop will not run them again."""
        self.task = None
        self._tasks = set()


CURRENT: ContextVar[Call[Any] | None] = ContextVar("strandline_call", default=None)
"""The call whose code runs."""


def adopt_current_task() -> None:
    """Count the running task for its call."""
    call, task = CURRENT.get(), asyncio.current_task()
    if call is not None and task is not None:
        call.adopt(task)

"""Threads of a world: real ones of which one runs at a time, so that what they do is a matter of the seed.

While a thread runs, the loop of its world stands still. It hands over whenever it would wait, for an answer or for some
time, all of it virtual. What wakes it is a task of its process, so that a thread of a frozen process stands still where
it is, and one of a dead process comes to its end without any effect.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Dead(BaseException):
    """Ends a thread of a process that is dead."""


class Thread:
    """A thread that calls something. What that is to wait for is awaited on the loop."""

    def __init__(self, call: Callable[[], object]) -> None:
        context = copy_context()
        context.run(CURRENT.set, self)
        self._thread = threading.Thread(target=lambda: context.run(self._main, call), daemon=True)
        self._runs, self._waits = threading.Lock(), threading.Lock()
        """Each is released to let the thread, or the loop, continue, and taken again where it stands still."""
        self._runs.acquire()
        self._waits.acquire()
        self._wanted: Callable[[], Coroutine[Any, Any, Any]] | None = None
        """What it waits for; None: it is at its end."""
        self._found: Any = None
        self._error: BaseException | None = None
        self._raised: BaseException | None = None
        self.is_dead = False

    # -- in the thread --------------------------------------------------------------------------------

    def wait_for(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `work()` does on the loop; call it in the thread itself."""
        if self.is_dead:
            raise Dead
        self._wanted = work
        self._waits.release()
        self._runs.acquire()
        if (error := self._error) is not None:
            raise error
        found: T = self._found
        return found

    def _main(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self._raised = error
        finally:
            self._wanted = None
            self._waits.release()

    # -- on the loop ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Return when it has ended; what it raises is raised."""
        self._thread.start()
        self._waits.acquire()
        try:
            while (wanted := self._wanted) is not None:
                self._found = self._error = None
                try:
                    self._found = await wanted()
                except Exception as error:
                    self._error = error
                self._runs.release()
                self._waits.acquire()
        finally:
            if self._wanted is not None:
                self.is_dead, self._error = True, Dead()
                self._runs.release()
                self._waits.acquire()
            self._thread.join()
        if self._raised is not None:
            raise self._raised


CURRENT: ContextVar[Thread | None] = ContextVar("simulation_thread", default=None)
"""The thread that runs, if it is not that of the loop. What it begins on the loop has it too: see `here`."""


def here() -> Thread | None:
    """Return the thread of the caller, None if it is the loop's."""
    thread = CURRENT.get()
    return thread if thread is not None and threading.current_thread() is thread._thread else None


class Event(threading.Event):
    """An event for which threads wait in virtual time."""

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it is set, after `timeout` seconds if it is not."""
        if not self.is_set() and timeout is not None and (thread := here()) is not None:
            thread.wait_for(lambda: asyncio.sleep(timeout))
        return self.is_set()

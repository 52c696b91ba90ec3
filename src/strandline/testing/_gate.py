"""A place where code under test stops until a test lets it go on: `Gate`.

Works between any two threads and event loops, because an agent runs on another loop than the server that
it belongs to, and both run on other threads than a synchronous test. Knows nothing of agents.
"""

import asyncio
import threading
from typing import Final

DEADLINE_S: Final = 30.0
"""How long a test waits for something that should happen at once, before it fails."""


class Signal:
    """Something that happens once. It may be set, and waited for, from every thread and event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flag = threading.Event()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._flag.is_set()

    def set(self) -> None:
        """Let it happen; wakes everybody who waits. Further calls change nothing."""
        with self._lock:
            self._flag.set()
            waiters, self._waiters = self._waiters, set()
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # its loop is closed: nobody waits there any more
                continue

    async def wait(self) -> None:
        """Return when it has happened; blocks no thread. A cancelled wait leaves nothing behind."""
        with self._lock:
            if self._flag.is_set():
                return
            loop = asyncio.get_running_loop()
            waiter = (loop, loop.create_future())
            self._waiters.add(waiter)
        try:
            await waiter[1]
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def block(self, deadline_s: float = DEADLINE_S) -> None:
        """Block this thread until it has happened. Raises `TimeoutError` after `deadline_s`."""
        if not self._flag.wait(deadline_s):
            raise TimeoutError(f"did not happen within {deadline_s} s")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Gate:
    """Holds whoever comes to it until it is opened, and tells that somebody came.

    The code under test calls `await gate.wait()` (or `gate.block()` in a thread, e.g. in a sync tool); the
    test waits for `reached`, looks around, and calls `open()`. An open gate stays open.
    """

    def __init__(self) -> None:
        self.reached = Signal()
        """Set as soon as somebody stands at the gate."""
        self._opened = Signal()

    def open(self) -> None:
        """Let everybody through, those who come later too."""
        self._opened.set()

    async def wait(self) -> None:
        """Tell that somebody came, then wait until the gate is open."""
        self.reached.set()
        await self._opened.wait()

    def block(self, deadline_s: float = DEADLINE_S) -> None:
        """Do the same as `wait`, but block this thread. Raises `TimeoutError` after `deadline_s`."""
        self.reached.set()
        self._opened.block(deadline_s)

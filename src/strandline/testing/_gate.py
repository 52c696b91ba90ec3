"""`Gate`: holds code under test until the test opens it.

Works between any threads and event loops, because an agent runs on another loop than its server, and both on other
threads than a synchronous test. Knows nothing about agents.
"""

import asyncio
import threading
from typing import Final

DEADLINE_S: Final = 30.0
"""How long a test waits, before it fails, for something that should happen at once."""


class Signal:
    """A one-time event, to be set and awaited from any thread and event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flag = threading.Event()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._flag.is_set()

    def set(self) -> None:
        """Set it and wake all waiters. Further calls change nothing."""
        with self._lock:
            self._flag.set()
            waiters, self._waiters = self._waiters, set()
        for loop, future in waiters:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # its loop is closed: nobody waits there
                continue

    async def wait(self) -> None:
        """Return when it is set; blocks no thread. A cancelled wait leaves nothing behind."""
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
        """Block this thread until it is set. Raises `TimeoutError` after `deadline_s`."""
        if not self._flag.wait(deadline_s):
            raise TimeoutError(f"did not happen within {deadline_s} s")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Gate:
    """Holds code that reaches it until it is opened, and signals that it was reached.

    The code under test calls `await gate.wait()` (or `gate.block()` in a thread, e.g. in a sync tool); the test waits
    for `reached`, checks what it wants, and calls `open()`. An open gate stays open.
    """

    def __init__(self) -> None:
        self.reached = Signal()
        """Set as soon as code waits at the gate."""
        self._opened = Signal()

    def open(self) -> None:
        """Let all code through, now and later."""
        self._opened.set()

    async def wait(self) -> None:
        """Set `reached`, then wait until the gate is open."""
        self.reached.set()
        await self._opened.wait()

    def block(self, deadline_s: float = DEADLINE_S) -> None:
        """Like `wait`, but block this thread. Raises `TimeoutError` after `deadline_s`."""
        self.reached.set()
        self._opened.block(deadline_s)

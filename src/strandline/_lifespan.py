"""The lifespan of a service on a host program's event loop: its start, and its drain, which a signal may begin.

For a process of its own, see `strandline._server`. Knows no HTTP and no ASGI.
"""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from strandline._agents.port import Target
from strandline._clock import SystemClock
from strandline._composition import build_loops, build_service, open_journal, start
from strandline._config import journal_database
from strandline._settings import Settings
from strandline._telemetry.recorder import MetricsRecorder
from strandline._telemetry.traces import Traces
from strandline.errors import SettingsError, SetupError

_log = logging.getLogger("strandline")


class Lifespan:
    """One lifespan of a service on the running event loop, from its start to the end of its drain."""

    def __init__(self, target: Target, settings: Settings) -> None:
        if journal_database(settings) is not None:
            raise SettingsError(
                "The journal is in a database. A server that loses its lease on it ends its process, so it needs one of"
                " its own: `strandline serve`."
            )
        clock = SystemClock()
        self.recorder = MetricsRecorder()
        self.traces = Traces()
        journal = open_journal(settings, clock, self.recorder)
        self.loop = asyncio.get_running_loop()
        self._loops = build_loops(settings, target, clock, _loop_factory())
        self.service = build_service(settings, target, journal, self._loops, clock, self.recorder, self.traces)
        self._start = self.loop.create_task(start(self.service, target, self._loops))
        self._watch = self.loop.create_task(self._exhausted())
        self._drain: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Return when it has started. Raises `SetupError`, also if it is stopped meanwhile."""
        try:
            await self._start
        except asyncio.CancelledError:
            if self._drain is None:
                raise
            raise SetupError("stopped before it had started") from None

    def drain_soon(self) -> None:
        """Start to drain. May be called from a signal handler."""
        self.loop.call_soon_threadsafe(self._drained)

    async def end(self) -> None:
        """Drain, close everything, and return. No requests may arrive any more."""
        try:
            await asyncio.shield(self._drained())
            await self.service.close()
        finally:
            self._watch.cancel()
            if not await asyncio.to_thread(self._loops.close):
                _log.warning("user code still works in a thread; Python waits for it before it exits")

    def _drained(self) -> "asyncio.Task[None]":
        if self._drain is None:
            self._drain = self.loop.create_task(self._stop())
        return self._drain

    async def _stop(self) -> None:
        self._start.cancel()
        await asyncio.wait([self._start])
        if not self._start.cancelled() and self._start.exception() is None:
            await self.service.drain(close=False)

    async def _exhausted(self) -> None:
        await self.service.exhausted.wait()
        _log.error("no more requests are accepted: too many threads of ended runs still work. Restart this process")


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM or Ctrl-C before the existing handler, if there is one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        stop()
        before[signal.Signals(number)](number, frame)

    for number in (signal.SIGTERM, signal.SIGINT):
        handler = signal.getsignal(number)
        if callable(handler) and handler is not signal.default_int_handler:
            before[number] = handler
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a factory of loops like the running one: agents use the loop that the host program chose."""
    if type(asyncio.get_running_loop()).__module__.partition(".")[0] == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop

"""The parent of `strandline serve --servers N`: several servers on one address, over one journal in PostgreSQL.

Invariants: the first server starts alone, so that a reason why none can start is said once; the others follow when it
is ready. Each has its place, and so its ports, which the server that replaces it gets. All have the settings that were
in force when the parent started. When none is ready and one cannot start, all end, with its exit code.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final

from strandline._backoff import Backoff
from strandline._config import check_exposure, check_servers, exposed_to_all
from strandline._exits import as_shells_report, describe_exit
from strandline._listener import listen, settings_of_each
from strandline._settings import Settings
from strandline._supervision.orders import Orders
from strandline._supervision.parent import Child, Parent

_log = logging.getLogger("strandline")


def supervise(target: str, settings: Settings, announce: Callable[[str], None]) -> int:
    """Serve TARGET by several servers until stopped. Return the exit code.

    `announce` gets one line with the address once all are ready. Raises `SetupError` if they cannot be started.
    """
    check_servers(settings)
    check_exposure(settings)
    each = settings_of_each(settings)
    if (remark := exposed_to_all(settings)) is not None:
        _log.warning("%s", remark)
    listener = listen(settings)
    try:
        return asyncio.run(_Servers(target, each, listener, announce).life())
    finally:
        listener.close()


class _Place:
    """One of the servers, and those that replace it."""

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self.child: Child | None = None
        self.backoff: Final = Backoff()
        self.idle = False

    @property
    def is_ready(self) -> bool:
        """Whether its server is ready."""
        return self.child is not None and self.child.ready


class _Servers(Parent):
    """All of them."""

    def __init__(
        self, target: str, each: Sequence[Settings], listener: socket.socket, announce: Callable[[str], None]
    ) -> None:
        super().__init__(listener, partial(_log.warning, "%s"))
        self._target = target
        self._places = [_Place(settings) for settings in each]
        self._announce: Callable[[str], None] | None = announce
        """Until it has been called."""
        self._welcome = ""
        self._result = 0
        """The first exit code of a stop that is not 0."""

    async def _begin(self) -> None:
        await self._fill(self._places[0])

    async def _fill(self, place: _Place) -> None:
        """Start a server in a place without one, unless all stop."""
        if place.child is None and not self._stopping:
            await self._start_in(place)

    async def _start_in(self, place: _Place) -> None:
        alone = not any(each.is_ready for each in self._places)
        place.idle = False
        place.child = await self._start(
            [self._target], Orders(settings=place.settings, answers_while_starting=alone), sys.path
        )
        place.child.serve()
        if self._stopping:  # (meanwhile)
            self._stop()

    # -- what happens ------------------------------------------------------------------------------

    def _heard(self, child: Child, message: dict[str, Any]) -> Any:
        place = self._place_of(child)
        match message:
            case {"event": "welcome", "line": str(line)}:
                self._welcome = line
            case {"event": "ready"}:
                child.ready = True
                return self._ready(child)
            case {"event": "idle", "idle": bool(idle)}:
                place.idle = idle
                if not self._stopping and all(each.idle for each in self._places):
                    _log.info("no server has had a run or a request for %g minutes", self._minutes())
                    self._stop_all()
        return None

    async def _ready(self, child: Child) -> None:
        if self._announce is None:
            _log.info("process %d is ready", child.process.pid)
            return
        for each in self._places:
            await self._fill(each)
        if not self._stopping and all(each.is_ready for each in self._places):
            self._announce(self._welcome)
            self._announce = None

    async def _ended(self, child: Child, code: int) -> None:
        place = self._place_of(child)
        place.child = None
        if self._stopping:
            if child.ready:
                self._result = self._result or as_shells_report(code)
            self._end_if_empty()
        elif not child.ready and (self._announce is not None or not any(each.is_ready for each in self._places)):
            if len(self._places) > 1:
                _log.error(
                    "process %d could not start (%s), so all servers end", child.process.pid, describe_exit(code)
                )
            self._result = as_shells_report(code)
            self._stop_all()
        else:
            wait_s = place.backoff.ended(monotonic() - child.begun, was_ready=child.ready)
            when = f" in {wait_s:g} s" if wait_s else ""
            _log.warning("process %d has ended: %s; another one starts%s", child.process.pid, describe_exit(code), when)
            self._attend(self._replace(place, wait_s))

    async def _replace(self, place: _Place, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        self._happened.put_nowait(partial(self._fill, place))

    def _hung_up(self) -> None:
        if self._places[0].settings.api_keys_file is None:
            self._terminated()
            return
        for child in self._children:  # (each reads its keys again)
            if child.ready and child.is_there:
                child.process.send_signal(signal.SIGHUP)

    # -- their end ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        for child in self._children:
            if child.ready:
                child.stop_with_all()
            elif child.is_there:
                child.stopping = True
                child.process.terminate()
        self._listener.close()
        self._end_if_empty()

    def _stop_all(self) -> None:
        self._stopping = True
        self._stop()

    def _end_if_empty(self) -> None:
        if not any(each.child is not None for each in self._places):
            self._end(self._result)

    def _place_of(self, child: Child) -> _Place:
        return next(each for each in self._places if each.child is child)

    def _minutes(self) -> float:
        return self._places[0].settings.idle_timeout_minutes or 0.0

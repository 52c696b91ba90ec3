"""Logs and counts requests that were denied access.

Anybody can cause any number of them, so the log is limited: `BURST` lines at once, then one every `EVERY_S` seconds,
which says how many were left out. All are counted. No line has a key: a known key, or one that looks like ours, is
named by its id, the beginning of its hash in the key file.
"""

import logging
from collections.abc import Callable
from typing import Final

from starlette.types import Scope

from strandline._clock import Clock
from strandline._http import wire
from strandline._http.audit import address_of

_log = logging.getLogger("strandline.access")

BURST: Final = 20
EVERY_S: Final = 10.0
LONGEST_ROUTE: Final = 200
FOREIGN: Final = "foreign"
NO_SERVER: Final = "no_server"


class Denials:
    """Logs and counts denied requests. Belongs to the serving loop."""

    def __init__(self, clock: Clock, on_denied: Callable[[str], object]) -> None:
        self._clock = clock
        self._on_denied = on_denied
        self._left = float(BURST)
        self._at = clock.monotonic()
        self._unlogged = 0

    def note(self, scope: Scope, error: Exception) -> None:
        """Log and count a request if its error means that it was denied access.

        It comes from a foreign page or names a foreign host, has no valid key, or needs an operator's key.
        """
        match error:
            case wire.Foreign():
                self._denied(scope, FOREIGN, str(error))
            case wire.Unauthorized(key_id=key_id):
                shown = f"key {key_id}" if key_id else "a key of unknown format" if error.shown else "no key"
                self._denied(scope, error.reason, f"{error} ({shown})")
            case wire.OperatorsOnly():
                self._denied(scope, error.code, f"{error} (key {error.key_id})")

    def of_servers(self, scope: Scope, why: str) -> None:
        """Log and count a request that came where only other servers of the cluster may send any."""
        self._denied(scope, NO_SERVER, why)

    def _denied(self, scope: Scope, reason: str, why: str) -> None:
        self._on_denied(reason)
        now = self._clock.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) / EVERY_S)
        self._at = now
        if self._left < 1:
            self._unlogged += 1
            return
        self._left -= 1
        more = f"; {self._unlogged} more were refused since the last such line" if self._unlogged else ""
        self._unlogged = 0
        route = f"{scope['method']} {scope['path']}"
        if len(route) > LONGEST_ROUTE:
            route = f"{route[:LONGEST_ROUTE]}..."
        _log.warning("refused %s from %s: %s%s", ascii(route)[1:-1], address_of(scope), ascii(why)[1:-1], more)

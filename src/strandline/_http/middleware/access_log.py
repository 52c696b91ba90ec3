"""What the log says of requests that were not let in.

Refusals can be made by anybody, as many as they like, so their lines are few: `BURST` at once, then one every `EVERY_S`
seconds, which says how many were left out. All of them are counted. No line has a key: one that is known or has the
form of ours is told by its id, the beginning of its hash, as it stands in the file of keys.
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


class Denials:
    """Logs and counts requests that were not let in. Belongs to the serving loop."""

    def __init__(self, clock: Clock, on_denied: Callable[[str], object]) -> None:
        self._clock = clock
        self._on_denied = on_denied
        self._left = float(BURST)
        self._at = clock.monotonic()
        self._unlogged = 0

    def note(self, scope: Scope, error: Exception) -> None:
        """Note a request that is answered by an error, if that says that it was not let in.

        It is of a foreign page or under a foreign name, without a key that counts, or for what only operators see.
        """
        match error:
            case wire.Foreign():
                self._denied(scope, FOREIGN, str(error))
            case wire.Unauthorized(key_id=key_id):
                shown = f"key {key_id}" if key_id else "a key of no form that is known" if error.shown else "no key"
                self._denied(scope, error.reason, f"{error} ({shown})")
            case wire.OperatorsOnly():
                self._denied(scope, error.code, f"{error} (key {error.key_id})")

    def _denied(self, scope: Scope, reason: str, why: str) -> None:
        self._on_denied(reason)
        now = self._clock.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) / EVERY_S)
        self._at = now
        if self._left < 1:
            self._unlogged += 1
            return
        self._left -= 1
        more = f"; {self._unlogged} more were refused since the last line of this kind" if self._unlogged else ""
        self._unlogged = 0
        route = f"{scope['method']} {scope['path']}"
        if len(route) > LONGEST_ROUTE:
            route = f"{route[:LONGEST_ROUTE]}..."
        _log.warning("refused %s from %s: %s%s", ascii(route)[1:-1], address_of(scope), ascii(why)[1:-1], more)

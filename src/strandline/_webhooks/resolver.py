"""Looks up the addresses of hosts, a bounded number at once, so that a name server that hangs delays nobody else.

`getaddrinfo` cannot be interrupted: its thread is lost until the name server answers or the system gives up, which may
take half a minute. So each look-up has a thread of its own, all callers share a bounded number of them, and each leaves
some to others: a caller may begin one as long as it has fewer than are free, and one of a name that has hung before as
long as it has fewer than a quarter of that. Meanwhile the addresses that were found before are used.
Belongs to one event loop; knows nothing of HTTP.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from msgspec import Struct

from strandline._model import Principal
from strandline._webhooks.failures import NotSent

LOOK_UPS: Final = 64
"""How many are done at once, each in a thread."""
HUNG_SHARE: Final = 4
FRESH_S: Final = 5.0
"""For how long addresses are used without a further look-up."""
STALE_S: Final = 3600.0
"""For how long they are used if a further look-up does not end, or fails in a way that says nothing of the name."""
PATIENCE_S: Final = 1.0
"""How long a further look-up is waited for."""
HANGS_S: Final = 2.0
"""A look-up that takes longer has hung."""
MOST_KNOWN: Final = 4096
_NO_SUCH_NAME: Final = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL") if hasattr(socket, name)
}

Name = tuple[str, int]
LookUp = Callable[[str, int], list[str]]


def look_up(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system finds them. Blocks. Raises `OSError` or `UnicodeError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class _Found(Struct, frozen=True):
    addresses: list[str]
    at: float


class Resolver:
    """The addresses of hosts."""

    def __init__(self, by: LookUp = look_up) -> None:
        self._look_up = by
        self._found: dict[Name, _Found] = {}
        self._hung: dict[Name, None] = {}
        """Names whose last look-up has hung."""
        self._running: dict[Name, asyncio.Future[list[str]]] = {}
        self._running_of: Counter[Principal] = Counter()
        self._ended = asyncio.Event()

    async def addresses(self, host: str, port: int, principal: Principal) -> list[str]:
        """Return the addresses of a host, for an event of a caller. Raises `NotSent`.

        All that ask for the same one share a look-up. Waits, without end, while a caller has too many look-ups.
        """
        with suppress(ValueError):
            return [str(ip_address(host))]
        name, now = (host, port), asyncio.get_running_loop().time
        while True:
            found = self._found.get(name)
            if found is not None and now() - found.at <= FRESH_S:
                return found.addresses
            if found is not None and now() - found.at > STALE_S:
                found = None
            if (running := self._running.get(name)) is not None:
                break
            if self._may_begin(name, principal):
                running = self._begin(name, principal)
                break
            if found is not None:
                return found.addresses
            await self._ended.wait()
        if found is not None:
            await asyncio.wait({running}, timeout=PATIENCE_S)
            if not running.done():
                return found.addresses
        try:
            return await asyncio.shield(running)
        except (OSError, UnicodeError) as error:
            if found is not None and name in self._found:
                return found.addresses
            raise NotSent(_reason(error)) from None

    def _may_begin(self, name: Name, principal: Principal) -> bool:
        free = LOOK_UPS - len(self._running)
        return self._running_of[principal] < (free // HUNG_SHARE if name in self._hung else free)

    def _begin(self, name: Name, principal: Principal) -> "asyncio.Future[list[str]]":
        loop = asyncio.get_running_loop()
        running: asyncio.Future[list[str]] = loop.create_future()
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        began = loop.time()

        def end(addresses: list[str], error: Exception | None) -> None:
            took = loop.time() - began
            self._hung.pop(name, None)
            if took >= HANGS_S:
                _keep(self._hung, name, None)
            if error is None:
                _keep(self._found, name, _Found(addresses, loop.time()))
            elif _says_there_is_none(error):
                self._found.pop(name, None)
            del self._running[name]
            self._running_of[principal] -= 1
            if not self._running_of[principal]:
                del self._running_of[principal]
            self._ended.set()
            self._ended = asyncio.Event()
            if running.cancelled():
                return
            if error is None:
                running.set_result(addresses)
            else:
                running.set_exception(error)

        def work() -> None:
            addresses, failure = list[str](), None
            try:
                addresses = self._look_up(*name)
            except Exception as error:
                failure = error
            with suppress(RuntimeError):  # (the loop has ended meanwhile)
                loop.call_soon_threadsafe(end, addresses, failure)

        self._running[name] = running
        self._running_of[principal] += 1
        try:
            threading.Thread(target=work, name="strandline-webhooks-dns", daemon=True).start()
        except RuntimeError as error:
            end([], OSError(f"no thread can be started for it ({error})"))
        return running


def _says_there_is_none(error: Exception) -> bool:
    return isinstance(error, UnicodeError) or (isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME)


def _reason(error: Exception) -> str:
    if _says_there_is_none(error):  # (a name with a label that is too long is none)
        return "its host was not found"
    return f"the look-up of its host failed: {getattr(error, 'strerror', None) or error}"


def _keep(kept: dict[Name, Any], name: Name, value: object) -> None:
    """Keep the latest `MOST_KNOWN`."""
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > MOST_KNOWN:
        del kept[next(iter(kept))]

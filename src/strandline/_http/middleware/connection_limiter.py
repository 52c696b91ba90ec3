"""Decides which connections a server closes: those that are too slow, and at the limit the longest-idle one.

Knows time and order, but no bytes.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from starlette.responses import Response

from strandline._http import wire
from strandline.errors import StrandlineError

FOR_PROBES: Final = 100
"""Connections reserved for probes, so that a server with many clients is not restarted."""

OnEnd = Callable[[str], object]
"""Called with the reason why a connection is closed early: the code of its error, `idle` if it made room for another,
`not_taken` if its client read nothing of an answer, `too_many_behind` if it sent too many requests without waiting for
an answer."""


def ignore_end(reason: str) -> None:
    """Ignore the reason."""


Render = Callable[[Response, str], Response]
"""Formats a problem document for the clients of a path."""


def plain(problem: Response, path: str) -> Response:
    """Return a problem document as it is."""
    return problem


class Member(Protocol):
    """A connection."""

    probes_only: bool

    def took_too_long(self, reason: StrandlineError) -> None:
        """Close it with an error: its request did not arrive in time."""
        ...

    def close_after_response(self) -> None:
        """Close it after the answer under way, if there is one: the server is stopping."""
        ...

    def took_too_little(self) -> None:
        """Close it if its client has read nothing in its time."""
        ...

    def cut(self) -> None:
        """Close it at once."""
        ...

    def take_probes_only(self, most: int) -> None:
        """Answer only probes."""
        ...

    def refuse(self, error: StrandlineError) -> None:
        """Send an error and close it."""
        ...


class ConnectionLimiter:
    """All connections of a server, and those that we wait for, in order of time."""

    def __init__(
        self,
        *,
        most: int,
        patience_s: float,
        most_head_bytes: int = sys.maxsize,
        on_end: OnEnd = ignore_end,
        render: Render = plain,
    ) -> None:
        self._most = most
        self._most_head_bytes = most_head_bytes
        self._heads: dict[Member, int] = {}
        """Bytes of incomplete heads by connection, the oldest first."""
        self._head_bytes = 0
        self.on_end = on_end
        self.render = render
        self.stops = False
        """Whether the server is stopping."""
        self._too_late: StrandlineError = wire.TooSlow(
            f"the request did not arrive within {patience_s:g} s (setting receive_timeout)"
        )
        self._open: set[Member] = set()
        self._expected = Waiting(patience_s, lambda each: each.took_too_long(self._too_late))
        self._reading = Waiting(patience_s, lambda each: each.took_too_little())

    def came(self, connection: Member) -> None:
        """Accept a connection; at the limit, close the longest-idle one for it."""
        self._open.add(connection)
        self.expects_request(connection)
        if len(self._open) <= self._most:
            return
        idle = next((each for each in self._expected if each is not connection and not each.probes_only), None)
        if idle is None and len(self._open) <= self._most + FOR_PROBES:
            connection.take_probes_only(self._most)
            return
        if idle is not None:
            self.on_end("idle")
            idle.cut()
            self.left(idle)
        else:
            connection.refuse(wire.NoConnectionLeft(self._most))
            self.left(connection)

    def stop(self, error: StrandlineError, patience_s: float) -> None:
        """Refuse with `error` each request that has not arrived within `patience_s`, from now or from its beginning.

        Connections are closed once their request is answered. Only the first call counts.
        """
        if self.stops:
            return
        self.stops, self._too_late = True, error
        for each in self._open:
            each.close_after_response()
        self._expected.hurry(patience_s)

    def left(self, connection: Member) -> None:
        """Forget a connection."""
        self.keeps(connection, 0)
        self._open.discard(connection)
        self._expected.ended(connection)
        self._reading.ended(connection)

    def keeps(self, connection: Member, head_bytes: int) -> None:
        """Note the bytes of a connection's incomplete head; above the limit for all, refuse the oldest.

        A head arrives in one piece or a few, so a harmless client's is incomplete only for a moment.
        """
        self._head_bytes += head_bytes - self._heads.get(connection, 0)
        if head_bytes:
            self._heads[connection] = head_bytes
        else:
            self._heads.pop(connection, None)
        while self._head_bytes > self._most_head_bytes:
            oldest = next(iter(self._heads))
            self._head_bytes -= self._heads.pop(oldest)
            oldest.refuse(wire.HeadsFull())

    def expects_request(self, connection: Member) -> None:
        """Wait for a request: it is the client's turn."""
        self._expected.began(connection)

    def has_request(self, connection: Member) -> None:
        """A request has arrived: it is our turn."""
        self._expected.ended(connection)

    def expects_reading(self, connection: Member) -> None:
        """Wait for the client to read."""
        if connection in self._open:
            self._reading.began(connection)

    def has_read(self, connection: Member) -> None:
        """The client has read enough."""
        self._reading.ended(connection)


class Waiting:
    """Connections that we wait for, oldest first, with one timer for all."""

    def __init__(self, patience_s: float, is_over: Callable[[Member], None]) -> None:
        self._patience_s = patience_s
        self._is_over = is_over
        self._since: dict[Member, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Member]:
        """Yield the longest-awaited first."""
        return iter(self._since)

    def began(self, connection: Member) -> None:
        """Wait for a connection, from now."""
        self._since.pop(connection, None)
        self._since[connection] = asyncio.get_running_loop().time()
        if self._timer is None:
            self._schedule(self._patience_s)

    def ended(self, connection: Member) -> None:
        """Stop waiting for it."""
        self._since.pop(connection, None)

    def hurry(self, patience_s: float) -> None:
        """Wait at most this long, from now, for all of them and for later ones."""
        self._patience_s = min(self._patience_s, patience_s)
        now = asyncio.get_running_loop().time()
        self._since = dict.fromkeys(self._since, now)
        if self._timer is not None:
            self._timer.cancel()
            self._schedule(self._patience_s)

    def _schedule(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        """Report the connections whose time is over, and schedule the next check."""
        now = asyncio.get_running_loop().time()
        while self._since:  # (`_timer` stays set meanwhile, so `began` sets no second timer)
            connection, since = next(iter(self._since.items()))
            if (left_s := since + self._patience_s - now) > 0:
                self._schedule(left_s)
                return
            del self._since[connection]
            self._is_over(connection)
        self._timer = None

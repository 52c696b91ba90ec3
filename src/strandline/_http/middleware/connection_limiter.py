"""Who has to go of all connections of a server: who keeps it waiting too long, or for longest if there are too many.

Knows time and order, and no bytes.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from starlette.responses import Response

from strandline._http import wire
from strandline.errors import StrandlineError

FOR_PROBES: Final = 100
"""Connections kept free for probes, so that nobody restarts a server for having many clients."""

OnEnd = Callable[[str], object]
"""Told why a connection was ended before its time: the code of what its client was told, `idle` if it had asked nothing
and made room, `not_taken` if it took nothing of its answer, `too_many_behind` if it
asked on and on without waiting for any."""


def ignore_end(reason: str) -> None:
    """Tell nobody."""


Render = Callable[[Response, str], Response]
"""Puts a problem document into the form that clients of a path understand."""


def plain(problem: Response, path: str) -> Response:
    """Leave a problem document as it is."""
    return problem


class Member(Protocol):
    """A connection."""

    probes_only: bool

    def took_too_long(self, reason: StrandlineError) -> None:
        """Hear that its request was not here in time, and what its client is to be told."""
        ...

    def close_after_response(self) -> None:
        """End with the answer that is under way, if one is: the server stops."""
        ...

    def took_too_little(self) -> None:
        """Hear that it has had its time to take what was written to it."""
        ...

    def cut(self) -> None:
        """End it at once."""
        ...

    def take_probes_only(self, most: int) -> None:
        """Answer probes, and nothing else."""
        ...

    def refuse(self, error: StrandlineError) -> None:
        """Say why, and end it."""
        ...


class ConnectionLimiter:
    """All connections of a server; those that owe a request in the order in which their time began."""

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
        """What connections keep of heads that are not whole, those first that have kept anything for longest."""
        self._head_bytes = 0
        self.on_end = on_end
        self.render = render
        self.stops = False
        """Whether the server does."""
        self._too_late: StrandlineError = wire.TooSlow(
            f"the request was not here within {patience_s:g} s (setting receive_timeout)"
        )
        self._open: set[Member] = set()
        self._owing = Waiting(patience_s, lambda each: each.took_too_long(self._too_late))
        self._taking = Waiting(patience_s, lambda each: each.took_too_little())

    def came(self, connection: Member) -> None:
        """Let a connection in, for which another one goes if there are too many."""
        self._open.add(connection)
        self.expects_request(connection)
        if len(self._open) <= self._most:
            return
        idle = next((each for each in self._owing if each is not connection and not each.probes_only), None)
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
        """Refuse with `error` each request that is not here within `patience_s`, or within that of its own beginning.

        No connection is kept once a request on it has been answered. The first call counts.
        """
        if self.stops:
            return
        self.stops, self._too_late = True, error
        for each in self._open:
            each.close_after_response()
        self._owing.hurry(patience_s)

    def left(self, connection: Member) -> None:
        """Forget a connection."""
        self.keeps(connection, 0)
        self._open.discard(connection)
        self._owing.ended(connection)
        self._taking.ended(connection)

    def keeps(self, connection: Member, head_bytes: int) -> None:
        """Note how much a connection keeps of a head that is not whole; over the bound for all, the oldest heads go.

        A head comes in one piece or a few, so a client that means no harm keeps anything for a moment only.
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
        """It is the client's turn from now on."""
        self._owing.began(connection)

    def has_request(self, connection: Member) -> None:
        """It is our turn, and the client waits."""
        self._owing.ended(connection)

    def expects_reading(self, connection: Member) -> None:
        """More has been written to it than it has taken."""
        if connection in self._open:
            self._taking.began(connection)

    def has_read(self, connection: Member) -> None:
        """It has taken enough."""
        self._taking.ended(connection)


class Waiting:
    """Connections that we wait for, in the order in which that began, and one timer for all of them."""

    def __init__(self, patience_s: float, is_over: Callable[[Member], None]) -> None:
        self._patience_s = patience_s
        self._is_over = is_over
        self._since: dict[Member, float] = {}
        self._patrol: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Member]:
        """Yield first whom we have waited for longest."""
        return iter(self._since)

    def began(self, connection: Member) -> None:
        """Wait for a connection from now on."""
        self._since.pop(connection, None)
        self._since[connection] = asyncio.get_running_loop().time()
        if self._patrol is None:
            self._patrol_in(self._patience_s)

    def ended(self, connection: Member) -> None:
        """Wait for it no more."""
        self._since.pop(connection, None)

    def hurry(self, patience_s: float) -> None:
        """Wait no longer than this, from now on, for any of them and for those that come."""
        self._patience_s = min(self._patience_s, patience_s)
        now = asyncio.get_running_loop().time()
        self._since = dict.fromkeys(self._since, now)
        if self._patrol is not None:
            self._patrol.cancel()
            self._patrol_in(self._patience_s)

    def _patrol_in(self, seconds: float) -> None:
        self._patrol = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Tell of those whose time is over, and come back when the next one's will be."""
        now = asyncio.get_running_loop().time()
        while self._since:  # (`_patrol` stays set meanwhile: who begins anew in here needs no second one)
            connection, since = next(iter(self._since.items()))
            if (left_s := since + self._patience_s - now) > 0:
                self._patrol_in(left_s)
                return
            del self._since[connection]
            self._is_over(connection)
        self._patrol = None

"""The other servers of the cluster, as this one sends them messages: signed, numbered, over pooled connections.

Belongs to the serving loop.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from strandline._clock import Clock
from strandline._http import wire
from strandline._http.forwarding.envelope import Forward, Left, clock_read, signed
from strandline._http.forwarding.inner import CLOCK, PATH
from strandline._http.forwarding.upstream import Pool, Unreached, Upstream, UpstreamLost
from strandline._journal.cluster import Cluster, Peer

WATCH_S: Final = 0.5
"""How often the servers that have requests of ours are compared with those that are alive."""
LEAVE_S: Final = 1.0
"""How long another server gets to learn that a client has disconnected."""
_HEAD: Final = b"POST %b HTTP/1.1\r\nhost: strandline\r\ncontent-length: %%d\r\n\r\n" % PATH.encode()

Make = Callable[[int, int, int, float], Forward]
"""Makes an envelope for a sender, a receiver, a number and a time."""


class Stale(UpstreamLost):
    """Nothing was done: the connection had been idle and was closed, or our clock was wrong and is right now."""


class Others:
    """Sends messages to other servers."""

    def __init__(self, cluster: Callable[[], Cluster], clock: Clock) -> None:
        self.cluster = cluster
        self.clock = clock
        self.pool = Pool()
        self._number = 0
        self._ahead: dict[int, float] = {}
        """By how many seconds the clocks of servers are ahead of ours, if they have said so."""
        self._watch: asyncio.TimerHandle | None = None

    async def connect(self, peer: Peer, *, fresh: bool = False) -> Upstream:
        """Return a connection to a server for one message; `put` it back. Raises `Unreached`."""
        upstream = await self.pool.take(peer.address, fresh=fresh)
        self._watch_peers()
        return upstream

    def put(self, upstream: Upstream) -> None:
        """Keep a connection whose answer has been read, close any other."""
        self.pool.put(upstream)

    async def send(self, upstream: Upstream, peer: Peer, make: Make, body: bytes) -> int:
        """Send a request; return its number once the head of its answer is there.

        Raises `Unreached` if the server does not believe us, `Stale`, `UpstreamLost`.
        """
        cluster = self.cluster()
        self._number = number = self._number + 1
        head = signed(cluster.secret, make(cluster.me, peer.id, number, self._now(peer)))
        try:
            await upstream.send(_HEAD % (len(head) + len(body)) + head, body)
            await upstream.head()
        except UpstreamLost as error:
            if not upstream.is_fresh:
                raise Stale(str(error)) from error
            raise
        self._check(peer, upstream, number)
        return number

    async def leave(self, peer: Peer, number: int, *, answer: bool = False) -> None:
        """Have a server know that the client of a request has disconnected, before we do.

        With `answer`, that we stop, so that it answers the request now.
        """
        cluster = self.cluster()
        with suppress(Unreached, UpstreamLost, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                upstream = await self.connect(peer)
                try:
                    self._number += 1
                    left = Left(cluster.me, peer.id, self._number, self._now(peer), number, answer)
                    message = signed(cluster.secret, left)
                    await upstream.send(_HEAD % len(message) + message, b"")
                    while await upstream.next():
                        pass
                finally:
                    self.put(upstream)

    def _now(self, peer: Peer) -> float:
        return self.clock.now() + self._ahead.get(peer.id, 0.0)

    def _check(self, peer: Peer, upstream: Upstream, number: int) -> None:
        """Raise an error if a server does not believe us; if it does not believe our time, use its."""
        if upstream.status == wire.FORBIDDEN and not upstream.headers_named(b"content-type"):
            raise Unreached("it does not accept our signature")
        shown = upstream.headers_named(CLOCK.encode())
        if upstream.status != wire.UNAUTHORIZED or not shown:
            return
        now = clock_read(self.cluster().secret, number, shown[0].decode("latin-1"))
        if now is None:
            raise Unreached("it does not accept our time, nor say which it is")
        self._ahead[peer.id] = now - self.clock.now()
        raise Stale("our clock differs from its clock")

    def _watch_peers(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._compare)

    def _compare(self) -> None:
        """End requests at servers that are over: a frozen one keeps its connections open, and answers nothing."""
        self._watch = None
        alive = {peer.address for peer in self.cluster().peers.values()}
        for address in self.pool.addresses - alive:
            self.pool.fail(address, UpstreamLost("the server is over"))
        if self.pool.addresses:
            self._watch_peers()

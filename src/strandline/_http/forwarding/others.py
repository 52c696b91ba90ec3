"""The other servers of the cluster, as this one sends them messages: signed, numbered, over pooled connections.

Belongs to the serving loop.
"""

import asyncio
import hmac
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from strandline._clock import Clock
from strandline._http import wire
from strandline._http.forwarding.envelope import Envelope, Left, clock_read, proof, signed
from strandline._http.forwarding.inner import CLOCK, MOVED, PATH, PROOF
from strandline._http.forwarding.upstream import Pool, Unreached, Upstream, UpstreamLost
from strandline._journal.cluster import Members, Peer

WATCH_S: Final = 0.5
"""How often the servers that have requests of ours are compared with those that are alive."""
REACH_S: Final = 3.0
"""How long another server gets to answer that it is reached."""
LEAVE_S: Final = 1.0
"""How long another server gets to learn that a client has disconnected."""
NO_REQUEST: Final = 0
"""No request has this number."""
_HEAD: Final = b"POST %b HTTP/1.1\r\nhost: strandline\r\ncontent-length: %%d\r\n\r\n" % PATH.encode()

Make = Callable[[int, int, int, float], Envelope]
"""Makes an envelope for a sender, a receiver, a number and a time."""


class ClockSkewed(UpstreamLost):
    """Nothing was done: the connection had been idle and was closed, or our clock was wrong and is right now."""


M = TypeVar("M", bound=Members)


class Others(Generic[M]):
    """Sends messages to other servers, each with a number above `last`."""

    def __init__(self, cluster: Callable[[], M], clock: Clock, last: int = 0) -> None:
        self.cluster = cluster
        self.clock = clock
        self.pool = Pool()
        self._number = last
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

        Raises `Unreached` if the server does not believe us, `ClockSkewed`, `UpstreamLost`.
        """
        cluster = self.cluster()
        self._number = number = self._number + 1
        head = signed(cluster.secret, make(cluster.me, peer.id, number, self._now(peer)))
        try:
            await upstream.send(_HEAD % (len(head) + len(body)) + head, body)
            await upstream.head()
        except UpstreamLost as error:
            if not upstream.is_fresh:
                raise ClockSkewed(str(error)) from error
            raise
        self._check(peer, upstream, number)
        return number

    async def leave(self, peer: Peer, number: int, *, answer: bool = False) -> None:
        """Have a server know that the client of a request has disconnected, before we do.

        With `answer`, that we stop, so that it answers the request now.
        """
        with suppress(Unreached, UpstreamLost, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._send_left(peer, number, answer=answer)

    async def unreached(self) -> list[tuple[Peer, str]]:
        """Return which servers do not answer a signed message at the addresses that they have given, and why."""
        peers = [*self.cluster().peers.values()]
        found = await asyncio.gather(*map(self._trouble_with, peers))
        return [(peer, trouble) for peer, trouble in zip(peers, found, strict=True) if trouble is not None]

    async def _trouble_with(self, peer: Peer) -> str | None:
        try:
            async with asyncio.timeout(REACH_S):
                try:
                    return await self._greet(peer)
                except ClockSkewed:  # (now it is known how its clock differs from ours)
                    return await self._greet(peer)
        except TimeoutError:
            return f"nothing answers within {REACH_S:g} s"
        except (Unreached, UpstreamLost) as error:
            return str(error)

    async def _greet(self, peer: Peer) -> str | None:
        status = await self._send_left(peer, NO_REQUEST)
        return None if status == wire.NO_CONTENT else f"something else answers there (HTTP {status})"

    async def _send_left(self, peer: Peer, of: int, *, answer: bool = False) -> int:
        """Send the message that the client of a request has left; return the status of its answer. Raises as `send`."""

        def left(sender: int, receiver: int, number: int, at: float) -> Left:
            return Left(sender, receiver, number, at, of, answer)

        upstream = await self.connect(peer)
        try:
            await self.send(upstream, peer, left, b"")
            while await upstream.next():
                pass
            return upstream.status
        finally:
            self.put(upstream)

    def _now(self, peer: Peer) -> float:
        return self.clock.now() + self._ahead.get(peer.id, 0.0)

    def _check(self, peer: Peer, upstream: Upstream, number: int) -> None:
        """Raise an error if a server does not believe us; if it does not believe our time, use its."""
        if upstream.status == wire.FORBIDDEN and not upstream.headers_named(b"content-type"):
            raise Unreached("it does not accept our signature: another server answers there, or one of another cluster")
        shown = upstream.headers_named(CLOCK.encode())
        if upstream.status != wire.UNAUTHORIZED or not shown:
            self._check_proof(peer, upstream, number)
            return
        now = clock_read(self.cluster().secret, number, shown[0].decode("latin-1"))
        if now is None:
            raise Unreached("it does not accept our time, nor say which it is")
        self._ahead[peer.id] = now - self.clock.now()
        raise ClockSkewed("our clock differs from its clock")

    def _check_proof(self, peer: Peer, upstream: Upstream, number: int) -> None:
        """Raise `Unreached` if something else answers at the address of a server: it is no answer for a client.

        What sends a request on needs no proof: a listener says so that has read no message.
        """
        if not peer.proves or upstream.headers_named(MOVED):
            return
        cluster = self.cluster()
        shown = upstream.headers_named(PROOF)
        if not shown or not hmac.compare_digest(shown[0], proof(cluster.secret, cluster.me, peer.id, number)):
            raise Unreached(f"something else answers there (HTTP {upstream.status})")

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


def advice(peer: Peer) -> str:
    """Return what to set where a server cannot be reached at its address."""
    if peer.address.rpartition(":")[0].strip("[]") in ("localhost", "::1") or peer.address.startswith("127."):
        return (
            "that address leads to the same machine only: if the server is on another one, set its cluster_listen to"
            " 0.0.0.0:8081, and its cluster_address to an address of that machine"
        )
    return (
        "let servers reach each other at that port, or set cluster_address of that server to an address that they reach"
    )

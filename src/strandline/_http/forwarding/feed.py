"""One change feed of all servers: each has the events of its own sessions, and a client gets those of all.

Each server numbers its feed in a range of its own, which begins with its id; the id of an event here names the last
number of each, so that a client can come back to any server. A server that was lost while the client was away, or in
the middle, leaves a `stream.gap`: nobody has its last events. Events of one session stay in order as long as its server
is the same; between servers there is no order. Ids of servers rise, so one that came and went unnoticed shows as an id
that is missing: that is a gap, too.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from strandline._engine.events import Numbered, StreamGap
from strandline._http import wire
from strandline._http.exchange.sse import ALIVE, ALIVE_S, framed
from strandline._http.forwardable import forwardable
from strandline._http.forwarding.client_request import ClientRequest, part
from strandline._http.forwarding.inner import FEED_AFTER
from strandline._http.forwarding.others import Others
from strandline._http.forwarding.upstream import Unreached, UpstreamLost
from strandline._http.forwarding.whole_events import WholeEvents
from strandline._journal.cluster import Cluster, Peer
from strandline.errors import Invalid

COMPARE_S: Final = 0.5
"""How often the servers of a feed are compared with those that are alive, and lost ones are asked again."""
MOST_SERVERS: Final = 100
"""How many servers an id may name."""
AT_ONCE: Final = 16
"""How many pieces wait for a slow client, before its servers do."""
RANGE_BITS: Final = 32
"""The numbers of a server's feed are its id, shifted by so many bits, and more."""

BEGIN_S: Final = 1.0
"""How long a client waits at most until the feeds of all servers have begun."""

Handler = Callable[[Request], Awaitable[Response]]
Piece = tuple[int, bytes, bool]
"""The server that it comes from, whole events, and whether no more come from there."""


class MergedFeed:
    """The route of all events, where other servers have some of them. `here` has those of this server."""

    def __init__(self, here: Handler, others: Others[Cluster]) -> None:
        self._here = here
        self._others = others

    async def events(self, request: Request) -> Response:
        """Return the events of all servers; to another server those of this one."""
        passed = forwardable(request.scope)
        if passed is None or passed.forwarded or request.method == "HEAD":
            return await self._here(request)
        last = last_numbers(request.headers.get("last-event-id", "").strip())
        since = _since(last, self._others.cluster().me)
        headers = _after(request.scope["headers"], since)
        first = await self._here(Request({**request.scope, "headers": headers}, request.receive))
        return _MergedResponse(self._others, last, first, passed.feed_after or 0)


def last_numbers(text: str) -> dict[int, int]:
    """Return the last number of each server in an id of an event; none in an empty one. Raises `Invalid`."""
    numbers = text.split(".") if text else []
    if len(numbers) > MOST_SERVERS or not all(n.isascii() and n.isdecimal() and len(n) < 17 for n in numbers):
        raise Invalid("Last-Event-ID must be the id of an event, as sent with it")
    return {int(number) >> RANGE_BITS: int(number) for number in numbers if int(number)}


class _MergedResponse(Response):
    """Streams the events of all servers until the connection ends, or this server stops.

    `last` are the numbers that the client has; `first` is the answer of this server, whose feed begins after number
    `begins`.
    """

    def __init__(self, others: Others[Cluster], last: dict[int, int], first: Response, begins: int) -> None:
        super().__init__(media_type="text/event-stream")
        self.raw_headers = first.raw_headers
        self._others = others
        self._me = others.cluster().me
        self._had = dict(last)
        self._last = {**last, self._me: begins}
        """For each server the number of the last event that was sent, or after which its feed began."""
        self._read: dict[int, int] = {}
        """For each other server the number of the last event that has come; it may still wait to be sent."""
        self._first = first
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue(AT_ONCE)
        self._newest = max(last, default=0)
        """The largest id of a server of which it is known what the client has of it."""
        self._from_now: set[int] = set()
        """The servers of a client without an id that were there when it came, until they are followed."""
        self._late: set[int] = set()
        """Those of them whose feeds had not begun when its answer did."""
        self._parts: dict[int, asyncio.Task[None]] = {}
        self._left: set[int] = set()
        """Servers whose feed came to its end: nothing of it is lost."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        request = ClientRequest(scope, receive, send)
        request.hold_nothing()
        gone = asyncio.Event()
        end = request.on_disconnect(gone.set)
        try:
            self._begin(self._me, self._of_here(request.scope, gone))
            await self._begun(request)
            await send({"type": "http.response.start", "status": wire.OK, "headers": self.raw_headers})
            await send(part(ALIVE, more=True))
            async for data in self._merged(request, gone):
                await send(part(data, more=True))
            if not gone.is_set():
                await send(part(b"", more=False))
        finally:
            end()
            request.release()
            for task in self._parts.values():
                task.cancel()

    async def _begun(self, request: ClientRequest) -> None:
        """Return when the feeds of all servers have begun, or after a while: what the client does next is in them."""
        alive = self._others_alive()
        if not self._had:
            self._from_now = {peer.id for peer in alive}
            self._newest = max(self._me, *self._from_now, 0)
        begun = [self._follow(peer, request) for peer in alive]
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                for each in begun:
                    await each.wait()
        self._late = {peer.id for peer in alive if peer.id not in self._last}
        self._last.update((server, server << RANGE_BITS) for server in self._late)

    async def _merged(self, request: ClientRequest, gone: asyncio.Event) -> AsyncIterator[bytes]:
        """Yield what comes from all servers, those that join meanwhile too."""
        loop = asyncio.get_running_loop()
        quiet_since = loop.time()
        while not gone.is_set():
            for data in self._compared(request):
                yield data
            try:
                async with asyncio.timeout(COMPARE_S):
                    server, data, is_over = await self._pieces.get()
            except TimeoutError:
                if loop.time() >= quiet_since + ALIVE_S:
                    quiet_since = loop.time()
                    yield ALIVE
                continue
            if data:
                quiet_since = loop.time()
                yield self._renumbered(server, data)
            if is_over:  # (this server stops)
                return

    def _others_alive(self) -> list[Peer]:
        return [peer for peer in self._others.cluster().peers.values() if peer.id != self._me]

    def _compared(self, request: ClientRequest) -> list[bytes]:
        """Follow the servers that are alive and not followed now; return the gaps of those that are over."""
        for server in [server for server, task in self._parts.items() if task.done()]:
            del self._parts[server]
        alive = self._others_alive()
        for peer in alive:
            if peer.id not in self._parts:
                self._follow(peer, request)
        followed = {self._me, *self._parts, *(peer.id for peer in alive)}
        gaps = self._unnoticed(followed)
        if self._pieces.empty():
            over = [server for server in self._last if server not in followed]
            gaps += filter(None, map(self._gap, over))
        return gaps

    def _unnoticed(self, followed: Collection[int]) -> list[bytes]:
        """Return the gap of servers that came and went since the last one that is known.

        It goes before everything else: ids name the servers that came later from now on, and a client that leaves and
        comes back with one knows of all before them.
        """
        known = {*followed, *self._last}
        before, self._newest = self._newest, max(self._newest, *followed)
        if not (missing := [server for server in range(before + 1, self._newest) if server not in known]):
            return []
        return [self._framed_gap(missing[0] << RANGE_BITS, missing[-1])]

    def _follow(self, peer: Peer, request: ClientRequest) -> asyncio.Event:
        begun = asyncio.Event()
        if peer.id in self._from_now:
            self._from_now.discard(peer.id)
        else:  # if it is lost before its feed begins, that is a gap
            self._last.setdefault(peer.id, self._had.get(peer.id, peer.id << RANGE_BITS))
        self._begin(peer.id, self._of(peer, request, begun))
        return begun

    def _begin(self, server: int, feed: Coroutine[Any, Any, None]) -> None:
        self._parts[server] = asyncio.create_task(feed)

    def _gap(self, server: int) -> bytes:
        """Return the event that the rest of a server's events is lost; nothing if it is not."""
        first = self._last.pop(server) + 1
        if server in self._left:
            return b""
        return self._framed_gap(first, server)

    def _framed_gap(self, first: int, server: int) -> bytes:
        """Return the event that everything from a number on is lost, up to the last of a server."""
        gap = Numbered(None, self._others.clock.now(), StreamGap(first, ((server + 1) << RANGE_BITS) - 1))
        return b"id: %b\n%b" % (self._id(), framed(gap, None))

    def _id(self) -> bytes:
        return ".".join(map(str, self._last.values())).encode()

    def _renumbered(self, server: int, data: bytes) -> bytes:
        """Return events of a server with ids that name the last number of each."""
        lines = data.split(b"\n")
        for place, line in enumerate(lines):
            if line.startswith(b"id: "):
                self._last[server] = int(line[4:])
                lines[place] = b"id: " + self._id()
        return b"\n".join(lines)

    # -- one server -------------------------------------------------------------------------------------

    async def _of_here(self, scope: Scope, gone: asyncio.Event) -> None:
        """Have the events of this server."""

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                data = message.get("body", b"")
                piece = (self._me, b"" if data == ALIVE else data, not message.get("more_body", False))
                await self._pieces.put(piece)

        await self._first(scope, receive, send)

    async def _of(self, peer: Peer, request: ClientRequest, begun: asyncio.Event) -> None:
        """Have the events of another server until its answer ends; then it is followed again if it is alive.

        `begun` is set when they come, or when none do.
        """
        headers = _after(request.scope["headers"], self._read.get(peer.id) or self._last.get(peer.id, 0))
        events = WholeEvents()
        try:
            upstream = await self._others.connect(peer)
        except Unreached:
            begun.set()
            return
        with suppress(Unreached, UpstreamLost):
            try:
                await self._others.send(upstream, peer, partial(request.envelope, headers=headers), b"")
                if upstream.status != wire.OK:
                    return
                self._left.discard(peer.id)
                if peer.id not in self._last:
                    self._last[peer.id] = _begins_after(upstream.headers)
                elif peer.id in self._late:
                    self._late.discard(peer.id)
                    await self._missed(peer.id, _begins_after(upstream.headers))
                begun.set()
                while not upstream.is_read:
                    if (whole := events.take(await upstream.next())) and whole != ALIVE:
                        self._read[peer.id] = events.last_id or self._read.get(peer.id, 0)
                        await self._pieces.put((peer.id, whole, False))
                self._left.add(peer.id)
            finally:
                begun.set()
                self._others.put(upstream)

    async def _missed(self, server: int, begins: int) -> None:
        """Have a gap sent of what a server may have done since the answer began, up to where its feed begins."""
        if begins > (base := server << RANGE_BITS):
            gap = Numbered(None, self._others.clock.now(), StreamGap(base + 1, begins))
            await self._pieces.put((server, b"id: %d\n%b" % (begins, framed(gap, None)), False))


def _since(last: dict[int, int], server: int) -> int:
    """Return after which number a server's events are new to a client; 0: from now on, if it has none of any server.

    A server that its last id does not name had not joined then.
    """
    return last.get(server, server << RANGE_BITS) if last else 0


def _after(headers: list[tuple[bytes, bytes]], number: int) -> list[tuple[bytes, bytes]]:
    kept = [each for each in headers if each[0] != b"last-event-id"]
    return [*kept, (b"last-event-id", b"%d" % number)] if number else kept


def _begins_after(headers: list[tuple[bytes, bytes]]) -> int:
    return next((int(value) for name, value in headers if name == FEED_AFTER), 0)

"""Sends a request that another server has to answer to that server, and its answer to the client.

A request is given to the local application first. If that raises `NotOwner`, the same request goes to the owner of its
partition, with the caller that was identified here and the id of its run, so that it can be sent again: when the
connection is lost, or its server does not have the session any more, or is over. A stream of events is resumed at the
next owner after the last event that the client has; its client keeps its connection. What must happen only once is not
sent again, unless its owner has said that nothing was done.

Belongs to the serving loop. Knows no routes and no dialects.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from strandline._clock import Clock
from strandline._engine.ownership import moved
from strandline._engine.streams import LAST
from strandline._http import wire
from strandline._http.forwarding.client_request import ClientRequest, part
from strandline._http.forwarding.envelope import Left, clock_read, signed
from strandline._http.forwarding.inner import CLOCK, MOVED, PATH, RESUMABLE
from strandline._http.forwarding.upstream import Pool, Unreached, Upstream, UpstreamLost
from strandline._journal.cluster import Cluster, Peer
from strandline.errors import JournalUnavailable, NotOwner, StrandlineError

_log = logging.getLogger("strandline.forwarding")

PATIENCE_S: Final = 3.0
"""How much longer than a lease a request waits for a server that has its session."""
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
WATCH_S: Final = 0.5
"""How often the servers that have requests of ours are compared with those that are alive."""
MOST_STALE: Final = 100
"""How often a request is sent again at once: after connections that were closed while they were idle."""
LEAVE_S: Final = 1.0
"""How long another server gets to learn that a client has disconnected."""
_HEAD: Final = b"POST %b HTTP/1.1\r\nhost: strandline\r\ncontent-length: %%d\r\n\r\n" % PATH.encode()
_OF_CONNECTION: Final = frozenset(
    {b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding", MOVED, RESUMABLE, CLOCK.encode()}
)
"""Headers of an answer that are for us."""


class _ClientGone(Exception):
    """The client has disconnected."""


class _Elsewhere(Exception):
    """The server did nothing, since another one has the session, or will soon. `partition` if it has said which."""

    def __init__(self, partition: int | None = None) -> None:
        super().__init__(partition)
        self.partition = partition


class _Stale(UpstreamLost):
    """A connection that was idle had been closed meanwhile."""


class Forwarder:
    """Answers every request: by the application, or by another server.

    `most_bytes` bounds a body that the application has not read; `respond` formats errors. `on_forward` is called with
    what became of each request that was sent (`answered`, `moved`, `lost`, `unreached`, `disconnected`), `on_refused`
    with the code of each one that no server has answered in time.
    """

    def __init__(
        self,
        app: ASGIApp,
        cluster: Callable[[], Cluster],
        clock: Clock,
        *,
        most_bytes: int,
        respond: Callable[[Exception, Scope], Response],
        on_forward: Callable[[str], object] = id,
        on_refused: Callable[[str], object] = id,
    ) -> None:
        self._app = app
        self._cluster = cluster
        self._clock = clock
        self._most_bytes = most_bytes
        self._respond = respond
        self._on_forward = on_forward
        self._on_refused = on_refused
        self._pool = Pool()
        self._number = 0
        self._ahead: dict[int, float] = {}
        """By how many seconds the clocks of servers are ahead of ours, if they have said so."""
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0
        self._watch: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = ClientRequest(scope, receive, send)
        partition = await self._here(request)
        if partition is None:
            return
        try:
            await request.hold(self._most_bytes)
            await self._anywhere(request, partition)
        except ClientDisconnect:
            await self._say(request, Response(status_code=wire.CLIENT_LEFT))
        except StrandlineError as error:
            if request.has_begun:
                request.cut()
            else:
                if isinstance(error, NotOwner):
                    self._on_refused(error.code)
                await self._say(request, self._respond(error, scope))
        finally:
            request.release()

    async def _here(self, request: ClientRequest) -> int | None:
        """Have the application answer; return the partition whose owner has to answer instead, or the rest of it."""
        try:
            await self._app(request.scope, request.receive, request.send)
        except NotOwner as error:
            return error.partition
        return None

    async def _anywhere(self, request: ClientRequest, partition: int) -> None:
        """Have the request answered by the server that has its session, as soon as one has.

        Raises `NotOwner` if none has in time, and `AnswerLost`.
        """
        cluster, loop = self._cluster(), asyncio.get_running_loop()
        pause_s, until, had = FIRST_PAUSE_S, loop.time() + cluster.lease_s + PATIENCE_S, request.passed.last_id
        stale = 0
        while True:
            peer = cluster.owner(partition)
            try:
                if peer is None or (peer.id == cluster.me and not cluster.owns(partition)):
                    raise _Elsewhere
                if peer.id == cluster.me:
                    request.begin_again()
                    if (next_one := await self._here(request)) is None:
                        await request.complete()
                        return
                    raise _Elsewhere(next_one)
                await self._at(peer, request)
                return
            except _ClientGone:
                return
            except _Stale:
                if (stale := stale + 1) < MOST_STALE:
                    continue
            except _Elsewhere as error:
                partition = partition if error.partition is None else error.partition
            except (Unreached, UpstreamLost) as error:
                _log.info("a request could not be answered by the server at %s yet: %s", peer and peer.address, error)
                if isinstance(error, UpstreamLost) and request.passed.once:
                    raise wire.AnswerLost(
                        "the server that has the session was lost before it answered: read what it did before you send"
                        " the request again"
                    ) from error
                if request.has_begun and not request.passed.resumable:
                    request.cut()
                    return
            if request.passed.last_id != had:  # (it got ahead since the last trouble)
                pause_s, until, had = (
                    FIRST_PAUSE_S,
                    loop.time() + cluster.lease_s + PATIENCE_S,
                    request.passed.last_id,
                )
            if loop.time() >= until:
                raise moved(partition)
            if cluster.owner(partition) == peer:
                await request.pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                await self._refresh(cluster)
            if request.is_left:
                return

    # -- one server -------------------------------------------------------------------------------------

    async def _at(self, peer: Peer, request: ClientRequest) -> None:
        """Have another server answer. Raises `Unreached`, `UpstreamLost`, and what this module has for it."""
        cluster, passed = self._cluster(), request.passed
        try:
            upstream = await self._pool.take(peer.address, fresh=passed.once)
        except Unreached:
            self._on_forward("unreached")
            raise
        self._watch_peers()
        self._number = number = self._number + 1
        at = self._clock.now() + self._ahead.get(peer.id, 0.0)
        head = signed(cluster.secret, request.envelope(cluster.me, peer.id, number, at))
        end = request.on_disconnect(lambda: upstream.fail(_ClientGone()))
        try:
            await upstream.send(_HEAD % (len(head) + len(request.body)) + head, request.body)
            await upstream.head()
            self._check(peer, upstream, number)
            await self._check_moved(upstream)
            await _pass_on(upstream, request)
            self._on_forward("answered")
        except _ClientGone:
            self._on_forward("disconnected")
            await self._leave(peer, number)
            raise
        except _Elsewhere:
            self._on_forward("moved")
            raise
        except UpstreamLost as error:
            if not upstream.is_fresh and not upstream.status:
                raise _Stale(str(error)) from error
            self._on_forward("lost")
            raise
        finally:
            end()
            self._pool.put(upstream)

    def _check(self, peer: Peer, upstream: Upstream, number: int) -> None:
        """Raise an error if the other server does not believe us; if it does not believe our time, use its."""
        if upstream.status == wire.FORBIDDEN and not upstream.headers_named(b"content-type"):
            raise Unreached("it does not accept our signature")
        shown = upstream.headers_named(CLOCK.encode())
        if upstream.status != wire.UNAUTHORIZED or not shown:
            return
        now = clock_read(self._cluster().secret, number, shown[0].decode("latin-1"))
        if now is None:
            raise Unreached("it does not accept our time, nor say which it is")
        self._ahead[peer.id] = now - self._clock.now()
        raise _Stale("our clock differs from its clock")

    async def _check_moved(self, upstream: Upstream) -> None:
        """Raise `_Elsewhere` if the other server has done nothing since it does not have the session."""
        if not (found := upstream.headers_named(MOVED)):
            return
        while await upstream.next():
            pass
        raise _Elsewhere(int(found[0]) if found[0] else None)

    async def _leave(self, peer: Peer, number: int) -> None:
        """Have another server know that the client of a request has disconnected, before we do."""
        with suppress(Unreached, UpstreamLost, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                cluster = self._cluster()
                upstream = await self._pool.take(peer.address, fresh=False)
                try:
                    self._number += 1
                    at = self._clock.now() + self._ahead.get(peer.id, 0.0)
                    message = signed(cluster.secret, Left(cluster.me, peer.id, self._number, at, number))
                    await upstream.send(_HEAD % len(message) + message, b"")
                    while await upstream.next():
                        pass
                finally:
                    self._pool.put(upstream)

    # -- all servers ------------------------------------------------------------------------------------

    async def _refresh(self, cluster: Cluster) -> None:
        """Learn who has which partition; many requests that wait share one look."""
        loop = asyncio.get_running_loop()
        if self._refreshing is None:
            if loop.time() < self._refreshed_at + FIRST_PAUSE_S:
                return
            self._refreshing = asyncio.create_task(cluster.refresh())
        task = self._refreshing
        with suppress(JournalUnavailable):
            await asyncio.shield(task)
        if self._refreshing is task:
            self._refreshing, self._refreshed_at = None, loop.time()

    def _watch_peers(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(WATCH_S, self._compare)

    def _compare(self) -> None:
        """End requests at servers that are over: a frozen one keeps its connections open, and answers nothing."""
        self._watch = None
        alive = {peer.address for peer in self._cluster().peers.values()}
        for address in self._pool.addresses - alive:
            self._pool.fail(address, UpstreamLost("the server is over"))
        if self._pool.addresses:
            self._watch_peers()

    async def _say(self, request: ClientRequest, response: Response) -> None:
        await response(request.scope, request.receive, request.send)


async def _pass_on(upstream: Upstream, request: ClientRequest) -> None:
    """Send the answer of another server to the client, or the rest of one that has begun.

    Raises `_Elsewhere` if a stream ended before its run, so that another server has the rest.
    """
    passed = request.passed
    events = WholeEvents() if upstream.headers_named(RESUMABLE) else None
    if request.has_begun:
        if upstream.status == wire.NO_CONTENT:  # (the client has all events)
            await request.send(part(b"", more=False))
            return
        if upstream.status != wire.OK or events is None:
            raise wire.AnswerLost("the rest of the stream cannot be read any more")
    else:
        kept = [each for each in upstream.headers if each[0] not in _OF_CONNECTION]
        await request.send({"type": "http.response.start", "status": upstream.status, "headers": kept})
    passed.resumable = events is not None
    while True:
        piece = await upstream.next()
        is_last = upstream.is_read
        if events is not None:
            piece = events.take(piece)
            passed.last_id = events.last_id or passed.last_id
            if is_last and passed.last_id != LAST:
                if piece:
                    await request.send(part(piece, more=True))
                raise _Elsewhere
        if piece or is_last:
            await request.send(part(piece, more=not is_last))
        if is_last:
            return


class WholeEvents:
    """Cuts a stream of events after a whole one, and notes the last id: there it can be resumed."""

    def __init__(self) -> None:
        self._rest = b""
        self.last_id = 0

    def take(self, piece: bytes) -> bytes:
        """Return the events that are whole now."""
        data = self._rest + piece if self._rest else piece
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return b""
        self._rest, found = data[end:], data[:end]
        at = found.rfind(b"\nid: ") + 1
        if at or found.startswith(b"id: "):
            self.last_id = int(found[at + 4 : found.index(b"\n", at)])
        return found

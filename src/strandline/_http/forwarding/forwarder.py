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
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from strandline._engine.streams import LAST
from strandline._http import wire
from strandline._http.forwarding.client_request import ClientRequest, part
from strandline._http.forwarding.envelope import Forward, ForwardOfToken
from strandline._http.forwarding.inner import ACCEPTED, INTERNAL, MOVED, RESUMABLE
from strandline._http.forwarding.others import ClockSkewed, Others, advice
from strandline._http.forwarding.upstream import Unreached, Upstream, UpstreamLost
from strandline._http.forwarding.whole_events import WholeEvents
from strandline._journal.cluster import Cluster, Peer
from strandline._journal.partitions import moved
from strandline.errors import JournalUnavailable, NotOwner, StrandlineError

_log = logging.getLogger("strandline.forwarding")

PATIENCE_S: Final = 3.0
"""How much longer than a lease a request waits for a server that has its session."""
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
NOTE_S: Final = 60.0
MOST_STALE: Final = 100
"""How often a request is sent again at once: after connections that were closed while they were idle."""
_ANSWER_LOST: Final = (
    "the server that has the session was lost before it answered: read what it did before you send the request again"
)
_OF_CONNECTION: Final = frozenset({b"connection", b"date", b"keep-alive", b"server", b"transfer-encoding"})
"""Headers of an answer that are for us, beside those between servers."""


class _ClientGone(Exception):
    """The client has disconnected."""


class _Elsewhere(Exception):
    """The server did nothing, since another one has the session, or will soon. `partition` if it has said which."""

    def __init__(self, partition: int | None = None) -> None:
        super().__init__(partition)
        self.partition = partition


class Forwarder:
    """Answers every request: by the application, or by another server.

    `most_bytes` bounds a body that the application has not read; `respond` formats errors. `on_forward` is called with
    what became of each request that was sent (`answered`, `moved`, `lost`, `unreached`, `disconnected`), `on_refused`
    with the code of each one that no server has answered in time.
    """

    def __init__(
        self,
        app: ASGIApp,
        others: Others[Cluster],
        *,
        most_bytes: int,
        respond: Callable[[Exception, Scope], Response],
        on_forward: Callable[[str], object] = id,
        on_refused: Callable[[str], object] = id,
    ) -> None:
        self._app = app
        self._others = others
        self._most_bytes = most_bytes
        self._respond = respond
        self._on_forward = on_forward
        self._on_refused = on_refused
        self._at_others: dict[int, Peer] = {}
        """The servers that have requests of ours, by the number of each request."""
        self._under_way = 0
        """How many requests are for other servers to answer."""
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self._is_leaving = False
        self._all_stop = False
        self._noted: dict[str, float] = {}
        """When the log last had that a server could not answer, by address."""
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = ClientRequest(scope, receive, send)
        partition = await self._here(request)
        if partition is None:
            return
        self._under_way += 1
        self._none_under_way.clear()
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
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()

    def stop_with_all(self) -> None:
        """From now on wait for no server that takes a session over: all of them stop."""
        self._all_stop = True

    async def leave(self, patience_s: float = 0.0) -> None:
        """Have the requests that other servers have answered now, since this one stops; return when they know.

        First wait for their answers, for `patience_s` at most.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._none_under_way.wait()
        self._is_leaving = True
        under_way = [*self._at_others.items()]
        await asyncio.gather(*(self._others.leave(peer, number, answer=True) for number, peer in under_way))

    async def look_around(self) -> None:
        """Log which servers do not answer at the addresses that they have given, as seen from here.

        Those that do not are asked again after a lease: one that starts answers then, and one that was killed is over.
        """
        if not await self._others.unreached():
            return
        await asyncio.sleep(self._others.cluster().lease_s)
        for peer, why in await self._others.unreached():
            who = "this server" if peer.id == self._others.cluster().me else f"server {peer.id}"
            _log.warning("%s cannot be reached at %s: %s; %s", who, peer.address or "no address", why, advice(peer))

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
        cluster, loop = self._others.cluster(), asyncio.get_running_loop()
        pause_s, until, had = FIRST_PAUSE_S, loop.time() + cluster.lease_s + PATIENCE_S, request.passed.last_id
        stale, is_lost = 0, False
        while True:
            if request.has_begun and not request.passed.resumable:
                request.cut()
                return
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
            except ClockSkewed as error:
                is_lost |= isinstance(error.__cause__, UpstreamLost)
                if (stale := stale + 1) < MOST_STALE:
                    continue
            except _Elsewhere as error:
                partition = partition if error.partition is None else error.partition
            except (Unreached, UpstreamLost) as error:
                self._note(peer, error, loop.time())
                if isinstance(error, UpstreamLost) and request.passed.once:
                    raise wire.AnswerLost(_ANSWER_LOST) from error
                is_lost |= isinstance(error, UpstreamLost)
            is_leaving = self._is_leaving or self._all_stop
            if is_leaving and await request.ended_here():
                return
            if request.passed.last_id != had:  # (it got ahead since the last trouble)
                pause_s, until, had = (
                    FIRST_PAUSE_S,
                    loop.time() + cluster.lease_s + PATIENCE_S,
                    request.passed.last_id,
                )
            may_be_done = request.passed.accepted or (is_lost and request.is_change)
            if loop.time() >= until or is_leaving:
                raise wire.AnswerLost(_ANSWER_LOST) if may_be_done else moved(partition)
            if cluster.owner(partition) == peer:
                await request.pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                await self._refresh(cluster)
            has_run = may_be_done or request.passed.run_id is None
            if request.is_left and not (request.passed.counts_client and has_run):
                return  # (else the next server has to know that the client of the run has disconnected)

    def _note(self, peer: Peer | None, error: Exception, now: float) -> None:
        """Log once a minute that a server cannot answer: a wrong `cluster_address` is seen by nothing else."""
        address = "" if peer is None else peer.address
        if self._noted.get(address, -math.inf) < now - NOTE_S:
            self._noted[address] = now
            _log.warning("requests cannot be sent to the server at %s: %s", address, error)

    # -- one server -------------------------------------------------------------------------------------

    async def _at(self, peer: Peer, request: ClientRequest) -> None:
        """Have another server answer. Raises `Unreached`, `UpstreamLost`, and what this module has for it."""
        number = 0
        try:
            upstream = await self._others.connect(peer, fresh=request.passed.once)
        except Unreached:
            self._on_forward("unreached")
            raise

        def make(sender: int, receiver: int, given: int, at: float) -> Forward | ForwardOfToken:
            nonlocal number
            number = given
            self._at_others[number] = peer
            return request.envelope(sender, receiver, given, at)

        end = request.on_disconnect(lambda: upstream.fail(_ClientGone()))
        try:
            await self._others.send(upstream, peer, make, request.body)
            await self._check_moved(upstream, request)
            await _pass_on(upstream, request)
            self._on_forward("answered")
        except _ClientGone:
            self._on_forward("disconnected")
            await self._others.leave(peer, number)
            raise
        except _Elsewhere:
            self._on_forward("moved")
            raise
        except (Unreached, UpstreamLost) as error:
            if not isinstance(error, ClockSkewed):
                self._on_forward("unreached" if isinstance(error, Unreached) else "lost")
            raise
        finally:
            end()
            self._at_others.pop(number, None)
            request.passed.again = True  # (from now on)
            self._others.put(upstream)

    async def _check_moved(self, upstream: Upstream, request: ClientRequest) -> None:
        """Raise `_Elsewhere` if another server has the session, or will soon."""
        if not (found := upstream.headers_named(MOVED)):
            return
        request.passed.accepted |= bool(upstream.headers_named(ACCEPTED))
        while await upstream.next():
            pass
        raise _Elsewhere(int(found[0]) if found[0] else None)

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
        kept = [each for each in upstream.headers if each[0] not in _OF_CONNECTION and not each[0].startswith(INTERNAL)]
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

"""Connections to other servers: HTTP/1.1, one request at a time, kept open for the next one.

A protocol on the transport, without streams or a client library: a request and its answer take some 50 us. What arrives
is buffered up to `AT_ONCE_BYTES`, then the other server waits, and with it its agent's stream. Knows no envelopes.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from httptools import HttpParserError, HttpResponseParser

CONNECT_S: Final = 2.0
AT_ONCE_BYTES: Final = 64 * 1024
MOST_IDLE: Final = 64
"""How many idle connections are kept, in all."""
IDLE_S: Final = 30.0
"""For how long: less than the other server keeps them."""
UNHEARD_S: Final = 8
"""After how long without an acknowledgement of its machine a connection is lost."""
_OPTIONS: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", UNHEARD_S // 2),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", UNHEARD_S // 2),
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", UNHEARD_S * 1000),
)


class Unreached(Exception):
    """Nothing was sent: there is no connection."""


class UpstreamLost(Exception):
    """The connection ended before its answer was complete."""


class Upstream(asyncio.Protocol):
    """One connection. Belongs to the serving loop."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False
        """Whether the answer has arrived; some of it may not be read yet."""
        self.is_fresh = True
        """Whether its first request is under way: one that was idle may have been closed meanwhile."""
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._has_head = False
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._lost: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._is_paused = False
        self._on_lost: Callable[[Upstream], object] = id

    # -- for its user -----------------------------------------------------------------------------------

    async def send(self, request: bytes, body: bytes) -> None:
        """Send a request. Raises the reason of `fail`, or `UpstreamLost`."""
        if self._lost is not None or self._transport is None:
            raise self._lost or UpstreamLost("closed")
        self.status, self.headers, self.is_complete, self._has_head = 0, [], False, False
        if len(body) < AT_ONCE_BYTES:
            self._transport.write(request + body)
        else:
            self._transport.write(request)
            self._transport.write(body)
        while self._is_paused and self._lost is None:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        self._check()

    async def head(self) -> None:
        """Return once status and headers of the answer are there. Raises the same."""
        while not self._has_head:
            await self._arrival()

    async def next(self) -> bytes:
        """Return the next bytes of the body, none once it is complete. Raises the same."""
        while not self._pieces:
            if self.is_complete:
                return b""
            await self._arrival()
        piece = self._pieces.popleft() if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._size >= AT_ONCE_BYTES and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._size = 0
        return piece

    def headers_named(self, name: bytes) -> list[bytes]:
        """Return the values of a header, in lower case."""
        return [value for each, value in self.headers if each == name]

    @property
    def is_read(self) -> bool:
        """Whether the whole answer has been read."""
        return self.is_complete and not self._pieces

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request."""
        return self._lost is None and self._transport is not None and not self._transport.is_closing()

    def fail(self, reason: Exception) -> None:
        """Have its user see an error in place of the rest of the answer."""
        if self._lost is None:
            self._lost = reason
        self._wake()

    def abort(self) -> None:
        """Close it at once."""
        self.fail(UpstreamLost("closed"))
        if self._transport is not None:
            self._transport.abort()

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost

    async def _arrival(self) -> None:
        self._check()
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader
        if not self._pieces and not self.is_complete and not self._has_head:
            self._check()

    def _wake(self) -> None:
        for waiter in (self._reader, self._writer):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # -- for the transport ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        connected = transport.get_extra_info("socket")
        for level, name, value in _OPTIONS:
            if connected is not None and (option := getattr(socket, name, None)) is not None:
                with suppress(OSError):
                    connected.setsockopt(level, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._is_paused = False
        self.fail(UpstreamLost(str(exc or "closed by the other server")))
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Take some of the answer."""
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self.fail(UpstreamLost(f"not HTTP: {error}"))
            self.abort()
            return
        if self._size >= AT_ONCE_BYTES and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        """The other server does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """It does again."""
        self._is_paused = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)

    # -- for the parser ---------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is there."""
        self.status = self._parser.get_status_code()
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        self.is_complete = True
        if not self._parser.should_keep_alive():
            self.fail(UpstreamLost("closed by the other server"))


class Pool:
    """The connections of a server to the others."""

    def __init__(self) -> None:
        self._idle: deque[Upstream] = deque()
        self._used: set[Upstream] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._used)

    async def take(self, address: str, *, fresh: bool) -> Upstream:
        """Return a connection for one request; `fresh`: not one that the other server may have just closed.

        Raises `Unreached`. Call `put` with it afterwards.
        """
        loop = asyncio.get_running_loop()
        self._close_old(loop.time())
        if not fresh:
            for each in reversed(self._idle):
                if each.address == address and each.is_usable:
                    self._idle.remove(each)
                    self._used.add(each)
                    each.is_fresh = False
                    return each
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_S):
                _, made = await loop.create_connection(lambda: Upstream(address), host.strip("[]"), int(port))
        except (OSError, ValueError) as error:  # (a timeout is an OSError)
            raise Unreached(str(error) or "it does not answer") from error
        made._on_lost = self._lost
        self._used.add(made)
        return made

    def put(self, upstream: Upstream) -> None:
        """Keep a connection for the next request if its answer has been read, else close it."""
        self._used.discard(upstream)
        if not upstream.is_usable or not upstream.is_read or len(self._idle) >= MOST_IDLE:
            upstream.abort()
            return
        upstream.idle_since = asyncio.get_running_loop().time()
        self._idle.append(upstream)

    def fail(self, address: str, reason: Exception) -> None:
        """Have the requests under way at a server see an error."""
        for each in [each for each in self._used if each.address == address]:
            each.fail(reason)

    @property
    def addresses(self) -> set[str]:
        """The servers with requests under way."""
        return {each.address for each in self._used}

    def close(self) -> None:
        """Close all connections."""
        for each in [*self._idle, *self._used]:
            each.abort()
        self._idle.clear()

    def _close_old(self, now: float) -> None:
        while self._idle and self._idle[0].idle_since < now - IDLE_S:
            self._idle.popleft().abort()

    def _lost(self, upstream: Upstream) -> None:
        with suppress(ValueError):
            self._idle.remove(upstream)

"""A proxy between a server and something that it connects to, or that connects to it: a network that can fail.

It passes everything on, until it is to fail: `reset` ends all connections, `refuse` takes no new ones either,
`hold` passes nothing on and ends nothing, and `restore` is the end of both. `halve` lets a part of the next large piece
through that a connection says, and nothing after it: the other side waits for the rest, which never comes.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Literal, cast

Make = Callable[[], asyncio.Protocol]
Connect = Callable[[Make], Awaitable[Any]]
"""Connects to what stands behind, by `create_connection` or `create_unix_connection` of the loop."""
HOST: Final = "127.0.0.1"


class _End(asyncio.Protocol):
    """One end of a connection that is passed on."""

    def __init__(self, link: "_Link", *, is_client: bool) -> None:
        self.transport: asyncio.Transport | None = None
        self._link = link
        self._is_client = is_client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or end at once if the connection has ended meanwhile."""
        self.transport = cast(asyncio.Transport, transport)
        if self._link.is_over:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what is said at this end."""
        self._link.said(data, by_client=self._is_client)

    def eof_received(self) -> None:
        """Nothing more is said: the connection ends."""

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        del error
        self._link.ended(by_client=self._is_client)

    def pause_writing(self) -> None:
        """This end does not read: let the other one say no more."""
        self._link.other(self).pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._link.other(self).resume_reading()

    def pause_reading(self) -> None:
        """Take nothing more from this end."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take something from it again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def abort(self) -> None:
        """End the connection at this end."""
        if self.transport is not None:
            self.transport.abort()


class _Link:
    """One connection. What is said before there is one to what stands behind, or while it is held, comes later."""

    def __init__(self, proxy: "Proxy") -> None:
        self.client = _End(self, is_client=True)
        self.server = _End(self, is_client=False)
        self.is_half = False
        """Whether a part of something was passed on, and nothing is any more."""
        self.is_marked = False
        """Whether the client has said the mark."""
        self.is_over = False
        self._proxy = proxy
        self._waiting: list[tuple[bytes, bool]] = []

    def other(self, end: _End) -> _End:
        """Return the other end."""
        return self.server if end is self.client else self.client

    def said(self, data: bytes, *, by_client: bool) -> None:
        """Pass something on, or keep it, or a part of it."""
        if self.is_half:
            return
        if by_client and not self.is_marked and self._proxy.mark in data:
            self.is_marked = True
        if self._proxy.is_held or self.server.transport is None:
            self._waiting.append((data, by_client))
            return
        if by_client and self.is_marked and (length := self._proxy.half_of(data)) is not None:
            self.is_half = True
            data = data[:length]
        to = (self.server if by_client else self.client).transport
        if to is not None and not to.is_closing():
            to.write(data)

    def release(self) -> None:
        """Pass on what was kept."""
        waiting, self._waiting = self._waiting, []
        for data, by_client in waiting:
            self.said(data, by_client=by_client)

    def ended(self, *, by_client: bool) -> None:
        """One end is over, so the other one is: but not if nobody behind the proxy can know it."""
        if self.is_half and by_client:
            return
        self.abort()

    def abort(self) -> None:
        """End it at both ends."""
        self.is_over = True
        self.client.abort()
        self.server.abort()
        self._proxy.links.discard(self)


class Proxy:
    """Passes connections on to what `connect` connects to. Only connections that say the `mark` can be halved."""

    def __init__(self, connect: Connect, *, mark: bytes = b"") -> None:
        self.port = 0
        self.mark = mark
        self.links: set[_Link] = set()
        self.state: Literal["open", "held", "refused"] = "open"
        self._connect = connect
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._half: tuple[float, int, asyncio.Future[None]] | None = None

    @property
    def is_held(self) -> bool:
        """Whether nothing is passed on."""
        return self.state == "held"

    async def start(self) -> None:
        """Listen, at a port that the system chooses."""
        # (An `asyncio.Server` that is closed leaks the connections that it is accepting at that moment.)
        self._listener = socket.create_server((HOST, 0))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def stop(self) -> None:
        """Take no more connections, and end all but those that are halved: the other side still waits there."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for link in [link for link in self.links if not link.is_half]:
            link.abort()

    async def close(self) -> None:
        """End everything, and return when it is closed."""
        self.stop()
        self.reset()
        await asyncio.gather(*self._tasks)
        self.reset()
        await asyncio.sleep(0)  # (a transport closes its socket in the next turn of the loop)

    def reset(self) -> None:
        """End all connections at once."""
        for link in list(self.links):
            link.abort()

    def refuse(self) -> None:
        """End all connections, and take none until `restore`."""
        self.state = "refused"
        self.reset()

    def hold(self) -> None:
        """Pass nothing on until `restore`, as on a network that is cut in silence."""
        self.state = "held"

    def restore(self) -> None:
        """Pass on what was held back, and all that comes."""
        self.state = "open"
        for link in list(self.links):
            link.release()

    async def halve(self, share: float, at_least: int) -> None:
        """Return when a share of something that has at least so many bytes was passed on, and nothing after it."""
        done = asyncio.get_running_loop().create_future()
        self._half = share, at_least, done
        try:
            await done
        finally:
            self._half = None

    def half_of(self, data: bytes) -> int | None:
        """Return how many of these bytes to pass on, if they are what is waited for."""
        if self._half is None or len(data) < self._half[1] or self._half[2].done():
            return None
        share, _, done = self._half
        done.set_result(None)
        return min(len(data) - 1, max(1, round(share * len(data))))

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            accepted, _ = self._listener.accept()
        except OSError:
            return  # (its client has left already)
        accepted.setblocking(False)
        link = _Link(self)
        self.links.add(link)
        task = asyncio.create_task(self._open(link, accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, link: _Link, accepted: socket.socket) -> None:
        """Connect to what stands behind; end the connection if that is not possible."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: link.client, accepted)
        if self.state == "refused":
            link.abort()
            return
        try:
            await self._connect(lambda: link.server)
        except OSError:
            link.abort()
            return
        if not self.is_held:
            link.release()


def to_socket(path: Path) -> Connect:
    """Return how to connect to a socket in the file system."""
    return lambda make: asyncio.get_running_loop().create_unix_connection(make, str(path))


def to_port(host: str, port: Callable[[], int]) -> Connect:
    """Return how to connect to a port; it is read at each connection."""
    return lambda make: asyncio.get_running_loop().create_connection(make, host, port())

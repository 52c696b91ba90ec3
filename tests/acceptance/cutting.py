"""A TCP proxy before a server that cuts connections in the middle: `Cutting`. A test says after how many bytes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

START_S: Final = 10.0


class Cutting:
    """Hands on what goes to and fro. `after()` gives the bytes that a connection may get before it is cut; None: all.

    It is cut in the middle of a frame, wherever that is.
    """

    def __init__(self, port: int, after: Callable[[], int | None]) -> None:
        self.port = 0
        self.cuts = 0
        self._to = port
        self._after = after
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="cutting", daemon=True)

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._ready.wait(START_S)

    def close(self) -> None:
        """End all connections."""
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(START_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        left = self._after()
        upwards = asyncio.create_task(_hand_on(reader, to_server))
        try:
            while some := await from_server.read(4096):
                if left is not None and len(some) >= left:
                    writer.write(some[:left])
                    with suppress(OSError):
                        await writer.drain()
                    self.cuts += 1
                    break
                left = None if left is None else left - len(some)
                writer.write(some)
                await writer.drain()
        except OSError:
            pass
        finally:
            upwards.cancel()
            to_server.transport.abort()
            writer.close()


async def _hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(4096):
            writer.write(some)
            await writer.drain()


@contextmanager
def cutting(url: str, after: Callable[[], int | None]) -> Iterator[tuple[str, Cutting]]:
    """Put a proxy before a server for the time of a `with`; give its address and itself."""
    proxy = Cutting(int(url.rpartition(":")[2]), after)
    proxy.start()
    try:
        yield f"http://127.0.0.1:{proxy.port}", proxy
    finally:
        proxy.close()

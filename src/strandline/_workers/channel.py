"""One end of the connection between the serving process and a worker. All messages of one loop iteration share a frame.

A frame is its length (4 bytes, big endian) and a JSON list of messages in the journal's encoding.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from strandline._encoding import encode_messages

HEAD = 4


def frame(*messages: bytes) -> bytes:
    """Return encoded messages as a frame."""
    body = b"[%s]" % b",".join(messages)
    return len(body).to_bytes(HEAD) + body


class Frames:
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes; yield the content of each complete frame."""
        buffer, at = self._buffer, 0
        buffer += data
        try:
            while len(buffer) >= at + HEAD:
                begin = at + HEAD
                end = begin + int.from_bytes(buffer[at:begin])
                if len(buffer) < end:
                    break
                at = end
                yield bytes(buffer[begin:end])
        finally:
            del buffer[:at]


class Writer:
    """Writes whole frames to a socket from any thread, in order, without blocking.

    The loop that created it writes what the socket does not accept at once.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection.dup()
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._left = bytearray()

    def fileno(self) -> int:
        """Return its own descriptor."""
        return self._socket.fileno()

    def write(self, data: bytes) -> None:
        """Write data, now or later; drop it if the connection is closed."""
        with self._lock:
            if not self._left:
                sent = self._sent(data)
                if sent == len(data):
                    return
                data = data[sent:]
                self._loop.call_soon_threadsafe(self._loop.add_writer, self._socket, self._write_rest)
            self._left += data

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _write_rest(self) -> None:
        with self._lock:
            del self._left[: self._sent(self._left)]
            if not self._left:
                self._loop.remove_writer(self._socket)

    def _sent(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # (the reader notices that the connection is closed)


class Channel(asyncio.Protocol):
    """Calls `receive` with each message that `decode` returns, and `on_close` when the other end is closed.

    `frames` holds what arrived before the loop ran. `write` replaces the transport where other threads write too.
    Belongs to the loop that it is connected on.
    """

    def __init__(
        self,
        receive: Callable[[Any], object],
        on_close: Callable[[], object],
        decode: Callable[[bytes], list[Any]],
        frames: Frames | None = None,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self._receive = receive
        self._on_close = on_close
        self._decode = decode
        self._frames = frames or Frames()
        self._waiting: list[bytes] = []
        self._write = write
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send what waits, and read what arrived before."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._flush()
        self.data_received(b"")  # (whole frames may have arrived before)

    def connection_lost(self, exc: Exception | None) -> None:
        """Call `on_close`."""
        self._transport = None
        self._on_close()

    def data_received(self, data: bytes) -> None:
        """Receive the messages of all complete frames."""
        for each in self._frames.feed(data):
            for message in self._decode(each):
                self._receive(message)

    def send(self, message: object) -> None:
        """Send a message with all others of this loop iteration."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(encode_messages(message))

    def write(self, data: bytes) -> None:
        """Send a frame at once; from any thread if there is a `write`."""
        if self._write is not None:
            self._write(data)
        elif self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close it after all messages are sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once and drop unsent messages."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._waiting and self._transport is not None:
            messages, self._waiting = self._waiting, []
            self.write(frame(*messages))

"""One end of the connection between the serving process and a worker: frames of messages, all of one turn in one write.

A frame is its length (4 bytes, big endian) and a JSON list of messages, in the encoding of the journal: what an agent
reports comes over as the journal would have kept it.
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
    told = b"[%s]" % b",".join(messages)
    return len(told).to_bytes(HEAD) + told


class Frames:
    """Bytes as they come, whole frames as they go."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes; yield the content of each frame that is whole now."""
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
    """Writes to a socket from any thread, whole frames in the order of the calls; never waits.

    What the socket does not take at once is written when it does, by the loop that it was made on.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection.dup()
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._left = bytearray()

    def fileno(self) -> int:
        """Return the descriptor that it writes to, which is its own."""
        return self._socket.fileno()

    def write(self, data: bytes) -> None:
        """Write it, now or later; in vain if nobody is there."""
        with self._lock:
            if not self._left:
                sent = self._sent(data)
                if sent == len(data):
                    return
                data = data[sent:]
                self._loop.call_soon_threadsafe(self._loop.add_writer, self._socket, self._go_on)
            self._left += data

    def close(self) -> None:
        """Write nothing more."""
        with self._lock:
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _go_on(self) -> None:
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
            return len(data)  # (that nobody is there is noticed where it is read)


class Channel(asyncio.Protocol):
    """`receive` is called with each message that comes, decoded by `decode`; `gone` when the other end is closed.

    `frames` has what came before there was a loop, `write` is used instead of the transport, for those who write from
    other threads too. Belongs to the loop that it is connected on.
    """

    def __init__(
        self,
        receive: Callable[[Any], object],
        gone: Callable[[], object],
        decode: Callable[[bytes], list[Any]],
        frames: Frames | None = None,
        write: Callable[[bytes], object] | None = None,
    ) -> None:
        self._receive = receive
        self._gone = gone
        self._decode = decode
        self._frames = frames or Frames()
        self._waiting: list[bytes] = []
        self._write = write
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to the other end."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._flush()
        self.data_received(b"")  # (whole frames may have come before)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that there is nobody any more."""
        self._transport = None
        self._gone()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        for each in self._frames.feed(data):
            for message in self._decode(each):
                self._receive(message)

    def send(self, message: object) -> None:
        """Send a message, with all others of this turn of the loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(encode_messages(message))

    def write(self, data: bytes) -> None:
        """Send a frame at once; where there is a `write` for it, from any thread."""
        if self._write is not None:
            self._write(data)
        elif self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close it; the other end hears it once it has read what was sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once, whatever was not sent."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._waiting and self._transport is not None:
            told, self._waiting = self._waiting, []
            self.write(frame(*told))

"""One end of the connection between the serving process and a worker: frames of messages, all of one turn in one write.

A frame is its length (4 bytes, big endian) and a JSON list of messages, in the encoding of the journal: what an agent
reports comes over as the journal would have kept it.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

from strandline.encoding import encode_messages

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


class Channel(asyncio.Protocol):
    """`take` is called with each message that comes, decoded by `decode`; `gone` when the other end is closed.

    `frames` has what came before there was a loop. Belongs to the loop that it is connected on.
    """

    def __init__(
        self,
        take: Callable[[Any], object],
        gone: Callable[[], object],
        decode: Callable[[bytes], list[Any]],
        frames: Frames | None = None,
    ) -> None:
        self._take = take
        self._gone = gone
        self._decode = decode
        self._frames = frames or Frames()
        self._waiting: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the way to the other end."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that there is nobody any more."""
        self._transport = None
        self._gone()

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        for each in self._frames.feed(data):
            for message in self._decode(each):
                self._take(message)

    def say(self, message: object) -> None:
        """Send a message, with all others of this turn of the loop."""
        self.send(encode_messages(message))

    def send(self, told: bytes) -> None:
        """Send a message that is encoded."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(told)

    def close(self) -> None:
        """Close it; the other end hears it once it has read what was sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        if self._waiting and self._transport is not None:
            told, self._waiting = self._waiting, []
            self._transport.write(frame(*told))

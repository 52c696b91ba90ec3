"""The connection between a server and a worker: bytes in order, in pieces, later, cut off where one end dies."""

import asyncio
from contextvars import Context

from simulation.loop import Chance

CHUNK = 600
"""About as many bytes come at once, where they do not come all."""


class Pipe:
    """One direction. What comes is taken in `context`: nothing that is current for who writes is so for who reads."""

    def __init__(self, chance: Chance, most_s: float, context: Context) -> None:
        self._chance = chance
        self._most_s = most_s
        self._context = context
        self._bytes = bytearray()
        """What was written and has not been read."""
        self._reader: asyncio.Protocol | None = None
        self._coming = False
        self._stopped = False
        self.ended = False
        """Whether nobody writes any more."""

    def read_by(self, reader: asyncio.Protocol) -> None:
        """Have somebody read from now on."""
        self._reader = reader
        self._come()

    def write(self, data: bytes) -> None:
        """Send bytes; in vain once it has ended."""
        if not self.ended:
            self._bytes += data
            self._come()

    def end(self, *, cut: bool = False) -> None:
        """Send no more; with `cut` what was written last may have left the process in part or not at all."""
        if self.ended:
            return
        self.ended = True
        if cut and self._bytes and self._chance.happens(0.5):
            del self._bytes[self._chance.up_to(len(self._bytes)) :]
        self._come()

    def forget(self) -> None:
        """Have nobody read any more."""
        self.ended = True
        self._reader = None

    def stop(self, stopped: bool) -> None:
        """Keep the reader from reading for a while, or let it continue."""
        self._stopped = stopped
        self._come()

    def _come(self) -> None:
        if self._coming or self._stopped or self._reader is None or not (self._bytes or self.ended):
            return
        self._coming = True
        loop, chance = asyncio.get_running_loop(), self._chance
        if chance.happens(0.5):
            loop.call_soon(self._arrive, context=self._context.copy())
        else:
            loop.call_later(self._most_s * chance.random() ** 2, self._arrive, context=self._context.copy())

    def _arrive(self) -> None:
        self._coming = False
        if self._stopped or (reader := self._reader) is None:
            return
        if self._bytes:
            size = len(self._bytes)
            if self._chance.happens(0.3):
                size = min(size, 1 + self._chance.up_to(CHUNK))
            data = bytes(self._bytes[:size])
            del self._bytes[:size]
            reader.data_received(data)
            self._come()
        elif self.ended:
            self._reader = None
            reader.connection_lost(None)


class Transport(asyncio.WriteTransport):
    """An end of a connection, for who writes there."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        self._pipe.write(bytes(data))

    def close(self) -> None:
        """Send no more."""
        self._pipe.end()

    def abort(self) -> None:
        """Send no more."""
        self._pipe.end()

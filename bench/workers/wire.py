"""What serving process and worker say to each other: frames of reports on a socketpair, all of one turn in one write.

A frame is a length and a msgpack list of reports; a report is a list whose first items are its kind and, where it
belongs to one, the number of its run.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_decoder = msgspec.msgpack.Decoder()


class Channel(asyncio.Protocol):
    """One end. `take` is called with each report; `gone` when the other end has closed."""

    def __init__(self, take: Callable[[list[Any]], None], gone: Callable[[], None]) -> None:
        self._take = take
        self._gone = gone
        self._buffer = bytearray()
        self._reports: list[list[Any]] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        buffer, at = self._buffer, 0
        while len(buffer) >= at + 4:
            end = at + 4 + int.from_bytes(buffer[at : at + 4])
            if len(buffer) < end:
                break
            for report in _decoder.decode(bytes(buffer[at + 4 : end])):
                self._take(report)
            at = end
        del buffer[:at]

    def say(self, *report: Any) -> None:
        """Send a report, with all others of this turn of the loop."""
        if not self._reports:
            asyncio.get_running_loop().call_soon(self.flush)
        self._reports.append(list(report))

    def flush(self) -> None:
        """Send what there is."""
        if self._reports and self._transport is not None:
            told = _encoder.encode(self._reports)
            self._reports = []
            self._transport.write(len(told).to_bytes(4) + told)

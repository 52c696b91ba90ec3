"""Clients that listen to server-sent events over bare connections, light enough not to be what is measured.

While events come only the times in their texts are read (`bench.agents.streaming`); what was heard is taken apart when
it has ended.
"""

import asyncio
import json
import re
import time
from typing import Any, cast
from urllib.parse import urlsplit

_SAID = re.compile(rb"@(\d+);")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")
_END = b"0\r\n\r\n"


class Listener(asyncio.Protocol):
    """One connection, which reads one stream after the other."""

    def __init__(self, *, keep: bool = False) -> None:
        self.late_s: list[float] = []
        """How long each text was under way."""
        self.enough: int | None = None
        """After how many texts to leave, in the middle."""
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self.first_at: float | None = None
        self._kept = bytearray()
        self._tail = b""
        self._last = 0
        self._begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        _done(self.first_byte)
        if self._keep:
            self._kept += data
        data = self._tail + data
        end = 0
        for found in _SAID.finditer(data):
            end, said = found.end(), int(found[1])
            if said > self._last:  # the end of the run has all of its text again
                self._last = said
                self.late_s.append(now - said / 1e9)
                self.first_at = self.first_at or now
        self._tail = data[max(end, len(data) - 40) :]
        if data.endswith(_END):
            _done(self.ended)
        elif self.enough is not None and len(self.late_s) >= self.enough:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        _done(self.ended)

    def ask(self, request: bytes) -> float:
        """Ask for events. Returns when."""
        assert self._transport is not None
        self._begin()
        sent_at = time.monotonic()
        self._transport.write(request)
        return sent_at

    async def hear(self, request: bytes) -> float:
        """Ask for events and hear all of them. Returns how many seconds after that the first text came; 0 for none."""
        sent_at = self.ask(request)
        await self.ended
        return 0.0 if self.first_at is None else self.first_at - sent_at

    def close(self) -> None:
        """Leave, without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self.first_byte: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.first_at = None
        self._kept.clear()
        self._tail = b""
        self._last = 0

    def events(self) -> list[tuple[int | None, dict[str, Any]]]:
        """Return the ids and the data of the whole events that were heard."""
        head = self._kept.find(b"\r\n\r\n") + 4
        body, at = bytearray(), head
        while (found := _CHUNK.match(self._kept, at)) is not None:
            length = int(found[1], 16)
            body += self._kept[found.end() : found.end() + length]
            at = found.end() + length + 2
        events: list[tuple[int | None, dict[str, Any]]] = []
        for block in bytes(body).split(b"\n\n")[:-1]:
            fields = dict(line.split(b": ", 1) for line in block.split(b"\n") if not line.startswith(b":"))
            if b"data" in fields:
                number = int(fields[b"id"]) if b"id" in fields else None
                events.append((number, json.loads(fields[b"data"])))
        return events


async def listener(url: str, *, keep: bool = False) -> Listener:
    """Connect; with `keep`, what is heard can be taken apart."""
    parts = urlsplit(url)
    _, made = await asyncio.get_running_loop().create_connection(
        lambda: Listener(keep=keep), parts.hostname or "", parts.port or 80
    )
    return made


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)

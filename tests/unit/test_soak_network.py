"""The soak's network fails as it is told to, and its clocks are off as they are told to be."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from soak.clock import environment
from soak.proxy import Proxy, to_port
from soak.server import ROOT

DEADLINE_S = 20.0


class Place:
    """What stands behind a proxy: answers each line in capitals, and notes what came."""

    def __init__(self) -> None:
        self.said = b""
        self.connections: list[asyncio.StreamWriter] = []
        self.came = asyncio.Event()
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        while data := await reader.read(1000):
            self.said += data
            self.came.set()
            writer.write(data.upper())
        self.ended += 1
        writer.close()


class Scene:
    """A proxy before a place."""

    def __init__(self, proxy: Proxy, place: Place) -> None:
        self.proxy = proxy
        self.place = place
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self._writers.append(writer)
        return reader, writer

    async def until(self, said: bytes) -> None:
        """Return when so much came to the place."""
        while not self.place.said.endswith(said):
            self.place.came.clear()
            await self.place.came.wait()

    def end(self) -> None:
        for each in (*self._writers, *self.place.connections):
            each.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return whether a connection ends before anything else is said."""
    with suppress(ConnectionError):
        return not await reader.read(1)
    return True


@asynccontextmanager
async def scene(mark: bytes = b"") -> AsyncIterator[Scene]:
    place = Place()
    server = await asyncio.start_server(place.serve, "127.0.0.1", 0)
    proxy = Proxy(to_port("127.0.0.1", lambda: server.sockets[0].getsockname()[1]), mark=mark)
    await proxy.start()
    found = Scene(proxy, place)
    try:
        yield found
    finally:
        found.end()
        await proxy.close()
        server.close()
        await asyncio.sleep(0)


def play(part: Callable[[Scene], Coroutine[Any, Any, None]], mark: bytes = b"") -> None:
    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S), scene(mark) as found:
            await part(found)

    asyncio.run(whole())


def test_a_network_passes_on_what_both_ends_say() -> None:
    async def part(found: Scene) -> None:
        reader, writer = await found.connect()
        for said in (b"one", b"two" * 100_000):
            writer.write(said)
            assert await reader.readexactly(len(said)) == said.upper()

    play(part)


def test_a_reset_ends_the_connections_that_are_there() -> None:
    async def part(found: Scene) -> None:
        reader, writer = await found.connect()
        writer.write(b"one")
        await reader.readexactly(3)
        found.proxy.reset()
        assert await ended(reader)
        reader, writer = await found.connect()
        writer.write(b"two")
        assert await reader.readexactly(3) == b"TWO"

    play(part)


def test_a_network_that_refuses_takes_no_connection_until_it_is_restored() -> None:
    async def part(found: Scene) -> None:
        found.proxy.refuse()
        reader, writer = await found.connect()
        writer.write(b"one")
        assert await ended(reader)
        assert found.place.said == b""
        found.proxy.restore()
        reader, writer = await found.connect()
        writer.write(b"two")
        assert await reader.readexactly(3) == b"TWO"

    play(part)


def test_a_silent_network_ends_nothing_and_passes_all_on_when_it_is_restored() -> None:
    async def part(found: Scene) -> None:
        reader, writer = await found.connect()
        writer.write(b"one")
        await reader.readexactly(3)
        found.proxy.hold()
        later, also = await found.connect()
        for each in (writer, also):
            each.write(b"two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(1)
        assert found.place.said == b"one"
        found.proxy.restore()
        assert await reader.readexactly(3) == await later.readexactly(3) == b"TWO"

    play(part)


def test_half_of_a_large_piece_comes_and_nothing_after_it() -> None:
    async def part(found: Scene) -> None:
        other, others = await found.connect()
        _, writer = await found.connect()
        writer.write(b"mark")
        await found.until(b"mark")
        halved = asyncio.create_task(found.proxy.halve(0.5, 100))
        await asyncio.sleep(0)
        others.write(b"x" * 100)  # (it has not said the mark)
        await other.readexactly(100)
        writer.write(b"y" * 100)
        await halved
        await found.until(b"y" * 50)
        writer.write(b"z" * 100)
        writer.transport.abort()
        others.write(b"!")
        await found.until(b"!")
        assert found.place.said == b"mark" + b"x" * 100 + b"y" * 50 + b"!"
        assert found.place.ended == 0, "the place waits for the rest, although its client is gone"
        found.proxy.stop()
        assert [link.is_half for link in found.proxy.links] == [True]

    play(part, b"mark")


def test_a_clock_that_is_off_is_off_for_the_server_and_its_own_clock_only() -> None:
    code = (
        "import time; from strandline._clock import SystemClock; clock = SystemClock();"
        " print(time.time(), time.time_ns() / 1e9, clock.now(), time.monotonic(), clock.monotonic())"
    )
    told = environment(-60.0, str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **told}, capture_output=True, text=True, timeout=60, check=True
    )
    right = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    off, true = ([float(each) for each in one.stdout.split()] for one in (done, right))
    assert [round((ours - theirs) / 60) for ours, theirs in zip(true, off, strict=True)] == [1, 1, 1, 0, 0]

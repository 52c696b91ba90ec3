"""A connection to another server: what it buffers, what it survives, and which are kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from cluster_support import run, until
from strandline._http.forwarding.upstream import AT_ONCE_BYTES, MOST_IDLE, Pool, Unreached, Upstream, UpstreamLost

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[tuple[Pool, str]]:
    """Have a server, and return its address and connections to it."""
    handled: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handled.add(task)
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    pool = Pool()
    try:
        yield pool, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        pool.close()
        server.close()
        if handled:
            await asyncio.wait(handled)


async def body_of(upstream: Upstream) -> bytes:
    pieces = []
    while piece := await upstream.next():
        pieces.append(piece)
    return b"".join(pieces)


async def fine(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        writer.write(FINE)


def test_an_answer_that_nobody_reads_waits_at_its_server_and_arrives_whole() -> None:
    whole = b"x" * 40_000_000
    sent = asyncio.Event()

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(whole))
        for start in range(0, len(whole), 100_000):
            writer.write(whole[start : start + 100_000])
            await writer.drain()
        sent.set()

    async def scene() -> None:
        async with answering(large) as (pool, address):
            upstream = await pool.take(address, fresh=False)
            await upstream.send(REQUEST, b"")
            await upstream.head()
            await until(lambda: upstream._size >= AT_ONCE_BYTES, "it has enough")
            for _ in range(1000):
                await asyncio.sleep(0)
            assert not sent.is_set()
            assert AT_ONCE_BYTES <= upstream._size < AT_ONCE_BYTES + 1_000_000
            assert await body_of(upstream) == whole
            pool.put(upstream)
            assert len(pool) == 1

    run(scene)


def test_a_connection_is_used_again_once_its_answer_is_read_and_so_many_are_kept() -> None:
    async def scene() -> None:
        async with answering(fine) as (pool, address):
            many = [await pool.take(address, fresh=False) for _ in range(MOST_IDLE + 2)]
            for each in many:
                await each.send(REQUEST, b"")
                assert await body_of(each) == b"hi"
                pool.put(each)
            assert len(pool) == MOST_IDLE
            again = await pool.take(address, fresh=False)
            fresh = await pool.take(address, fresh=True)
            assert [again in many, fresh in many, again.is_fresh, fresh.is_fresh] == [True, False, False, True]
            await again.send(REQUEST, b"")
            pool.put(again)  # (nobody has read its answer)
            assert not again.is_usable

    run(scene)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", b"nonsense\r\n\r\n"])
def test_an_answer_that_is_not_complete_is_an_error(answer: bytes) -> None:
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(answer)

    async def scene() -> None:
        async with answering(short) as (pool, address):
            upstream = await pool.take(address, fresh=False)
            await upstream.send(REQUEST, b"")
            with pytest.raises(UpstreamLost):
                await body_of(upstream)

    run(scene)


def test_where_nobody_listens_nothing_is_sent() -> None:
    async def scene() -> None:
        async with answering(fine) as (_, address):
            pass
        for each in (address, "nonsense", ""):
            with pytest.raises(Unreached):
                await Pool().take(each, fresh=False)

    run(scene)

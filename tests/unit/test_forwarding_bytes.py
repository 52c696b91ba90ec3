"""Requests as clients may write them: in chunks, after a 100, in HTTP/1.0, many behind each other on one connection."""

import asyncio
import json
from typing import Any

import pytest

from cluster_support import Served, pair, run, until
from engine_support import prompt_of
from strandline._agents.port import Attempt


def head(*headers: str, version: str = "1.1") -> bytes:
    """Return the head of a request for a chat."""
    lines = [f"POST /chat HTTP/{version}", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


def body(message: str) -> bytes:
    """Return the body of a chat in a session of the other server."""
    return json.dumps({"session_id": "s", "message": message}).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """Return the next answer: status, headers, body."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    status = int(lines[0].split()[1])
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return status, headers, json.loads(content) if content else None


async def connected(server: Served) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def echo(attempt: Attempt) -> str:
    return prompt_of(attempt)


def test_a_body_in_chunks_is_passed_on_whole() -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, owner, _client):
            reader, writer = await connected(first)
            writer.write(head("Transfer-Encoding: chunked"))
            whole = body("x" * 200_000)
            for start in range(0, len(whole), 7_001):
                piece = whole[start : start + 7_001]
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
            writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")
            status, headers, found = await answer(reader)
            writer.close()

            assert (status, found["response"]) == (200, "x" * 200_000)
            assert "transfer-encoding" not in headers
            assert owner.recorder.accepts == 1

    run(scene)


def test_a_client_that_waits_for_100_gets_it_from_its_own_server() -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, owner, _client):
            reader, writer = await connected(first)
            sent = body("hello")
            writer.write(head("Expect: 100-continue", f"Content-Length: {len(sent)}"))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(sent)
            status, _, found = await answer(reader)
            writer.close()

            assert (status, found["response"]) == (200, "hello")
            assert owner.recorder.accepts == 1

    run(scene)


def test_a_client_of_http_1_0_is_answered_and_its_connection_closed() -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, _owner, _client):
            reader, writer = await connected(first)
            sent = body("hello")
            writer.write(head(f"Content-Length: {len(sent)}", version="1.0") + sent)
            status, _, found = await answer(reader)
            assert (status, found["response"], await reader.read()) == (200, "hello", b"")
            writer.close()

    run(scene)


def test_a_stream_for_a_client_of_http_1_0_ends_with_its_connection() -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, _owner, _client):
            reader, writer = await connected(first)
            sent = body("hello")
            writer.write(head(f"Content-Length: {len(sent)}", "Accept: text/event-stream", version="1.0") + sent)
            received = await reader.read()
            writer.close()

            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert received.count(b"event: run.finished\n") == 1

    run(scene)


def test_requests_behind_each_other_are_answered_in_their_order() -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, owner, _client):
            reader, writer = await connected(first)
            for number in range(10):
                sent = body(f"{number}")
                writer.write(head(f"Content-Length: {len(sent)}") + sent)
            found = [(await answer(reader))[2]["response"] for _ in range(10)]
            writer.close()

            assert found == [f"{number}" for number in range(10)]
            await until(lambda: owner.recorder.accepts == 10, "all were accepted")

    run(scene)


@pytest.mark.parametrize("after", [0, 20])
def test_a_client_that_leaves_in_the_middle_of_its_body_has_requested_nothing(after: int) -> None:
    async def scene() -> None:
        async with pair(echo) as (_, first, owner, client):
            _reader, writer = await connected(first)
            sent = body("hello")
            writer.write(head(f"Content-Length: {len(sent)}") + sent[:after])
            await writer.drain()
            writer.transport.abort()
            assert (await client.post("/chat", json={"session_id": "s", "message": "next"})).status_code == 200
            await until(lambda: not first.service.vitals().subscribers, "nobody waits")
            assert owner.recorder.accepts == 1

    run(scene)

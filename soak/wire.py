"""HTTP as the soak's clients speak it: one request a connection, which they may drop at any instant."""

import asyncio
import json
from typing import Any, Final

from msgspec import Struct

ANSWER_LOST: Final = 502


class Reply(Struct, frozen=True):
    """An answer that came whole."""

    status_code: int
    body: Any


class Broken(Exception):
    """There was no answer: nobody listened, or the connection broke before it was whole."""


class Lost(Broken):
    """A server says that another one did not answer it."""


class Unavailable(Broken):
    """A server says that it cannot answer just now."""


class Cut(Broken):
    """A stream ended in the middle: nobody could have the rest of it sent."""


class Silent(Exception):
    """There was no answer in time, though the connection stood."""


async def ask(
    port: int, method: str, path: str, body: object = None, *, headers: str = "", deadline_s: float = 60.0
) -> Reply:
    """Make a request and return its answer. Raises `Broken` or `Silent`; when cancelled, the client hangs up."""
    try:
        async with asyncio.timeout(deadline_s):
            return await _ask(port, method, path, body, headers)
    except TimeoutError:
        raise Silent(f"{method} {path} was not answered within {deadline_s:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:  # (somebody else may listen there by now)
        raise Broken(f"{method} {path}: {error}") from error


class Head(Struct, frozen=True):
    """The head of an answer; the names of `headers` are in lower case."""

    status_code: int
    headers: dict[bytes, bytes]


def request_of(port: int, method: str, path: str, body: object, headers: str) -> bytes:
    """Return a request as it is sent."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    return f"{head}\r\n".encode() + content


async def head_of(reader: asyncio.StreamReader) -> Head:
    """Read the head of an answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
    return Head(int(first[9:12]), {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines})


async def head_of_request(reader: asyncio.StreamReader) -> dict[str, str]:
    """Read the head of a request; return its headers, with names in lower case."""
    _, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
    return {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}


async def reply_of(reader: asyncio.StreamReader, head: Head, what: str) -> Reply:
    """Read the rest of an answer that is no stream. Raises `Lost` if it says so."""
    answer = await reader.readexactly(int(head.headers.get(b"content-length", 0)))
    if head.status_code == ANSWER_LOST:
        raise Lost(f"{what}: {answer.decode()}")
    return Reply(head.status_code, json.loads(answer) if answer else None)


async def transfer(
    port: int, method: str, path: str, content: bytes | None, *, deadline_s: float = 60.0
) -> tuple[int, bytes]:
    """Send bytes, or none, and return the status and the bytes of the answer. Raises `Broken` or `Silent`."""
    what = f"{method} {path}"
    length = "" if content is None else f"Content-Length: {len(content)}\r\n"
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{length}\r\n"
    writer = None
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + (content or b""))
            answer = await head_of(reader)
            if b"chunked" not in answer.headers.get(b"transfer-encoding", b""):
                return answer.status_code, await reader.readexactly(int(answer.headers.get(b"content-length", b"")))
            received = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                received += (await reader.readexactly(size + 2))[:-2]
            return answer.status_code, received
    except TimeoutError:
        raise Silent(f"{what} was not answered within {deadline_s:g} s") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise Broken(f"{what}: {error}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


async def _ask(port: int, method: str, path: str, body: object, headers: str) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_of(port, method, path, body, headers))
        return await reply_of(reader, await head_of(reader), f"{method} {path}")
    finally:
        writer.transport.abort()

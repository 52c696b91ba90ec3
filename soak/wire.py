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


async def _ask(port: int, method: str, path: str, body: object, headers: str) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        content = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        writer.write(f"{head}\r\n".encode() + content)
        top = await reader.readuntil(b"\r\n\r\n")
        status_code = int(top[9:12])
        lengths = [line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        answer = await reader.readexactly(int(lengths[0].partition(b":")[2]) if lengths else 0)
        if status_code == ANSWER_LOST:
            raise Lost(f"{method} {path}: {answer.decode()}")
        return Reply(status_code, json.loads(answer) if answer else None)
    finally:
        writer.transport.abort()

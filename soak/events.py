"""Server-sent events as the soak's clients read them: one request a connection, which may be resumed elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from msgspec import Struct

from soak.wire import Broken, Cut, Reply, Silent, head_of, reply_of, request_of

ANSWER_S: Final = 60.0
"""How long the head of an answer may take."""
SILENCE_S: Final = 40.0
"""How long a stream may be silent: a server sends a comment every 15 s, unless it stands still."""


class Frame(Struct, frozen=True):
    """An event as it was sent; `id` is empty if it has none."""

    id: str
    kind: str
    data: Any


class Opened(Struct, frozen=True):
    """An answer: a stream of `frames`, or a `reply` that is none."""

    reply: Reply | None
    frames: AsyncIterator[Frame]


@asynccontextmanager
async def opened(
    port: int, method: str, path: str, body: object = None, *, last_id: str = "", headers: str = ""
) -> AsyncIterator[Opened]:
    """Make a request that prefers a stream, and give its answer; the client hangs up at the end.

    Raises `Broken` or `Silent`; reading the frames, `Cut` or `Silent`. Frames end where the server ends its answer.
    """
    headers += "Accept: text/event-stream\r\n" + (f"Last-Event-ID: {last_id}\r\n" if last_id else "")
    what = f"the stream of {method} {path}"
    writer = None
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_of(port, method, path, body, headers))
            head = await head_of(reader)
            is_stream = head.status_code == 200 and b"text/event-stream" in head.headers.get(b"content-type", b"")
            reply = None if is_stream else await reply_of(reader, head, what)
        try:
            yield Opened(reply, _frames(reader))
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise error if isinstance(error, TimeoutError) else Cut(f"{what}: {error}") from error
    except TimeoutError:
        raise Silent(f"{what} was silent") from None
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        raise Broken(f"{what}: {error}") from error
    finally:
        if writer is not None:
            writer.transport.abort()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[Frame]:
    rest = b""
    while piece := await _chunk(reader):
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            if data := fields.get(b"data"):
                yield Frame(fields.get(b"id", b"").decode(), fields[b"event"].decode(), json.loads(data))


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Return the next piece of an answer in chunks, none at its end."""
    async with asyncio.timeout(SILENCE_S):
        size = int(await reader.readuntil(b"\r\n"), 16)
        return (await reader.readexactly(size + 2))[:-2]

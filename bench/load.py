"""A load generator light enough not to be what is measured: HTTP/1.1 over bare asyncio connections.

One connection is one client that waits for its answer before it asks again. A `Speech` defines the protocol:
by default in the original contract (`POST /chat`, `GET /health`). Knows nothing of who answers.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast
from urllib.parse import urlsplit

MESSAGE = "What is the capital of Italy, and how old is it?"

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding: *chunked")
_LAST_CHUNK = b"\r\n0\r\n\r\n"


def sessions(count: int, prefix: str = "bench") -> Iterator[str]:
    """Name the sessions of a load; the one of a single client is none of the many."""
    return (f"{prefix}-{count}-{number}" for number in range(count))


@dataclass(slots=True)
class Load:
    """What a load has measured."""

    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0
    """CPU time that the server took meanwhile."""

    @property
    def per_s(self) -> float:
        return len(self.latencies_s) / self.seconds


def quantile(values: Sequence[float], q: float) -> float:
    """Return the value that a share of `q` does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


class Client(asyncio.Protocol):
    """One keep-alive connection. `ask` sends a request; its future is the status and body of the answer.

    The body of a stream is as it was sent, in chunks.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        body = end + 4
        if found := _LENGTH.search(self._buffer, 0, end):
            length = int(found.group(1))
            if len(self._buffer) < body + length:
                return
        elif _CHUNKED.search(self._buffer, 0, end):
            if not self._buffer.endswith(_LAST_CHUNK):
                return
            length = len(self._buffer) - body
        else:
            length = 0
        answer, self._answer = self._answer, None
        received, self._buffer = self._buffer, b""
        if answer is not None and not answer.done():
            answer.set_result((int(received[9:12]), received[body : body + length]))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        if self._answer is not None:
            self._answer.cancel()
        if self._transport is not None:
            self._transport.close()


C = TypeVar("C", bound=Client)


async def connect_as(url: str, make: Callable[[], C]) -> C:
    """Open one connection to a server, for a client of the given kind."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    _, client = await asyncio.get_running_loop().create_connection(make, host, port)
    return client


async def connect(url: str) -> Client:
    """Open one connection to a server."""
    return await connect_as(url, Client)


def request(url: str, method: str, path: str, body: object = None, **headers: str) -> bytes:
    """Write a request; `body` is sent as JSON."""
    sent = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(sent)}"]
    return "\r\n".join([*lines, "", ""]).encode() + sent


def chat(url: str, session_id: str, message: str = MESSAGE, **headers: str) -> bytes:
    """Write the request of one turn."""
    return request(url, "POST", "/chat", {"message": message, "session_id": session_id}, **headers)


def health(url: str) -> bytes:
    """Write the request of one probe."""
    return request(url, "GET", "/health")


@dataclass(frozen=True, slots=True)
class Speech:
    """How a kind of server is called, and how its answers differ from its refusals."""

    ask: Callable[[str, str], bytes]
    """Writes the request of one turn, of a server's URL and a session."""
    probe: Callable[[str], bytes]
    """Writes the request of one probe, of a server's URL."""
    answered: Callable[[int, bytes], bool]
    """Says whether an answer, by status and body, is one."""


CHAT = Speech(chat, health, lambda status, body: status == 200 and b'"success"' in body)
"""The original contract."""


async def depth(url: str) -> tuple[bool, int]:
    """Return whether something runs, and how many wait."""
    client = await connect(url)
    _, body = await client.ask(health(url))
    client.close()
    seen = json.loads(body)
    return seen["processing"], seen["queue_depth"]


async def drive(
    url: str,
    count: int,
    *,
    seconds: float | None = None,
    turns: int | None = None,
    probe_s: float | None = None,
    prefix: str = "bench",
    headers: Mapping[str, str] | None = None,
    speech: Speech = CHAT,
    session: str | None = None,
) -> Load:
    """Let `count` clients, each with a session of its own, talk for `seconds` or for a number of `turns`.

    With `probe_s`, the server's health is requested that often. With `session`, all clients share it.
    `headers` are for the original contract.
    """
    if headers:
        speech = replace(CHAT, ask=lambda url, name: chat(url, name, **headers))
    load = Load()
    clients = [await connect(url) for _ in range(count)]
    prober = await connect(url)
    for client in [*clients, prober]:
        await client.ask(speech.probe(url))  # accepted, so that no client starts later than the others
    begin = time.perf_counter()
    end = begin + seconds if seconds is not None else float("inf")

    async def talk(client: Client, request: bytes) -> None:
        left = turns if turns is not None else -1
        while left and (start := time.perf_counter()) < end:
            status, body = await client.ask(request)
            load.latencies_s.append(time.perf_counter() - start)
            if not speech.answered(status, body):
                load.failures.append(f"{status} {body[:200]!r}")
            left -= 1

    async def probe(every_s: float) -> None:
        request = speech.probe(url)
        while (start := time.perf_counter()) < end:
            await prober.ask(request)
            load.health_s.append(time.perf_counter() - start)
            await asyncio.sleep(max(0.0, every_s - load.health_s[-1]))

    try:
        async with asyncio.TaskGroup() as group:
            for client, name in zip(clients, sessions(count, prefix), strict=True):
                group.create_task(talk(client, speech.ask(url, session or name)))
            if probe_s is not None:
                group.create_task(probe(probe_s))
        load.seconds = time.perf_counter() - begin
    finally:
        for client in [*clients, prober]:
            client.close()
    return load

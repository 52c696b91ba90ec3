"""What other servers of the cluster reach: the application behind a listener of its own, for signed requests only.

The server that a client has connected to has checked its key, its `Host` and its origin, and says in the envelope who
it is. Nothing of a body is read before its envelope is believed. Everybody else gets 403, and nothing is said.
"""

import asyncio
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strandline._access.keyring import ApiKey
from strandline._access.tokens import Token
from strandline._clock import Clock
from strandline._http import wire
from strandline._http.caller import CALLER, Caller
from strandline._http.forwardable import FORWARDABLE, Forwardable
from strandline._http.forwarding.envelope import (
    HEAD_BYTES,
    MAC_BYTES,
    Forward,
    ForwardOfToken,
    Inbox,
    Left,
    Mistimed,
    Untrusted,
    clock_shown,
    digest_of,
    length_of,
    proof,
)
from strandline._journal.cluster import Cluster
from strandline._model import Principal, RunId
from strandline.errors import StrandlineError

PATH: Final = "/forward"
INTERNAL: Final = b"strandline-"
"""How the names of all headers between servers begin: no client gets one, and none of a client's is passed on."""
MOVED: Final = b"strandline-moved"
"""The header of an answer that is none: the session's partition is another server's, or will soon be."""
ACCEPTED: Final = b"strandline-accepted"
"""The header beside it: the run of the request has been accepted, and continues there."""
RESUMABLE: Final = b"strandline-resumable"
"""The header of a stream that can be resumed after the id of an event, and that ends with the last of all ids."""
FEED_AFTER: Final = b"strandline-feed-after"
"""The header with the number after which a feed begins, for servers that merge it with others."""
PROOF: Final = b"strandline-proof"
"""That an answer is of the server to which the message was sent."""
CLOCK: Final = "strandline-clock"
"""The header with our time, for a server whose message was mistimed."""
MOST_LEFT_BEFORE: Final = 1000
"""Maximum of requests whose clients are known to have disconnected before they are here; most were answered."""


def not_answered(problem: Response, path: str) -> Response:
    """Mark what the listener says itself, in place of the application: the other server answers its client.

    It sends the request again, and then answers as its client's protocol has it.
    """
    problem.raw_headers.append((MOVED, b""))
    return problem


class InnerApp:
    """Answers the requests that other servers send; `respond` formats errors.

    A body may be as large as the server of its client lets it be.
    """

    def __init__(
        self,
        app: ASGIApp,
        cluster: Callable[[], Cluster],
        clock: Clock,
        *,
        on_arrival: Callable[[Iterable[tuple[bytes, bytes]]], object],
        on_denied: Callable[[Scope, str], object],
        respond: Callable[[Exception, Scope], Response],
    ) -> None:
        self._app = app
        self._cluster = cluster
        self._clock = clock
        self._on_arrival = on_arrival
        self._on_denied = on_denied
        self._respond = respond
        self._inbox: Inbox | None = None
        self._under_way: dict[tuple[int, int], tuple[asyncio.Event, Forwardable]] = {}
        """For each request, by sender and number: what is set when its client disconnects, and its record."""
        self._left_before: dict[tuple[int, int], bool] = {}
        """Requests that are not here (yet) and whose clients have disconnected, the latest ones; else their servers
        stop."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message of another server."""
        if scope["type"] != "http":
            return
        sent = _Sent(receive)
        try:
            envelope, body = await self._opened(scope, sent)
        except Mistimed as error:
            shown = clock_shown(self._cluster().secret, error.number, self._clock.now())
            await Response(status_code=wire.UNAUTHORIZED, headers={CLOCK: shown})(scope, receive, send)
        except Untrusted:
            self._on_denied(scope, "a message of no server of the cluster")
            answer = Response(status_code=wire.FORBIDDEN, headers={"connection": "close"})
            await answer(scope, receive, send)
        except _Disconnected:
            await Response(status_code=wire.CLIENT_LEFT)(scope, receive, send)
        else:
            if isinstance(envelope, Left):
                self._note_left((envelope.sender, envelope.of), answer=envelope.answer)
                noted = Response(status_code=wire.NO_CONTENT)
                noted.raw_headers.append((PROOF, self._proof(envelope)))
                await noted(scope, receive, send)
            else:
                await self._answer(envelope, body, receive, send)

    def _proof(self, envelope: Forward | ForwardOfToken | Left) -> bytes:
        return proof(self._cluster().secret, envelope.sender, envelope.receiver, envelope.number)

    def _note_left(self, request: tuple[int, int], *, answer: bool) -> None:
        """Have a request know that its client has disconnected, or with `answer` that the server of its client stops.

        That may come before the request, which has another connection.
        """
        if (found := self._under_way.get(request)) is None:
            self._left_before[request] = answer
            if len(self._left_before) > MOST_LEFT_BEFORE:
                del self._left_before[next(iter(self._left_before))]
            return
        left, passed = found
        if answer:
            passed.leave()
        else:
            left.set()

    async def _opened(self, scope: Scope, sent: "_Sent") -> tuple[Forward | ForwardOfToken | Left, bytes]:
        """Return a message that may be believed, with its body. Raises `Untrusted`, `Mistimed`."""
        if scope["method"] != "POST" or scope["path"] != PATH:
            raise Untrusted
        cluster = self._cluster()
        if not cluster.secret:  # (the journal is not open: anybody could sign)
            raise Untrusted
        if self._inbox is None:
            self._inbox = Inbox(cluster.secret, cluster.me, self._clock.now)
        head = await sent.read(HEAD_BYTES)
        envelope = self._inbox.open(head[-MAC_BYTES:], await sent.read(length_of(head)))
        if isinstance(envelope, Left):
            return envelope, b""
        request = _request_in(envelope)
        body = await sent.read(request.size)
        if digest_of(body) != request.digest:
            raise Untrusted
        return envelope, body

    async def _answer(self, envelope: Forward | ForwardOfToken, body: bytes, receive: Receive, send: Send) -> None:
        """Have the application answer a client of another server.

        If the connection is lost, the application sees no disconnect of the client: it may have lost its server only,
        and come to us by another one. The request is cancelled instead.
        """
        sent = _request_in(envelope)
        run_id = None if sent.run_id is None else RunId(sent.run_id)
        passed = Forwardable(forwarded=True, run_id=run_id, again=sent.again, waited_s=sent.waited_s)
        request = _scope_of(sent, envelope.token if isinstance(envelope, ForwardOfToken) else None, passed)
        answer = _Answer(send, passed, self._proof(envelope))
        task = asyncio.current_task()
        assert task is not None
        left = asyncio.Event()
        number = envelope.sender, envelope.number
        self._under_way[number] = left, passed
        if (answer_now := self._left_before.pop(number, None)) is not None:
            self._note_left(number, answer=answer_now)
        watch = asyncio.ensure_future(_lost(receive))
        lost = False

        def cancel(_: "asyncio.Future[None]") -> None:
            nonlocal lost
            if not watch.cancelled() and not answer.is_complete and not left.is_set():
                lost = True
                task.cancel()

        watch.add_done_callback(cancel)
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def received() -> Message:
            if (message := next(messages, None)) is not None:
                return message
            await left.wait()
            return {"type": "http.disconnect"}

        try:
            self._on_arrival(sent.headers)
            await self._app(request, received, answer)
        except (StrandlineError, HTTPException) as error:
            if answer.has_begun:
                if passed.resumable:  # (it continues elsewhere: its last id says that it is not over)
                    await answer({"type": "http.response.body", "body": b"", "more_body": False})
                return  # (else it stays incomplete, and the connection is closed)
            response = self._respond(error, request)
            # (The router's 404 and 405: the other server is of a later version, and so may the session's next one be.)
            if passed.passes(error) or isinstance(error, HTTPException):
                response.raw_headers.append((MOVED, str(getattr(error, "partition", "")).encode()))
                if passed.accepted:
                    response.raw_headers.append((ACCEPTED, b"1"))
            await response(request, receive, answer)
        except asyncio.CancelledError:
            if not lost or task.uncancel() > 0:
                raise
        finally:
            watch.cancel()
            del self._under_way[number]


class _Disconnected(Exception):
    """The other server has closed the connection before its message was complete."""


class _Sent:
    """Reads a message in parts."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._rest = b""
        self._more = True

    async def read(self, size: int) -> bytes:
        """Return the next `size` bytes. Raises `Untrusted` if there are fewer."""
        pieces, have = [self._rest], len(self._rest)
        while have < size:
            if not self._more:
                raise Untrusted
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            pieces.append(message.get("body", b""))
            have += len(pieces[-1])
            self._more = message.get("more_body", False)
        read = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        self._rest = read[size:]
        return read[:size] if self._rest else read


class _Answer:
    """Sends an answer to another server, with what only that one needs to know of it."""

    def __init__(self, send: Send, passed: Forwardable, its_proof: bytes) -> None:
        self._send = send
        self._passed = passed
        self._proof = its_proof
        self.has_begun = self.is_complete = False

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.has_begun = True
            message = {**message, "headers": [*message["headers"], *self._for_servers()]}
        else:
            self.is_complete = not message.get("more_body", False)
        await self._send(message)

    def _for_servers(self) -> list[tuple[bytes, bytes]]:
        found = [(PROOF, self._proof)]
        if self._passed.resumable:
            found.append((RESUMABLE, b"1"))
        if self._passed.feed_after is not None:
            found.append((FEED_AFTER, b"%d" % self._passed.feed_after))
        return found


async def _lost(receive: Receive) -> None:
    """Return when the connection is lost."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _request_in(envelope: Forward | ForwardOfToken) -> Forward:
    return envelope.request if isinstance(envelope, ForwardOfToken) else envelope


def _scope_of(envelope: Forward, token: Token | None, passed: Forwardable) -> dict[str, Any]:
    """Return the scope of a client's request, as its own server has made it."""
    principal = Principal(envelope.principal)
    key = ApiKey(principal, envelope.key_id, envelope.operator) if envelope.key_id else None
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": envelope.method,
        "scheme": "http",
        "path": urllib.parse.unquote(envelope.path.decode("ascii")),
        "raw_path": envelope.path,
        "query_string": envelope.query,
        "root_path": "",
        "headers": envelope.headers,
        "client": (envelope.client, 0),
        "server": None,
        "state": {},
        "app": InnerApp,  # makes Starlette's router raise its 404 and 405
        CALLER: Caller(principal, envelope.operator, key, token),
        FORWARDABLE: passed,
    }

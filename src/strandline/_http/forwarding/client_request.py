"""A client's request that may have to be answered more than once: here, elsewhere, and at the next server.

It keeps the body, sees the client disconnect, and sends one response, whichever servers its parts come from.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from strandline._http import wire
from strandline._http.audit import address_of
from strandline._http.caller import CALLER, Caller
from strandline._http.forwardable import FORWARDABLE, Forwardable
from strandline._http.forwarding.envelope import Forward, ForwardOfToken, digest_of
from strandline._http.forwarding.inner import INTERNAL
from strandline._http.middleware.connections import CUT

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OF_CONNECTION: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that are for this server alone, beside made-up ones between servers; the caller is identified."""
_LAST_EVENT_ID: Final = b"last-event-id"


class ClientRequest:
    """One request. Belongs to the serving loop."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed = Forwardable()
        self.has_begun = False
        """Whether its response has begun."""
        self.is_complete = False
        self.refused: int | None = None
        """The status of an answer that could not continue the response that has begun."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body: list[bytes] = []
        self._more = True
        self._is_again = False
        self._gone: asyncio.Future[None] | None = None
        self._digest = b""
        self._began = asyncio.get_running_loop().time()

    # -- for the local application ----------------------------------------------------------------------

    @property
    def scope(self) -> Scope:
        """The scope of the request, as of now: with the last event that the client has."""
        return {**self._scope, "headers": self._headers(), FORWARDABLE: self.passed}

    async def receive(self) -> Message:
        """Return the next message, of a request that has been received before the whole body at once."""
        if self._is_again:
            self._is_again = False
            return {"type": "http.request", "body": self.body, "more_body": False}
        if self._gone is not None:
            await asyncio.wait([self._gone])
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._body.append(message.get("body", b""))
            self._more = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message; a response that has begun is continued."""
        if message["type"] == "http.response.start":
            if self.has_begun:
                self.refused = None if message["status"] == wire.OK else message["status"]
                return
            self.has_begun = True
        elif self.refused is not None:
            return
        else:
            self.is_complete = not message.get("more_body", False)
        await self._send(message)

    async def ended_here(self) -> bool:
        """End a stream that this server does not follow any more, since it stops; return whether there was one."""
        if not (self.has_begun and self.passed.resumable):
            return False
        await self.send(part(b"", more=False))
        return True

    # -- for other servers ------------------------------------------------------------------------------

    async def hold(self, most_bytes: int) -> None:
        """Have the whole body, and watch the client from now on. Raises `ClientDisconnect`, `BodyTooLarge`."""
        size = sum(map(len, self._body))
        while self._more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            if (size := size + len(self._body[-1])) > most_bytes:
                raise wire.too_large("the body", most_bytes)
        self._watch(b"".join(self._body))

    def hold_nothing(self) -> None:
        """Ignore the body, as what answers without one does, and watch the client from now on."""
        self._watch(b"")

    def _watch(self, body: bytes) -> None:
        self._body, self._more = [body], False
        self._digest = digest_of(body)
        self._gone = asyncio.ensure_future(_disconnected(self._receive))

    def release(self) -> None:
        """Watch the client no longer."""
        if self._gone is not None:
            self._gone.cancel()

    @property
    def body(self) -> bytes:
        """The whole body, once it is held."""
        return self._body[0]

    @property
    def is_change(self) -> bool:
        """Whether it may change something, and not only read."""
        return self._scope["method"] not in _READING

    @property
    def is_left(self) -> bool:
        """Whether the client has disconnected."""
        return self._gone is not None and self._gone.done()

    def on_disconnect(self, act: Callable[[], object]) -> Callable[[], None]:
        """Call `act` once the client has disconnected; return a function that ends this."""
        gone = self._gone
        assert gone is not None
        is_over = False

        def acted(_: "asyncio.Future[None]") -> None:
            if not is_over and not gone.cancelled():
                act()

        gone.add_done_callback(acted)

        def end() -> None:
            nonlocal is_over
            is_over = True  # (a callback that is on its way to be called cannot be removed any more)

        return end

    async def pause(self, seconds: float) -> None:
        """Return after some seconds, or when the client disconnects."""
        assert self._gone is not None
        if self.is_left:
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait([self._gone], timeout=seconds)

    def begin_again(self) -> None:
        """Have the request received from its beginning."""
        self._is_again = True
        self.refused = None
        self.passed.waited_s = self._waited_s()

    async def complete(self) -> None:
        """Complete a stream whose rest the application has sent, or cut it if it could not."""
        if self.refused == wire.NO_CONTENT:  # (the client has all events)
            self.refused = None
            await self.send(part(b"", more=False))
        elif self.refused is not None:
            self.cut()

    def envelope(
        self, sender: int, receiver: int, number: int, at: float, *, headers: list[tuple[bytes, bytes]] | None = None
    ) -> Forward | ForwardOfToken:
        """Return the request as it is sent to another server, with `headers` in place of its client's."""
        scope = self._scope
        caller: Caller = scope[CALLER]
        request = Forward(
            sender=sender,
            receiver=receiver,
            number=number,
            at=at,
            method=scope["method"],
            path=scope["raw_path"],
            query=scope["query_string"],
            headers=[each for each in self._headers() if _is_passed_on(each[0])] if headers is None else headers,
            size=len(self.body),
            digest=self._digest,
            client=address_of(scope),
            principal=caller.principal,
            operator=caller.operator,
            key_id=b"" if caller.key is None else bytes.fromhex(caller.key.id),
            run_id=self.passed.run_id,
            again=self.passed.again,
            waited_s=self._waited_s(),
        )
        return request if caller.token is None else ForwardOfToken(sender, receiver, number, at, caller.token, request)

    def cut(self) -> None:
        """Close the connection: the response cannot be completed, and must not look complete."""
        if (cut := self._scope.get(CUT)) is None:
            raise RuntimeError("the answer of another server was lost")
        cut()

    def _waited_s(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    def _headers(self) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = self._scope["headers"]
        if self.passed.last_id:
            kept = [each for each in headers if each[0] != _LAST_EVENT_ID]
            return [*kept, (_LAST_EVENT_ID, b"%d" % self.passed.last_id)]
        return headers


def _is_passed_on(header: bytes) -> bool:
    """Return whether a header of a client is for other servers too, by its name."""
    return header not in _OF_CONNECTION and not header.startswith(INTERNAL)


def part(body: bytes, *, more: bool) -> Message:
    """Return a message with a part of a body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

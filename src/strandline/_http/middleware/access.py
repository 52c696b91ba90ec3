"""The middleware of every request: check its origin, identify its caller, then wait until the server has started."""

from collections.abc import Callable, Iterable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.middleware.access_log import Denials
from strandline._http.middleware.auth import IN_ITS_URL, METRICS, OPEN, Access
from strandline._http.middleware.guard import Guard
from strandline.errors import NotReady

NEVER_WAIT: Final = OPEN | {METRICS}
"""Paths that are answered while the server starts: probes, metrics, the description of the routes, the console."""

_REFUSALS: Final = (HTTPException, wire.Foreign, wire.Unauthorized, wire.OperatorsOnly, wire.TokenForbidden, NotReady)

Headers = Iterable[tuple[bytes, bytes]]


class AccessMiddleware:
    """Refuses foreign requests and those without a valid key. `respond` formats the errors."""

    def __init__(
        self,
        app: ASGIApp,
        guard: Guard,
        access: Access,
        denials: Denials,
        *,
        on_arrival: Callable[[Headers], object],
        respond: Callable[[Exception, Scope], Response],
    ) -> None:
        self._app = app
        self._guard = guard
        self._access = access
        self._denials = denials
        self._on_arrival = on_arrival
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = Marked(send, wire.NOSNIFF)
        scope["app"] = self  # makes Starlette's router raise its 404 and 405 instead of answering in plain text
        try:
            if (reason := self._guard.refusal(scope)) is not None:
                raise wire.Foreign(reason)
            let_in = self._access.admit(scope)
            if scope.get(IN_ITS_URL):
                send = Marked(send, wire.NO_REFERRER)
            self._on_arrival(scope["headers"])
            if scope["path"].endswith(
                "\n"
            ):  # (the router would match the path without it, which may be a path with other rules)
                raise HTTPException(wire.NOT_FOUND)
            if let_in is None:
                await self._app(scope, receive, send)
            else:
                await let_in.answer(self._app, scope, receive, send)
        except _REFUSALS as error:
            self._denials.note(scope, error)
            await self._respond(error, scope)(scope, receive, send)


class StartWait:
    """Makes requests wait for a starting server. They are authenticated, and their bodies are not read yet."""

    def __init__(self, app: ASGIApp, service: Service, wait_s: float) -> None:
        self._app = app
        self._service = service
        self._wait_s = wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request once the server is ready. Raises `NotReady` if that takes too long, or too many wait."""
        if self._service.starting and scope["type"] == "http" and wire.inner_path(scope) not in NEVER_WAIT:
            await self._service.until_ready(self._wait_s)
        await self._app(scope, receive, send)


class Marked:
    """Forwards messages, and adds a header to the response."""

    __slots__ = ("_header", "_send")

    def __init__(self, send: Send, header: tuple[bytes, bytes]) -> None:
        self._send = send
        self._header = header

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), self._header]
        await self._send(message)

"""The HTTP application: which path leads to which room, what is refused at the door, and how errors leave.

Plain ASGI around Starlette's router: an exception of ours becomes its problem document here and nowhere else.
"""

import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strandline.access.source import Keys
from strandline.clock import SystemClock
from strandline.engine.service import Service
from strandline.errors import InvariantBroken, NotReady, StrandlineError
from strandline.http import wire
from strandline.http.app.openapi import Described, OpenApi
from strandline.http.dialects.agentcore import dialect as agentcore
from strandline.http.dialects.agentcore import wire as agentcore_wire
from strandline.http.dialects.agentcore.dialect import AgentCore
from strandline.http.dialects.chat import Chat
from strandline.http.dialects.openai import wire as openai_wire
from strandline.http.dialects.openai.dialect import OpenAI, is_spoken_at, nothing_at
from strandline.http.dialects.runs import SessionRuns
from strandline.http.exchange.exchange import Exchange
from strandline.http.exchange.session_naming import Naming
from strandline.http.middleware.access_log import Denials
from strandline.http.middleware.auth import METRICS, OPEN, Access
from strandline.http.middleware.guard import Guard
from strandline.http.routes.events import Changes
from strandline.http.routes.health import Probes
from strandline.http.routes.metrics import Metrics, Scraped
from strandline.http.routes.runs import Runs
from strandline.http.routes.sessions import Sessions
from strandline.settings import AppSettings

_log = logging.getLogger("strandline.http")

NEVER_WAIT: Final = OPEN | {METRICS}
"""What is answered at once while a server starts: probes, metrics, and what describes the routes."""

Handler = Callable[[Request], Awaitable[Response]]
Headers = Iterable[tuple[bytes, bytes]]


def build_app(
    service: Service,
    scraped: Scraped,
    settings: AppSettings,
    keys: Keys | None = None,
    *,
    loopback: bool | None = None,
    on_arrival: Callable[[Headers], object] = id,
    on_denied: Callable[[str], object] = id,
) -> ASGIApp:
    """Return the application. It does not start or stop the service; without `keys` nobody has to show one.

    `loopback`: whether it is reached from this machine only; None: each request has to say it. `on_arrival` is told the
    headers of each request, in the task that answers it; `on_denied` why one was not let in.
    """
    guard = Guard(settings, loopback=loopback, keys=keys is not None)
    access = Access(keys, settings)
    in_openais_form = Naming(shares=settings.default_session == "shared")
    naming = Naming(shares=keys is None or in_openais_form.shares)
    exchange = Exchange(service)
    chat = Chat(service, naming, settings)
    new_runs = SessionRuns(service, settings)
    openai = OpenAI(SystemClock(), in_openais_form, settings)
    runtime = AgentCore(service, SystemClock(), naming, settings)
    runs = Runs(service, exchange, settings)
    sessions = Sessions(service, settings)
    changes = Changes(service)
    probes = Probes(service, guard, settings, auth=access.mode)
    metrics = Metrics(scraped)
    described = OpenApi(
        Described(
            keys=keys is not None,
            names_session=not naming.shares,
            session_header=settings.session_header,
            allowed_content=frozenset(service.options.allowed_content),
            timeout_s=service.options.timeout_s,
            queue_timeout_s=service.options.queue_timeout_s,
        )
    )
    router = Router(
        [  # looked through in this order: those first that are asked most
            Route(
                "/v1/sessions/{session_id}/runs",
                Endpoint(by_method(GET=sessions.runs, POST=functools.partial(exchange.handle, new_runs))),
                methods=["GET", "POST"],
            ),
            Route("/chat", Endpoint(functools.partial(exchange.handle, chat)), methods=["POST"]),
            Route("/health", Endpoint(probes.health), methods=["GET"]),
            Route("/history", Endpoint(chat.history), methods=["GET"]),
            Route("/v1/runs", Endpoint(runs.all), methods=["GET"]),
            Route("/v1/runs/{run_id}", Endpoint(runs.read), methods=["GET"]),
            Route("/v1/runs/{run_id}/events", Endpoint(runs.events), methods=["GET"]),
            Route("/v1/runs/{run_id}/cancel", Endpoint(runs.cancel), methods=["POST"]),
            Route("/v1/runs/{run_id}/move", Endpoint(runs.move), methods=["POST"]),
            Route("/v1/sessions/{session_id}/pause", Endpoint(sessions.pause), methods=["POST"]),
            Route("/v1/sessions/{session_id}/resume", Endpoint(sessions.resume), methods=["POST"]),
            Route("/v1/sessions", Endpoint(sessions.sessions), methods=["GET"]),
            Route(
                "/v1/sessions/{session_id}",
                Endpoint(by_method(GET=sessions.read, DELETE=sessions.delete)),
                methods=["GET", "DELETE"],
            ),
            Route("/v1/sessions/{session_id}/history", Endpoint(sessions.history), methods=["GET"]),
            Route("/v1/sessions/{session_id}/cancel", Endpoint(sessions.cancel), methods=["POST"]),
            Route("/v1/events", Endpoint(changes.events), methods=["GET"]),
            Route("/v1/chat/completions", Endpoint(functools.partial(exchange.handle, openai)), methods=["POST"]),
            Route("/v1/models", Endpoint(openai.models), methods=["GET"]),
            Route("/v1/models/{model}", Endpoint(openai.model), methods=["GET"]),
            Route("/invocations", Endpoint(functools.partial(exchange.handle, runtime)), methods=["POST"]),
            Route("/ping", Endpoint(runtime.ping), methods=["GET"]),
            Route("/openapi.json", Endpoint(described.json), methods=["GET"]),
            Route("/docs", Endpoint(described.docs), methods=["GET"]),
            Route("/livez", Endpoint(probes.livez), methods=["GET"]),
            Route("/readyz", Endpoint(probes.readyz), methods=["GET"]),
            Route("/metrics", Endpoint(metrics.metrics), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    denials = Denials(SystemClock(), on_denied)
    app: ASGIApp = AccessMiddleware(
        router, service, guard, access, denials, start_wait_s=settings.start_wait_s, on_arrival=on_arrival
    )
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Location", "Retry-After", "Idempotency-Replayed", "Preference-Applied"],
        )
    return app


def by_method(**handlers: Handler) -> Handler:
    """Return a handler for all methods of one path."""

    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle


class Marked:
    """Sends messages on, and has browsers take each answer for what it says that it is."""

    __slots__ = ("_send",)

    def __init__(self, send: Send) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), wire.NOSNIFF]
        await self._send(message)


class Endpoint:
    """A handler as an ASGI app; whatever it raises becomes a problem document."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            response = await self._handler(Request(scope, receive))
        except ClientDisconnect:
            response = Response(status_code=wire.CLIENT_LEFT)  # a middleware around us takes silence for a defect
        except Exception as error:
            response = _response_to(error, scope)
        await response(scope, receive, send)


class AccessMiddleware:
    """Turns away foreign requests and those without a key, and makes others wait for a server that starts.

    Those have been let in, and nothing of their bodies is read. What is not there is said in problem documents.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        guard: Guard,
        access: Access,
        denials: Denials,
        *,
        start_wait_s: float,
        on_arrival: Callable[[Headers], object],
    ) -> None:
        self._app = app
        self._service = service
        self._guard = guard
        self._access = access
        self._denials = denials
        self._start_wait_s = start_wait_s
        self._on_arrival = on_arrival

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = Marked(send)
        scope["app"] = self  # Starlette's router raises its 404 and 405 then, instead of answering in plain text
        try:
            if (reason := self._guard.refusal(scope)) is not None:
                raise wire.Foreign(reason)
            let_in = self._access.admit(scope)
            self._on_arrival(scope["headers"])
            if scope["path"].endswith("\n"):  # (for the router it is the path without, which has rules of its own)
                raise HTTPException(wire.NOT_FOUND)
            app = self._once_ready if self._service.starting else self._app
            if let_in is None:
                await app(scope, receive, send)
            else:
                await let_in.answer(app, scope, receive, send)
        except (HTTPException, wire.Foreign, wire.Unauthorized, wire.OperatorsOnly, NotReady) as error:
            self._note(scope, error)
            await _response_to(error, scope)(scope, receive, send)

    async def _once_ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request once the server is ready. Raises `NotReady` if it takes too long, or too many wait."""
        if wire.inner_path(scope) not in NEVER_WAIT:
            await self._service.until_ready(self._start_wait_s)
        await self._app(scope, receive, send)

    def _note(self, scope: Scope, error: Exception) -> None:
        match error:
            case wire.Foreign():
                self._denials.foreign(scope, str(error))
            case wire.Unauthorized():
                self._denials.unauthorized(scope, error)
            case wire.OperatorsOnly():
                self._denials.operators_only(scope, error)


def _response_to(error: Exception, scope: Scope) -> Response:
    """Return what is said of an error, in the form that clients of its path understand."""
    told, path = _problem_of(error, scope), wire.inner_path(scope)
    if is_spoken_at(path):
        return openai_wire.refusal(told)
    return agentcore_wire.refusal(told) if path == agentcore.PLACE else told


def _problem_of(error: Exception, scope: Scope) -> Response:
    if isinstance(error, StrandlineError) and not isinstance(error, InvariantBroken):
        return wire.error_response(error)
    if isinstance(error, HTTPException):
        path = scope["path"]
        if error.status_code == wire.NOT_FOUND:
            more = nothing_at(inner) if is_spoken_at(inner := wire.inner_path(scope)) else ""
            return wire.problem(wire.NOT_FOUND, "not_found", f"there is nothing at {path}{more}")
        if error.status_code == wire.METHOD_NOT_ALLOWED:
            headers = dict(error.headers or {})
            detail = f"{path} does not take {scope['method']}; it takes {headers.get('Allow', 'other methods')}"
            return wire.problem(wire.METHOD_NOT_ALLOWED, "method_not_allowed", detail, headers)
        return wire.problem(error.status_code, "error", error.detail)
    _log.error("a request could not be answered", exc_info=error)
    return wire.problem(wire.BROKEN, "internal_error", "the server has a defect; its log says more")

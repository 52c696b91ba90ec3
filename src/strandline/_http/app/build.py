"""The HTTP application: its routes, behind the middleware that every request passes."""

import functools
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from strandline import __version__
from strandline._access.source import Keys
from strandline._clock import SystemClock
from strandline._engine.service import Service
from strandline._http.app.console import Console
from strandline._http.app.errors import Endpoint, Handler, response_to
from strandline._http.app.openapi import Described, OpenApi
from strandline._http.dialects.a2a.dialect import A2A
from strandline._http.dialects.agentcore.dialect import AgentCore
from strandline._http.dialects.agentcore.wire import SESSION
from strandline._http.dialects.agui.dialect import AgUi
from strandline._http.dialects.chat import Chat
from strandline._http.dialects.mcp.dialect import Mcp
from strandline._http.dialects.mcp.sessions import HEADER as MCP_SESSION
from strandline._http.dialects.openai.dialect import OpenAI
from strandline._http.dialects.openai.responses.conversations import Conversations
from strandline._http.dialects.openai.responses.dialect import Responses
from strandline._http.dialects.openai.wire import SEND_NO_MORE
from strandline._http.dialects.runs import ResolvedRuns, RunsAgain, SessionRuns
from strandline._http.exchange.exchange import Exchange
from strandline._http.exchange.idempotency import REPLAYED
from strandline._http.exchange.session_naming import SessionNaming
from strandline._http.forwarding.feed import MergedFeed
from strandline._http.forwarding.forwarder import Forwarder
from strandline._http.forwarding.inner import InnerApp
from strandline._http.forwarding.others import Others
from strandline._http.middleware.access import AccessMiddleware, Headers, StartWait
from strandline._http.middleware.access_log import Denials
from strandline._http.middleware.auth import Access
from strandline._http.middleware.guard import Guard
from strandline._http.middleware.token_scope import TokenScope
from strandline._http.routes.events import Changes
from strandline._http.routes.export import Export
from strandline._http.routes.files import FileRoutes
from strandline._http.routes.forks import Forks
from strandline._http.routes.health import Probes
from strandline._http.routes.metrics import Metrics, Scraped
from strandline._http.routes.runs import Runs
from strandline._http.routes.schedules import ScheduleRoutes
from strandline._http.routes.sessions import Sessions
from strandline._http.routes.tokens import TokenRoutes
from strandline._http.routes.tree import Trees
from strandline._http.routes.webhooks import WebhookRoutes
from strandline._settings import AppSettings

READABLE: Final = ["Location", "Retry-After", "Preference-Applied", *REPLAYED, *SEND_NO_MORE, SESSION, MCP_SESSION]
"""Response headers that web pages of other origins may read."""


class Apps(Struct, frozen=True):
    """The applications of a server: for clients, and for the other servers over its journal, if there can be any."""

    public: ASGIApp
    inner: ASGIApp | None
    forwarder: Forwarder | None = None
    """Sends requests to those; it has to know of a stop."""


def build_apps(
    service: Service,
    scraped: Scraped,
    settings: AppSettings,
    keys: Keys | None = None,
    *,
    loopback: bool | None = None,
    on_arrival: Callable[[Headers], object] = id,
    on_denied: Callable[[str], object] = id,
    on_forward: Callable[[str], object] = id,
    on_refused: Callable[[str], object] = id,
) -> Apps:
    """Return the applications. They do not start or stop the service; without `keys`, no key is required.

    `loopback` says whether clients reach it from this machine only; None: decided per request. `on_arrival` gets the
    headers of each request, in the task that answers it, `on_denied` the reason of each denied one, `on_forward` what
    became of each one that was sent to another server, `on_refused` the code of each one that none has answered.
    """
    guard = Guard(settings, loopback=loopback, keys=keys is not None)
    access = Access(keys, settings, lambda: service.secret, SystemClock())
    in_openais_form = SessionNaming(shares=settings.default_session == "shared")
    naming = SessionNaming(shares=keys is None or in_openais_form.shares)
    exchange = Exchange(service)
    chat = Chat(service, naming, settings)
    new_runs, resolved_runs = SessionRuns(service, settings), ResolvedRuns(service, settings)
    runs_again = RunsAgain(service, settings)
    openai = OpenAI(SystemClock(), in_openais_form, settings)
    responses = Responses(service, exchange, settings)
    conversations = Conversations(service, SystemClock(), settings)
    agui = AgUi(service, settings)
    mcp = Mcp(service, exchange, settings)
    a2a = A2A(service, exchange, settings, keys=keys is not None, version=__version__)
    runtime = AgentCore(service, SystemClock(), naming, settings)
    runs = Runs(service, exchange, settings)
    sessions = Sessions(service, settings)
    forks, trees = Forks(service, settings), Trees(service)
    schedules = ScheduleRoutes(service, settings)
    files, export = FileRoutes(service), Export(service)
    webhooks = WebhookRoutes(service, settings)
    tokens = TokenRoutes(service, settings, SystemClock())
    if keys is not None:
        service.schedules.has_key = lambda principal: any(each.principal == principal for each in keys.ring.keys)
    changes: Handler = Changes(service).events
    others = Others(service.ownership.others, SystemClock())
    if service.ownership.is_shared:
        changes = MergedFeed(changes, others).events
    probes = Probes(service, guard, settings, auth=access.mode)
    metrics = Metrics(scraped)
    console = Console(settings)
    described = OpenApi(
        Described(
            keys=keys is not None,
            names_session=not naming.shares,
            session_header=settings.session_header,
            allowed_content=frozenset(service.options.allowed_content),
            timeout_s=service.options.timeout_s,
            queue_timeout_s=service.options.queue_timeout_s,
            trusted_senders=service.options.trusted_senders,
            webhooks=service.outbox is not None,
        )
    )
    router = Router(
        [  # matched in this order, so the busiest come first
            Route(
                "/v1/sessions/{session_id}/runs",
                Endpoint(by_method(GET=sessions.runs, POST=functools.partial(exchange.handle, new_runs))),
                methods=["GET", "POST"],
            ),
            Route("/chat", Endpoint(functools.partial(exchange.handle, chat)), methods=["POST"]),
            Route("/health", Endpoint(probes.health), methods=["GET"]),
            Route("/history", Endpoint(chat.history), methods=["GET"]),
            Route("/v1/runs", Endpoint(runs.all), methods=["GET"]),
            Route("/v1/runs/{run_id}", Endpoint(by_method(GET=runs.read, PATCH=runs.edit)), methods=["GET", "PATCH"]),
            Route("/v1/runs/{run_id}/events", Endpoint(runs.events), methods=["GET"]),
            Route("/v1/runs/{run_id}/cancel", Endpoint(runs.cancel), methods=["POST"]),
            Route("/v1/runs/{run_id}/move", Endpoint(runs.move), methods=["POST"]),
            Route(
                "/v1/runs/{run_id}/resolve",
                Endpoint(by_method(GET=runs.unresolved, POST=functools.partial(exchange.handle, resolved_runs))),
                methods=["GET", "POST"],
            ),
            Route(
                "/v1/runs/{run_id}/again", Endpoint(functools.partial(exchange.handle, runs_again)), methods=["POST"]
            ),
            Route("/v1/runs/{run_id}/restore", Endpoint(runs.restore), methods=["POST"]),
            Route("/v1/sessions/{session_id}/tree", Endpoint(trees.tree), methods=["GET"]),
            Route("/v1/sessions/{session_id}/fork", Endpoint(forks.fork), methods=["POST"]),
            Route("/v1/sessions/{session_id}/pause", Endpoint(sessions.pause), methods=["POST"]),
            Route("/v1/sessions/{session_id}/resume", Endpoint(sessions.resume), methods=["POST"]),
            Route("/v1/sessions", Endpoint(sessions.sessions), methods=["GET"]),
            Route(
                "/v1/sessions/{session_id}",
                Endpoint(by_method(GET=sessions.read, PATCH=sessions.change, DELETE=sessions.delete)),
                methods=["GET", "PATCH", "DELETE"],
            ),
            Route("/v1/sessions/{session_id}/history", Endpoint(sessions.history), methods=["GET"]),
            Route("/v1/sessions/{session_id}/export", Endpoint(export.export), methods=["GET"]),
            Route(
                "/v1/sessions/{session_id}/files",
                Endpoint(by_method(GET=files.all, POST=files.upload)),
                methods=["GET", "POST"],
            ),
            Route(
                "/v1/sessions/{session_id}/files/{file_id}",
                Endpoint(by_method(GET=files.content, DELETE=files.delete)),
                methods=["GET", "DELETE"],
            ),
            Route("/v1/sessions/{session_id}/cancel", Endpoint(sessions.cancel), methods=["POST"]),
            Route(
                "/v1/schedules",
                Endpoint(by_method(GET=schedules.all, POST=schedules.create)),
                methods=["GET", "POST"],
            ),
            Route(
                "/v1/schedules/{schedule_id}",
                Endpoint(by_method(GET=schedules.read, PATCH=schedules.change, DELETE=schedules.delete)),
                methods=["GET", "PATCH", "DELETE"],
            ),
            Route("/v1/schedules/{schedule_id}/run", Endpoint(schedules.run), methods=["POST"]),
            Route("/v1/webhooks", Endpoint(webhooks.all), methods=["GET"]),
            Route("/v1/webhooks/test", Endpoint(webhooks.test), methods=["POST"]),
            Route("/v1/webhooks/{webhook_id}/resend", Endpoint(webhooks.resend), methods=["POST"]),
            Route("/v1/tokens", Endpoint(tokens.create), methods=["POST"]),
            Route("/v1/events", Endpoint(changes), methods=["GET"]),
            Route("/v1/chat/completions", Endpoint(functools.partial(exchange.handle, openai)), methods=["POST"]),
            Route("/v1/responses", Endpoint(functools.partial(exchange.handle, responses)), methods=["POST"]),
            Route("/v1/responses/{response_id}", Endpoint(responses.read), methods=["GET"]),
            Route("/v1/responses/{response_id}/input_items", Endpoint(responses.input_items), methods=["GET"]),
            Route("/v1/responses/{response_id}/cancel", Endpoint(responses.cancel), methods=["POST"]),
            Route("/v1/conversations", Endpoint(conversations.create), methods=["POST"]),
            Route(
                "/v1/conversations/{conversation_id}",
                Endpoint(by_method(GET=conversations.read, POST=conversations.change, DELETE=conversations.delete)),
                methods=["GET", "POST", "DELETE"],
            ),
            Route("/v1/conversations/{conversation_id}/items", Endpoint(conversations.items), methods=["GET"]),
            Route("/v1/models", Endpoint(openai.models), methods=["GET"]),
            Route("/v1/models/{model}", Endpoint(openai.model), methods=["GET"]),
            Route("/agui", Endpoint(functools.partial(exchange.handle, agui)), methods=["POST"]),
            Route("/mcp", Endpoint(by_method(GET=mcp.get, POST=mcp.post)), methods=["GET", "POST"]),
            Route("/a2a", Endpoint(a2a.call), methods=["POST"]),
            Route("/.well-known/agent-card.json", Endpoint(a2a.card), methods=["GET"]),
            Route("/.well-known/agent.json", Endpoint(a2a.card), methods=["GET"]),
            Route("/a2a/.well-known/agent-card.json", Endpoint(a2a.card), methods=["GET"]),
            Route("/invocations", Endpoint(functools.partial(exchange.handle, runtime)), methods=["POST"]),
            Route("/ping", Endpoint(runtime.ping), methods=["GET"]),
            Route("/openapi.json", Endpoint(described.json), methods=["GET"]),
            Route("/docs", Endpoint(described.docs), methods=["GET"]),
            Route("/", Endpoint(console.front), methods=["GET"]),
            Route("/console", Endpoint(console.page), methods=["GET"]),
            Route("/console/{name}", Endpoint(console.file), methods=["GET"]),
            Route("/livez", Endpoint(probes.livez), methods=["GET"]),
            Route("/readyz", Endpoint(probes.readyz), methods=["GET"]),
            Route("/metrics", Endpoint(metrics.metrics), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    started: ASGIApp = StartWait(TokenScope(router, service, response_to), service, settings.start_wait_s)
    denials = Denials(SystemClock(), on_denied)
    answered, inner, forwarder = started, None, None
    if service.ownership.is_shared:
        answered = forwarder = Forwarder(
            started,
            others,
            most_bytes=max(settings.max_body_bytes, settings.chat_body_bytes, settings.max_file_bytes),
            respond=response_to,
            on_forward=on_forward,
            on_refused=on_refused,
        )
        inner = InnerApp(
            started,
            service.ownership.others,
            SystemClock(),
            on_arrival=on_arrival,
            on_denied=denials.of_servers,
            respond=response_to,
        )
    app: ASGIApp = AccessMiddleware(answered, guard, access, denials, on_arrival=on_arrival, respond=response_to)
    if settings.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=READABLE,
        )
    return Apps(app, inner, forwarder)


def by_method(**handlers: Handler) -> Handler:
    """Return one handler for all methods of a path."""

    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return handle

"""The HTTP application: which path leads to which room, and how errors leave."""

import logging
from collections.abc import Sequence

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from strandline.engine.service import Service
from strandline.errors import StrandlineError
from strandline.http import wire
from strandline.http.chat import Chat
from strandline.http.guard import Guard
from strandline.http.health import Probes
from strandline.http.runs import Runs
from strandline.http.sessions import Sessions

_log = logging.getLogger("strandline.http")


class HttpOptions(Struct, frozen=True, kw_only=True):
    """What the HTTP face needs to know."""

    agent_id: str
    max_body_bytes: int
    loopback: bool
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()


def build_app(service: Service, options: HttpOptions) -> Starlette:
    """Return the application. It does not start or stop the service."""
    chat = Chat(service, agent_id=options.agent_id, max_body_bytes=options.max_body_bytes)
    probes = Probes(service, agent_id=options.agent_id, auth="none")
    middleware = [
        Middleware(
            Guard,
            loopback=options.loopback,
            allowed_hosts=options.allowed_hosts,
            cors_origins=options.cors_origins,
        )
    ]
    if options.cors_origins:
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=options.cors_origins, allow_methods=["*"], allow_headers=["*"])
        )
    return Starlette(
        routes=[
            Route("/chat", chat.chat, methods=["POST"]),
            Route("/health", probes.health),
            Route("/history", chat.history),
            Route("/v1/runs/{run_id}", Runs(service).read),
            Route("/v1/sessions/{session_id}", Sessions(service).delete, methods=["DELETE"]),
            Route("/livez", probes.livez),
            Route("/readyz", probes.readyz),
        ],
        middleware=middleware,
        exception_handlers={StrandlineError: _ours, HTTPException: _starlettes, Exception: _defect},
    )


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, StrandlineError)
    return wire.error_response(error)


async def _starlettes(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == wire.NOT_FOUND:
        return wire.problem(wire.NOT_FOUND, "not_found", f"there is nothing at {request.url.path}")
    if error.status_code == wire.METHOD_NOT_ALLOWED:
        headers = dict(error.headers or {})
        detail = f"{request.url.path} does not take {request.method}; it takes {headers.get('Allow', 'other methods')}"
        return wire.problem(wire.METHOD_NOT_ALLOWED, "method_not_allowed", detail, headers)
    return wire.problem(error.status_code, "error", error.detail)


async def _defect(request: Request, error: Exception) -> Response:
    _log.error("a request could not be answered", exc_info=error)
    return wire.problem(wire.BROKEN, "internal_error", "the server has a defect; its log says more")

"""Keeps requests with a token to what the token allows: its routes, and the runs of its sessions.

The session that a request itself names, in its path, a header or its body, is checked where it is read
(`caller.session_of`). A run is looked up first. All this is done again by each server that a request is passed on to.
"""

import re
from collections.abc import Callable
from typing import Final

from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.caller import CALLER, Caller, check_session
from strandline._http.forwardable import forwardable
from strandline._model import RunId
from strandline.errors import StrandlineError

ROUTES: Final = (
    "POST /v1/sessions/{session_id}/runs",
    "GET /v1/sessions/{session_id}/runs",
    "GET /v1/sessions/{session_id}",
    "GET /v1/sessions/{session_id}/history",
    "GET /v1/sessions/{session_id}/tree",
    "POST /v1/sessions/{session_id}/cancel",
    "POST /v1/sessions/{session_id}/files",
    "GET /v1/sessions/{session_id}/files",
    "GET /v1/sessions/{session_id}/files/{file_id}",
    "DELETE /v1/sessions/{session_id}/files/{file_id}",
    "GET /v1/runs/{run_id}",
    "PATCH /v1/runs/{run_id}",
    "GET /v1/runs/{run_id}/events",
    "POST /v1/runs/{run_id}/cancel",
    "POST /v1/runs/{run_id}/again",
    "POST /v1/runs/{run_id}/restore",
    "GET /v1/events",
    "POST /chat",
    "GET /history",
    "POST /v1/chat/completions",
    "POST /agui",
)
"""All that a token can be for: what one conversation needs. Each names its session, or a run of it."""
EVENTS_OF_RUN: Final = "GET /v1/runs/{run_id}/events"


class TokenScope:
    """An app behind the check. `respond` formats errors."""

    def __init__(self, app: ASGIApp, service: Service, respond: Callable[[Exception, Scope], Response]) -> None:
        self._app = app
        self._service = service
        self._respond = respond
        self._paths: list[tuple[str, re.Pattern[str], str]] = []
        for route in ROUTES:
            method, _, path = route.partition(" ")
            self._paths.append((method, compile_path(path)[0], route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        caller: Caller | None = scope.get(CALLER)
        if caller is not None and caller.token is not None:
            try:
                await self._check(caller, scope)
            except StrandlineError as error:
                if (passed := forwardable(scope)) is not None and passed.passes(error):
                    raise
                await self._respond(error, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, caller: Caller, scope: Scope) -> None:
        assert caller.token is not None
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        path = wire.inner_path(scope)
        for its_method, pattern, route in self._paths:
            if its_method == method and (found := pattern.match(path)) is not None:
                if caller.token.routes and route not in caller.token.routes:
                    raise wire.TokenForbidden(f"this token does not allow {route}")
                if (run_id := found.groupdict().get("run_id")) is not None:
                    view = await self._service.run(caller.principal, RunId(run_id))
                    check_session(caller, view.run.key)
                return
        raise wire.TokenForbidden(f"a token cannot be for {method} {path}; that needs a key")

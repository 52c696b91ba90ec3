"""The only place where exceptions become answers, each in the format of its client's protocol."""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from strandline._http import wire
from strandline._http.dialects.a2a import card as a2a
from strandline._http.dialects.a2a import wire as a2a_wire
from strandline._http.dialects.agentcore import dialect as agentcore
from strandline._http.dialects.agentcore import wire as agentcore_wire
from strandline._http.dialects.agui import dialect as agui
from strandline._http.dialects.agui import wire as agui_wire
from strandline._http.dialects.mcp import dialect as mcp
from strandline._http.dialects.mcp import wire as mcp_wire
from strandline._http.dialects.openai import wire as openai_wire
from strandline._http.dialects.openai.dialect import is_spoken_at, nothing_at
from strandline._http.exchange.idempotency import KEY
from strandline._http.forwardable import forwardable
from strandline.errors import InvariantBroken, StrandlineError

_log = logging.getLogger("strandline.http")

_KEY: Final = KEY.encode()

_REFUSALS: Final = {
    a2a.PLACE: a2a_wire.refusal,
    agentcore.PLACE: agentcore_wire.refusal,
    agui.PLACE: agui_wire.refusal,
    mcp.PLACE: mcp_wire.refusal,
}

Handler = Callable[[Request], Awaitable[Response]]


class Endpoint:
    """A handler as an ASGI app. Its exceptions become answers, but for those that send a request to another server."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            response = await self._handler(Request(scope, receive))
        except ClientDisconnect:
            response = Response(status_code=wire.CLIENT_LEFT)  # (an outer middleware would report silence as a defect)
        except Exception as error:
            if (passed := forwardable(scope)) is not None and passed.passes(error):
                raise
            response = response_to(error, scope)
        await response(scope, receive, send)


def response_to(error: Exception, scope: Scope) -> Response:
    """Return the answer for an exception, in the format of its path's protocol."""
    keyed = any(name == _KEY for name, _ in scope.get("headers", ()))
    return render_problem(_problem_of(error, scope), wire.inner_path(scope), keyed=keyed)


def render_problem(problem: Response, path: str, *, keyed: bool = False) -> Response:
    """Return a problem document in the format of its path's protocol; `keyed`: of a request that may be repeated."""
    if is_spoken_at(path):
        return openai_wire.refusal(problem, keyed=keyed)
    refusal = _REFUSALS.get(path)
    return problem if refusal is None else refusal(problem)


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

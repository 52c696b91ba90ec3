"""The protocol's versions, and what each request says about its own.

The current version has neither handshake nor sessions: each request has its version and what its client can in `_meta`,
and says in headers what it is, for those between. Clients of the version before shake hands (`initialize`).
"""

import base64
import binascii
import re
from typing import Any, Final

from msgspec import Struct
from starlette.datastructures import Headers

from strandline._http import wire
from strandline._http.dialects.mcp.wire import HEADER_DIFFERS, INVALID_PARAMS, VERSION_UNKNOWN, McpRequest, RpcFailure

CURRENT: Final = "2026-07-28"
BY_HANDSHAKE: Final = ("2025-11-25", "2025-06-18")
"""The last one is offered to clients that want another."""
SUPPORTED: Final = (CURRENT, *BY_HANDSHAKE)

VERSION: Final = "mcp-protocol-version"
METHOD: Final = "mcp-method"
NAME: Final = "mcp-name"
META: Final = "io.modelcontextprotocol/"
SERVER_INFO: Final = f"{META}serverInfo"
_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")


class Client(Struct, frozen=True):
    """What a request says of its client."""

    is_current: bool
    """Whether it speaks the current version."""
    elicits: bool = False
    """Whether it can ask its user, by a form."""
    resumes: bool = False
    """Whether it comes back to a stream that has ended without a result, if that had an id."""


def client_of(request: McpRequest, headers: Headers) -> Client:
    """Return what a request says of its client. Raises `RpcFailure`.

    Of a handshake's client the session id says what it can.
    """
    given, version = headers.get(VERSION), request.meta.get(f"{META}protocolVersion")
    if given in BY_HANDSHAKE or (given is None and version is None):
        return Client(is_current=False, resumes=given == BY_HANDSHAKE[0])
    if version is None and given != CURRENT:
        raise unsupported(given)
    capabilities = request.meta.get(f"{META}clientCapabilities")
    if not isinstance(version, str) or not isinstance(capabilities, dict):
        raise RpcFailure(
            INVALID_PARAMS,
            f"`params._meta` needs `{META}protocolVersion`, a text, and `{META}clientCapabilities`, an object",
            wire.BAD_REQUEST,
        )
    _check_headers(request, headers, version)
    if version != CURRENT:
        raise unsupported(version)
    return Client(is_current=True, elicits=can_elicit(capabilities))


def can_elicit(capabilities: dict[str, Any]) -> bool:
    """Return whether a client can ask its user by a form, which is what an empty capability means."""
    found = capabilities.get("elicitation")
    return isinstance(found, dict) and (not found or "form" in found)


def negotiated(wanted: object) -> str:
    """Return the version of a handshake: the one that its client wants, or the latest that it may want instead."""
    return wanted if isinstance(wanted, str) and wanted in BY_HANDSHAKE else BY_HANDSHAKE[0]


def unsupported(version: str | None) -> RpcFailure:
    """Return the error for a version that is not spoken here."""
    return RpcFailure(
        VERSION_UNKNOWN,
        f"This server speaks the versions {', '.join(SUPPORTED)} of MCP",
        wire.BAD_REQUEST,
        {"supported": SUPPORTED, "requested": version},
    )


def _check_headers(request: McpRequest, headers: Headers, version: str) -> None:
    """Raise `RpcFailure` unless the headers say what the body does: a proxy may have let the request in by them."""
    name = request.params.get("name") if request.method == "tools/call" else None
    expected: dict[str, object] = {VERSION: version, METHOD: request.method}
    if name is not None:
        expected[NAME] = name
    for header, value in expected.items():
        given = headers.getlist(header)
        if len(given) != 1 or _decoded(given[0]) != value:
            raise RpcFailure(
                HEADER_DIFFERS, f"The header {header} must be there once, and say what the body does", wire.BAD_REQUEST
            )


def _decoded(value: str) -> str | None:
    """Return the text of a header, which may be encoded; None: it is malformed."""
    found = _ENCODED.fullmatch(value)
    if found is None:
        return value
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None

"""The caller of a request, as the middleware has identified it, and the session that it names."""

from typing import Final

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request

from strandline._access.keyring import ApiKey
from strandline._access.tokens import Token
from strandline._http import wire
from strandline._model import ANONYMOUS, Principal, SessionKey, session_id
from strandline.errors import Invalid

CALLER: Final = "strandline.caller"
"""The key of a request's `Caller` in its scope."""


class Caller(Struct, frozen=True):
    """Who sent a request. `key` is None if no key is required; `token`: what it allows, if a token was shown."""

    principal: Principal
    operator: bool = False
    key: ApiKey | None = None
    token: Token | None = None


EVERYBODY: Final = Caller(ANONYMOUS)


def caller_of(request: Request) -> Caller:
    """Return the caller of a request."""
    caller: Caller = request.scope[CALLER]  # (no default: a request that skipped the middleware must fail)
    return caller


def principal_of(request: Request) -> Principal:
    """Return the caller's name."""
    return caller_of(request).principal


def session_of(request: Request, name: str) -> SessionKey:
    """Return the caller's session of this name. Raises `Invalid` for an invalid name, `TokenForbidden`."""
    caller = caller_of(request)
    key = SessionKey(caller.principal, session_id(name))
    check_session(caller, key)
    return key


def check_session(caller: Caller, key: SessionKey) -> None:
    """Raise `TokenForbidden` if the token of a request does not allow a session."""
    if caller.token is not None and key.session_id not in caller.token.sessions:
        raise wire.TokenForbidden(f"this token does not allow the session {key.session_id}")


def check_no_token(request: Request, what: str) -> None:
    """Raise `TokenForbidden` if a request with a token wants what only keys may."""
    if caller_of(request).token is not None:
        raise wire.TokenForbidden(f"a token cannot {what}; that needs a key")


def session_header(headers: Headers, name: str) -> str | None:
    """Return the session that a header names, None without it.

    Raises `Invalid` if it is repeated: a proxy may have checked the other one.
    """
    values = headers.getlist(name)
    if len(values) > 1:
        raise Invalid(f"the request has two {name} headers; send one")
    return values[0] if values else None

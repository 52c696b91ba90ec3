"""Who asks, as the middleware has found out, and whose sessions a request is about."""

from typing import Final

from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request

from strandline._access.keyring import ApiKey
from strandline._model import ANONYMOUS, Principal, SessionKey, session_id
from strandline.errors import Invalid

CALLER: Final = "strandline.caller"
"""Where a request's scope has its `Caller`."""


class Caller(Struct, frozen=True):
    """Who asks. `key` is None if nobody has to show one, or where that does not matter."""

    principal: Principal
    operator: bool = False
    key: ApiKey | None = None


EVERYBODY: Final = Caller(ANONYMOUS)


def caller_of(request: Request) -> Caller:
    """Return who asks."""
    caller: Caller = request.scope[CALLER]  # (there is no default: what was let in by nobody must not be answered)
    return caller


def principal_of(request: Request) -> Principal:
    """Return whose runs and sessions a request is about."""
    return caller_of(request).principal


def session_of(request: Request, name: str) -> SessionKey:
    """Return the session of whoever asks that has this name. Raises `Invalid` for a name that no session can have."""
    return SessionKey(request.scope[CALLER].principal, session_id(name))


def session_header(headers: Headers, name: str) -> str | None:
    """Return the session that a header names, None without it.

    Raises `Invalid` if it is there twice: whoever has looked at the request on its way may have read the other one.
    """
    values = headers.getlist(name)
    if len(values) > 1:
        raise Invalid(f"the request has two {name} headers; send one")
    return values[0] if values else None

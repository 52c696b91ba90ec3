"""The session of a request that names none: it is refused, shares one with all such requests, or gets a new one."""

import hashlib
from typing import Final

from msgspec import Struct
from starlette.requests import Request

from strandline._engine.service import Service
from strandline._http.caller import principal_of
from strandline._http.exchange.idempotency import idempotency_key
from strandline._http.forwardable import forwardable
from strandline._model import DEFAULT_SESSION, Principal, SessionId, SessionKey
from strandline.errors import NoSession, NotFound

SHARED: Final = "or let all requests without one share a session (setting default_session=shared)"

_TRIES: Final = 1000
"""How many ids are tried for a session of this server's. There are 256 partitions; one that has none has to ask."""


class SessionNaming(Struct, frozen=True):
    """`shares`: whether all requests without a session share the session `default`."""

    shares: bool

    def named(self, name: str | None, how: str) -> str:
        """Return the given name of a session, or the shared one; `how` says how to name one.

        Raises `NoSession`.
        """
        if name is not None:
            return name
        if self.shares:
            return DEFAULT_SESSION
        raise NoSession(f"name a session, {how}; {SHARED}")


async def new_session(service: Service, request: Request, made: str, key_in_body: str | None = None) -> SessionKey:
    """Return a session that is new, unless the request was sent before. `made` is what its id begins with.

    Without a key it is one of this server's, so that no other one has to answer. A request that another server has
    accepted before comes with the id of its run.
    """
    principal = principal_of(request)
    if (key := idempotency_key(request) or key_in_body) is not None:
        digest = hashlib.sha256(f"{principal}\0{key}".encode()).hexdigest()
        return SessionKey(principal, SessionId(f"{made}{digest[:32]}"))
    passed = forwardable(request.scope)
    if passed is not None and passed.again and passed.run_id is not None:
        try:
            return (await service.run(principal, passed.run_id)).run.key
        except NotFound:
            pass
    drawn = _drawn(service, principal, made)
    for _ in range(_TRIES):
        if service.ownership.owns(drawn):
            break
        drawn = _drawn(service, principal, made)
    return drawn


def _drawn(service: Service, principal: Principal, made: str) -> SessionKey:
    """Return a session of an id that nobody has."""
    drawn = service.new_run_id(SessionKey(principal, DEFAULT_SESSION)).removeprefix("run_")
    return SessionKey(principal, SessionId(f"{made}{drawn}"))

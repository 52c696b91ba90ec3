"""Authentication: the key of a request, and the caller that it identifies.

A key counts only in the header `Authorization: Bearer KEY`, because URLs are logged on the way. A request without one
is refused before its body is read. Probes, the description of the routes and the console's files are open to all, and
show no sessions or callers.

Revoking a key also ends the requests that are still being answered under it. Their accepted runs stay accepted.
"""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strandline._access.keyring import ApiKey, id_of
from strandline._access.source import Keys
from strandline._http import wire
from strandline._http.caller import CALLER, EVERYBODY, Caller
from strandline._http.middleware.guard import EXEMPT
from strandline._settings import AppSettings

CONSOLE: Final = frozenset({"/", "/console", "/console/console.css", "/console/console.js", "/console/icon.svg"})
OPEN: Final = EXEMPT | CONSOLE | {"/openapi.json", "/docs"}
METRICS: Final = "/metrics"
LONGEST_KEY: Final = 512


class Access:
    """Authenticates requests. Without keys all have one caller. Belongs to the serving loop."""

    def __init__(self, keys: Keys | None, settings: AppSettings) -> None:
        self._keys = keys
        self._trusted_baggage = settings.trusted_baggage
        self._open = OPEN | {METRICS} if settings.metrics_public else OPEN
        self._let_in: dict[AdmittedRequest, None] = {}
        if keys is not None:
            keys.on_change(self._changed)

    @property
    def mode(self) -> str:
        """`keys` if keys are required, else `none`."""
        return "none" if self._keys is None else "keys"

    def admit(self, scope: Scope) -> "AdmittedRequest | None":
        """Put the caller into `scope`; return the request to answer under its key, None if it needs none.

        Removes `baggage` from `scope` if the caller's is not trusted. Raises `Unauthorized`, `OperatorsOnly`.
        """
        let_in = self._admit(scope)
        if self._trusted_baggage != "all" and not (self._trusted_baggage == "operators" and scope[CALLER].operator):
            scope["headers"] = [each for each in scope["headers"] if each[0] != b"baggage"]
        return let_in

    def _admit(self, scope: Scope) -> "AdmittedRequest | None":
        if self._keys is None:
            scope[CALLER] = EVERYBODY
            return None
        path = wire.inner_path(scope)
        if path in self._open:
            # An operator's key may show more; a wrong key does not fail a probe.
            known = _shown(self._keys, scope) if path in EXEMPT else None
            scope[CALLER] = EVERYBODY if isinstance(known, wire.Unauthorized) else _caller(known)
            return None
        known = _shown(self._keys, scope)
        if isinstance(known, wire.Unauthorized):
            raise known
        if known is None:
            raise wire.Unauthorized(
                "this server requires an API key: send `Authorization: Bearer KEY`", shown=False, reason="no_key"
            )
        if path == METRICS and not known.operator:
            detail = "metrics need an operator's key (setting metrics_public)"
            raise wire.OperatorsOnly(detail, key_id=known.id)
        scope[CALLER] = _caller(known)
        return AdmittedRequest(self._let_in, known)

    def _changed(self) -> None:
        assert self._keys is not None
        for each in [each for each in self._let_in if each.key not in self._keys.ring]:
            each.end()


class AdmittedRequest:
    """A request that is answered while its key is valid."""

    __slots__ = ("_completed", "_let_in", "_revoked", "_send", "_started", "_task", "key")

    def __init__(self, let_in: "dict[AdmittedRequest, None]", key: ApiKey) -> None:
        self._let_in = let_in
        self.key = key
        self._revoked = self._started = self._completed = False

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Raises `Unauthorized` if its key is revoked before anything is sent.

        A response that has begun by then ends early, as if it were complete.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task, self._send = task, send
        self._let_in[self] = None
        try:
            await app(scope, receive, self._sent)
        except asyncio.CancelledError:
            if not self._revoked or task.uncancel() > 0:
                raise
            if not self._started:
                detail = "this key has been revoked"
                raise wire.Unauthorized(detail, shown=True, reason="revoked_key", key_id=self.key.id) from None
            if not self._completed:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._let_in.pop(self, None)

    def end(self) -> None:
        """End the request: its key has been revoked."""
        if not self._revoked:
            self._revoked = True
            self._task.cancel()

    async def _sent(self, message: Message) -> None:
        self._started = True
        self._completed = not message.get("more_body", message["type"] == "http.response.start")
        await self._send(message)


def _caller(known: ApiKey | None) -> Caller:
    return EVERYBODY if known is None else Caller(known.principal, known.operator, known)


def _shown(keys: Keys, scope: Scope) -> ApiKey | wire.Unauthorized | None:
    """Return the key of a request, None without one, an error if it is not valid."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        detail = "the request has two Authorization headers; send one"
        return wire.Unauthorized(detail, shown=True, reason="malformed_key")
    scheme, _, key = values[0].strip().partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        detail = "the Authorization header must be `Bearer KEY`"
        return wire.Unauthorized(detail, shown=True, reason="malformed_key")
    known = keys.ring.find(key) if len(key) <= LONGEST_KEY else None
    if known is None:
        return wire.Unauthorized("this key is not valid", shown=True, reason="unknown_key", key_id=id_of(key))
    return known

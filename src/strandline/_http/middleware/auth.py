"""Who asks: the key that a request shows, and the principal that it stands for.

Keys are shown in one place only, the header `Authorization: Bearer KEY`: what stands in an address is written to logs
on the way. Whoever shows none is told so before anything of the request is read. Probes and what describes the routes
are open to all, and tell nobody of sessions or principals.

A key that is taken away is gone for what goes on, too: each request that it let in, and that is still being answered,
is ended. What had been accepted by then stays accepted.
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

OPEN: Final = EXEMPT | {"/openapi.json", "/docs"}
METRICS: Final = "/metrics"
LONGEST_KEY: Final = 512


class Access:
    """Lets requests in. Without keys it lets everybody in, as one principal. Belongs to the serving loop."""

    def __init__(self, keys: Keys | None, settings: AppSettings) -> None:
        self._keys = keys
        self._trusted_baggage = settings.trusted_baggage
        self._open = OPEN | {METRICS} if settings.metrics_public else OPEN
        self._let_in: dict[AdmittedRequest, None] = {}
        if keys is not None:
            keys.on_change(self._changed)

    @property
    def mode(self) -> str:
        """`keys` if there are any, else `none`."""
        return "none" if self._keys is None else "keys"

    def admit(self, scope: Scope) -> "AdmittedRequest | None":
        """Note in `scope` who asks; return whom to answer under whose key, None if nobody needs one.

        `scope` loses its `baggage` if whoever asks is not trusted with one. Raises `Unauthorized`, `OperatorsOnly`.
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
            # Whoever shows the key of an operator may be told more; a wrong one shuts nobody out of a probe.
            known = _shown(self._keys, scope) if path in EXEMPT else None
            scope[CALLER] = EVERYBODY if isinstance(known, wire.Unauthorized) else _caller(known)
            return None
        known = _shown(self._keys, scope)
        if isinstance(known, wire.Unauthorized):
            raise known
        if known is None:
            raise wire.Unauthorized(
                "this server wants a key: send `Authorization: Bearer KEY`", shown=False, reason="no_key"
            )
        if path == METRICS and not known.operator:
            detail = "metrics are for operators: show the key of one (setting metrics_public)"
            raise wire.OperatorsOnly(detail, key_id=known.id)
        scope[CALLER] = _caller(known)
        return AdmittedRequest(self._let_in, known)

    def _changed(self) -> None:
        assert self._keys is not None
        for each in [each for each in self._let_in if each.key not in self._keys.ring]:
            each.end()


class AdmittedRequest:
    """A request that goes on for as long as its key counts; `answer` awaits its answer."""

    __slots__ = ("_completed", "_let_in", "_revoked", "_send", "_started", "_task", "key")

    def __init__(self, let_in: "dict[AdmittedRequest, None]", key: ApiKey) -> None:
        self._let_in = let_in
        self.key = key
        self._revoked = self._started = self._completed = False

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered. Raises `Unauthorized` if its key is taken away before anything was sent.

        An answer that had begun by then is over: it ends as if there were no more to tell.
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
                detail = "this key has been taken away"
                raise wire.Unauthorized(detail, shown=True, reason="revoked_key", key_id=self.key.id) from None
            if not self._completed:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._let_in.pop(self, None)

    def end(self) -> None:
        """End the request: its key counts no more."""
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
    """Return the key that a request shows, None if it shows none, the error if that does not count."""
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
        return wire.Unauthorized("this key is not known", shown=True, reason="unknown_key", key_id=id_of(key))
    return known

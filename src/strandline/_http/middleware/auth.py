"""Authentication: the key of a request, and the caller that it identifies.

A key counts only in the header `Authorization: Bearer KEY`, because URLs are logged on the way. A request without one
is refused before its body is read. Probes, the description of the routes, the agent's card and the console's files are
open to all, and show no sessions or callers. A token, which stands for a key, counts there too; one for the events of a
run, in the URL of these.

Revoking a key also ends the requests that are still being answered under it. Their accepted runs stay accepted.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qsl, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strandline._access.keyring import ApiKey, id_of
from strandline._access.source import Keys
from strandline._access.tokens import LONGEST, TOKEN_PREFIX, Token, opened
from strandline._clock import Clock
from strandline._http import wire
from strandline._http.caller import CALLER, EVERYBODY, Caller
from strandline._http.middleware.guard import EXEMPT
from strandline._settings import AppSettings
from strandline.errors import NotReady

CONSOLE: Final = frozenset({"/", "/console", "/console/console.css", "/console/console.js", "/console/icon.svg"})
CARDS: Final = ("/.well-known/agent-card.json", "/.well-known/agent.json", "/a2a/.well-known/agent-card.json")
"""Where clients of A2A look for the agent's card: of this host, as they did before version 0.3, and of the agent."""
OPEN: Final = EXEMPT | CONSOLE | {"/openapi.json", "/docs", *CARDS}
METRICS: Final = "/metrics"
LONGEST_KEY: Final = 512
IN_URL: Final = "token"
"""The query parameter of a token for the events of one run."""
_TOKEN: Final = TOKEN_PREFIX.encode()
IN_ITS_URL: Final = "strandline.token_in_url"
"""The key in the scope of a request whose URL had a token."""
STARTING_S: Final = 1.0
_EVENTS: Final = re.compile(r"/v1/runs/[^/]+/events")


class Access:
    """Authenticates requests. Without keys all have one caller. Belongs to the serving loop.

    `secret` returns the journal's, with which tokens are signed; it is empty while the journal is not open.
    """

    def __init__(self, keys: Keys | None, settings: AppSettings, secret: Callable[[], bytes], clock: Clock) -> None:
        self._keys = keys
        self._secret = secret
        self._clock = clock
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

        Removes `baggage` from `scope` if the caller's is not trusted. Raises `Unauthorized`, `OperatorsOnly`, and
        `NotReady` for a token that cannot be checked yet.
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
            scope[CALLER] = _of_probe(self._keys, scope) if path in EXEMPT else EVERYBODY
            return None
        shown = _shown(scope) or _in_url(scope, path)
        if shown is None:
            raise wire.Unauthorized(
                "this server requires an API key: send `Authorization: Bearer KEY`", shown=False, reason="no_key"
            )
        caller = self._of_token(shown, scope, path) if shown.startswith(_TOKEN) else _of_key(self._keys, shown)
        if path == METRICS and not caller.operator:
            assert caller.key is not None
            detail = "metrics need an operator's key (setting metrics_public)"
            raise wire.OperatorsOnly(detail, key_id=caller.key.id)
        scope[CALLER] = caller
        assert caller.key is not None
        return AdmittedRequest(self._let_in, caller.key)

    def _of_token(self, shown: bytes, scope: Scope, path: str) -> Caller:
        """Return the caller of a token, who is no operator. What the token allows is checked where that is known."""
        assert self._keys is not None
        if not (secret := self._secret()):
            raise NotReady("the server is starting, and cannot check a token yet", retry_after_s=STARTING_S)
        found = opened(secret, self._keys.ring, shown) if len(shown) <= LONGEST else None
        if found is None:
            raise wire.Unauthorized("this token is not valid, or its key is not", shown=True, reason="unknown_key")
        key, token = found
        if self._clock.now() >= token.expires_at:
            detail = "this token has expired: get a new one from the program that made it"
            raise wire.Unauthorized(detail, shown=True, reason="expired_token", key_id=key.id)
        _check_origin(token, scope)
        if token.run_id is not None and path != f"/v1/runs/{token.run_id}/events":
            raise wire.TokenForbidden(f"this token is for the events of {token.run_id}, and for nothing else")
        if scope.get(IN_ITS_URL) and token.run_id is None:
            raise wire.TokenForbidden("this token must be in the Authorization header, since URLs are logged")
        return Caller(key.principal, key=key, token=token)

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


def _of_key(keys: Keys, shown: bytes) -> Caller:
    """Return the caller of a key. Raises `Unauthorized`."""
    known = keys.ring.find(shown) if len(shown) <= LONGEST_KEY else None
    if known is None:
        raise wire.Unauthorized("this key is not valid", shown=True, reason="unknown_key", key_id=id_of(shown))
    return Caller(known.principal, known.operator, known)


def _of_probe(keys: Keys, scope: Scope) -> Caller:
    """Return the caller of a probe: an operator's key may show more, and a wrong one does not fail it."""
    try:
        shown = _shown(scope)
        return EVERYBODY if shown is None else _of_key(keys, shown)
    except wire.Unauthorized:
        return EVERYBODY


def _shown(scope: Scope) -> bytes | None:
    """Return the key or token in the header of a request, None without one. Raises `Unauthorized`."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        return None
    if len(values) > 1:
        detail = "the request has two Authorization headers; send one"
        raise wire.Unauthorized(detail, shown=True, reason="malformed_key")
    scheme, _, key = values[0].strip().partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        detail = "the Authorization header must be `Bearer KEY`"
        raise wire.Unauthorized(detail, shown=True, reason="malformed_key")
    return bytes(key)


def _in_url(scope: Scope, path: str) -> bytes | None:
    """Take the token out of the URL of a run's events, so that nothing later logs it or passes it on."""
    if _EVENTS.fullmatch(path) is None or scope["method"] != "GET":
        return None
    fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    tokens: list[str] = [value for name, value in fields if name == IN_URL]
    if len(tokens) != 1 or not tokens[0].startswith(TOKEN_PREFIX):  # (a key has no place in a URL)
        return None
    scope["query_string"] = urlencode([each for each in fields if each[0] != IN_URL]).encode()
    scope[IN_ITS_URL] = True
    return tokens[0].encode()


def _check_origin(token: Token, scope: Scope) -> None:
    """Raise `Foreign` if a token is shown by a page of another origin than its own.

    A page's requests to its own origin may have no `Origin`: `Sec-Fetch-Site` then says so.
    """
    if token.origin is None:
        return
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    site = headers.get(b"sec-fetch-site", b"").strip().lower()
    if not origin and site in (b"", b"same-origin"):
        return
    if origin != token.origin:
        raise wire.Foreign(f"this token is for pages of {token.origin}")

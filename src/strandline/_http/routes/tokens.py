"""The route that makes tokens for web pages."""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline._access.tokens import EVENTS_S, LONGEST, Token, signed
from strandline._clock import Clock
from strandline._encoding import decoder
from strandline._engine.requests import check_sender
from strandline._engine.service import Service
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import caller_of, check_no_token
from strandline._http.exchange.run_request import SenderBody
from strandline._http.middleware.token_scope import EVENTS_OF_RUN, ROUTES
from strandline._model import RunId, SessionId, session_id
from strandline._settings import AppSettings
from strandline.errors import Invalid, NotReady

READS: Final = "The body is an object with `sessions` and `origin`, or with `run_id` and `origin`"
DEFAULT_S: Final = 600.0
MOST_SESSIONS: Final = 100
LONGEST_ORIGIN: Final = 300


ORIGIN: Final = r"^https?://[A-Za-z0-9._~-]+(:[0-9]{1,5})?/?$"
"""An origin, as it is described. One with an IPv6 address is taken, too."""
_ADDRESS: Final = r"https?://\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?/?"


class TokenRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token is to allow."""

    origin: Annotated[
        Annotated[str, Meta(max_length=LONGEST_ORIGIN)] | None,
        Meta(
            description="The origin of the pages that may use it, such as `https://app.example.com`; null: programs"
            " that are no pages may, too",
        ),
    ]
    sessions: Annotated[
        Annotated[list[str], Meta(min_length=1, max_length=MOST_SESSIONS)] | None,
        Meta(description="The sessions that it is for"),
    ] = None
    run_id: Annotated[
        str | None,
        Meta(
            description="In place of `sessions`: a token for the events of this run alone. It may stand in their URL,"
            " as `token`, and is valid for a minute at most"
        ),
    ] = None
    routes: Annotated[
        list[str] | None,
        Meta(description="The routes that it is for, such as `POST /chat`; default: all that a token can be for"),
    ] = None
    expires_in: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="Seconds until it expires, at most the setting `max_token_lifetime`, and 60 with `run_id`;"
            " default: 600, and 60 with `run_id`"
        ),
    ] = None
    sender: Annotated[
        SenderBody | None,
        Meta(description="Who sends all that is sent with it; only where the setting `trusted_senders` is on"),
    ] = None


class TokenBody(Struct, frozen=True, kw_only=True):
    """A token, which is shown once and stored nowhere."""

    token: str
    expires_at: wire.Timestamp
    sessions: list[SessionId]
    routes: list[str]
    origin: str | None
    run_id: RunId | None


class TokenRoutes:
    """Makes tokens."""

    def __init__(self, service: Service, settings: AppSettings, clock: Clock) -> None:
        self._service = service
        self._settings = settings
        self._clock = clock
        self._decode = decoder(TokenRequest)

    async def create(self, request: Request) -> Response:
        """Return a token of the caller's key. 422 where no key is required, since there is nothing to protect."""
        check_no_token(request, "make tokens")
        body, _ = await wire.read_json(request, self._settings.max_body_bytes, self._decode, READS)
        caller = caller_of(request)
        if caller.key is None:
            raise Invalid("this server requires no key, so pages need no token; see api_keys_file to have keys")
        most_s = EVENTS_S if body.run_id is not None else self._settings.max_token_lifetime_s
        lasts_s = min(most_s, DEFAULT_S if body.expires_in is None else body.expires_in)
        sender = None if body.sender is None else body.sender.named()
        if sender is not None:
            check_sender(sender, trusted=self._service.options.trusted_senders)
        token = Token(
            expires_at=self._clock.now() + lasts_s,
            sessions=await self._sessions(request, body),
            routes=_routes(body),
            origin=_origin(body.origin),
            run_id=None if body.run_id is None else RunId(body.run_id),
            sender=sender,
        )
        if not (secret := self._service.secret):
            raise NotReady("the server stops, and can make no token", retry_after_s=1.0)
        shown = signed(secret, caller.key, token)
        if len(shown) > LONGEST:
            raise Invalid(f"the token would have {len(shown)} characters; at most {LONGEST} fit: name fewer sessions")
        for_what = f"run {body.run_id}" if body.run_id is not None else _sessions_shown(token.sessions)
        changed(request, f"made a token for {for_what}, valid for {lasts_s:g} s")
        return wire.answer(
            TokenBody(
                token=shown,
                expires_at=datetime.fromtimestamp(token.expires_at, UTC),
                sessions=list(token.sessions),
                routes=list(token.routes or ROUTES),
                origin=token.origin,
                run_id=token.run_id,
            ),
            headers={"Cache-Control": "no-store"},
        )

    async def _sessions(self, request: Request, body: TokenRequest) -> tuple[SessionId, ...]:
        if (body.sessions is None) is (body.run_id is None):
            raise Invalid(f"the body names neither or both: {READS}")
        if body.run_id is not None:
            view = await self._service.run(caller_of(request).principal, RunId(body.run_id))
            return (view.run.key.session_id,)
        return tuple(dict.fromkeys(session_id(each) for each in body.sessions or ()))


def _sessions_shown(sessions: tuple[SessionId, ...]) -> str:
    more = f" and {len(sessions) - 1} more" if len(sessions) > 1 else ""
    return f"session {sessions[0]}{more}"


def _routes(body: TokenRequest) -> tuple[str, ...]:
    if body.run_id is not None:
        if body.routes is not None:
            raise Invalid("routes cannot be given with run_id: such a token is for the events of that run")
        return (EVENTS_OF_RUN,)
    if body.routes is None:
        return ()
    if unknown := sorted(set(body.routes) - set(ROUTES)):
        raise Invalid(f"routes cannot have {unknown[0]!r}; a token can be for {', '.join(ROUTES)}")
    if not body.routes:
        raise Invalid("routes must name at least one route")
    return tuple(dict.fromkeys(body.routes))


def _origin(given: str | None) -> str | None:
    """Return an origin as browsers send it. Raises `Invalid` if they send no such one."""
    if given is None:
        return None
    if re.fullmatch(f"{ORIGIN[1:-1]}|{_ADDRESS}", given, re.IGNORECASE) is None:
        raise Invalid("origin must be a scheme and a host, such as `https://app.example.com`, as browsers send it")
    return given.rstrip("/").lower()

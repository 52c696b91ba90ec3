"""The wire format: JSON answers, problem+json errors, and the status code of each error.

The only file that knows HTTP status codes. Errors are RFC 9457 problem details with a stable `code`.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from strandline import errors
from strandline._encoding import encode, encode_messages
from strandline._http.forwardable import admitted

T = TypeVar("T")

_JSON: Final = re.compile(r"application/(?:[\w.-]+\+)?json\s*(?:;|$)", re.IGNORECASE)

_ESCAPE: Final = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_ENCODED_HALF: Final = re.compile(rb"\xed[\xa0-\xbf]")

LONE_SURROGATE: Final = "it has a lone surrogate, half of a character (such as `\\ud800`), which is not text"

MOST_ON_A_PAGE: Final = 1000

OK: Final = 200
CREATED: Final = 201
ACCEPTED: Final = 202
NO_CONTENT: Final = 204
PARTIAL: Final = 206
NOT_MODIFIED: Final = 304
BAD_REQUEST: Final = 400
UNAUTHORIZED: Final = 401
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
METHOD_NOT_ALLOWED: Final = 405
TIMED_OUT: Final = 408
CONFLICT: Final = 409
PRECONDITION_FAILED: Final = 412
TOO_LARGE: Final = 413
UNSUPPORTED: Final = 415
NOT_IN_RANGE: Final = 416
UNPROCESSABLE: Final = 422
TOO_MANY: Final = 429
HEAD_TOO_LARGE: Final = 431
BAD_GATEWAY: Final = 502
CLIENT_LEFT: Final = 499
"""Never sent: the client has disconnected."""
BROKEN: Final = 500
UNAVAILABLE: Final = 503

NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
"""Makes browsers trust the `Content-Type`, so that text of callers and agents is never taken for HTML."""

NO_REFERRER: Final = (b"referrer-policy", b"no-referrer")
"""Has browsers name the URL of this answer nowhere."""

TITLES: Final = {
    BAD_REQUEST: "Malformed request",
    UNAUTHORIZED: "Unauthorized",
    FORBIDDEN: "Forbidden",
    NOT_FOUND: "Not found",
    METHOD_NOT_ALLOWED: "Method not allowed",
    TIMED_OUT: "Request timeout",
    CONFLICT: "Conflict",
    PRECONDITION_FAILED: "Changed meanwhile",
    TOO_LARGE: "Body too large",
    UNSUPPORTED: "Unsupported media type",
    NOT_IN_RANGE: "Not in range",
    UNPROCESSABLE: "Invalid value",
    TOO_MANY: "Queue full",
    HEAD_TOO_LARGE: "Headers too large",
    BROKEN: "Internal error",
    BAD_GATEWAY: "Answer lost",
    UNAVAILABLE: "Unavailable",
}


TITLES_OF: Final = {
    errors.FileTooLarge.code: "File too large",
    errors.TooManySchedules.code: "Too many schedules",
    errors.StorageFull.code: "Storage full",
    errors.WebhooksFull.code: "Too many events to send",
    errors.HoldsFull.code: "Too many runs still working",
}
"""Titles by code, for which the title of the status would be wrong."""


class Malformed(errors.CallerError):
    """The body, or the request itself, cannot be parsed."""

    code = "malformed"


class BodyTooLarge(errors.CallerError):
    """The body is larger than `max_body_bytes`, or in OpenAI's format than `max_chat_body_bytes`."""

    code = "body_too_large"


class NotInRange(errors.CallerError):
    """The file has no byte of the requested `Range`; `Content-Range` says how many it has."""

    code = "not_in_range"

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes, none of them in the requested range")
        self.size = size


class HeadTooLarge(errors.CallerError):
    """The request line and headers exceed 16 KiB, or there are more than 200 headers."""

    code = "head_too_large"


class TooSlow(errors.CallerError):
    """The request did not arrive within `receive_timeout`; nothing was accepted."""

    code = "request_timeout"


class NoConnectionLeft(errors.Unavailable):
    """All `max_connections` connections have a request under way."""

    code = "no_connection_left"

    def __init__(self, most: int) -> None:
        super().__init__(f"there are {most} connections already (setting max_connections)", retry_after_s=1.0)


class HeadsFull(errors.Unavailable):
    """Unfinished requests take too much memory, and the headers of this one have taken the longest to arrive."""

    code = "heads_full"

    def __init__(self) -> None:
        detail = "the line and headers of this request took too long to arrive, and other requests need the memory"
        super().__init__(detail, retry_after_s=1.0)


class NotJson(errors.CallerError):
    """The body is not declared as JSON; send it with `Content-Type: application/json`."""

    code = "not_json"


class Foreign(errors.CallerError):
    """The request names a `Host` that is not this server, or comes from a web page of another origin."""

    code = "foreign"


class AnswerLost(errors.StrandlineError):
    """The server that has the session was lost before it answered. The change may have been made: read it first."""

    code = "answer_lost"


DeniedFor = Literal["no_key", "malformed_key", "unknown_key", "revoked_key", "expired_token"]


class Unauthorized(errors.CallerError):
    """The request has no valid API key or token; send `Authorization: Bearer KEY`."""

    code = "unauthorized"

    def __init__(self, message: str, *, shown: bool, reason: DeniedFor, key_id: str | None = None) -> None:
        super().__init__(message)
        self.shown = shown
        self.reason = reason
        """For metrics; clients get only the message."""
        self.key_id = key_id


class OperatorsOnly(errors.CallerError):
    """The route needs an operator's key."""

    code = "operators_only"

    def __init__(self, message: str, *, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class TokenForbidden(errors.CallerError):
    """The token of the request does not allow this; its detail says what a token would have to, or that it needs a
    key."""

    code = "token_forbidden"


STATUS: Final[dict[type[errors.StrandlineError], int]] = {
    errors.Invalid: UNPROCESSABLE,
    errors.NoSession: UNPROCESSABLE,
    errors.FileTooLarge: TOO_LARGE,
    errors.NotFound: NOT_FOUND,
    errors.SessionBusy: CONFLICT,
    errors.SessionExists: CONFLICT,
    errors.AlreadyEnded: CONFLICT,
    errors.AlreadyAnswered: CONFLICT,
    errors.Dismissed: CONFLICT,
    errors.TooLate: CONFLICT,
    errors.ChangedMeanwhile: PRECONDITION_FAILED,
    errors.NotRunning: CONFLICT,
    errors.NotResolvable: CONFLICT,
    errors.CannotGoBack: CONFLICT,
    errors.ConversationDiffers: CONFLICT,
    errors.KeyReused: UNPROCESSABLE,
    errors.QueueFull: TOO_MANY,
    errors.PrincipalFull: TOO_MANY,
    errors.StorageFull: TOO_MANY,
    errors.TooManySchedules: TOO_MANY,
    errors.WebhooksFull: TOO_MANY,
    errors.HoldsFull: TOO_MANY,
    errors.ServerFull: UNAVAILABLE,
    errors.Draining: UNAVAILABLE,
    errors.NotReady: UNAVAILABLE,
    errors.NotOwner: UNAVAILABLE,
    errors.OlderServer: UNAVAILABLE,
    errors.NoWorker: UNAVAILABLE,
    errors.DiskLow: UNAVAILABLE,
    errors.JournalUnavailable: UNAVAILABLE,
    errors.NotStarted: UNAVAILABLE,
    Malformed: BAD_REQUEST,
    Unauthorized: UNAUTHORIZED,
    OperatorsOnly: FORBIDDEN,
    TokenForbidden: FORBIDDEN,
    BodyTooLarge: TOO_LARGE,
    NotInRange: NOT_IN_RANGE,
    HeadTooLarge: HEAD_TOO_LARGE,
    TooSlow: TIMED_OUT,
    NoConnectionLeft: UNAVAILABLE,
    HeadsFull: UNAVAILABLE,
    NotJson: UNSUPPORTED,
    Foreign: FORBIDDEN,
    AnswerLost: BAD_GATEWAY,
}


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was refused: an RFC 9457 problem document with a stable `code`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    position: int | UnsetType = UNSET
    """The place that the run would have had, if a queue was full."""
    estimated_wait_s: float | UnsetType | None = UNSET


Timestamp = Annotated[datetime, Meta(tz=True)]


def answer(value: object, status: int = OK, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response, with a newline at its end for terminals; `value` may contain messages."""
    return Response(encode_messages(value) + b"\n", status, headers, media_type="application/json")


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> Response:
    """Return a problem+json response."""
    title = TITLES_OF.get(code) or TITLES.get(status, "Error")
    body = Problem(type="about:blank", title=title, status=status, code=code, detail=detail, **more)
    return Response(encode(body) + b"\n", status, headers, media_type="application/problem+json")


def error_response(error: errors.StrandlineError) -> Response:
    """Return the response for one of our errors."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), BROKEN)
    headers: dict[str, str] = {}
    more: dict[str, Any] = {}
    after_s = error.retry_after_s if isinstance(error, errors.Unavailable | errors.SessionBusy) else None
    if after_s is not None:
        headers = retry_after(after_s)
    if isinstance(error, Unauthorized):
        wrong = ', error="invalid_token"' if error.shown else ""
        headers = {"WWW-Authenticate": f'Bearer realm="strandline"{wrong}'}
    if isinstance(error, NotInRange):
        headers = {"Content-Range": f"bytes */{error.size}"}
    if isinstance(error, errors.QueueFull):
        more = {"position": error.position, "estimated_wait_s": rounded(error.estimated_wait_s)}
    return problem(status, error.code, str(error), headers, **more)


def without_422(status: int) -> int:
    """Return a status for protocols that answer every invalid request with 400."""
    return BAD_REQUEST if status == UNPROCESSABLE else status


def headers_beside(problem: Response) -> dict[str, str]:
    """Return the headers of a problem document that other formats of it keep."""
    return {name: value for name, value in problem.headers.items() if not name.startswith("content-")}


def client_path(scope: Scope, path: str) -> str:
    """Return the path for the client of a request, including the prefix that the application is mounted at."""
    return quote(scope.get("root_path", "").rstrip("/"), safe="/:@!$&'()*+,;=-._~") + path


def whole(scope: Scope) -> Scope:
    """Return a copy whose `path` begins with its `root_path`, as ASGI defines it.

    An app that sets the prefix which a proxy strips (`FastAPI(root_path=...)`) leaves it out of `path`, and an app
    mounted in it would match no route.
    """
    path: str = scope["path"]
    if not path.startswith(scope.get("root_path", "")):
        path = scope.get("app_root_path", "") + path
    return {**scope, "path": path}


def inner_path(scope: Scope) -> str:
    """Return the path of a request without the prefix that this application is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def retry_after(seconds: float) -> dict[str, str]:
    """Return the `Retry-After` header, in whole seconds and at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def announced(request: Request) -> int:
    """Return the body's `Content-Length`; 0 without one."""
    text = request.headers.get("content-length")
    return int(text) if text is not None and text.isdecimal() else 0


def too_large(what: str, limit: int, setting: str = "max_body_bytes") -> BodyTooLarge:
    """Return the error for something with more than `limit` bytes."""
    return BodyTooLarge(f"{what} may have at most {limit} bytes (setting {setting})")


async def begin_body(request: Request, limit: int) -> tuple[list[bytes], int, bool]:
    """Read a body, or its next part, until it is complete or exceeds `limit` bytes.

    Returns the pieces, their size, and whether more follows. Raises `ClientDisconnect` if the client disconnects
    meanwhile. Reads ASGI messages directly: nearly all bodies come in one.
    """
    pieces: list[bytes] = []
    size = 0
    more = True
    while more and size <= limit:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        pieces.append(piece)
    return pieces, size, more


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body. Raises `BodyTooLarge` as soon as it declares or exceeds more than `limit` bytes; for a client
    of another server its limit has been checked there.

    Raises `ClientDisconnect` if the client disconnects meanwhile.
    """
    limit = admitted(request, limit)
    if announced(request) > limit:
        raise too_large("the body", limit)
    pieces, size, _ = await begin_body(request, limit)
    if size > limit:
        raise too_large("the body", limit)
    return b"".join(pieces)


async def read_json(request: Request, limit: int, decode: Callable[[bytes], T], reads: str) -> tuple[T, bytes]:
    """Return the decoded body and its bytes; an absent body is an empty object. `reads` describes what it may be.

    Raises `NotJson`, `Malformed`, `Invalid`, and as `read_body`.
    """
    return as_json(request, await read_body(request, limit), decode, reads)


def as_json(request: Request, body: bytes, decode: Callable[[bytes], T], reads: str) -> tuple[T, bytes]:
    """Return the same for a body that has been read."""
    if body:
        must_be_json(request)
    else:
        body = b"{}"
    return decoded(body, decode, reads), body


def must_be_json(request: Request) -> None:
    """Raise `NotJson` unless the body is declared as JSON."""
    kind = request.headers.get("content-type", "")
    if kind != "application/json" and not _JSON.match(kind):
        raise NotJson("the body must be JSON, sent with `Content-Type: application/json`")


def decoded(body: bytes, decode: Callable[[bytes], T], reads: str) -> T:
    """Return the decoded body. Raises `Malformed` if it is not JSON, `Invalid` if the route cannot use it."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise errors.Invalid(f"{error}. {reads}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body is not JSON: {_lone_surrogate(body) or error}") from None


def _lone_surrogate(body: bytes) -> str | None:
    """Return the error of a body with half of a surrogate pair, for which the decoder's own message misleads."""
    awaited = -1
    """Where the other half of a pair must begin."""
    for found in _ESCAPE.finditer(body):
        code = int(found[1], 16) if found[1] else 0
        if is_low := 0xDC00 <= code < 0xE000:
            if found.start() != awaited:
                break
        elif awaited >= 0:
            break
        awaited = found.end() if 0xD800 <= code < 0xDC00 and not is_low else -1
    else:
        if awaited < 0 and not _ENCODED_HALF.search(body):
            return None
    return LONE_SURROGATE


def page_limit(request: Request) -> int:
    """Return the maximum number of entries on a page: `limit`, 1 to 1000, default 100. Raises `Invalid`."""
    text = request.query_params.get("limit", "100")
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= MOST_ON_A_PAGE):
        raise errors.Invalid(f"limit must be a whole number from 1 to {MOST_ON_A_PAGE}")
    return int(text)


def flag(name: str, text: str) -> bool:
    """Return the value of a flag in a query. Raises `Invalid`."""
    flags = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in flags:
        raise errors.Invalid(f"{name} must be true or false")
    return flags[text.lower()]


def timestamp(at: float | None) -> datetime | None:
    """Return seconds since the epoch as a UTC time (RFC 3339 in JSON)."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def rounded(seconds: float | None) -> float | None:
    """Return a duration with millisecond resolution."""
    return None if seconds is None else round(seconds, 3)

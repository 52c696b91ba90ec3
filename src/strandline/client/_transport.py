"""What both clients share of httpx: its configuration, and the meaning of its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from httpx_sse import ServerSentEvent

from strandline import __version__
from strandline.client._answers import Reply
from strandline.client._errors import ClientError, NoServer
from strandline.client._plans import Frame
from strandline.client._requests import EVENTS, Request

CONNECT_S: Final = 5.0
_NOT_REACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)


def is_loopback(url: str) -> bool:
    """Return whether an address is on this machine, where no proxy applies."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def options(url: str, key: str | None) -> dict[str, Any]:
    """Return the arguments for a client of httpx. One client may have any number of streams open.

    Raises `ClientError` for an invalid address or key.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"{url!r} is not a server address (no http://HOST:PORT)", code="bad_address")
    headers = {"User-Agent": f"strandline/{__version__}"}
    if key is not None:
        headers["Authorization"] = f"Bearer {sendable(key)}"
    return {
        "base_url": url,
        "headers": headers,
        "timeout": httpx.Timeout(CONNECT_S),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        "trust_env": not is_loopback(url),
    }


def sendable(key: str) -> str:
    """Return a key without surrounding space, which files have. Raises `ClientError`, which never shows the key."""
    key = key.strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise ClientError("the API key must be printable ASCII without space, and not empty", code="bad_key")
    return key


@contextmanager
def connecting(url: str) -> Iterator[None]:
    """Create a client for an address in the block. Raises `ClientError` if that fails, with the cause."""
    try:
        yield
    except httpx.InvalidURL as error:
        detail = f"{url!r} is not a server address ({str(error).rstrip('.')})"
        raise ClientError(detail, code="bad_address") from error
    except (ImportError, OSError, ValueError) as error:
        raise NoServer(f"{url} cannot be used: {str(error).rstrip('.')}", code="no_way") from error


def check_open(http: httpx.Client | httpx.AsyncClient) -> None:
    """Raise `ClientError` if a client of httpx is closed."""
    if http.is_closed:
        raise ClientError("this client is closed: make another one, or close it later", code="closed")


@contextmanager
def translating_errors(url: str) -> Iterator[None]:
    """Send and receive in the block. Raises `NoServer` if no answer comes, with httpx's error as cause."""
    try:
        yield
    except (httpx.TransportError, httpx.DecodingError) as error:
        reason = str(error) or type(error).__name__
        reached = not isinstance(error, _NOT_REACHED)
        what = "broke the connection" if reached else "does not answer"
        raise NoServer(f"{url} {what} ({reason})", reached=reached) from error


def sent(request: Request) -> dict[str, Any]:
    """Return a request as arguments for httpx."""
    headers = dict(request.headers)
    if headers["Accept"] == EVENTS:
        headers["Accept-Encoding"] = "identity"  # compression would delay events
    return {
        "method": request.method,
        "url": request.path,
        "content": request.body,
        "headers": headers,
        "params": dict(request.query),
        "timeout": httpx.Timeout(CONNECT_S, read=request.read_s, write=request.read_s),
    }


def content_of(file: bytes | str | PathLike[str]) -> tuple[bytes, str]:
    """Return the content of a file and its name; of bytes no name. Raises `ClientError` if it cannot be read."""
    if isinstance(file, bytes):
        return file, ""
    path = Path(file)
    try:
        return path.read_bytes(), path.name
    except OSError as error:
        raise ClientError(f"{path} cannot be read: {error.strerror}", code="no_file") from error


def is_stream(response: httpx.Response) -> bool:
    """Return whether an answer is an event stream."""
    return response.status_code == httpx.codes.OK and response.headers.get("content-type", "").startswith(EVENTS)


def reply(response: httpx.Response, body: bytes = b"") -> Reply:
    """Return an answer as a value."""
    return Reply(response.status_code, {name.lower(): value for name, value in response.headers.items()}, body)


def frame(event: ServerSentEvent) -> Frame:
    """Return a server-sent event as a value."""
    return Frame(event.data, event.id, event.retry)

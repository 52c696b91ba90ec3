"""What answers of a server mean: bodies, reasons, and every way in which there is no answer, as a paragraph for people.

It sends nothing. `chat` and the commands that control runs share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

import httpx

from strandline.errors import StrandlineError

LONGEST_RETRY_S: Final = 300.0


class RemoteError(StrandlineError):
    """There is no answer; the message says why and what to do."""

    code: ClassVar[str] = "remote"


class NoServer(RemoteError):
    """Nobody answers at the address."""


class NotStrandline(RemoteError):
    """Somebody answers at the address, and it is no Strandline server."""


def nobody(url: str, error: Exception, command: str) -> NoServer:
    """Return the error for an address that does not answer; `command` is what would name another."""
    if isinstance(error, httpx.ReadTimeout):
        return NoServer(
            f"somebody listens at {url}, but does not answer. If it is a server with --reload, it waits for"
            " runs of the old code, or for code that loads: its own terminal says which"
        )
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return NoServer(
            f"somebody listens at {url}, and breaks off without an answer ({str(error) or 'closed'}). It is no"
            f" server of HTTP, or one that ends at this moment. Name the address of one: {command}"
        )
    if url.startswith("https:") and "SSL" in str(error):
        return NoServer(
            f"what listens at {url} speaks no https that can be trusted ({error}). A server of Strandline"
            " itself speaks http: write http://HOST:PORT"
        )
    return NoServer(
        f"nobody answers at {url} ({str(error) or type(error).__name__}). Start a server there: strandline"
        f" serve agent.py; or name the address of one: {command}"
    )


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Have a client made for an address. Raises `RemoteError` where none can be made."""
    try:
        yield
    except httpx.InvalidURL as error:
        raise RemoteError(
            f"{url!r} is no address of a server ({str(error).rstrip('.')}); write it as http://HOST:PORT"
        ) from None
    except (ImportError, OSError, ValueError) as error:
        raise NoServer(
            f"there is no way to {url}: {str(error).rstrip('.')}. Look at the variables that name a proxy or"
            " certificates (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE), or unset them"
        ) from None


def is_loopback(url: str) -> bool:
    """Tell whether an address is of this machine: no proxy stands before it."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def json_of(response: httpx.Response) -> Any:
    """Return what a response holds; None if that is no JSON."""
    try:
        return response.json()
    except ValueError:
        return None


def body_of(response: httpx.Response) -> dict[str, Any]:
    """Return the object that a response holds. Raises `NotStrandline`."""
    found = json_of(response)
    if not isinstance(found, dict):
        raise NotStrandline(f"what answers at {response.url} is no Strandline server: its answer is no JSON object")
    return found


def why(response: httpx.Response) -> str:
    """Return why a server does not do it, with the status."""
    found = json_of(response)
    detail = found.get("detail") if isinstance(found, dict) else None
    return f"{detail or response.reason_phrase} ({response.status_code})"


def retry_after_s(response: httpx.Response) -> float:
    """Return after how many seconds to try again."""
    try:
        return min(max(float(response.headers.get("retry-after", "1")), 0.1), LONGEST_RETRY_S)
    except ValueError:
        return 1.0

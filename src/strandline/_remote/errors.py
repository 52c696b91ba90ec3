"""Client errors as paragraphs for people, which say what to do.

Shared by `chat` and the commands that control runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import httpx

from strandline.client._errors import ClientError, NoServer, Refused, Unauthorized
from strandline.errors import StrandlineError


class RemoteError(StrandlineError):
    """The call failed; the message says why and what to do."""

    code: ClassVar[str] = "remote"


class Unreachable(RemoteError):
    """Nothing answers at the address."""


class NotAServer(RemoteError):
    """What answers at the address is not a Strandline server."""


@contextmanager
def connecting(url: str) -> Iterator[None]:
    """Create a client for an address in the block. Raises `RemoteError` if that fails."""
    try:
        yield
    except NoServer as error:
        raise Unreachable(
            f"{error.detail}. Check or unset the variables for proxies and certificates (HTTP_PROXY, HTTPS_PROXY,"
            " ALL_PROXY, SSL_CERT_FILE)"
        ) from None
    except ClientError as error:
        hint = "" if error.code == "bad_key" else "; write it as http://HOST:PORT"
        raise RemoteError(f"{error.detail}{hint}") from None


def unreachable(url: str, failed: NoServer, command: str) -> Unreachable:
    """Return the error for an address that does not answer; `command` shows how to use another."""
    error = failed.__cause__ or failed
    if isinstance(error, httpx.ReadTimeout):
        return Unreachable(
            f"{url} accepts connections, but does not answer. A server with --reload may be waiting for"
            " runs of the old code, or for code that loads: its terminal says which"
        )
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return Unreachable(
            f"{url} closed the connection without an answer ({str(error) or 'closed'}). It is not an HTTP server,"
            f" or it is stopping. To use another address: {command}"
        )
    if url.startswith("https:") and "SSL" in str(error):
        return Unreachable(
            f"{url} has no trusted https ({error}). A Strandline server itself speaks http: write http://HOST:PORT"
        )
    return Unreachable(
        f"nothing answers at {url} ({str(error) or type(error).__name__}). Start a server there: strandline"
        f" serve agent.py; or use another address: {command}"
    )


def unauthorized(url: str, error: Unauthorized) -> RemoteError:
    """Return the error for a missing or wrong API key."""
    return RemoteError(
        f"the server at {url} refuses access: {error.detail}. Send an API key with --key-file FILE or"
        " STRANDLINE_API_KEY; the server's operator creates one with `strandline keys new NAME`"
    )


def why(error: Refused) -> str:
    """Return why a server refuses, with the status."""
    return f"{error.detail} ({error.status})"

"""What errors of the client mean to people: every way in which there is no answer, as a paragraph that says what to do.

`chat` and the commands that control runs share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import httpx

from strandline.client._errors import ClientError, NoServer, Refused, Unauthorized
from strandline.errors import StrandlineError


class RemoteError(StrandlineError):
    """There is no answer; the message says why and what to do."""

    code: ClassVar[str] = "remote"


class Unreachable(RemoteError):
    """Nobody answers at the address."""


class NotAServer(RemoteError):
    """Somebody answers at the address, and it is no Strandline server."""


@contextmanager
def connecting(url: str) -> Iterator[None]:
    """Have a client made for an address. Raises `RemoteError` where none can be made."""
    try:
        yield
    except NoServer as error:
        raise Unreachable(
            f"{error.detail}. Look at the variables that name a proxy or certificates (HTTP_PROXY, HTTPS_PROXY,"
            " ALL_PROXY, SSL_CERT_FILE), or unset them"
        ) from None
    except ClientError as error:
        hint = "" if error.code == "bad_key" else "; write it as http://HOST:PORT"
        raise RemoteError(f"{error.detail}{hint}") from None


def unreachable(url: str, failed: NoServer, command: str) -> Unreachable:
    """Return the error for an address that does not answer; `command` is what would name another."""
    error = failed.__cause__ or failed
    if isinstance(error, httpx.ReadTimeout):
        return Unreachable(
            f"somebody listens at {url}, but does not answer. If it is a server with --reload, it waits for"
            " runs of the old code, or for code that loads: its own terminal says which"
        )
    if isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
        return Unreachable(
            f"somebody listens at {url}, and breaks off without an answer ({str(error) or 'closed'}). It is no"
            f" server of HTTP, or one that ends at this moment. Name the address of one: {command}"
        )
    if url.startswith("https:") and "SSL" in str(error):
        return Unreachable(
            f"what listens at {url} speaks no https that can be trusted ({error}). A server of Strandline"
            " itself speaks http: write http://HOST:PORT"
        )
    return Unreachable(
        f"nobody answers at {url} ({str(error) or type(error).__name__}). Start a server there: strandline"
        f" serve agent.py; or name the address of one: {command}"
    )


def unauthorized(url: str, error: Unauthorized) -> RemoteError:
    """Return the error for a server that wants a key, or another one."""
    return RemoteError(
        f"the server at {url} lets nobody in like this: {error.detail}. Name the file of an API key with --key-file, or"
        " set STRANDLINE_API_KEY; whoever runs the server makes one with `strandline keys new NAME`"
    )


def why(error: Refused) -> str:
    """Return why a server does not do it, with the status."""
    return f"{error.detail} ({error.status})"

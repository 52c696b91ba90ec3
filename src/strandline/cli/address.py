"""Where the server is that a command asks: an address that was typed, or the one of this folder's settings."""

import os
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from strandline.cli import say

if TYPE_CHECKING:
    from strandline.config import Settings

Url = Annotated[
    str | None, typer.Option("--url", "-u", help="Address of the server [from this folder's settings]", metavar="URL")
]


def address(url: str | None) -> str:
    """Return the server's address, without a slash at its end. Leaves with exit code 2 if it is none."""
    if url is None:
        from strandline.config import resolve

        return _own(resolve({}, os.environ).settings)
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        say.fail(f"{url!r} is no address of a server; write it as http://HOST:PORT")
    return full.rstrip("/")


def _own(settings: "Settings") -> str:
    """Return where a server with these settings is reached from this machine."""
    if settings.port == 0:
        say.fail("the port of these settings is 0, so the server's is not known; name its address: http://HOST:PORT")
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

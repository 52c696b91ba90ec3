"""The address of the server that a command calls, and the API key that it sends.

The address is an argument, or comes from this folder's settings. A key is never an argument: other users of the machine
could read it in the list of processes.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from strandline._cli import say

if TYPE_CHECKING:
    from strandline._settings import Settings

Url = Annotated[
    str | None, typer.Option("--url", "-u", help="Server address [from this folder's settings]", metavar="URL")
]

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the API key to send [$STRANDLINE_API_KEY]", metavar="FILE"),
]
KEY: Final = "STRANDLINE_API_KEY"
KEY_FILE: Final = "STRANDLINE_API_KEY_FILE"


def api_key(file: Path | None) -> str | None:
    """Return the key to send, or None. Exits with code 2 if it cannot be read."""
    if file is None and (key := os.environ.get(KEY, "").strip()):
        return _sendable(key)
    if file is None and not (named := os.environ.get(KEY_FILE, "")):
        return None
    file = file or Path(named)
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        say.fail(f"the API key file {file} cannot be read: {getattr(error, 'strerror', None) or error}")
    if not key or len(key.split()) > 1:
        say.fail(f"the API key file {file} must hold one key and nothing else; `strandline keys new NAME` creates one")
    return _sendable(key)


def _sendable(key: str) -> str:
    """Return a key that fits into a header. Exits with code 2 if it does not."""
    from strandline.client._errors import ClientError
    from strandline.client._transport import sendable

    try:
        return sendable(key)
    except ClientError as error:
        say.fail(str(error))


def address(url: str | None) -> str:
    """Return the server's address, without a trailing slash. Exits with code 2 if it is invalid."""
    if url is None:
        from strandline._config import resolve

        return _own(resolve({}, os.environ).settings)
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        say.fail(f"{url!r} is not a server address; write it as http://HOST:PORT")
    return full.rstrip("/")


def _own(settings: "Settings") -> str:
    """Return the address of a server with these settings, as seen from this machine."""
    if settings.port == 0:
        say.fail("these settings have port 0, so the server's port is unknown; give its address: http://HOST:PORT")
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

"""Where the server is that a command asks, and the key that it is shown.

The address was typed, or is the one of this folder's settings. A key is never typed: whoever lists the processes of a
machine would read it.
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
    str | None, typer.Option("--url", "-u", help="Address of the server [from this folder's settings]", metavar="URL")
]

KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the API key to show [$STRANDLINE_API_KEY]", metavar="FILE"),
]
KEY: Final = "STRANDLINE_API_KEY"
KEY_FILE: Final = "STRANDLINE_API_KEY_FILE"


def api_key(file: Path | None) -> str | None:
    """Return the key to show, None if there is none. Leaves with exit code 2 if it cannot be read."""
    if file is None and (key := os.environ.get(KEY, "").strip()):
        return _sendable(key)
    if file is None and not (named := os.environ.get(KEY_FILE, "")):
        return None
    file = file or Path(named)
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        say.fail(f"the file {file} with the API key cannot be read: {getattr(error, 'strerror', None) or error}")
    if not key or len(key.split()) > 1:
        say.fail(f"the file {file} must hold one API key, and nothing else; `strandline keys new NAME` prints one")
    return _sendable(key)


def _sendable(key: str) -> str:
    """Return a key that can stand in a header. Leaves with exit code 2 if it cannot."""
    from strandline.client._errors import ClientError
    from strandline.client._transport import sendable

    try:
        return sendable(key)
    except ClientError as error:
        say.fail(str(error))


def address(url: str | None) -> str:
    """Return the server's address, without a slash at its end. Leaves with exit code 2 if it is none."""
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
        say.fail(f"{url!r} is no address of a server; write it as http://HOST:PORT")
    return full.rstrip("/")


def _own(settings: "Settings") -> str:
    """Return where a server with these settings is reached from this machine."""
    if settings.port == 0:
        say.fail("the port of these settings is 0, so the server's is not known; name its address: http://HOST:PORT")
    host = settings.host.strip("[]")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

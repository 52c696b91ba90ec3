"""The console: a page for people at `/`, and the few files that it consists of.

`web/console` has its sources; what they build is in `_console` of the package, and a test compares the two. The page
has no data of its own: it asks the public API, as any client does, with the key that its user types.
"""

import functools
import gzip
import hashlib
from pathlib import Path
from typing import Final

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from strandline import __version__
from strandline._http import wire
from strandline._settings import AppSettings

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page runs its own script only, has its own style only, calls this server only, is in no frame, and makes no HTML
of text."""
_FOLDER: Final = Path(__file__).parents[2] / "_console"
_PAGE: Final = "index.html"
_TYPES: Final = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FOREVER: Final = "public, max-age=31536000, immutable"


class FrontBody(Struct, frozen=True, kw_only=True):
    """The server, and where to continue."""

    name: str
    version: str
    console: str | None
    docs: str
    openapi: str
    health: str


class _File(Struct, frozen=True):
    """A file, also as gzip has it. `digest` is that of its content."""

    content: bytes
    zipped: bytes
    digest: str
    media_type: str


class Console:
    """The routes of the console."""

    def __init__(self, settings: AppSettings) -> None:
        self._is_on = settings.console == "on"
        self._agent_id = settings.agent_id

    async def front(self, request: Request) -> Response:
        """Return the page to browsers, and links to programs."""
        if self._is_on and "text/html" in request.headers.get("accept", ""):
            return _page(request)
        root = request.scope.get("root_path", "").rstrip("/")
        body = FrontBody(
            name=self._agent_id,
            version=__version__,
            console=f"{root}/console" if self._is_on else None,
            docs=f"{root}/docs",
            openapi=f"{root}/openapi.json",
            health=f"{root}/health",
        )
        return wire.answer(body, headers={"Vary": "Accept"})

    async def page(self, request: Request) -> Response:
        """Return the page."""
        if not self._is_on:
            raise HTTPException(wire.NOT_FOUND)
        return _page(request)

    async def file(self, request: Request) -> Response:
        """Return a file of the page. The page names its version (`?v=`), under which it never changes."""
        name = request.path_params["name"]
        found = _file(name) if self._is_on and name != _PAGE else None
        if found is None:
            raise HTTPException(wire.NOT_FOUND)
        version = request.query_params.get("v", "")
        never_changes = bool(version) and found.digest.startswith(version)
        return _sent(request, found, _FOREVER if never_changes else "no-cache")


def _page(request: Request) -> Response:
    page = _file(_PAGE)
    assert page is not None, "the page is in the package"
    headers = {
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
    }
    return _sent(request, page, "no-cache", headers)


def _sent(request: Request, file: _File, caching: str, more: dict[str, str] | None = None) -> Response:
    tag = f'"{file.digest}"'
    headers = {"Cache-Control": caching, "ETag": tag, "Vary": "Accept, Accept-Encoding", **(more or {})}
    if tag in request.headers.get("if-none-match", "").replace("W/", "").split(", "):
        return Response(status_code=wire.NOT_MODIFIED, headers=headers)
    content = file.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = file.zipped, "gzip"
    return Response(content, headers=headers, media_type=file.media_type)


@functools.cache
def _files() -> frozenset[str]:
    return frozenset(each.name for each in _FOLDER.iterdir() if each.suffix in _TYPES)


@functools.cache
def _read(name: str) -> _File:
    """Return a file: read and compressed when it is first wanted, which takes a few milliseconds."""
    content = (_FOLDER / name).read_bytes()
    kind = _TYPES[Path(name).suffix]
    return _File(content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:32], kind)


def _file(name: str) -> _File | None:
    return _read(name) if name in _files() else None

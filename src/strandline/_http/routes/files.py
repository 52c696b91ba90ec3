"""The file API: upload, list, read and delete the files of a session."""

import re
from collections.abc import AsyncIterator
from email.message import Message as Head
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from strandline._engine.files import File, Files
from strandline._engine.service import Service
from strandline._files.names import safe_name
from strandline._files.store import is_file_id
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import session_of
from strandline._http.forwardable import only_once
from strandline._model import FileId, SessionId
from strandline.errors import Invalid, NotFound

HEADERS: Final = {
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-store",
}
"""No browser executes what somebody has uploaded, and no cache on the way keeps it. (`nosniff` is on all answers.)"""
_PART: Final = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")
LONGEST_NAME: Final = 4096
"""Characters of a name as it is sent. What is stored of it is short."""


class FileBody(Struct, frozen=True, kw_only=True):
    """A file of a session."""

    file_id: FileId
    session_id: SessionId
    name: Annotated[str, Meta(description="Its name, made safe")]
    media_type: Annotated[str, Meta(description="Its type, by its content")]
    size: Annotated[int, Meta(description="Bytes")]
    sha256: Annotated[str, Meta(description="SHA-256 of its content, in hex")]
    named: Annotated[bool, Meta(description="Whether a run has named it, so that it is kept as long as its session")]
    created_at: wire.Timestamp | None


class FilesBody(Struct, frozen=True, kw_only=True):
    """A page of files."""

    files: list[FileBody]
    damaged: Annotated[list[FileId], Meta(description="Files of this page whose records are damaged")]
    next_cursor: str | None


def file_body(file: File) -> FileBody:
    """Return a file in wire format."""
    return FileBody(
        file_id=file.file_id,
        session_id=file.key.session_id,
        name=file.name,
        media_type=file.media_type,
        size=file.size,
        sha256=file.sha256,
        named=file.named,
        created_at=wire.timestamp(file.created_at),
    )


class FileRoutes:
    """The routes of files."""

    def __init__(self, service: Service) -> None:
        self._files: Files = service.files

    async def upload(self, request: Request) -> Response:
        """Store the body as a file of a session, which need not exist yet."""
        key = session_of(request, request.path_params["session_id"])
        if request.headers.get("content-type", "").partition("/")[0].strip().lower() == "multipart":
            raise Invalid("the body is the file itself, not a form: curl --data-binary @FILE, or Client.upload")
        only_once(request)
        file = await self._files.add(key, _name_of(request), _pieces(request), wire.announced(request))
        changed(request, f"uploaded file {file.file_id} into session {key.session_id}")
        path = wire.client_path(request.scope, f"/v1/sessions/{key.session_id}/files/{file.file_id}")
        return wire.answer(file_body(file), wire.CREATED, {"Location": path})

    async def all(self, request: Request) -> Response:
        """Return the files of a session by id."""
        key = session_of(request, request.path_params["session_id"])
        page = await self._files.page(key, after=_after(request), limit=wire.page_limit(request))
        shown = [file_body(each) for each in page.files]
        return wire.answer(FilesBody(files=shown, damaged=page.damaged, next_cursor=page.after))

    async def content(self, request: Request) -> Response:
        """Return the content of a file, or a range of it, for saving: never to be shown by a browser."""
        key = session_of(request, request.path_params["session_id"])
        file, path = await self._files.content(key, _id(request))
        headers = {**HEADERS, "ETag": f'"{file.sha256}"'}
        return Download(path, headers=headers, media_type=file.media_type, filename=file.name, size=file.size)

    async def delete(self, request: Request) -> Response:
        """Delete a file. History keeps what names it."""
        key, file_id = session_of(request, request.path_params["session_id"]), _id(request)
        only_once(request)
        await self._files.delete(key, file_id)
        changed(request, f"deleted file {file_id} of session {key.session_id}")
        return Response(status_code=wire.NO_CONTENT)


class Download(FileResponse):
    """The content of a file. A `Range` that cannot be read is ignored, as RFC 9110 says."""

    def __init__(self, path: Path, *, size: int, **more: Any) -> None:
        super().__init__(path, **more)
        self._size = size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or those of the requested parts that it has."""
        requested = Headers(scope=scope).getlist("range")
        if requested:
            ranges = ranges_of(requested[0], self._size) if len(requested) == 1 else None
            headers = [each for each in scope["headers"] if each[0] != b"range"]
            if ranges is not None:
                beyond = [(self._size, self._size)]
                parts = ",".join(f"{first}-{last}" for first, last in ranges or beyond)
                headers.append((b"range", f"bytes={parts}".encode()))
            scope = {**scope, "headers": headers}
        problem: Response | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal problem
            if message["type"] == "http.response.start" and message["status"] == wire.NOT_IN_RANGE:
                problem = wire.error_response(wire.NotInRange(self._size))
            if problem is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if problem is not None:
            await problem(scope, receive, send)


def ranges_of(header: str, size: int) -> list[tuple[int, int]] | None:
    """Return the first and last byte of each part that a `Range` asks for and that is there; None if it cannot be
    read."""
    unit, _, requested = header.partition("=")
    found = []
    if unit.strip().lower() != "bytes" or not (
        parts := [each.strip(" \t") for each in requested.split(",") if each.strip()]
    ):
        return None
    for each in parts:
        if (part := _PART.fullmatch(each)) is None or each == "-":
            return None
        first, last = part.groups()
        if not first:
            if int(last):
                found.append((max(0, size - int(last)), size - 1))
        elif last and int(last) < int(first):
            return None
        elif int(first) < size:
            found.append((int(first), min(int(last or size), size - 1)))
    return found


def _id(request: Request) -> FileId:
    file_id: str = request.path_params["file_id"]
    if not is_file_id(file_id):
        raise NotFound(f"there is no file {file_id[:64]}")
    return FileId(file_id)


def _after(request: Request) -> FileId | None:
    cursor = request.query_params.get("cursor")
    if cursor is not None and not is_file_id(cursor):
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return None if cursor is None else FileId(cursor)


def _name_of(request: Request) -> str:
    """Return the name that a client gives its file: `name` in the query, or that of `Content-Disposition`."""
    name = request.query_params.get("name")
    if name is None and (disposition := request.headers.get("content-disposition")) is not None:
        head = Head()
        try:
            head["Content-Disposition"] = disposition
            name = head.get_filename()
        except (ValueError, LookupError):
            raise Invalid("Content-Disposition cannot be read; send the name as `name` in the query") from None
    return safe_name((name or "")[:LONGEST_NAME])


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it comes. Raises `ClientDisconnect`."""
    async for piece in request.stream():
        if piece:
            yield piece

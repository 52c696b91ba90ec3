"""All of a session as one file: a zip that is made while it is sent."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from strandline._encoding import encode_messages
from strandline._engine.files import File
from strandline._engine.service import Service
from strandline._http.caller import session_of
from strandline._http.routes.files import HEADERS, file_body
from strandline._http.routes.runs import run_body
from strandline._http.routes.sessions import message_bodies, session_body
from strandline._journal.port import HistoryPage
from strandline._model import FileId, SessionKey, SessionView
from strandline.errors import NotFound, RecordDamaged

PAGE: Final = 100
PIECE: Final = 1 << 20
"""How many bytes of a file are read at once."""
MEDIA_TYPE: Final = "application/zip"


class Export:
    """The route of exports."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def export(self, request: Request) -> Response:
        """Return a session, its runs, its whole history and its files."""
        key = session_of(request, request.path_params["session_id"])
        session = await self._service.session(key)
        name = key.session_id.replace(":", "_")
        headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{name}.zip"'}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=MEDIA_TYPE)
        return StreamingResponse(self.pieces(session), headers=headers, media_type=MEDIA_TYPE)

    def pieces(self, session: SessionView) -> AsyncGenerator[bytes, None]:
        """Return the zip of a session, in pieces, without more of it in memory than one."""
        return self._pieces(session.key, encode_messages(session_body(session, self._service.why(session))))

    async def _pieces(self, key: SessionKey, session: bytes) -> AsyncGenerator[bytes, None]:
        """Yield the zip. If it fails, its end is missing, and no program takes it for whole."""
        damaged: dict[str, list[str]] = {"runs": [], "files": []}
        files: list[File] = []
        with Packed() as packed:
            for entry, lines in (
                ("session.json", _once(session)),
                ("history.jsonl", self._history(key)),
                ("runs.jsonl", self._runs(key, damaged["runs"])),
                ("files.jsonl", self._files(key, files, damaged["files"])),
            ):
                packed.begin(entry)
                async for line in lines:
                    yield await asyncio.to_thread(packed.add, line + b"\n")
            for file in files:
                async for piece in self._content(file, packed, damaged["files"]):
                    yield piece
            packed.begin("damaged.json")
            yield packed.add(encode_messages(damaged) + b"\n")
            yield packed.end()

    async def _history(self, key: SessionKey) -> AsyncIterator[bytes]:
        """Yield all messages, oldest first."""
        first = 0
        while True:
            before, pages = first + PAGE, list[HistoryPage]()
            while True:  # (a page may have room for a part of them only)
                page = await self._service.history_page(
                    key, before=before, limit=before - first, discarded=True, superseded=True
                )
                pages.append(page)
                if page.first <= first or not page.messages:
                    break
                before = page.first
            found = [each for page in reversed(pages) for each in message_bodies(page, key) if each.index >= first]
            for each in found:
                yield encode_messages(each)
            if not found or found[-1].index < first + PAGE - 1:
                return
            first += PAGE

    async def _runs(self, key: SessionKey, damaged: list[str]) -> AsyncIterator[bytes]:
        cursor: str | None = None
        while True:
            page = await self._service.runs(key, cursor=cursor, limit=PAGE)
            damaged += page.damaged
            for view in page.runs:
                yield encode_messages(run_body(view))
            if (cursor := page.after) is None:
                return

    async def _files(self, key: SessionKey, files: list[File], damaged: list[str]) -> AsyncIterator[bytes]:
        after: str | None = None
        while True:
            page = await self._service.files.page(key, after=None if after is None else FileId(after), limit=PAGE)
            damaged += page.damaged
            files += page.files
            for each in page.files:
                yield encode_messages(file_body(each))
            if (after := page.after) is None:
                return

    async def _content(self, file: File, packed: "Packed", damaged: list[str]) -> AsyncIterator[bytes]:
        """Yield the content of a file, unless it was deleted meanwhile, or is not where files are kept."""
        try:
            _, path = await self._service.files.content(file.key, file.file_id)
            opened = await asyncio.to_thread(open, path, "rb")
        except NotFound:
            return
        except (RecordDamaged, OSError):
            damaged.append(file.file_id)
            return
        with opened:
            packed.begin(f"files/{file.file_id}/{file.name}", ZIP_STORED)
            while piece := await asyncio.to_thread(opened.read, PIECE):
                yield await asyncio.to_thread(packed.add, piece)


class Packed:
    """A zip that is made piece by piece. Used by one thread at a time."""

    def __init__(self) -> None:
        self._made: list[bytes] = []
        self._closing = ExitStack()
        self._zip = self._closing.enter_context(ZipFile(_Sink(self._made), "w"))
        self._entry: Any = None

    def __enter__(self) -> "Packed":
        return self

    def __exit__(self, *_: object) -> None:
        self._close_entry()
        self._closing.close()

    def begin(self, name: str, compression: int = ZIP_DEFLATED) -> None:
        """Begin an entry."""
        self._close_entry()
        entry = ZipInfo(name)
        entry.compress_type = compression
        self._entry = self._zip.open(entry, "w", force_zip64=True)

    def add(self, data: bytes) -> bytes:
        """Add to the entry; return what is to be sent."""
        self._entry.write(data)
        return self._taken()

    def end(self) -> bytes:
        """Return the end of the zip."""
        self._close_entry()
        self._closing.close()
        return self._taken()

    def _close_entry(self) -> None:
        if self._entry is not None:
            self._entry.close()
            self._entry = None

    def _taken(self) -> bytes:
        data = b"".join(self._made)
        self._made.clear()
        return data


class _Sink:
    """What a zip is written to, which cannot seek."""

    def __init__(self, made: list[bytes]) -> None:
        self._made = made

    def write(self, data: bytes, /) -> int:
        """Note a piece."""
        self._made.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: all is noted."""

    def close(self) -> None:
        """Do nothing: what was noted is still to be sent."""


async def _once(line: bytes) -> AsyncIterator[bytes]:
    yield line

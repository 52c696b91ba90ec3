"""The type of a file, by its content: a table of the first bytes of the types that models take. Pure.

What a client says of the type counts for nothing. Only among plain text does the end of the name decide (a table and a
note are both text). What is not in the table is `application/octet-stream`, which tools can read and models cannot.
"""

from codecs import getincrementaldecoder
from collections.abc import Mapping
from typing import Final

BINARY: Final = "application/octet-stream"
PLAIN: Final = "text/plain"
PROBED: Final = 64 * 1024
"""How many bytes of the beginning and of the end of a file decide about its type."""
_OFFICE: Final = "application/vnd.openxmlformats-officedocument"
_FIRST: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_ZIP: Final = b"PK\x03\x04"
_IN_ZIP: Final = (
    (b"word/document", f"{_OFFICE}.wordprocessingml.document"),
    (b"xl/workbook", f"{_OFFICE}.spreadsheetml.sheet"),
)
_OLE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_IN_OLE: Final = (
    ("WordDocument".encode("utf-16-le"), "application/msword"),
    ("Workbook".encode("utf-16-le"), "application/vnd.ms-excel"),
)
_OF_TEXT: Final = {
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
    "md": "text/markdown",
    "markdown": "text/markdown",
}
"""By the end of a name, in lower case."""
SHOWN_AS: Final[Mapping[str, tuple[str, str]]] = {
    "image/png": ("image", "png"),
    "image/jpeg": ("image", "jpeg"),
    "image/gif": ("image", "gif"),
    "image/webp": ("image", "webp"),
    "application/pdf": ("document", "pdf"),
    "application/msword": ("document", "doc"),
    "application/vnd.ms-excel": ("document", "xls"),
    f"{_OFFICE}.wordprocessingml.document": ("document", "docx"),
    f"{_OFFICE}.spreadsheetml.sheet": ("document", "xlsx"),
    "text/plain": ("document", "txt"),
    "text/csv": ("document", "csv"),
    "text/html": ("document", "html"),
    "text/markdown": ("document", "md"),
}
"""The content block of each type that models take, and its format there."""


class TypeProbe:
    """Finds the type of a file whose bytes come in pieces."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._decoder = getincrementaldecoder("utf-8")()
        self._is_text = True

    def add(self, piece: bytes) -> None:
        """Add the next bytes."""
        if len(self._head) < PROBED:
            self._head += piece[: PROBED - len(self._head)]
        self._tail = (self._tail + piece)[-PROBED:] if len(piece) < PROBED else piece[-PROBED:]
        self._decode(piece)

    def media_type(self, name: str) -> str:
        """Return the type of a file with this name whose bytes have all been added."""
        for first, found in _FIRST:
            if self._head.startswith(first):
                return found
        if self._head.startswith(b"RIFF") and self._head[8:12] == b"WEBP":
            return "image/webp"
        for first, table in ((_ZIP, _IN_ZIP), (_OLE, _IN_OLE)):
            if self._head.startswith(first):
                probed = self._head + self._tail
                return next((found for inside, found in table if inside in probed), BINARY)
        self._decode(b"", final=True)
        if not self._is_text:
            return BINARY
        return _OF_TEXT.get(name.rpartition(".")[2].lower(), PLAIN)

    def _decode(self, piece: bytes, *, final: bool = False) -> None:
        if self._is_text:
            try:
                self._decoder.decode(piece, final)
                self._is_text = b"\0" not in piece
            except UnicodeDecodeError:
                self._is_text = False

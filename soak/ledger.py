"""The tools' ledger: what really happened, written down by the tools themselves, beside the server and its journal.

One line of JSON for each beginning and each end of a tool, and for each call of the model. A line is one `write` to a
file opened with O_APPEND: it is there whole, in the order of all processes, once the call has returned, whatever then
becomes of its writer. One that is killed in the call may leave the beginning of a line (Linux cuts a write off at the
end of a page): what it was about to do has not begun. Knows nothing of servers.
"""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

VARIABLE: Final = "SOAK_LEDGER"
"""The environment variable that names the ledger's file."""


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened. `at_ns` is the monotonic clock, which all processes of a machine share."""

    kind: Literal["model", "begin", "end"]
    session: str
    label: str
    """The run, as its client named it in its message."""
    pid: int
    at_ns: int
    process: str = ""
    """Made up anew by each process: the system gives a number again."""
    allowed_ns: int = 0
    """When the server let the tool begin, for its beginning; the process may have stood still since. 0: not known."""
    run_id: str = ""
    tool_use_id: str = ""
    tool: str = ""
    attempt: int = 0
    token: str = ""
    """Made up anew by each execution of a tool, and part of its result."""
    how: Literal["", "done", "raised", "cancelled"] = ""
    parent: int = 0
    """The process that this one works for; 0: none."""

    @property
    def server(self) -> int:
        """The server's process."""
        return self.parent or self.pid

    @property
    def begun_ns(self) -> int:
        """When it began for its server."""
        return self.allowed_ns or self.at_ns

    @property
    def writer(self) -> tuple[int, str]:
        """The process that wrote it, and no other one with its number."""
        return self.pid, self.process


class Ledger:
    """The ledger, to be written to. May be used from any thread. `parent` is the process that this one works for."""

    def __init__(self, path: Path, *, parent: int = 0) -> None:
        self._parent = parent
        self._process = secrets.token_hex(4)
        self._fd = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)

    def write(
        self,
        kind: Literal["model", "begin", "end"],
        *,
        session: str,
        label: str,
        run_id: str = "",
        tool_use_id: str = "",
        tool: str = "",
        attempt: int = 0,
        token: str = "",
        how: Literal["", "done", "raised", "cancelled"] = "",
        allowed_ns: int = 0,
    ) -> None:
        """Write a line; what tools did is on the disk on return."""
        line = Line(
            kind=kind,
            session=session,
            label=label,
            pid=os.getpid(),
            at_ns=time.monotonic_ns(),
            process=self._process,
            run_id=run_id,
            tool_use_id=tool_use_id,
            tool=tool,
            attempt=attempt,
            token=token,
            how=how,
            parent=self._parent,
            allowed_ns=allowed_ns,
        )
        os.write(self._fd, b"\n" + msgspec.json.encode(line) + b"\n")  # (apart from what a killed writer has left)
        if kind != "model":
            os.fsync(self._fd)


class Reader:
    """The ledger, to be read while it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._decoder = msgspec.json.Decoder(Line)

    def new(self) -> Iterator[Line]:
        """Yield the lines since the last call; one that is not whole yet comes with the next call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                if line.endswith(b"}\n"):
                    yield self._decoder.decode(line)

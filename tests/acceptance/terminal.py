"""The installed command in a pseudo terminal: `Terminal`. What it writes is read as a person sees it, line by line."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from acceptance.server import COMMAND, DEADLINE_S, environment

CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x07")
CTRL_C: Final = "\x03"
CTRL_D: Final = "\x04"
PASTE: Final = ("\x1b[200~", "\x1b[201~")


class Terminal:
    """A command whose terminal this is."""

    def __init__(
        self, *arguments: str, folder: Path, variables: Mapping[str, str] | None = None, columns: int = 80
    ) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        clean = environment({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(variables or {})})
        clean.pop("COLUMNS", None)
        if "NO_COLOR" not in (variables or {}):
            clean.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [str(COMMAND), *arguments],
            cwd=folder,
            env=clean,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_as_of_a_shell,
        )
        os.close(theirs)
        self._ours = ours
        self.raw = ""
        self._seen = 0

    def type(self, text: str) -> None:
        """Press keys; a newline is Enter."""
        os.write(self._ours, text.replace("\n", "\r").encode())

    def paste(self, text: str) -> None:
        """Paste, as terminals do that say so."""
        os.write(self._ours, f"{PASTE[0]}{text}{PASTE[1]}".encode())

    def until(self, text: str) -> str:
        """Return what has been written since the last call, up to and with `text`. Fails if it does not come."""
        end = time.monotonic() + DEADLINE_S
        while (at := self.screen.find(text, self._seen)) < 0:
            if not self._read(end - time.monotonic()):
                raise AssertionError(f"{text!r} did not come:\n{self.screen[self._seen :]}\n---\n{self.raw!r}")
        start, self._seen = self._seen, at + len(text)
        return self.screen[start : self._seen]

    def at_rest(self) -> None:
        """Wait until the command waits for keys; known on Linux only.

        Python's readline loses a Ctrl-C that comes between what it shows and that.
        """
        state = Path(f"/proc/{self.process.pid}/stat")
        end = time.monotonic() + DEADLINE_S
        while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end, "it does not rest"
            os.sched_yield()

    def ended(self) -> int:
        """Return the exit code, once the command has ended; it must end."""
        end = time.monotonic() + DEADLINE_S
        while self._read(end - time.monotonic()):
            pass
        return self.process.wait(max(0.1, end - time.monotonic()))

    @property
    def screen(self) -> str:
        """All that was written, without colours and cursor movements; a line that was drawn over is a line."""
        return CONTROL.sub("", self.raw).replace("\r\n", "\n").replace("\r", "\n")

    def close(self) -> None:
        """End the command if it runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._ours], [], [], timeout_s)[0]:
            return False
        try:
            some = os.read(self._ours, 65536)
        except OSError:  # (the other side is closed)
            return False
        self.raw += some.decode("utf-8", "replace")
        return bool(some)


def _as_of_a_shell() -> None:
    """Give the command its terminal, and Ctrl-C its meaning, which background test runs ignore."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def terminal(
    *arguments: str, folder: Path, variables: Mapping[str, str] | None = None, columns: int = 80
) -> Iterator[Terminal]:
    """Run a command in a pseudo terminal for the time of a `with`."""
    made = Terminal(*arguments, folder=folder, variables=variables, columns=columns)
    try:
        yield made
    finally:
        made.close()
    assert "Traceback" not in made.screen, made.screen

"""Commands that are born quickly, for tests: forked by a process that has everything imported (`soak/nursery.py`).

Such a command is a process of its own that runs `strandline` with its arguments, with its own files, locks, threads,
environment and folder. Only the second is saved that Python takes to import what it needs. A test whose claim is about
the command as it is installed has it started (`installed=True`), and so have all where there is no Linux.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Final

from soak.nursery import MOST_BYTES

ROOT: Final = Path(__file__).parents[2]
MODULES: Final = (
    *(
        "strandline._server",
        "strandline.testing",
        "strandline._scripted.model",
        "strandline._logs",
        "strandline._remote.server",
    ),
    *(f"strandline._agents.{name}" for name in ("load", "factory", "self_managed", "function", "multi", "strands")),
    *(f"strandline._cli.{name}" for name in ("address", "complete", "rows", "serve", "stacks")),
    *(f"strandline.{name}" for name in ("_chat.program", "_chat.screen", "_journal.verify", "_journal.sqlite")),
    *("typer._adapters", "rich._emoji_codes", "rich.markdown", "httpx", "httpx_sse", "httpcore", "encodings.idna"),
    *("uvicorn.lifespan.off", "uvicorn.protocols.http.httptools_impl", "anyio._backends._asyncio"),
)
FROM_THE_START: Final = ("PYTHON", "LC_", "LANG")
DEADLINE_S: Final = 60.0
SLICE_S: Final = 0.01


class Newborn:
    """A process that was forked, with what tests use of a `subprocess.Popen`."""

    def __init__(self, nursery: "Nursery", number: int) -> None:
        self.stderr: IO[str] | None = None
        self.pid = 0
        self.returncode: int | None = None
        self._nursery = nursery
        self._number = number

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        self._nursery.hear(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended."""
        end = time.monotonic() + (DEADLINE_S if timeout is None else timeout)
        while self.returncode is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or DEADLINE_S)
            self._nursery.hear(SLICE_S)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended: only its parent knows, and cannot hit another process.

        After SIGSTOP it stands still: what is asked of it then is answered by nobody.
        """
        self._nursery.send({"number": self._number, "signal": number})
        if number == signal.SIGSTOP:
            self._until_stopped()

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(9)

    def _until_stopped(self) -> None:
        end = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end, f"process {self.pid} was not stopped within {DEADLINE_S} s"
            self._nursery.hear(SLICE_S)


class Nursery:
    """What it has forked dies with it, and it with the process that runs the tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._numbers = count()
        self._newborns: dict[int, Newborn] = {}
        self._lock = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "soak.nursery", str(theirs.fileno()), *MODULES],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def born(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], *files: IO[Any] | int
    ) -> Newborn:
        """Have a command forked, with these as stdin, stdout and stderr; return it once it runs."""
        number = next(self._numbers)
        newborn = self._newborns[number] = Newborn(self, number)
        order = {"number": number, "command": command, "folder": str(folder), "environment": dict(environment)}
        self.send(order, *(each if isinstance(each, int) else each.fileno() for each in files))
        end = time.monotonic() + DEADLINE_S
        while not newborn.pid:
            assert time.monotonic() < end, f"not born within {DEADLINE_S} s"
            self.hear(SLICE_S)
        return newborn

    def serving(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Newborn:
        """Have a command forked whose stderr can be read as it is written, and that has nothing else."""
        read_fd, write_fd = os.pipe()
        try:
            newborn = self.born(command, folder, environment, write_fd)
        finally:
            os.close(write_fd)
        newborn.stderr = os.fdopen(read_fd)
        return newborn

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        typed: str | None,
        deadline_s: float,
    ) -> "subprocess.CompletedProcess[str]":
        """Have a command forked with something typed, or with /dev/null to read; return what it wrote in the end."""
        with TemporaryFile("w+") as stdin, TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
            stdin.write(typed or "")
            stdin.seek(0)
            newborn = self.born(command, folder, environment, stdin, stdout, stderr)
            try:
                code = newborn.wait(deadline_s)
            finally:
                newborn.kill()
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(list(command), code, stdout.read(), stderr.read())

    def send(self, order: Mapping[str, Any], *fds: int) -> None:
        """Ask the process for something."""
        socket.send_fds(self._socket, [json.dumps(order).encode()], list(fds))

    def hear(self, at_most_s: float) -> None:
        """Record reports about any of them, waiting up to this long."""
        with self._lock:
            while select.select([self._socket], [], [], at_most_s)[0]:
                received = self._socket.recv(MOST_BYTES)
                assert received, "the nursery has died, and with it all that it has forked"
                news, at_most_s = json.loads(received), 0
                if "pid" in news:
                    self._newborns[news["number"]].pid = news["pid"]
                else:
                    self._newborns.pop(news["number"]).returncode = news["code"]

    def close(self) -> None:
        """End it, and all that it has forked and that still run."""
        self._socket.close()
        self._process.wait(DEADLINE_S)


def nursery(environment: Mapping[str, str]) -> Nursery | None:
    """Return where what has this environment can be born; None where only a start of its own is the same.

    Options of Python and its locale count from its start: each such set has a nursery.
    """
    if sys.platform != "linux":
        return None
    return _nursery(frozenset((name, environment[name]) for name in environment if name.startswith(FROM_THE_START)))


@cache
def _nursery(preloads: frozenset[tuple[str, str]]) -> Nursery:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(FROM_THE_START)}
    made = Nursery({**plain, **dict(preloads)})
    atexit.register(made.close)
    return made

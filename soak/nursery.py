"""Where servers are born quickly: a process that has everything imported, and forks a server whenever it is asked to.

What a kill finds is the same: a process of its own, with its own files, locks and threads, that runs the command
`strandline serve`. Only the second that Python takes to import it, in which nothing happens, is spent once and not for
each server. `Nursery` is the soak's side; run as a module this is the process itself. Its servers die with it.

A command is a JSON document. `{"number": 7, "command": [...]}` forks a server, with its stderr as file, or with all
three of its files; with `folder` and `environment` it is born there; `more` is added to its environment.
`{"number": 7, "signal": 9}` has it signalled. It reports the `pid` of each, and its exit `code` once it has ended.
"""

import asyncio
import atexit
import gc
import json
import os
import random
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from soak.clock import set_clock

MOST_BYTES: Final = 65536
MODULES: Final = ("uvicorn", "soak.target")
"""What is imported before the first birth: the target imports whatever agents need."""


class Newborn:
    """A server that the nursery has forked, as `asyncio.subprocess.Process` shows one that was started."""

    def __init__(self, nursery: "Nursery", number: int, stderr: asyncio.StreamReader) -> None:
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid = 0
        """Its process, 0 until that is reported."""
        self._nursery = nursery
        self._number = number
        self._ended = asyncio.Event()

    def send_signal(self, which: int) -> None:
        """Have a signal sent, unless it has ended: only its parent knows that for sure, and never hits another."""
        self._nursery.send({"signal": which, "number": self._number})

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Return its exit code once it has ended."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def ended(self, code: int) -> None:
        """Note that it has ended."""
        self.returncode = code
        self._ended.set()


class Nursery:
    """`async with` starts it, and ends it with all that it has forked."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = environment
        self._folder = folder
        self._newborns: dict[int, Newborn] = {}

    async def __aenter__(self) -> "Nursery":
        """Start the process; forks wait until it is ready."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "soak.nursery", str(theirs.fileno()), *MODULES),
                cwd=self._folder,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Close the connection, at which the process kills all and ends."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        await self._process.wait()

    async def born(self, number: int, command: Sequence[str], more: dict[str, str] | None = None) -> Newborn:
        """Have a server forked, with `more` in its environment, and return it."""
        read_fd, write_fd = os.pipe()
        reader = asyncio.StreamReader()
        pipe = os.fdopen(read_fd, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        newborn = self._newborns[number] = Newborn(self, number, reader)
        try:
            self.send({"number": number, "command": list(command), "more": more or {}}, write_fd)
        finally:
            os.close(write_fd)
        return newborn

    def send(self, command: dict[str, Any], *fds: int) -> None:
        """Ask the process for something."""
        with suppress(BrokenPipeError):
            socket.send_fds(self._socket, [json.dumps(command).encode()], list(fds))

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := self._socket.recv(MOST_BYTES):
                news = json.loads(data)
                if "code" in news:
                    self._newborns.pop(news["number"]).ended(news["code"])
                else:
                    self._newborns[news["number"]].pid = news["pid"]
            asyncio.get_running_loop().remove_reader(self._socket)
            for newborn in self._newborns.values():  # the nursery has died: so have they, or will
                newborn.ended(-signal.SIGKILL)


# -- the process itself --------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Fork servers and signal them by command; report the exit code of each. Return when no command can come."""
    children: dict[int, int] = {}
    wake, woken = socket.socketpair()
    for each in (wake, woken):
        each.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if wake in ready:
                wake.recv(MOST_BYTES)
                _reap(children, connection)
            if connection not in ready:
                continue
            data, fds, _, _ = socket.recv_fds(connection, MOST_BYTES, 3)
            if not data:
                break
            command = json.loads(data)
            if "command" in command:
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    selector.close()
                    for each in (connection, wake, woken):
                        each.close()
                    _be_born(command, fds)
                children[command["number"]] = pid
                for fd in fds:
                    os.close(fd)
                _report(connection, number=command["number"], pid=pid)
            elif command["number"] in children:
                os.kill(children[command["number"]], command["signal"])
    for pid in children.values():
        os.kill(pid, signal.SIGKILL)


def _reap(children: dict[int, int], connection: socket.socket) -> None:
    for number, pid in list(children.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del children[number]
            _report(connection, number=number, code=os.waitstatus_to_exitcode(status))


def _report(connection: socket.socket, **news: int) -> None:
    with suppress(OSError):
        connection.send(json.dumps(news).encode())


def _be_born(command: dict[str, Any], files: list[int]) -> None:
    """Become the command, in a process that was just forked. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for target, source in enumerate([nothing] * (3 - len(files)) + files):
        os.dup2(source, target)
    for each in {nothing, *files} - {0, 1, 2}:
        os.close(each)
    random.seed()  # else all of them would have the same chance
    if "folder" in command:
        os.chdir(command["folder"])
        os.environ.clear()
        os.environ.update(command["environment"])
    os.environ.update(command.get("more", {}))
    set_clock()
    sys.argv = command["command"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    sys.modules["__main__"].__package__ = None  # a script has none, and is called by its own name
    from strandline.__main__ import main

    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        # What the interpreter does at its end, without returning the memory, piece by piece, of all that it shares.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


if __name__ == "__main__":
    for module in sys.argv[2:]:
        import_module(module)
    gc.freeze()  # what is shared with the newborns is not looked at again, and so stays shared
    serve(socket.socket(fileno=int(sys.argv[1])))

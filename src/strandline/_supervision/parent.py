"""A parent process that holds the listening socket, with servers as its children.

Invariants: the socket stays open while no child serves, so that connections wait in it. A child ends when its parent
does, however that ends. All that happens is handled one at a time. The parent imports neither the target nor the
server.

What follows from the messages and ends of children is for the parents below: `strandline._reload.parent` (one server
after the other) and `strandline._supervision.servers` (several at once).
"""

import asyncio
import json
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, Final

import msgspec

from strandline._exits import EXITED_AT_ONCE, INTERRUPTED
from strandline._supervision.orders import GO, STOP, Orders

REST_S: Final = 0.5
"""How long to wait for the rest of what a child has said when it has ended."""
PROGRAM: Final = "from strandline._cli import main; main()"


@dataclass(eq=False, slots=True)
class Child:
    """A server that is loading, waiting for its turn, serving or stopping."""

    process: asyncio.subprocess.Process
    link: socket.socket
    begun: float
    loaded: bool = False
    ready: bool = False
    stopping: bool = False
    listening: asyncio.Task[None] | None = None
    """Hears it until its end."""

    @property
    def is_there(self) -> bool:
        """Whether its process is not known to have ended."""
        return self.process.returncode is None

    def serve(self) -> None:
        """Have it serve."""
        self._send(GO)

    def stop(self) -> None:
        """Stop it cleanly; the socket stays open for others."""
        if not self.stopping and self.is_there:
            self.stopping = True
            self.process.terminate()

    def stop_with_all(self) -> None:
        """Stop it cleanly; until its end it refuses what arrives at the socket."""
        self.stopping = True
        self._send(STOP)

    def _send(self, order: bytes) -> None:
        with suppress(OSError):  # (it has ended)
            self.link.sendall(order)


class Parent(ABC):
    """One supervision, until `code` is set. `say` prints a line for people."""

    def __init__(self, listener: socket.socket, say: Callable[[str], None]) -> None:
        self._listener = listener
        self._say = say
        self._children: set[Child] = set()
        self._happened: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._code: int | None = None
        self._stopping = False
        self._program = PROGRAM

    async def life(self) -> int:
        """Start the first child, and handle events one at a time. Return the exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._stop_requested)
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)  # (it has no stacks to show, and would end)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # (else it was started to outlive its terminal)
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        try:
            await self._begin()
            while self._code is None:
                act = await self._happened.get()
                if asyncio.iscoroutine(done := act()):
                    await done
            return self._code
        finally:
            for child in self._children:
                if child.is_there:
                    child.process.kill()
                if child.listening is not None:
                    await child.listening
                child.link.close()

    @abstractmethod
    async def _begin(self) -> None:
        """Start the first child."""

    @abstractmethod
    def _heard(self, child: Child, message: dict[str, Any]) -> None:
        """Handle a message of a child."""

    @abstractmethod
    async def _ended(self, child: Child, code: int) -> None:
        """Handle the end of a child, wanted or not."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop all children; set the code if there are none."""

    # -- signals -----------------------------------------------------------------------------------

    def _hung_up(self) -> None:
        """Stop cleanly: the terminal is gone."""
        self._terminated()

    def _terminated(self) -> None:
        """Stop cleanly, however often it is requested: supervisors repeat signals."""
        if not self._stopping:
            self._stop_requested()

    def _stop_requested(self) -> None:
        """Stop cleanly the first time, at once the second time: the journal is safe either way."""
        if self._stopping:
            self._say(EXITED_AT_ONCE)
            for child in self._children:
                if child.is_there:
                    child.process.kill()
            self._end(INTERRUPTED)
            return
        self._stopping = True
        self._stop()

    def _end(self, code: int) -> None:
        """End with this code, after what has happened before."""
        self._happened.put_nowait(lambda: setattr(self, "_code", code))

    # -- children ----------------------------------------------------------------------------------

    async def _start(self, arguments: Sequence[str], orders: Orders, path: Sequence[str] | None = None) -> Child:
        """Start a child with the arguments of `strandline serve`. It searches modules in `path`, if that is given."""
        ours, theirs = socket.socketpair()
        descriptors = (self._listener.fileno(), theirs.fileno())
        where = "" if path is None else f"import sys; sys.path[:] = {list(path)}; "
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # (like the installed command: the current folder must not shadow modules)
                "-c",
                where + self._program,
                "serve",
                *arguments,
                "--handed-over",
                ":".join(map(str, descriptors)),
                pass_fds=descriptors,
            )
        child = Child(process, ours, monotonic())
        self._children.add(child)
        with suppress(OSError):  # (it has ended, as will be noticed)
            ours.sendall(msgspec.json.encode(orders) + b"\n")
        child.listening = self._attend(self._listen_to(child))
        return child

    def _attend(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _listen_to(self, child: Child) -> None:
        """Queue all messages of a child, and then its end."""
        reading = asyncio.create_task(self._read(child))
        code = await child.process.wait()
        await asyncio.wait([reading], timeout=REST_S)  # (a program that it left may keep the link open)
        reading.cancel()
        self._happened.put_nowait(partial(self._gone, child, code))

    async def _read(self, child: Child) -> None:
        reader, writer = await asyncio.open_connection(sock=child.link.dup())
        try:
            with suppress(OSError):
                async for line in reader:
                    self._happened.put_nowait(partial(self._heard, child, json.loads(line)))
        finally:
            writer.close()

    async def _gone(self, child: Child, code: int) -> None:
        child.link.close()
        self._children.discard(child)
        await self._ended(child, code)

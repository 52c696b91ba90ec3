"""A worker's process: started, listened to until it has loaded what it serves, ended."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Final

from strandline._encoding import encode_messages
from strandline._workers import messages as m
from strandline._workers.channel import Channel, Frames, frame
from strandline._workers.reports import reports
from strandline.errors import SetupError, TargetError

LEAVE_S: Final = 1.0
"""How long a worker that is told to leave gets for it."""
LOOK_EVERY_S: Final = 0.1
"""How often it is looked whether a process has ended, where the system does not tell."""


class WorkerProcess:
    """One process. Start it in the main thread: it lives no longer than the thread that has started it."""

    def __init__(self, setup: m.Setup) -> None:
        ours, theirs = socket.socketpair()
        # With this process's path from its first import on: `-m` would look into the working folder first, where a
        # `signal.py` of the user's may be.
        program = f"import sys; sys.path[:] = {setup.path}; from strandline._workers.__main__ import main; main()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        self._last_word = ours.dup()
        """For what is said when there is no loop any more."""
        self._frames = Frames()
        self.pid = self._process.pid
        with suppress(OSError):  # (that it is dead already is noticed where it is read)
            ours.sendall(frame(encode_messages(setup)))

    def loaded(self) -> m.Loaded:
        """Wait until it has loaded what it serves. Raises `TargetError`."""
        while data := self._received():
            for each in self._frames.feed(data):
                match reports(each):
                    case [m.Loaded() as loaded]:
                        return loaded
                    case [m.LoadFailed(why)]:
                        raise TargetError(why)
        self.kill()
        raise SetupError(
            f"a worker process has ended while it loaded what it serves: {self._how(self._process.wait())}"
        )

    async def connect(self, channel: Channel) -> None:
        """Have the loop that runs listen to it."""
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=self._socket)

    def frames(self) -> Frames:
        """Return what has come before somebody listened."""
        return self._frames

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    async def ended(self) -> str:
        """Wait until nothing of it is left; return how it ended, for people."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            while self._process.poll() is None:  # noqa: ASYNC110 (no event tells it here)
                await asyncio.sleep(LOOK_EVERY_S)
        else:
            loop, readable = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        self._last_word.close()
        return self._how(self._process.wait())

    def leave(self) -> None:
        """Tell it to leave, whether a loop runs here or not."""
        with suppress(OSError):
            self._last_word.setblocking(False)
            self._last_word.sendall(frame(encode_messages(m.Exit())))
        self._last_word.close()

    def gone(self, within_s: float) -> None:
        """Return when it is gone; after so many seconds it is killed."""
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._last_word.close()
        self._socket.close()

    def _received(self) -> bytes:
        with suppress(ConnectionError):  # (it has ended without a look at what it was sent)
            return self._socket.recv(1 << 16)
        return b""

    @staticmethod
    def _how(code: int) -> str:
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
        return f"ended by signal {-code}"

"""A worker's process: its start, its first report, and its end."""

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

EXIT_S: Final = 1.0
"""How long a worker gets to exit."""
POLL_EVERY_S: Final = 0.1
"""How often to check whether a process has ended, on systems without `pidfd`."""


class WorkerProcess:
    """One process. Start it in the main thread: it ends with the thread that started it."""

    def __init__(self, setup: m.Setup) -> None:
        ours, theirs = socket.socketpair()
        # `-m` would search the working folder first, where the user may have a `signal.py`.
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
        self._exit_socket = ours.dup()
        """Sends `Exit` when no loop runs any more."""
        self._frames = Frames()
        self.pid = self._process.pid
        with suppress(OSError):  # (the reader notices that it is dead)
            ours.sendall(frame(encode_messages(setup)))

    def loaded(self) -> m.Loaded:
        """Wait until it has loaded its target. Raises `TargetError`."""
        while data := self._received():
            for each in self._frames.feed(data):
                match reports(each):
                    case [m.Loaded() as loaded]:
                        return loaded
                    case [m.LoadFailed(why)]:
                        raise TargetError(why)
        self.kill()
        raise SetupError(f"a worker process ended while it loaded its target: {self._how(self._process.wait())}")

    async def connect(self, channel: Channel) -> None:
        """Connect it to the running loop."""
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=self._socket)

    def frames(self) -> Frames:
        """Return the frames that arrived before it was connected."""
        return self._frames

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()

    async def ended(self) -> str:
        """Wait until it is gone; return how it ended, for people."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            while self._process.poll() is None:  # noqa: ASYNC110 (no event exists here)
                await asyncio.sleep(POLL_EVERY_S)
        else:
            loop, readable = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(descriptor, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        self._exit_socket.close()
        return self._how(self._process.wait())

    def request_exit(self) -> None:
        """Send `Exit`, with or without a running loop."""
        with suppress(OSError):
            self._exit_socket.setblocking(False)
            self._exit_socket.sendall(frame(encode_messages(m.Exit())))
        self._exit_socket.close()

    def wait(self, within_s: float) -> None:
        """Wait until it is gone; kill it after `within_s` seconds."""
        try:
            self._process.wait(max(0.0, within_s))
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._exit_socket.close()
        self._socket.close()

    def _received(self) -> bytes:
        with suppress(ConnectionError):  # (it ended without reading its orders)
            return self._socket.recv(1 << 16)
        return b""

    @staticmethod
    def _how(code: int) -> str:
        if code >= 0:
            return f"exit code {code}"
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
        return f"ended by signal {-code}"

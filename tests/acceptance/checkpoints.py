"""Follows and holds the code of a server under test: `Checkpoints`.

The agents of these tests (`acceptance.targets`) report every step over a socket, and take the next one when
they are released. So a test knows exactly where a run is, holds it there, kills the server, and has a record of
what was done, in order, that no crash can cut short: a step is written down before its code goes on.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

DEADLINE_S: Final = 30.0
VARIABLE: Final = "CHECKPOINTS"


class Checkpoints:
    """The steps that were reported, and the gates that hold them. All methods may be called from any thread."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._changed = threading.Condition()
        self._steps: list[str] = []
        self._held: set[str] = set()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, name="checkpoints", daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say where the code under test reports."""
        return {VARIABLE: str(self._listener.getsockname()[1])}

    @property
    def steps(self) -> list[str]:
        """All steps so far, in the order in which they were begun."""
        with self._changed:
            return list(self._steps)

    def hold(self, *steps: str) -> None:
        """Let nobody pass these steps from now on."""
        with self._changed:
            self._held.update(steps)

    def release(self, *steps: str) -> None:
        """Let everybody pass these steps, now and from now on; without any, all steps."""
        with self._changed:
            self._held.difference_update(steps or set(self._held))
            self._changed.notify_all()

    def reached(self, *steps: str, times: int = 1) -> None:
        """Return when each of these steps has been begun `times` times. Fails when that takes too long."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: all(self._steps.count(step) >= times for step in steps), timeout=DEADLINE_S
            ):
                raise AssertionError(f"{steps} not reached {times} times within {DEADLINE_S} s, but {self._steps}")

    def close(self) -> None:
        """Let go of everybody."""
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
        self._listener.close()
        with self._changed:
            for connection in self._connections:
                connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="checkpoint", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.append(connection)
        try:
            with connection.makefile() as lines:
                line = lines.readline()
            if not line.endswith("\n"):
                return  # the server was killed between connecting and reporting
            step = line.rstrip("\n")
            with self._changed:
                self._steps.append(step)
                self._changed.notify_all()
                self._changed.wait_for(lambda: step not in self._held)
            connection.sendall(b"go on\n")
        except OSError:  # the server was killed, or the test is over
            pass
        finally:
            connection.close()


@contextmanager
def checkpoints() -> Iterator[Checkpoints]:
    """Give checkpoints for the time of a `with`."""
    made = Checkpoints(socket.create_server(("127.0.0.1", 0), backlog=512))
    try:
        yield made
    finally:
        made.close()


# -- in the server's process --------------------------------------------------------------------------


def pass_step(step: str) -> None:
    """Report that `step` begins and block this thread until it may."""
    with socket.create_connection(("127.0.0.1", int(os.environ[VARIABLE]))) as connection:
        connection.sendall(f"{step}\n".encode())
        with connection.makefile() as lines:
            lines.readline()

"""The socket that a server listens on: made from the settings, or handed in by a process that holds it."""

import os
import socket
import weakref

from strandline._settings import Settings
from strandline.errors import SetupError

BACKLOG = 2048
"""How many connections may wait to be accepted; the system may allow fewer."""


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises `SetupError` that says what to do if there is none to be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. Name another with"
            " --port (0 lets the system choose), or stop what listens there"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def inherited(descriptor: int) -> socket.socket:
    """Return the listening socket that another process made and handed to this one; no child of this one gets it."""
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def close_in_forks(held: socket.socket) -> None:
    """Have processes that user code forks have nothing in place of a socket, for as long as this process has it.

    A pool of processes outlives a server that was killed: through it the address would stay in use.
    """
    kept = weakref.ref(held)

    def part() -> None:
        if (ours := kept()) is not None and ours.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, ours.fileno(), inheritable=False)
            os.close(nothing)

    os.register_at_fork(after_in_child=part)

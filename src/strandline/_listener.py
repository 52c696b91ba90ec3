"""The listening socket: created from the settings, or inherited from another process."""

import os
import socket
import weakref

from strandline._settings import Settings
from strandline.errors import SetupError

BACKLOG = 2048
"""How many connections may wait to be accepted; the system may allow fewer."""


def listen(settings: Settings) -> socket.socket:
    """Return a listening socket. Raises `SetupError` with what to do."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        raise SetupError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}. Choose another with"
            " --port (0: the system chooses), or stop the program that listens there"
        ) from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def inherited(descriptor: int) -> socket.socket:
    """Return a listening socket from another process. Children of this process do not inherit it."""
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def close_in_forks(listener: socket.socket) -> None:
    """Replace a socket, while it is open, by /dev/null in processes that user code forks.

    A forked process pool may outlive a killed server, and would keep the address in use.
    """
    reference = weakref.ref(listener)

    def replace() -> None:
        if (ours := reference()) is not None and ours.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, ours.fileno(), inheritable=False)
            os.close(nothing)

    os.register_at_fork(after_in_child=replace)

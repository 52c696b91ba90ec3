"""Ports that belong to the tests of this process: for servers that must be told one, and where nobody answers.

A test that can lets the server choose (port 0) and reads what it says.
"""

import random
import socket
from contextlib import ExitStack, suppress
from typing import Final

FROM, TO = 20_000, 32_000
"""Below those that the system gives to connections."""

_HELD: Final[list[socket.socket]] = []
"""One bound socket for each port, until this process ends. None listens."""


def reserved_port(count: int = 1) -> int:
    """Return the first of `count` ports in a row that no one else gets.

    Nobody answers there until a program that is told the port listens. It may stop and listen again: it needs only
    SO_REUSEADDR, as nearly all servers set. The system gives a held port to nobody who lets it choose, and nobody else
    can hold it.
    """
    while True:
        first = random.randrange(FROM, TO - count)
        with suppress(OSError), ExitStack() as closing:
            held = [_bound(first + number, closing) for number in range(count)]
            closing.pop_all()
            _HELD.extend(held)
            return first


def _bound(port: int, closing: ExitStack) -> socket.socket:
    """Return a socket that is bound to a port. Raises `OSError` if another one is, even if it would share it."""
    bound = closing.enter_context(socket.socket())
    bound.bind(("127.0.0.1", port))
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return bound

"""The child's end of `strandline serve --reload`: what it was handed, when its turn is, and that its parent lives.

A child loads its target while its predecessor still serves, says so, and waits for its turn. Parent and child share a
pair of sockets: as soon as the parent is gone, however it ended, the child reads the end of it and stops.
"""

import json
import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Final

from strandline._listener import inherited
from strandline._server import Handover

GO: Final = b"g"
"""What the parent sends when it is the child's turn."""


class Child:
    """This process, as the child of one that reloads. Make it before anything slow is imported."""

    def __init__(self, descriptors: str) -> None:
        """`descriptors` are the numbers of the listening socket and of the link to the parent, `N:M`."""
        listener, link = map(int, descriptors.split(":"))
        self._listener = inherited(listener)
        self._link = socket.socket(fileno=link)
        self._link.set_inheritable(False)
        self._turn = threading.Event()
        # Ctrl-C, and the end of the terminal, reach every process of it, in any order with what the parent makes of
        # them: SIGTERM, or SIGKILL the second time.
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda *_: None)
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()

    def quieten(self) -> None:
        """Log warnings only: what a server says of each start and stop, the parent says in its own words."""
        logging.getLogger("strandline").setLevel(logging.WARNING)

    def wait_for_turn(self) -> Handover:
        """Tell that the target is loaded; return when no predecessor is left."""
        self._send(event="loaded")
        self._turn.wait()
        return Handover(
            listener=self._listener,
            ready=lambda runs: self._send(event="ready", runs=runs),
            stopping=lambda running, waiting: self._send(event="stopping", running=running, waiting=waiting),
        )

    def announce(self, line: str) -> None:
        """Tell the parent the line for people."""
        self._send(event="welcome", line=line)

    def _send(self, **message: object) -> None:
        with suppress(OSError):  # (a parent that is gone is noticed where it is read from)
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _watch_parent(self) -> None:
        with suppress(OSError):
            while self._link.recv(1) == GO:
                self._turn.set()
        if not self._turn.is_set():
            os._exit(0)  # it has served nobody
        os.kill(os.getpid(), signal.SIGTERM)

"""The child's side of `strandline serve --reload`: its inherited sockets, its turn, and the watch on its parent.

A child loads its target while its predecessor still serves, reports that, and waits for its turn. Parent and child
share a pair of sockets: when the parent ends, for any reason, the child sees the end of the stream and stops.
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
"""Sent by the parent when the child may serve."""


class Child:
    """This process as the child of a reloading parent. Create it before slow imports."""

    def __init__(self, descriptors: str) -> None:
        """`descriptors` are the numbers of the listening socket and of the link to the parent, `N:M`."""
        listener, link = map(int, descriptors.split(":"))
        self._listener = inherited(listener)
        self._link = socket.socket(fileno=link)
        self._link.set_inheritable(False)
        self._turn = threading.Event()
        # Ctrl-C, and the end of the terminal, reach every process of it, before or after the parent's own signal:
        # SIGTERM, or SIGKILL the second time.
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda *_: None)
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()

    def quieten(self) -> None:
        """Log warnings only: the parent reports starts and stops itself."""
        logging.getLogger("strandline").setLevel(logging.WARNING)

    def wait_for_turn(self) -> Handover:
        """Report that the target is loaded; return when the predecessor has ended."""
        self._send(event="loaded")
        self._turn.wait()
        return Handover(
            listener=self._listener,
            ready=lambda runs: self._send(event="ready", runs=runs),
            stopping=lambda running, waiting: self._send(event="stopping", running=running, waiting=waiting),
        )

    def announce(self, line: str) -> None:
        """Send the parent a line for people."""
        self._send(event="welcome", line=line)

    def _send(self, **message: object) -> None:
        with suppress(OSError):  # (the reading thread notices that the parent is gone)
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _watch_parent(self) -> None:
        with suppress(OSError):
            while self._link.recv(1) == GO:
                self._turn.set()
        if not self._turn.is_set():
            os._exit(0)  # it has served nobody
        os.kill(os.getpid(), signal.SIGTERM)

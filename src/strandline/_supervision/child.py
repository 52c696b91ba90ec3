"""The child's side of a parent that holds the listening socket: its orders, its turn, and the watch on its parent.

Parent and child share a pair of sockets: when the parent ends, for any reason, the child sees the end of the stream and
stops. Under `--reload` a child loads its target while its predecessor still serves, reports that, and waits for its
turn.
"""

import json
import logging
import os
import signal
import socket
import threading
from contextlib import suppress

import msgspec

from strandline._listener import close_in_forks, inherited
from strandline._server import Handover
from strandline._settings import Settings
from strandline._supervision.orders import GO, STOP, Orders


class Child:
    """This process as the child of a parent. Create it before slow imports."""

    def __init__(self, descriptors: str) -> None:
        """`descriptors` are the numbers of the listening socket and of the link to the parent, `N:M`."""
        listener, link = map(int, descriptors.split(":"))
        self._listener = inherited(listener)
        self._link = socket.socket(fileno=link)
        self._link.set_inheritable(False)
        close_in_forks(self._link)
        # Ctrl-C, and the end of the terminal, reach every process of it, before or after the parent's own signal:
        # SIGTERM, or SIGKILL the second time.
        for each in (signal.SIGINT, signal.SIGHUP):
            signal.signal(each, lambda *_: None)
        self._from_parent = self._link.makefile("rb")
        self._orders = msgspec.json.decode(self._from_parent.readline() or b"{}", type=Orders)
        self._turn = threading.Event()
        self._all_stop = False
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()

    @property
    def settings(self) -> Settings | None:
        """The settings in force, as the parent found them; None: find them."""
        return self._orders.settings

    def quieten(self) -> None:
        """Log warnings only: the parent reports starts and stops itself."""
        logging.getLogger("strandline").setLevel(logging.WARNING)

    def wait_for_turn(self) -> Handover:
        """Report that the target is loaded; return when the predecessor has ended."""
        self._send(event="loaded")
        self._turn.wait()
        shares = self._orders.settings is not None
        return Handover(
            listener=self._listener,
            ready=lambda runs: self._send(event="ready", runs=runs),
            stopping=lambda running, waiting: self._send(event="stopping", running=running, waiting=waiting),
            answers_while_starting=self._orders.answers_while_starting,
            others_accept=lambda: not self._all_stop,
            idle=(lambda idle: self._send(event="idle", idle=idle)) if shares else None,
        )

    def announce(self, line: str) -> None:
        """Send the parent a line for people."""
        self._send(event="welcome", line=line)

    def _send(self, **message: object) -> None:
        with suppress(OSError):  # (the reading thread notices that the parent is gone)
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _watch_parent(self) -> None:
        with suppress(OSError):
            while (order := self._from_parent.read(1)) in (GO, STOP):
                if order == STOP:
                    self._all_stop = True
                    break
                self._turn.set()
        if not self._turn.is_set():
            os._exit(0)  # it has served nobody
        os.kill(os.getpid(), signal.SIGTERM)

"""Ends a server of the race with the command that started it, even after `kill -9` of the command.

A server's standard input is a pipe from the command; its end means that the command is gone.
"""

import os
import threading


def exit_with_parent() -> None:
    """End this process at once when its standard input ends."""
    threading.Thread(target=_wait, name="parent-watch", daemon=True).start()


def _wait() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)

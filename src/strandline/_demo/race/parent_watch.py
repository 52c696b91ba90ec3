"""What ties a server of the race to the command that started it, so that none outlives it, not even `kill -9`.

A server's standard input is a pipe whose other end the command holds: at its end nobody wants the server any more.
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

"""An agent whose server is killed while a file is uploaded, at the place that the variable KILLED names.

`renamed`: the content is at its place, and no record names it yet. `committed`: nobody has the answer yet.
"""

import os
import signal
from typing import Any

from acceptance.targets.remembers import make_agent
from strandline._files.store import Incoming
from strandline._http.routes import files

__all__ = ["make_agent"]

PLACE = os.environ.get("KILLED")
keep_in = Incoming.keep_in


def dies(*_: Any) -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_when_renamed(incoming: Incoming, folder_name: str, name: str) -> None:
    """Bring the content to its place, and end this process."""
    keep_in(incoming, folder_name, name)
    dies()


if PLACE == "renamed":
    Incoming.keep_in = dies_when_renamed  # type: ignore[method-assign, assignment]
if PLACE == "committed":
    files.changed = dies  # type: ignore[attr-defined, assignment]

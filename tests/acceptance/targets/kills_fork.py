"""An agent whose server is killed while it forks a session, at the place that the variable KILLED names.

`copied`: the messages are copied, in a transaction that is not committed. `committed`: nobody has the answer yet.
"""

import os
import signal
from typing import Any

from acceptance.targets.remembers import make_agent
from strandline._http.routes import forks
from strandline._journal.changes import CopyHistory
from strandline._journal.sqlite_rows import SqliteRows

__all__ = ["make_agent"]

PLACE = os.environ.get("KILLED")
copied = SqliteRows._copied


def dies(*_: Any) -> None:
    """End this process at once."""
    os.kill(os.getpid(), signal.SIGKILL)


def dies_when_copied(rows: SqliteRows, row: CopyHistory) -> int:
    """Copy the messages, and end this process."""
    assert copied(rows, row) == row.count
    dies()
    return row.count


if PLACE == "copied":
    SqliteRows._copied = dies_when_copied  # type: ignore[method-assign, assignment]
if PLACE == "committed":
    forks.changed = dies  # type: ignore[attr-defined, assignment]

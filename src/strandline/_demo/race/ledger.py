"""The ledger: the agent's actions with their times, one JSON line each, in a file that outlives its server.

The agent writes it on every server, so no server's word is needed. Times are from the machine's monotonic clock, which
all processes share.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "STRANDLINE_DEMO_RACE"
"""The variable with the folder of ledgers and gates."""


@dataclass(frozen=True, slots=True)
class Step:
    """An action of the agent for a seat: `begun`, `tool`, `ended` or `failed`, in the invocation `invocation`."""

    at: float
    what: str
    seat: int
    invocation: str = ""


def write(folder: Path, session_id: str, what: str, seat: int, invocation: str = "") -> None:
    """Append a step; it is in the file on return, whatever is killed next."""
    line = json.dumps({"at": time.monotonic(), "what": what, "seat": seat, "invocation": invocation}) + "\n"
    file = os.open(folder / f"{session_id}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(folder: Path, session_id: str) -> Sequence[Step]:
    """Return the steps so far, in order."""
    file = folder / f"{session_id}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [Step(**json.loads(line)) for line in lines]


def gate(folder: Path, session_id: str) -> Path:
    """Return the file whose existence lets the model of a session answer."""
    return folder / f"{session_id}.go"


def killed(folder: Path) -> Path:
    """Return the file whose existence says that the server was killed."""
    return folder / "killed"

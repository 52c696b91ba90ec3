"""The ledger: what the agent did and when, one JSON line a step, in a file that outlives its server.

The agent writes it, whichever server runs it, so nobody has to believe a server. Times are of the machine's monotonic
clock, which is one for all processes.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "STRANDLINE_DEMO_RACE"
"""Where the folder of ledgers and gates stands for the agent."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that the agent did for a seat: `begun`, `tool`, `ended` or `failed`, in the invocation `invocation`."""

    at: float
    what: str
    seat: int
    invocation: str = ""


def write(folder: Path, session_id: str, what: str, seat: int, invocation: str = "") -> None:
    """Add a step; it is in the file when this returns, whoever is killed next."""
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
    """Return the file that lets the model of a session answer, once it is there."""
    return folder / f"{session_id}.go"


def killed(folder: Path) -> Path:
    """Return the file that tells a slow tool that its server has been killed, once it is there."""
    return folder / "killed"

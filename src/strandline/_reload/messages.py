"""What the parent tells people, in words: files, ends, and what becomes of runs."""

import signal
from pathlib import Path

from strandline._exits import EXHAUSTED


def display_path(path: Path, folder: Path) -> str:
    """Return how a file is called: seen from `folder`, if it is in it."""
    return str(path.relative_to(folder)) if folder in path.parents else str(path)


def describe_exit(code: int) -> str:
    """Say how a server has ended."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return "too many runs that cannot be stopped" if code == EXHAUSTED else f"exit code {code}"


def executing(runs: int) -> str:
    """Say how many runs execute."""
    return "1 run executes" if runs == 1 else f"{runs} runs execute"


def unfinished(running: int, waiting: int, grace_s: float) -> list[str]:
    """Say what becomes of the runs that a server has when it stops for its successor."""
    lines = []
    if running:
        lines.append(f"{executing(running)}: {grace_s:g} s to finish, then the new code goes on")
    if waiting:
        lines.append(f"{'1 run waits' if waiting == 1 else f'{waiting} runs wait'} for the new code")
    return lines


def resumed(runs: int) -> str:
    """Say how many runs a server has taken up from the one before it."""
    match runs:
        case 0:
            return ""
        case 1:
            return " 1 run goes on, from its last finished round"
        case _:
            return f" {runs} runs go on, each from its last finished round"

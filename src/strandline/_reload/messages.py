"""The parent's messages for people: files, and the state of runs."""

from pathlib import Path


def display_path(path: Path, folder: Path) -> str:
    """Return a path relative to `folder`, if it is inside."""
    return str(path.relative_to(folder)) if folder in path.parents else str(path)


def executing(runs: int) -> str:
    """Return how many runs execute."""
    return "1 run executes" if runs == 1 else f"{runs} runs execute"


def unfinished(running: int, waiting: int, grace_s: float) -> list[str]:
    """Return lines about the unfinished runs of a server that stops for its successor."""
    lines = []
    if running:
        lines.append(f"{executing(running)}: {grace_s:g} s to finish, then the new code continues")
    if waiting:
        lines.append(f"{'1 run waits' if waiting == 1 else f'{waiting} runs wait'} for the new code")
    return lines


def resumed(runs: int) -> str:
    """Return how many runs a server has resumed from its predecessor."""
    match runs:
        case 0:
            return ""
        case 1:
            return " 1 run resumes from its last checkpoint"
        case _:
            return f" {runs} runs resume, each from its last checkpoint"

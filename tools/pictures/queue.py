"""A queue under load, drawn from the times of real runs in `queue.json` (`tools/pictures/measure.py` makes it)."""

import json
from pathlib import Path
from typing import Any, Final

from tools.pictures.drawing import Drawing

MEASURED: Final = Path(__file__).with_name("queue.json")
LEFT, RIGHT, ROW = 96, 616, 24
KINDS = ("work", "work2", "work3")


def draw() -> str:
    """Return the picture."""
    runs: list[dict[str, Any]] = json.loads(MEASURED.read_text())
    sessions = list(dict.fromkeys(run["session"] for run in runs))
    end_s = max(run["ended_s"] for run in runs)
    top, gap = 58, 14
    height = top + len(runs) * ROW + len(sessions) * gap + 40
    picture = Drawing(height, f"{len(runs)} requests to {len(sessions)} sessions: each session runs one at a time")
    scale = (RIGHT - LEFT) / end_s

    picture.box(LEFT, 18, 26, 14, "wait", 3)
    picture.text(LEFT + 34, 30, "waits", "small", "start")
    for place, kind in enumerate(KINDS[: len(sessions)]):
        picture.box(LEFT + 96 + place * 20, 18, 16, 14, kind, 3)
    picture.text(LEFT + 104 + len(sessions) * 20, 30, "executes", "small", "start")
    bottom = height - 34
    tick_s = next(each for each in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0) if end_s / each <= 9)
    for number in range(int(end_s / tick_s) + 1):
        x = LEFT + number * tick_s * scale
        picture.path(f"M{x:.1f} {top - 12}V{bottom}", arrow=False, kind="faint")
        picture.text(x, bottom + 18, f"{number * tick_s:g} s", "small")
    y = float(top)
    for session, kind in zip(sessions, KINDS, strict=False):
        own = [run for run in runs if run["session"] == session]
        picture.text(LEFT - 14, y + len(own) * ROW / 2 + 2, session, "strong", "end")
        for run in own:
            came, began, ended = (LEFT + run[when] * scale for when in ("came_s", "began_s", "ended_s"))
            picture.box(came, y, max(began - came, 0), ROW - 6, "wait", 3)
            picture.box(began, y, max(ended - began, 2), ROW - 6, kind, 3)
            y += ROW
        y += gap
    return picture.svg()

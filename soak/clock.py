"""A clock that is off: what a server and its workers take for the time of day.

Covers what Python programs read as `time.time()` and `time.time_ns()`, and our own clock (`strandline._clock`): times
that are stored, deadlines, the times of messages between servers, logs. Covers neither the monotonic clocks,
which no machine sets, nor `datetime.now()` and other code in C, nor the database, which has a clock of its own.
"""

import os
import sys
import time
from pathlib import Path
from typing import Final

VARIABLE: Final = "SOAK_CLOCK_S"
"""The environment variable that says by how many seconds the clock is off."""
FOLDER: Final = Path(__file__).parent / "clocks"
"""On the path of Python's modules, it has every interpreter that starts set its clock."""


def environment(off_s: float, paths: str) -> dict[str, str]:
    """Return what makes interpreters have a clock that is off; `paths` is the PYTHONPATH that they have besides."""
    return {VARIABLE: str(off_s), "PYTHONPATH": os.pathsep.join([str(FOLDER), paths])}


def set_clock() -> None:
    """Set the clock of this process as its environment says."""
    off_s = float(os.environ.get(VARIABLE, "0"))
    if not off_s:
        return
    now, now_ns, off_ns = time.time, time.time_ns, round(off_s * 1e9)
    time.time = lambda: now() + off_s
    time.time_ns = lambda: now_ns() + off_ns
    if (loaded := sys.modules.get("strandline._clock")) is not None:
        loaded.SystemClock.now = staticmethod(time.time)

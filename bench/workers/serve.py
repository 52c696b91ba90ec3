"""`python -m bench.workers.serve N own|inline ARGUMENTS OF strandline serve`: a server with N workers; 0: as it is.

`inline`: the serving process has no agent loop, its one loop talks to the workers; `inline pinned`: each worker has a
core of its own, too. `SIGUSR2` has it print the processor time of each thread and of all workers, as one line of JSON.
"""

import json
import os
import signal
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import strandline.agents.load as load
import strandline.server as server
from bench.workers.parent import WorkersTarget
from strandline.cli import main
from strandline.engine.loops import Load
from strandline.testing.virtual import InlineLoops

WORKERS, WHERE = int(sys.argv[1]), sys.argv[2]
TARGETS: list[WorkersTarget] = []


def cpu_s(pid: int | str, thread: int | str) -> float:
    """Return the processor time of a thread."""
    return int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9


def tell(*_: object) -> None:
    """Print all processor times."""
    names = {each.native_id: each.name.split("_")[0] for each in threading.enumerate()}
    told: defaultdict[str, float] = defaultdict(float)
    for tid in os.listdir("/proc/self/task"):
        told[names.get(int(tid), "other")] += cpu_s("self", tid)
    for target in TARGETS:
        for end in target.ends:
            pid = end.process.pid
            told["workers"] += sum(cpu_s(pid, tid) for tid in os.listdir(f"/proc/{pid}/task"))
    sys.stdout.write(f"\nTIMES {json.dumps(told)}\n")
    sys.stdout.flush()


class Inline(InlineLoops):
    """The loops of tests, on a real one."""

    def load(self) -> Load:
        return Load()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, tell)
    if WORKERS:
        original = load.load_target

        def load_target(text: str, *, history: str = "journal") -> Any:
            TARGETS.append(WorkersTarget(text, original(text, history=history), WORKERS, pinned="pinned" in WHERE))
            return TARGETS[-1]

        load.load_target = load_target
        if WHERE.startswith("inline"):
            setattr(server, "build_loops", lambda *_: Inline())  # noqa: B010
    sys.argv[1:] = sys.argv[3:]
    main()

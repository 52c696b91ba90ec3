"""`strandline serve TARGET`, step by step, with the time after each: `python -m bench.start TARGET STARTED`.

STARTED is the time (seconds since the epoch) at which this process was begun. It takes the steps of the command in
the command's order, with the interpreter of the caller; writes them as JSON, then stops itself.
"""

import json
import os
import signal
import sys
import time

STEPS: list[tuple[str, float]] = []
BEFORE = {"before": float(sys.argv[2])}


def step(name: str) -> None:
    """Note that what is called so has just been finished."""
    now = time.time()
    STEPS.append((name, now - BEFORE["before"]))
    BEFORE["before"] = now


def main() -> None:
    """Take the steps."""
    step("Python itself")
    import strandline._cli  # noqa: F401

    step("imports: the command")
    from strandline._config import resolve

    resolved = resolve({"port": "0", "journal": "sqlite:journal.db"}, os.environ)
    step("settings")
    from strandline._agents.load import load_target
    from strandline._engine.service import Service
    from strandline._server import run

    step("imports: the server")
    target = load_target(sys.argv[1])
    step("imports: the target, with its framework")
    begin = Service.start

    async def begun(service: Service) -> None:
        step("listen, build, what a factory makes")
        await begin(service)
        step("journal: open, migrate, recover")

    Service.start = begun  # type: ignore[method-assign, assignment]

    def ready(line: str) -> None:
        step("until it says so")
        os.kill(os.getpid(), signal.SIGTERM)

    run(target, resolved.settings, announce=ready)
    print(json.dumps(STEPS))


if __name__ == "__main__":
    main()

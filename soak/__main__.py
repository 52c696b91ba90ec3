"""`python -m soak --kills 1000 --seed 7`: soak a real server and judge it. Exit code 1 if anything was wrong.

A seed gives the same messages, kinds and instants again; real time makes what comes of them similar, not the same.
Ctrl-C ends the killing and judges what was done until then. A second one, or SIGTERM, ends the servers and their
database at once, and judges nothing.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from soak.several import SeveralTrial
from soak.trial import Numbers, Trial
from tools.postgres import why_no_postgres

EVERY_S: Final = 1.0
EVERY_S_IN_A_FILE: Final = 15.0
SHOWN: Final = 30
ENDED_EARLY: Final = 130


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="how often servers are ended [1000]")
    parser.add_argument("--seed", type=int, default=None, help="of the schedule [by chance]")
    parser.add_argument("--servers", type=int, default=1, help="so many at once, over a private PostgreSQL [1, a file]")
    parser.add_argument("--keep", action="store_true", help="keep the folder though nothing was wrong")
    options = parser.parse_args()
    if options.servers > 1 and (missing := why_no_postgres()) is not None:
        print(missing)
        return 2
    seed = random.randrange(1_000_000) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="strandline-soak-"))
    try:
        faults = asyncio.run(soak(folder, options.kills, seed, options.servers))
    except asyncio.CancelledError:
        print(f"ended before anything was judged. Ledger, answers and logs are in {folder}", flush=True)
        return ENDED_EARLY
    if not faults and not options.keep:
        shutil.rmtree(folder)
    if not faults:
        print("nothing was wrong")
        return 0
    for fault in faults[:SHOWN]:
        print(f"  {fault}")
    print(f"{len(faults)} faults. Ledger, answers and logs are in {folder}; again with: make soak SEED={seed}")
    (folder / "faults.txt").write_text("\n".join([f"seed {seed}", *faults, ""]))
    return 1


async def soak(folder: Path, kills: int, seed: int, servers: int) -> list[str]:
    """Run a trial, and show how far it is."""
    trial = Trial(folder, kills=kills, seed=seed)
    if servers > 1:
        trial = SeveralTrial(folder, kills=kills, seed=seed, servers=servers)
    loop, running, times = asyncio.get_running_loop(), asyncio.current_task(), count()
    assert running is not None

    def interrupt() -> None:
        if next(times):
            running.cancel()
            return
        print("\nno more kills; let everything end (Ctrl-C again leaves at once)", flush=True)
        trial.stop()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    print(f"seed {seed}, {kills} kills, in {folder}", flush=True)
    showing = asyncio.create_task(show(trial))
    try:
        return await trial.run()
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing
        print(f"\r{progress(trial.numbers())}\n{trial.summary()}", flush=True)


async def show(trial: Trial) -> None:
    """Show how far a trial is: on a terminal in one line, elsewhere in a line now and then."""
    while True:
        await asyncio.sleep(EVERY_S if sys.stdout.isatty() else EVERY_S_IN_A_FILE)
        line = progress(trial.numbers())
        print(f"\r{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


def progress(at: Numbers) -> str:
    """Return how far a trial is, in one line."""
    left_s = at.elapsed_s / at.kills * (at.planned - at.kills) if at.kills else 0.0
    to_go = f"{left_s:.0f} s to go" if at.doing == "killing" else at.doing
    return (
        f"{at.kills}/{at.planned} kills, {at.servers} servers, {at.runs} runs ({at.runs / at.elapsed_s:.0f}/s),"
        f" {at.tools} tools, {at.crashed} crashed, {at.faults} faults seen so far,"
        f" {at.elapsed_s:.0f} s, {to_go}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""What a run costs in this version beside an earlier one: `python -m bench.versions COMMIT`.

`--pairs 9` and `--runs 3000` are the defaults.

A no-op function, 50 sessions, through `open_service`, with a journal in memory and in a file. Each measurement is a
process of its own; the versions take turns, and so does which comes first. The ratio of a pair is of processor time, so
other work on the machine counts for both. `--calls` counts calls of functions instead, which nothing else changes.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
MEASURE = """
import asyncio, sys, tempfile, threading, time
import strandline
from strandline import Request, SessionId, SessionKey, open_service
from strandline._model import ANONYMOUS

async def answer(message, session):
    return message

calls, counts = [0], False

def count(frame, event, arg):
    if counts and event in ("call", "c_call"):
        calls[0] += 1

async def main(journal, runs):
    global counts
    async with open_service(answer, journal=journal, workspace=None, max_running=64) as service:
        async def one(number):
            ticket = await service.submit(Request(key=SessionKey(ANONYMOUS, SessionId(f"s{number}")), input="hello"))
            await ticket.outcome()
        async def some(number, count):
            for _ in range(count):
                await one(number)
        await asyncio.gather(*(some(number, 5) for number in range(50)))
        began, counts = time.process_time(), True
        await asyncio.gather(*(some(number, runs // 50) for number in range(50)))
        counts = False
        print((calls[0] or time.process_time() - began) / (runs // 50 * 50))

if sys.argv[3:]:
    threading.setprofile(count)
    sys.setprofile(count)
with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(sys.argv[1].format(folder=folder), int(sys.argv[2])))
"""
JOURNALS = {"memory": "memory:", "SQLite": "sqlite:{folder}/journal.db"}


def measured(source: Path, journal: str, runs: int, *, calls: bool = False) -> float:
    """Return the seconds of processor time of a run, or its calls, in the version of a source folder."""
    command = [sys.executable, "-c", MEASURE, journal, str(runs), *(["calls"] if calls else [])]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(source)}, check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def main() -> None:
    """Measure pairs, and print the median of their ratios."""
    parser = argparse.ArgumentParser(prog="python -m bench.versions", description=__doc__)
    parser.add_argument("commit", help="the earlier version")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--calls", action="store_true", help="count calls of functions, once")
    given = parser.parse_args()
    archive = subprocess.run(["git", "archive", given.commit, "src"], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(folder, filter="data")
        for name, journal in JOURNALS.items():
            earlier, now = Path(folder, "src"), ROOT / "src"
            if given.calls:
                before, after = (measured(each, journal, given.runs, calls=True) for each in (earlier, now))
                print(f"{name}: {after:.0f} calls a run, {before:.0f} in {given.commit}", flush=True)
                continue
            pairs = []
            for number in range(given.pairs):
                order = (earlier, now) if number % 2 else (now, earlier)
                of = {each: measured(each, journal, given.runs) for each in order}
                pairs.append((of[earlier], of[now]))
            ratios = sorted(after / before for before, after in pairs)
            cost = median(after for _, after in pairs) * 1e6
            spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            print(f"{name}: {median(ratios):.2f} of {given.commit} ({spread}); {cost:.0f} us a run", flush=True)


if __name__ == "__main__":
    main()

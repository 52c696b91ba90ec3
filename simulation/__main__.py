"""Play worlds: `python -m simulation [--seeds N] [--first SEED] [--journal NAME] [--engines N]`, or one: `--seed SEED`.

Without `--seeds` it continues until it is interrupted. The exit code is 1 if anything was broken.
"""

import argparse
import sys
import time
from itertools import count

from rich.console import Console
from rich.live import Live
from rich.text import Text

from simulation.trial import POSTGRES, WORLDS, play, play_all

SHOWN = 20
"""How many broken seeds are shown at most; a few are as good as all."""
REPORT_EVERY_S = 10.0
"""How often progress is printed without a terminal."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many; default: until interrupted")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="show this one again, event by event")
    parser.add_argument("--journal", choices=list(WORLDS), help="default: each of them")
    parser.add_argument("--engines", type=int, choices=(2, 3), help="only worlds with so many servers over one journal")
    given = parser.parse_args()
    if given.engines and given.journal not in (None, POSTGRES):
        parser.error(f"several servers share no journal but {POSTGRES}")
    journals = [given.journal] if given.journal else list(WORLDS)
    if given.engines:
        journals = [POSTGRES]
    if given.seed is not None:
        return show(given.seed, journals, given.engines)
    return search(given.first, given.seeds, journals, given.engines)


def show(seed: int, journals: list[str], engines: int | None) -> int:
    """Play one seed again and print all that happens in it."""
    broken = 0
    for journal in journals:
        print(f"seed {seed}, journal {journal}")
        verdict = play(seed, journal, engines=engines, show=True)
        for fault in verdict.faults:
            print(f"broken: {fault}")
        print(f"{len(verdict.faults)} broken; hash {verdict.digest[:16]}\n")
        broken += len(verdict.faults)
    return 1 if broken else 0


def search(first: int, seeds: int | None, journals: list[str], engines: int | None) -> int:
    """Play many seeds, and print those in which something was broken."""
    numbers = count(first) if seeds is None else iter(range(first, first + seeds))
    console = Console()
    started = time.monotonic()
    reported = started
    worlds = runs = broken = 0

    def line() -> Text:
        elapsed_s = time.monotonic() - started
        return Text(
            f"{worlds} worlds with {runs} runs, {worlds / max(elapsed_s, 0.001):.0f} worlds/s,"
            f" {broken} broken, {elapsed_s:.0f} s" + ("" if seeds is None else f", of {seeds * len(journals)}")
        )

    try:
        with Live(line(), console=console, refresh_per_second=4, transient=True) as shown:
            for verdicts in play_all(numbers, journals, engines):
                for verdict in verdicts:
                    worlds += 1
                    runs += verdict.runs
                    if verdict.faults:
                        broken += 1
                        console.print(
                            f"seed {verdict.seed}, journal {verdict.journal}: {verdict.faults[0]}"
                            f" (make simulate SEED={verdict.seed})",
                            markup=False,
                        )
                shown.update(line())
                if not console.is_terminal and time.monotonic() > reported + REPORT_EVERY_S:
                    reported = time.monotonic()
                    console.print(line())
                if broken >= SHOWN:
                    break
    except KeyboardInterrupt:
        pass
    console.print(line())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

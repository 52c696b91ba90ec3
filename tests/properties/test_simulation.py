"""Worlds from seeds: what Strandline guarantees holds in each of them, and a seed is the same world every time.

`make simulate` plays more of them; `make simulate SEED=7` shows one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.trial import WORLDS, Verdict, play, play_all

ROOT = Path(__file__).resolve().parents[2]
FIRST = 1000
SEEDS = {"memory": 160, "sqlite": 80, "postgres": 60}
AGAIN = {"memory": 10, "sqlite": 10, "postgres": 4}
HASH = (
    "from simulation.trial import play;"
    f" [print(play(seed, journal).digest) for journal, seeds in {AGAIN}.items() for seed in range(seeds)]"
)


@pytest.mark.parametrize("journal", WORLDS)
def test_every_guarantee_holds_in_every_world(journal: str) -> None:
    seeds = iter(range(FIRST, FIRST + SEEDS[journal]))
    verdicts = [verdict for chunk in play_all(seeds, [journal]) for verdict in chunk]
    assert len(verdicts) == SEEDS[journal]
    assert sum(verdict.runs for verdict in verdicts) > 10 * len(verdicts), "something happens in them"
    assert "\n".join(reported(verdict) for verdict in verdicts if verdict.faults) == ""


def reported(verdict: Verdict) -> str:
    return f"make simulate SEED={verdict.seed} JOURNAL={verdict.journal}: {verdict.faults[0]}"


def test_a_seed_is_the_same_world_in_every_process() -> None:
    here = [play(seed, journal).digest for journal, seeds in AGAIN.items() for seed in range(seeds)]
    assert len(set(here)) == len(here)
    for hash_seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-c", HASH], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
        )
        assert there.stdout.split() == here, f"with PYTHONHASHSEED={hash_seed}"

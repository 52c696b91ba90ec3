"""A run of the benchmark of peers, in seconds: all figures of a server that runs, a note of one that does not."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from bench.peers.measure import Plan
from bench.peers.record import Figures
from bench.peers.run import Run
from bench.peers.subjects import LOOP, SERVERS

TINY: Final = Plan(1, one_s=0.1, many_s=0.2, hot_s=0.1, streams=1, sessions=3, warm_turns=1, restart_s=0.1)
NOT_OF_THE_LOOP: Final = {"five", "failed", "killed", "first_text_p50_ms", "hot_per_s", "hot_refused"} | {
    "health_p50_ms",
    "health_max_ms",
}
LATER: Final = {"five", "failed", "killed"}
"""What the trials find, which have tests of their own."""


def missing(figures: Figures) -> set[str]:
    return {each.name for each in fields(figures) if getattr(figures, each.name) is None}


def test_a_run_has_every_figure_of_what_runs_and_says_what_is_not_installed(tmp_path: Path) -> None:
    lock = next(each for each in SERVERS if each.key == "lock")
    absent = replace(lock, key="agno", packages=("no-such-package",))
    broken = replace(lock, key="a2a", command=lambda folder: ["false"])
    done: list[int] = []
    run = Run(TINY, [lock, absent, broken], tmp_path, lambda what, steps: done.append(steps))
    run.measure()
    assert missing(run.figures["lock"]) == LATER
    assert run.figures["lock"].failures == []
    assert missing(run.figures[LOOP]) == NOT_OF_THE_LOOP
    assert run.figures["agno"].failures == ["no-such-package is not installed"]
    assert [each.partition(":")[0] for each in run.figures["a2a"].failures] == ["it did not start"]
    assert run.spread == [1.0]
    assert run.load_during > 0
    assert sum(done) == 4

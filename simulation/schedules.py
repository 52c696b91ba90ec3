"""The simulation's own rules for schedules: each of their times has one run, or a reason to have none.

That no time has two runs is the common rule that a request becomes one: the runs of a schedule go by its text and their
time.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from simulation.life import Life
from simulation.loop import EPOCH
from simulation.seen import ObservedRun, Plan
from simulation.timeline import Timeline
from strandline._model import Run

SAME_S: Final = 0.002
"""Times of runs are written down in milliseconds."""
LATE_S: Final = 3.0
"""How long after its time a run is accepted at the latest by a server that lives."""
DOWN_S: Final = 30.0
"""For how long after something has befallen a server nobody may fire at all."""


def fired(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the times of schedules that passed without a run and without a reason, and runs that are of no time."""
    if not life.steady:
        return
    for plan in timeline.plans.values():
        runs = {_time_of(run.text): run for run in timeline.runs.values() if run.text.startswith(f"{plan.text}@")}
        for at_s, run in runs.items():
            nth = round((at_s - plan.first_s) / plan.every_s)
            if nth < 0 or abs(plan.first_s + nth * plan.every_s - at_s) > SAME_S:
                yield f"run {run.id} is of second {at_s}, which is none of schedule {plan.text}"
            stored = life.runs.get(run.id)
            if stored is not None and stored.created_at - EPOCH < at_s - SAME_S:
                yield f"run {run.id} was accepted before its time, second {at_s}"
        yield from _overlaps(plan, [life.runs[run.id] for run in runs.values() if run.id in life.runs])
        if not life.faulty and not timeline.was_deleted(plan.session):
            yield from _passed(life, timeline, plan, runs)


def _overlaps(plan: Plan, runs: list[Run]) -> Iterator[str]:
    """Yield the runs that were accepted although the one before had not ended, or did not take its place."""
    for before, run in pairwise(sorted(runs, key=lambda run: run.sequence)):
        if plan.overlap == "skip" and _ended_s(before) > run.created_at - EPOCH + LATE_S:
            yield f"run {run.run_id} was accepted, and run {before.run_id} of its schedule had not ended"
        if plan.overlap == "replace" and (before.started_at or 0.0) > run.created_at + LATE_S:
            yield f"run {before.run_id} was to be replaced by run {run.run_id} of its schedule, and started"


def _passed(life: Life, timeline: Timeline, plan: Plan, runs: dict[float, ObservedRun]) -> Iterator[str]:
    at_s = plan.first_s
    while at_s < plan.until_s - LATE_S:
        if not any(abs(each - at_s) <= SAME_S for each in runs) and not _may_pass(life, timeline, plan, runs, at_s):
            yield f"schedule {plan.text} has no run for second {at_s:.3f}"
        at_s += plan.every_s


def _may_pass(life: Life, timeline: Timeline, plan: Plan, runs: dict[float, ObservedRun], at_s: float) -> bool:
    """Return whether a time may have no run: the run before had not ended, it was refused, or merged with an earlier
    time that was fired too late."""
    before = [(each, life.runs[run.id]) for each, run in runs.items() if each < at_s and run.id in life.runs]
    last = max(before, key=lambda each: each[0], default=None)
    if any(text.startswith(f"{plan.text}@") and abs(_time_of(text) - at_s) <= SAME_S for text in timeline.put_off):
        return True
    refused_s = max((at for text, at in timeline.put_off.items() if text.startswith(f"{plan.text}@")), default=None)
    if refused_s is not None and (
        plan.missed == "skip" or (refused_s > plan.until_s - DOWN_S and at_s > max(runs, default=0.0))
    ):
        return True  # that time is tried again, and all later ones after it
    if plan.overlap == "skip" and last is not None and _ended_s(last[1]) > at_s - SAME_S:
        return True
    late = [stored for _, stored in before if stored.created_at - EPOCH >= at_s - SAME_S]
    if plan.missed == "once" and late:
        return True
    return plan.missed == "once" and any(at_s - DOWN_S <= each <= at_s + LATE_S for each in timeline.interruptions)


def _ended_s(run: Run) -> float:
    return float("inf") if run.ended_at is None else run.ended_at - EPOCH


def _time_of(text: str) -> float:
    return int(text.partition("@")[2]) / 1000


def replaced(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that a later one of their schedule may have replaced: they had not begun."""
    for plan in timeline.plans.values():
        if plan.overlap != "replace":
            continue
        runs = [run for run in life.runs.values() if str(run.metadata["text"]).startswith(f"{plan.text}@")]
        last = max((run.sequence for run in runs), default=0)
        yield from (run.run_id for run in runs if run.started_at is None and run.sequence < last)

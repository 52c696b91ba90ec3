"""A delayed run starts at its time at the earliest, and stands behind what was accepted until then."""

from collections.abc import Iterator
from itertools import combinations

from judging.evidence import Evidence, Run

SAME_S = 0.001
"""Times that differ by less are the same."""


def not_early(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that started before their time. One that is moved to the front is delayed no longer."""
    for run in evidence.runs.values():
        at_s = run.request.not_before_s
        if at_s is None or run.started_s is None or any(move.priority is None for move in run.moves):
            continue
        if run.started_s < at_s - evidence.limits.soon_s:
            yield f"run {run.label} started {at_s - run.started_s:.3f} s before its time"


def in_order_of_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that stand behind another, by sequence, although they were there first."""
    for runs in evidence.by_session.values():
        for first, second in combinations(runs, 2):
            is_delayed = first.request.not_before_s is not None or second.request.not_before_s is not None
            if is_delayed and _was_first(evidence, second, first):
                yield f"run {second.label} stands behind run {first.label}, and was there first"


def _was_first(evidence: Evidence, run: Run, other: Run) -> bool:
    """Return whether a run waited for its turn, for sure, before another one did; both may be delayed."""
    if other.created_s is None or run.accepted_s is None or run.moves or other.moves:
        return False
    due = other.request.not_before_s
    until_s = other.ended_s if other.started_s is None else other.started_s
    over_s = due if due is None or other.started_s is not None else due + evidence.limits.late_s
    if over_s is not None and (until_s is None or until_s < over_s):
        return False  # it may never have stood in line
    soon_s = evidence.limits.soon_s
    if due is None or other.accepted_s is None or due <= other.accepted_s:
        there_s = _there_s(evidence, run)
        return there_s is not None and there_s < max(other.created_s, due or 0.0) - soon_s
    # Both are found together when one looks what is due, and the one of the earlier time comes first.
    return max(run.accepted_s, (run.request.not_before_s or 0.0) + SAME_S) < due - soon_s


def _there_s(evidence: Evidence, run: Run) -> float | None:
    """Return from when on a run waited for its turn for sure."""
    due, accepted_s = run.request.not_before_s, run.accepted_s
    if accepted_s is None or due is None or run.created_s is None or run.created_s >= due:
        return accepted_s
    limits = evidence.limits
    late_s = due + limits.late_s
    if any(due - limits.drain_s - limits.late_s <= each <= late_s for each in evidence.interruptions):
        return None  # nobody may have looked for what is due
    return max(accepted_s, late_s)

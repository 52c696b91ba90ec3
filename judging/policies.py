"""A run that interrupts ends what has begun, and nothing else; only a rollback hides what that did."""

import math
from collections.abc import Iterator
from itertools import combinations

from judging.evidence import Evidence, Request, Run


def interrupts_of(evidence: Evidence, run: Run) -> Iterator[Request]:
    """Yield the interrupts that may be why a run was cancelled: accepted after it, when it had begun, before its end.

    One that waits and has not begun is innocent.
    """
    for other in evidence.by_session.get(run.session, ()) if run.started else ():
        if not other.request.interrupts or other.sequence <= run.sequence:
            continue
        if run.ended_s is None or (other.created_s or 0.0) <= run.ended_s + evidence.limits.soon_s:
            yield other.request


def interrupted(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that an interrupt ended too little or too much, and those that should have been refused."""
    for run in evidence.runs.values():
        if (
            run.rolled_back
            and run.has_turn
            and not any(each.if_busy == "rollback" for each in interrupts_of(evidence, run))
        ):
            yield f"run {run.label} is hidden, and nobody has rolled it back"
        if run.rolled_back and run.kind != "cancelled":
            yield f"run {run.label} is hidden, and ended as {run.kind}"
    for runs in evidence.by_session.values():
        for run, other in combinations(runs, 2):
            if run.end is None or run.ended_s is None or other.accepted_s is None:
                continue
            if run.ended_s > other.accepted_s + evidence.limits.soon_s:
                yield from _met(evidence, run, other) if run.has_turn else ()


def _met(evidence: Evidence, run: Run, other: Run) -> Iterator[str]:
    """Yield what is wrong with how `other` was accepted while `run`, which came before it, had not ended."""
    before = 0 <= run.accepted < other.request.sent
    if run.request.not_before_s is not None and not (run.started_s or math.inf) < (other.created_s or 0.0):
        before = False  # it may be delayed still, and keeps nobody waiting
    if other.request.must_not_wait and not other.request.answers and before:
        yield f"run {other.label} was to be refused by a busy session, and was accepted beside run {run.label}"
    if other.request.goes_back and not other.request.interrupts and before:
        yield f"run {other.label} was to go back in a session at rest, and was accepted beside run {run.label}"
    if not other.request.interrupts or run.started_s is None or other.created_s is None:
        return
    if run.started_s > other.created_s - evidence.limits.soon_s:
        return
    if run.kind != "cancelled":
        yield f"run {run.label} ended as {run.kind}, and run {other.label} had interrupted it"
    elif other.request.if_busy == "rollback" and run.rolled_back is False:
        yield f"run {run.label} is not hidden, although run {other.label} had rolled it back"

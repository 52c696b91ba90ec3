"""Whether the runs of a session went in order: by lane, priority and sequence, the judge's rules for G2."""

from collections.abc import Iterator
from itertools import groupby, pairwise

from simulation.evidence import Evidence
from simulation.life import Life
from simulation.seen import RunEvidence
from simulation.truth import EPOCH
from strandline.model import Run, SessionKey

FRONT, NORMAL = 2, 3


def ordered(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which runs started before others that should have gone first."""
    for key, runs in evidence.in_order_of_start().items():
        equals = sorted(runs, key=_class)  # (stable: those of a class stay in the order in which they began)
        for _, group in groupby(equals, key=_class):
            yield from _equals(life, key, list(group))
        if life.steady:
            yield from _by_rank(life, runs)
        yield from _going_on(life, evidence, key)
    for run in evidence.runs.values():
        if run.position > life.options.max_queued_per_session:
            yield f"run {run.id} was accepted at position {run.position}"
        kept = life.runs.get(run.id)
        if kept is not None and (kept.priority, kept.if_busy) != (run.request.priority, run.request.if_busy):
            yield f"run {run.id} was to have priority {run.request.priority}, and has {kept.priority}"


def _class(run: RunEvidence) -> int:
    return 0 if run.request.interrupts else run.request.priority


def _rank(run: RunEvidence, kept: Run) -> tuple[int, int, int]:
    if run.request.interrupts:
        return FRONT, 0, kept.sequence
    return NORMAL, run.request.priority, kept.sequence


def _equals(life: Life, key: SessionKey, runs: list[RunEvidence]) -> Iterator[str]:
    """Runs that are equals start by sequence, and that is the order in which they were accepted."""
    for earlier, later in pairwise(runs):
        if life.runs[earlier.id].sequence > life.runs[later.id].sequence:
            yield f"run {earlier.id} started before {later.id} of the same session, which is first by sequence"
    latest_asked_nth = 0
    for run in (run for run in runs if run.accepted):
        if run.accepted_nth < latest_asked_nth:
            yield f"run {run.id} of {key} was accepted before another was asked for, and started after it"
        latest_asked_nth = max(latest_asked_nth, run.request.nth)


def _by_rank(life: Life, runs: list[RunEvidence]) -> Iterator[str]:
    """No run starts while one waits that goes before it."""
    for run in runs:
        kept = life.runs[run.id]
        if kept.started_at is None:
            continue
        for other in runs:
            waits = life.runs[other.id]
            if other is run or not other.accepted or _rank(other, waits) > _rank(run, kept):
                continue
            begins_later = waits.started_at is not None and waits.started_at > kept.started_at
            if begins_later and other.accepted_at + EPOCH < kept.started_at - 1e-6:
                yield f"run {run.id} started while {other.id} of the same session waited, which goes before it"


def _going_on(life: Life, evidence: Evidence, key: SessionKey) -> Iterator[str]:
    """What was given back goes on before anything else of its session begins."""
    attempts = [
        each
        for each in evidence.by_session[key]
        if each.run in life.runs and not evidence.runs[each.run].lost and not evidence.was_in_vain(each)
    ]
    lasts = {attempt.run: nth for nth, attempt in enumerate(attempts)}
    begun: str | None = None
    for nth, attempt in enumerate(attempts):
        if begun is not None and attempt.run != begun and lasts[begun] > nth:
            yield f"run {attempt.run} began before run {begun} of the same session went on, which had begun"
        begun = attempt.run if begun is None or lasts[begun] < nth else begun

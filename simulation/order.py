"""Whether the runs of a session went in order: by lane, priority and sequence, the judge's rules for G2."""

from collections.abc import Iterator
from itertools import groupby, pairwise

from simulation.evidence import Evidence
from simulation.life import Life
from simulation.seen import RunEvidence
from simulation.truth import EPOCH
from strandline._model import Run, SessionKey

ANSWER, FRONT, NORMAL = 1, 2, 3
SOON_S = 1e-6


def ordered(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which runs started before others that should have gone first."""
    for key, runs in evidence.in_order_of_start().items():
        # (stable: those of a class stay in the order in which they began)
        equals = sorted((run for run in runs if run.move is None), key=_class)
        for _, group in groupby(equals, key=_class):
            yield from _equals(life, key, list(group))
        if life.steady:
            yield from _by_rank(life, runs)
        yield from _going_on(life, evidence, key)
    for run in evidence.runs.values():
        if run.position > life.options.max_queued_per_session + _may_stand_behind_more(evidence, run):
            yield f"run {run.id} was accepted at position {run.position}"
        if (kept := life.runs.get(run.id)) is not None:
            yield from _as_wanted(run, kept)


def paused(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which runs started in a session that was paused."""
    for attempt, since in evidence.while_paused:
        kept = life.runs.get(attempt.run)
        if kept is None or kept.started_at is None or not life.steady:
            continue
        if (for_s := kept.started_at - EPOCH - since) > SOON_S:  # else it was claimed, and only its agent began later
            yield f"run {attempt.run} was started when its session had been paused for {for_s:.4f} s"


def _may_stand_behind_more(evidence: Evidence, run: RunEvidence) -> bool:
    """Return whether a run may stand one place behind the last that is accepted: it was there, and another came back.

    One that was attached to is told where it stands then. Whatever was requeued had left the queue before, so that
    others were accepted in its place; of each session that is one run at most. So it is with an answer, which no bound
    holds.
    """
    before = any(nth < run.accepted_nth for nth in evidence.ends) or evidence.was_asked(run.request.session)
    return run.request.key is not None and before


def _as_wanted(run: RunEvidence, kept: Run) -> Iterator[str]:
    wanted = {run.request.priority}
    if run.move is not None and run.move.priority is not None:
        wanted = {run.move.priority} if run.move.told_at >= 0 else wanted | {run.move.priority}
    if kept.priority not in wanted or kept.if_busy is not run.request.if_busy:
        yield f"run {run.id} was to have one of the priorities {wanted}, and has {kept.priority}"


def _class(run: RunEvidence) -> int:
    if run.request.answers:
        return -1
    return 0 if run.request.interrupts else run.request.priority


def _rank(run: RunEvidence, kept: Run, at: float) -> tuple[int, int, int] | None:
    """Return where a run that waits stands at second `at`, None if that cannot be known."""
    if run.request.answers:
        return ANSWER, 0, kept.sequence
    priority, lane = run.request.priority, FRONT if run.request.interrupts else NORMAL
    if (move := run.move) is not None and at >= move.asked_at:
        if not 0 <= move.told_at < at:
            return None
        lane, priority = (FRONT, priority) if move.priority is None else (NORMAL, move.priority)
        if lane == FRONT:
            return FRONT, 1, 0  # behind those that came to the front before it, before those that come later
    return (lane, 0, kept.sequence) if lane == FRONT else (lane, priority, kept.sequence)


def _before(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """Return whether one run goes before another for sure."""
    moved = 1 in (one[1], other[1]) and one[0] == other[0] == FRONT
    return one < other and not moved


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
        at = kept.started_at - EPOCH - SOON_S
        for other in runs:
            waits = life.runs[other.id]
            begins_later = waits.started_at is not None and waits.started_at > kept.started_at
            if other is run or not begins_later or not other.accepted or other.accepted_at >= at:
                continue
            mine, others = _rank(run, kept, at), _rank(other, waits, at)
            if mine is not None and others is not None and _before(others, mine):
                yield f"run {run.id} started while {other.id} of the same session waited, which goes before it"


def _going_on(life: Life, evidence: Evidence, key: SessionKey) -> Iterator[str]:
    """What was requeued goes on before anything else of its session begins."""
    attempts = [each for each in evidence.by_session[key] if each.run in life.runs]
    lasts = {attempt.run: nth for nth, attempt in enumerate(attempts)}
    begun: str | None = None
    for nth, attempt in enumerate(attempts):
        if begun is not None and attempt.run != begun and lasts[begun] > nth:
            yield f"run {attempt.run} began before run {begun} of the same session went on, which had begun"
        begun = attempt.run if begun is None or lasts[begun] < nth else begun

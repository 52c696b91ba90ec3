"""The simulation's own rules for order: what was requeued continues first, and no queue is longer than its bound."""

from collections.abc import Iterator

from simulation.life import Life
from simulation.loop import EPOCH
from simulation.seen import ObservedRun
from simulation.timeline import Timeline
from strandline._model import SessionKey

ANSWER, FRONT, NORMAL = 1, 2, 3
SOON_S = 1e-6


def ordered(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that started before one that was requeued, or were accepted beyond the bound."""
    for key in timeline.by_session:
        yield from _requeued_first(life, timeline, key)
    for run in timeline.runs.values():
        if run.position > life.options.max_queued_per_session + _may_stand_behind_more(timeline, run):
            yield f"run {run.id} was accepted at position {run.position}"
        if run.id in life.runs and (if_busy := life.runs[run.id].if_busy) != _kept_policy(run):
            yield f"run {run.id} was to be {run.request.if_busy}, and is {if_busy}"


def bounded(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that were accepted to wait beside as many as may: also those that wait to join another."""
    if not life.steady:
        return
    for run in timeline.runs.values():
        if run.id not in life.runs or run.attached or run.request.answers or not (run.position or run.joins):
            continue
        waiting = [each for each in timeline.runs.values() if _waited(life, each, run)]
        own = sum(each.request.session == run.request.session for each in waiting)
        if own >= life.options.max_queued_per_session:
            yield f"run {run.id} was accepted while {own} waited in its session"
        if len(waiting) >= life.options.max_queued and life.engines == 1:
            yield f"run {run.id} was accepted while {len(waiting)} waited"


def _waited(life: Life, run: ObservedRun, other: ObservedRun) -> bool:
    """Return whether a run waited for sure all the while another one was being accepted."""
    stored = life.runs.get(run.id)
    if stored is None or not 0 <= run.accepted_nth < other.request.sent:
        return False
    until = stored.ended_at if stored.started_at is None else stored.started_at
    return until is not None and until - EPOCH > other.accepted_at + SOON_S


def _kept_policy(run: ObservedRun) -> str:
    """Return the policy that is kept of a run: one that answers has nothing to join."""
    if_busy = run.request.if_busy
    return "enqueue" if if_busy == "steer" and run.request.answers else if_busy


def _may_stand_behind_more(timeline: Timeline, run: ObservedRun) -> bool:
    """Return whether a run may stand one place behind the last that is accepted: it was there, and another came back.

    One that was attached to is shown its position of then. Whatever was requeued had left the queue before, so that
    others were accepted in its place; of each session that is one run at most. So it is with an answer, which no bound
    holds.
    """
    before = any(nth < run.accepted_nth for nth in timeline.ends) or timeline.had_question(run.request.session)
    return run.request.key is not None and before


def _requeued_first(life: Life, timeline: Timeline, key: SessionKey) -> Iterator[str]:
    """What was requeued continues before anything else of its session begins."""
    attempts = [each for each in timeline.by_session[key] if each.run in life.runs]
    lasts = {attempt.run: nth for nth, attempt in enumerate(attempts)}
    begun: str | None = None
    for nth, attempt in enumerate(attempts):
        if begun is not None and attempt.run != begun and lasts[begun] > nth:
            yield f"run {attempt.run} began before run {begun} of the same session continued, which had begun"
        begun = attempt.run if begun is None or lasts[begun] < nth else begun

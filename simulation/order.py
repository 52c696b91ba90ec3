"""The simulation's own rules for order: what was requeued continues first, and no queue is longer than its bound."""

from collections.abc import Iterator

from simulation.life import Life
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
        if run.id in life.runs and (if_busy := life.runs[run.id].if_busy) is not run.request.if_busy:
            yield f"run {run.id} was to be {run.request.if_busy}, and is {if_busy}"


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

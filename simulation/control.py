"""The simulation's own rules for cancels, policies and keys: what only single attempts and virtual time show."""

from collections.abc import Iterator

from judging.evidence import Request
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.seen import ObservedRun, text_of
from simulation.timeline import Timeline
from simulation.truth import SLACK_S
from strandline._model import Run, RunStatus

SOON_S = 1e-6


# -- cancels -------------------------------------------------------------------------------------------


def cancelled(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that began, or did not end in time, after their cancel was accepted."""
    for run, _ in timeline.ended():
        if run.cancelled_at is not None:
            for attempt in run.attempts:
                late = attempt.ended_nth > attempt.began_nth > run.cancelled_nth
                if late and not attempt.was_on_its_way(run.cancelled_at):
                    yield f"attempt {attempt.number} of run {run.id} began after its cancel was accepted"
            yield from _in_time(life, timeline, run, life.runs[run.id])


def _in_time(life: Life, timeline: Timeline, run: ObservedRun, stored: Run) -> Iterator[str]:
    if run.cancelled_at is None or stored.ended_at is None or not life.steady or life.faulty:
        return
    ended_at = stored.ended_at - EPOCH
    quiet = not any(run.cancelled_at <= each <= ended_at + SLACK_S for each in timeline.interruptions)
    if quiet and ended_at - run.cancelled_at > life.options.cancel_grace_s + SLACK_S:
        yield f"run {run.id} ended {ended_at - run.cancelled_at:.1f} s after its cancel was accepted"


def cancelled_all(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs whose agents began after their session was cancelled."""
    for sweep in timeline.sweeps.values():
        for run in timeline.runs.values() if sweep.answered >= 0 else ():
            stored = life.runs.get(run.id)
            if stored is None or run.request.session != sweep.session or not 0 <= run.accepted_nth < sweep.sent:
                continue
            # (A run whose claim was made has to begin yet, and is stopped only if that is wanted.)
            waited = sweep.running or (life.steady and (stored.started_at or 0) - EPOCH > sweep.answered_s + SOON_S)
            # (In a process that does not know yet that another one has its claim, an agent may begin in vain.)
            begun = [each for each in run.attempts if each.began_nth < each.ended_nth]
            first = min(begun, key=lambda each: each.began_nth, default=None)
            if first is None or first.began_nth <= sweep.answered or first.was_on_its_way(sweep.answered_s):
                continue
            if waited:
                yield f"run {run.id} waited when its session was cancelled, and began"


# -- policies ------------------------------------------------------------------------------------------


def discarded(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that were to be rolled back, and are not hidden."""
    for run in life.runs.values():
        if run.discard and run.status is RunStatus.CANCELLED and not run.discarded:
            yield f"run {run.run_id} was rolled back, and is not hidden"


def refused_as_busy(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the requests that were refused for a busy session that was not busy."""
    for text, code in timeline.refused.items():
        request = timeline.requests[text]
        maybe = request.session in timeline.paused or timeline.was_deleted(request.session) or _busy(life, request)
        if code == "session_busy" and life.steady and not maybe:
            yield f"request {text} was refused since its session is busy, and it was not"


def _busy(life: Life, request: Request) -> bool:
    """Return whether a session may have had a run at some time after it was requested another."""
    return any(
        run.key == request.session
        and run.created_at - EPOCH < request.sent_s + 100.0
        and (run.ended_at is None or run.ended_at - EPOCH + _closed_s(life, run) + SLACK_S > request.sent_s)
        for run in life.runs.values()
    )


def _closed_s(life: Life, run: Run) -> float:
    """Return for how long the session of a run that has ended may be closed."""
    options = life.options
    return max(options.hold_limit_s, options.input_timeout_s if run.status is RunStatus.NEEDS_INPUT else 0.0)


# -- keys ----------------------------------------------------------------------------------------------


def reused(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the requests that were refused for a key of another request, though there is none."""
    for text in timeline.reused:
        request = timeline.requests[text]
        others = (timeline.requests[text_of(run)] for run in life.runs.values() if run.key == request.session)
        has_other = any(other is not request and other.key == request.key for other in others)
        if not has_other and not timeline.was_deleted(request.session):
            yield f"request {text} was refused since its key belongs to another, and there is none"

"""A cancel that was accepted holds, one that came too late has changed nothing, and nothing else is cancelled."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from judging.evidence import Cancel, Evidence, Run
from judging.policies import interrupts_of

LEFT_ALONE_S: Final = 2.0
"""How long nobody must wait for a run that is not to continue without a client."""


def cancelled(evidence: Evidence) -> Iterator[str]:
    """Yield the cancels that were accepted and did not hold, and the runs that were cancelled without a cause."""
    cancels: dict[str, list[Cancel]] = defaultdict(list)
    for cancel in evidence.cancels:
        cancels[cancel.run_id].append(cancel)
    for run in evidence.runs.values():
        own = cancels[run.id]
        if run.end is None or not run.has_turn:
            continue
        if run.kind != "cancelled":
            for cancel in own:
                if cancel.result == "accepted" and not (cancel.force and _had_ended(evidence, run, cancel.answered_s)):
                    yield f"run {run.label} ended as {run.kind}, although its cancel was accepted"
            continue
        results = {cancel.result for cancel in own}
        too_late = "too_late" in results and "accepted" not in results
        if (too_late or not results) and not _has_cause(evidence, run):
            why = "its cancel came too late" if too_late else "nobody requested it"
            yield f"run {run.label} was cancelled, though {why}"


def _had_ended(evidence: Evidence, run: Run, at: float) -> bool:
    """Return whether a run had ended at that second, as far as can be known: then force ended its hold alone."""
    return run.end is not None and (run.ended_s is None or run.ended_s <= at + evidence.limits.soon_s)


def _has_cause(evidence: Evidence, run: Run) -> bool:
    """Return whether anything but a cancel of the run itself may be why it was cancelled."""
    swept = any(
        sweep.session == run.session
        and (sweep.answered < 0 or run.id in sweep.stopped)
        and (sweep.answered < 0 or run.request.sent < sweep.answered)
        for sweep in evidence.sweeps
    )
    return swept or _was_left(evidence, run) or any(True for _ in interrupts_of(evidence, run))


def _was_left(evidence: Evidence, run: Run) -> bool:
    """Return whether a client that left may be why a run was cancelled."""
    wanted = run.request.on_disconnect
    if wanted == "continue" or (wanted == "cancel_if_queued" and run.started):
        return False
    earliest_s = LEFT_ALONE_S - evidence.limits.noticed_s
    return any(run.ended_s is None or run.ended_s >= left + earliest_s for left in run.left_s)


def cancelled_sessions(evidence: Evidence) -> Iterator[str]:
    """Yield what a cancel of a session promised and did not do, or left out."""
    soon_s = evidence.limits.soon_s
    for sweep in evidence.sweeps:
        if sweep.answered < 0:
            continue
        for run_id in sweep.stopped:
            run = evidence.runs.get(run_id)
            if run is not None and run.end is not None and run.kind != "cancelled":
                yield f"run {run.label} ended as {run.kind}, and was cancelled with its session {run.session}"
        for run in evidence.by_session.get(sweep.session, ()):
            if not 0 <= run.accepted < sweep.sent:
                continue
            if run.started_s is not None and run.started_s > sweep.answered_s + soon_s:
                yield f"run {run.label} waited when its session {sweep.session} was cancelled, and began"
            ended_later = run.ended_s is not None and run.ended_s > sweep.answered_s + soon_s
            if sweep.running and ended_later and run.kind != "cancelled":
                yield f"run {run.label} had not ended when {sweep.session} was cancelled, and ended as {run.kind}"


def left_alone(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that were to be cancelled when their client left, and worked for long after that."""
    limits = evidence.limits
    for run in evidence.runs.values():
        request = run.request
        if (
            request.on_disconnect != "cancel"
            or not run.has_turn
            or request.key is not None
            or not run.left_s
            or not run.waits_alone
        ):
            continue  # (under a key others may have waited)
        if run.ended_s is None or run.created_s is None:
            continue
        alone = max(run.left_s[0], run.created_s)
        quiet = not any(alone - limits.drain_s <= each <= run.ended_s for each in evidence.interruptions)
        if quiet and run.ended_s > alone + LEFT_ALONE_S + limits.cancel_grace_s + limits.slack_s:
            yield f"run {run.label} ended {run.ended_s - alone:.1f} s after its client was lost"

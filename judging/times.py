"""A run has all of the time that it was given, and not much more."""

from collections.abc import Iterator

from judging.evidence import Evidence


def had_its_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that were ended before their time to execute, or to wait, was over.

    The time to wait stands still while the session is closed: locked, paused, or waiting for input.
    """
    limits = evidence.limits
    for run in evidence.runs.values():
        closed_s = 0.0
        if not run.has_turn:
            continue
        match run.kind:
            case "timeout":
                since_s, limit_s = run.started_s, run.request.timeout_s
            case "queue_timeout":
                since_s, limit_s = run.waits_since_s, run.request.queue_timeout_s
                closed_s = (run.closed_s or (0.0, 0.0))[0]
            case _:
                continue
        if limit_s is None:
            yield f"run {run.label} ended as {run.kind}, and had no end of time"
        elif since_s is not None and run.ended_s is not None:
            took_s = run.ended_s - since_s
            if took_s < limit_s - limits.soon_s or took_s - closed_s < limit_s - limits.closed_s:
                counted = f"{took_s - closed_s:.3f} s that count"
                yield f"run {run.label} ended as {run.kind} after {counted}, and had {limit_s}"


def ended_in_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that executed for longer than their time and their grace."""
    limits = evidence.limits
    for run in evidence.runs.values():
        limit_s = run.request.timeout_s
        if run.was_cut_off or not run.has_turn or limit_s is None or run.started_s is None or run.ended_s is None:
            continue
        over_s = max(run.started_s + limit_s, run.resumed_s or 0.0)
        late_s = limits.undisturbed_s if run.kind == "succeeded" and run.attempts == 1 else limits.late_s
        if run.ended_s > over_s + limits.cancel_grace_s + late_s:
            yield f"run {run.label} ended as {run.kind} {run.ended_s - over_s:.1f} s after its time was up"


def waited_in_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that waited for longer than their time to wait, that of a closed session left out."""
    for run in evidence.runs.values():
        until_s = run.ended_s if run.started_s is None else run.started_s
        limit_s = run.request.queue_timeout_s
        since_s = run.waits_since_s
        if limit_s is None or until_s is None or since_s is None or run.closed_s is None:
            continue
        waited_s = until_s - since_s - run.closed_s[1]
        if waited_s > limit_s + evidence.limits.late_s:
            yield f"run {run.label} waited for {waited_s:.1f} s, and had {limit_s}"

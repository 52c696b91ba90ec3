"""A run has all of the time that it was given."""

from collections.abc import Iterator

from judging.evidence import Evidence


def had_its_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that were ended before their time to execute, or to wait, was over."""
    soon_s = evidence.limits.soon_s
    for run in evidence.runs.values():
        match run.kind:
            case "timeout":
                since_s, limit_s = run.started_s, run.request.timeout_s
            case "queue_timeout":
                since_s, limit_s = run.created_s, run.request.queue_timeout_s
            case _:
                continue
        if limit_s is None:
            yield f"run {run.label} ended as {run.kind}, and had no end of time"
        elif since_s is not None and run.ended_s is not None and run.ended_s - since_s < limit_s - soon_s:
            yield f"run {run.label} ended as {run.kind} after {run.ended_s - since_s:.3f} s, and had {limit_s}"

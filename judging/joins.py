"""A run that joins another has its message in that one's part of history, once and in order, and ends with it."""

from collections.abc import Iterator
from itertools import pairwise

from judging.evidence import Evidence, Joined, Run
from judging.histories import left_nothing


def ended_with_host(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that have joined another and ended otherwise, and those that ended before they joined any."""
    for run in evidence.runs.values():
        if run.join == "pending" and run.end is not None and run.kind not in ("cancelled", "queue_timeout"):
            yield f"run {run.label} ended as {run.kind}, and has joined none"
        if run.join != "applied":
            continue
        host = evidence.runs.get(run.host or "")
        if host is None:
            yield f"run {run.label} has joined run {run.host}, which is not stored"
        elif run.end != host.end or run.status != host.status:
            yield f"run {run.label} ended as {run.end}, and run {host.label}, which it has joined, as {host.end}"
        elif None not in (run.rolled_back, host.rolled_back) and run.rolled_back != host.rolled_back:
            yield f"of run {run.label} and run {host.label}, which it has joined, only one is hidden"


def joined(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that joined one that they may not, and those whose message is not where they have joined."""
    places: dict[str, list[Joined]] = {}
    for each in evidence.joined:
        for run_id in each.runs:
            places.setdefault(run_id, []).append(each)
    for run in evidence.runs.values():
        hosts = [each.host for each in places.get(run.id, ())]
        expected = [run.host] if run.join == "applied" and not left_nothing(evidence, run) else []
        if run.parts is not None and hosts != expected:
            yield f"run {run.label} has joined {expected}, and its message is with {hosts}"
        host = evidence.runs.get(run.host or "") if run.join == "applied" else None
        if host is not None:
            yield from _may_join(evidence, run, host)


def _may_join(evidence: Evidence, run: Run, host: Run) -> Iterator[str]:
    """Yield why a run must not have joined another."""
    if run.request.if_busy not in ("steer", "collect"):
        yield f"run {run.label} has joined run {host.label}, and was to {run.request.if_busy}"
    if (run.session, run.request.sender) != (host.session, host.request.sender):
        yield f"run {run.label} has joined run {host.label}, which is of another session or sender"
    if run.request.expected not in (None, host.id):
        yield f"run {run.label} was to join {run.request.expected}, and has joined run {host.label}"
    soon_s = evidence.limits.soon_s
    if run.started_s is not None and host.started_s is not None and run.started_s < host.started_s - soon_s:
        yield f"run {run.label} has joined run {host.label}, which had not started"
    if run.started_s is not None and host.ended_s is not None and run.started_s > host.ended_s + soon_s:
        yield f"run {run.label} has joined run {host.label}, which had ended"


def in_order_of_acceptance(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that one has been joined by in another order than they were accepted in."""
    for each in evidence.joined:
        known = [evidence.runs[run_id] for run_id in each.runs if run_id in evidence.runs]
        runs = [run for run in known if run.request.if_busy != "collect"]  # (else see `judging.collects`)
        for earlier, later in pairwise(runs):
            if earlier.sequence > later.sequence or 0 <= later.accepted < earlier.request.sent:
                yield f"run {earlier.label} joined {each.host} before {later.label}, which was accepted earlier"

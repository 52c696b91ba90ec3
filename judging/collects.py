"""Runs that collect start as one turn: all that wait next to each other, in their order, once it is time.

That each has its message in that turn, once, and ends with it, are rules of all that joins (`judging.joins`).
"""

from collections.abc import Iterator
from itertools import pairwise

from judging.evidence import Evidence, Run


def collected(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that are part of a turn and must not be, or that stand in another order than they waited in."""
    turns = _turns(evidence)
    soon_s = evidence.limits.soon_s
    for run in evidence.runs.values():
        if run.request.if_busy == "collect" and run.join == "became_next_run":
            yield f"run {run.label} was collected, and was no part of that turn in the end"
    for host_id, turn in turns.items():
        host = evidence.runs.get(host_id)
        for run in turn if host is not None else ():
            assert host is not None
            if host.request.if_busy != "collect":
                yield f"run {run.label} was collected by run {host.label}, which does not collect"
            if None not in (run.started_s, host.started_s) and abs(run.started_s - host.started_s) > soon_s:  # type: ignore[operator]
                yield f"run {run.label} was collected by run {host.label}, and not when that started"
    for each in evidence.joined:
        there = [evidence.runs[run_id] for run_id in each.runs if run_id in evidence.runs]
        first = [evidence.runs[each.host]] if each.host in evidence.runs else []
        runs = [run for run in (*first, *there) if run.request.if_busy == "collect"]
        for earlier, later in pairwise(run for run in runs if not run.moves):
            if (earlier.priority, earlier.sequence) > (later.priority, later.sequence):
                yield f"run {earlier.label} stands before {later.label} in one turn, which waited before it"


def gathered_in_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that started before those that others say could be collected."""
    for host, turn in _hosts(evidence):
        gathers = host.request.gathers
        created = [run.created_s for run in (host, *turn)]
        if gathers is None or host.created_s is None or None in created or len(created) >= gathers.max_items:
            continue
        last_s = max(each for each in created if each is not None)
        until_s = min(last_s + gathers.quiet_s, host.created_s + gathers.max_wait_s)
        if host.started_s is not None and host.started_s < until_s - evidence.limits.soon_s:
            yield f"run {host.label} started {until_s - host.started_s:.3f} s before its turn was gathered"


def collected_all(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that waited behind one that collects, and are no part of its turn."""
    for host, turn in _hosts(evidence):
        gathers = host.request.gathers
        if gathers is None or host.started_s is None:
            continue
        if len(turn) + 1 > gathers.max_items:
            yield f"run {host.label} has {len(turn) + 1} in its turn, and may have {gathers.max_items}"
        if len(turn) + 1 >= gathers.max_items:
            continue
        others = [
            run for run in evidence.by_session[host.session] if run is not host and _may_wait(evidence, run, host)
        ]
        if any(not _goes_with(run, host) for run in others):
            continue  # it may stand between them, and is not overtaken
        soon_s = evidence.limits.soon_s
        for run in others:
            until_s = run.ended_s if run.started_s is None else run.started_s
            waits = run.accepted_s is not None and run.accepted_s < host.started_s - soon_s
            waits = waits and until_s is not None and until_s > host.started_s + soon_s
            if waits and run.has_turn and (run.priority, run.sequence) > (host.priority, host.sequence):
                yield f"run {run.label} waited behind run {host.label}, and was not collected"


def _turns(evidence: Evidence) -> dict[str, list[Run]]:
    """Return the runs that were collected, by their host."""
    turns: dict[str, list[Run]] = {}
    for run in evidence.runs.values():
        if run.join == "applied" and run.request.if_busy == "collect" and run.host is not None:
            turns.setdefault(run.host, []).append(run)
    return turns


def _hosts(evidence: Evidence) -> Iterator[tuple[Run, list[Run]]]:
    """Yield the runs that collect and have started, each with its turn; one that was moved may be a turn of its own."""
    turns = _turns(evidence)
    for run in evidence.runs.values():
        is_own = not run.moves and run.request.not_before_s is None and not run.request.answers
        if run.request.if_busy == "collect" and run.has_turn and run.started_s is not None and is_own:
            yield run, turns.get(run.id, [])


def _may_wait(evidence: Evidence, run: Run, host: Run) -> bool:
    """Return whether a run that is not part of a turn may have waited when that started."""
    if run.host == host.id or host.started_s is None:
        return False
    soon_s = evidence.limits.soon_s
    until_s = run.ended_s if run.started_s is None else run.started_s
    if until_s is not None and until_s < host.started_s - soon_s:
        return False
    return run.created_s is None or run.created_s <= host.started_s + soon_s


def _goes_with(run: Run, host: Run) -> bool:
    """Return whether a run can be part of the turn of another one for sure."""
    return (
        run.request.if_busy == "collect"
        and run.request.sender == host.request.sender
        and not run.moves
        and run.request.not_before_s is None
        and not run.request.answers
    )

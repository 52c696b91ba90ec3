"""Judges sessions that were paused or waited for input: nothing starts there, and time stands still. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from soak.case import CLOCKS_S, Case
from soak.ledger import Line
from soak.records import input_requests_of


def judge_closed(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about pauses, and about the time that runs may wait."""
    yield from _went_on(case)
    yield from _given_up(case)


def _went_on(case: Case) -> Iterator[str]:
    """Nothing continues in a paused session either, in a server that came after the pause.

    One that was there already may have taken the run before, and have left no line yet: it came after the pause if the
    one before it has left a line since.
    """
    came_after_ns: dict[int, int] = {}
    of_session: dict[str, list[Line]] = defaultdict(list)
    last: Line | None = None
    for line in case.lines:
        if line.server not in came_after_ns:
            came_after_ns[line.server] = 0 if last is None else last.at_ns
        of_session[line.session].append(line)
        last = line
    for pause in case.records.pauses:
        for line in of_session[pause.session]:
            within = pause.since < line.at_ns < pause.until
            if within and line.kind != "end" and came_after_ns[line.server] > pause.since:
                yield f"{line.label} continued in another server while {pause.session} was paused"


def _given_up(case: Case) -> Iterator[str]:
    """The time that a run may wait stands still while its session is paused, or waits for input."""
    for run_id, view in case.records.views.items():
        request = case.request_of(run_id)
        if request is None or request.queue_timeout_s is None or view.ended is None or view.ended_s is None:
            continue
        if view.ended.kind != "queue_timeout":
            continue
        closed_s = _closed_s(case, request.session, view.created, view.ended_s)
        if (waited_s := view.ended_s - view.created - closed_s) < request.queue_timeout_s - CLOCKS_S:
            yield (
                f"run {run_id} ({request.name}) was given up after {waited_s:.3f} s that count, and had"
                f" {request.queue_timeout_s}"
            )


def _closed_s(case: Case, session: str, start: float, end: float) -> float:
    """Return for how long of that time a session was closed for sure."""
    spans = [(pause.since_s, pause.until_s) for pause in case.records.pauses if pause.session == session]
    spans += _questions(case, session)
    closed_s, at = 0.0, start
    for since, until in sorted(spans):
        since, until = max(since, at), min(until, end)
        if since < until:
            closed_s += until - since
            at = until
    return closed_s


def _questions(case: Case, session: str) -> list[tuple[float, float]]:
    """Return when a session waited for an answer that then came: from the end of the run that asked, until its time
    for an answer was over. One that came later, before anything else began, counts no more."""
    views = case.records.views
    spans = []
    for runs in case.thread.values():
        for asker, answer in pairwise(runs):
            first, then = views.get(asker), views.get(answer)
            request = case.request_of(asker)
            if first is None or then is None or request is None or request.session != session or first.ended is None:
                continue
            if input_requests_of(first.ended) and first.ended_s is not None:
                spans.append((first.ended_s, min(then.created, first.ended_s + case.rules.input_timeout_s)))
    return spans

"""What is closed: nothing continues in a session that is paused, and time stands still there. Pure."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from soak.case import Case
from soak.ledger import Line
from soak.records import input_requests_of


def judge_closed(case: Case) -> Iterator[str]:
    """Yield what continued in a paused session.

    Nothing continues in a paused session either, in a server that came after the pause.

    One that was there already may have taken the run before, and have left no line yet: it came after the pause if the
    one before it has left a line since. Of several servers it is known since when each had the session.
    """
    has_owners = bool(case.records.owned)
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
            if not pause.since < line.at_ns < pause.until or line.kind == "end":
                continue
            came_ns = case.owners.since_ns(line.session, line.at_ns) if has_owners else came_after_ns[line.server]
            if came_ns > pause.since:
                yield f"{line.label} continued in another server while {pause.session} was paused"


Spans = dict[str, list[tuple[float, float]]]


def closed_spans(case: Case) -> Spans:
    """Return by session from when until when it was closed for sure."""
    spans: Spans = defaultdict(list)
    for pause in case.records.pauses:
        spans[pause.session].append((pause.since_s, pause.until_s))
    for session, since, until in _questions(case):
        spans[session].append((since, until))
    return spans


def closed_s(spans: Spans, session: str, start: float, end: float) -> float:
    """Return for how long of that time a session was closed for sure."""
    closed_s, at = 0.0, start
    for since, until in sorted(spans.get(session, ())):
        since, until = max(since, at), min(until, end)
        if since < until:
            closed_s += until - since
            at = until
    return closed_s


def _questions(case: Case) -> Iterator[tuple[str, float, float]]:
    """Yield when sessions waited for an answer that then came: from the end of the run that asked, until its time for
    an answer was over. One that came later, before anything else began, counts no more."""
    views = case.records.views
    for runs in case.thread.values():
        for asker, answer in pairwise(runs):
            first, then = views.get(asker), views.get(answer)
            request = case.request_of(asker)
            if first is None or then is None or request is None or first.ended is None or asker in case.untimed:
                continue
            if input_requests_of(first.ended) and first.ended_s is not None:
                yield request.session, first.ended_s, min(then.created, first.ended_s + case.rules.input_timeout_s)

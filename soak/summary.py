"""What a soak has played, in a few lines: how runs ended, where servers were when they were ended, what was wished."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from soak.records import Records, input_requests_of


def summary(records: Records) -> str:
    """Return how often each thing came about that is worth a soak."""
    views = records.views.values()
    again = sum(1 for view in views if view.attempt > 1)
    lines = {
        "runs": counted(view.ended.kind for view in views if view.ended is not None),
        "runs besides": f"{again} in more than one attempt, {len(records.held)} seen held (at most {records.most_held}"
        " at once)",
        "streams": _streams(records),
        "servers ended": counted(f"{each.phase} by {'+'.join(each.signals)}" for each in records.exits if each.signals),
        "workers struck": counted(each.how for each in records.struck),
        "events of the webhook": f"{len(records.deliveries)} received, {_repeated(records)} of them again"
        if records.deliveries
        else "",
        "joins": counted(view.join for view in views if view.join is not None),
        **_requests(records),
    }
    return "\n".join(f"{what}: {counts}" for what, counts in lines.items() if counts)


def _repeated(records: Records) -> int:
    """Return how often an event came that had come before."""
    return len(records.deliveries) - len({each.id for each in records.deliveries})


def _streams(records: Records) -> str:
    """Return what clients followed: in how many streams there was a restart, or a gap, and what feeds had."""
    having = {
        what: sum(1 for stream in records.streams if any(event.kind == kind for event in stream.events))
        for what, kind in {"restarted": "run.restarted", "with a gap": "stream.gap"}.items()
    }
    shown = sum(1 for feed in records.feeds for event in feed.events if event.kind == "run.finished")
    gaps = sum(1 for feed in records.feeds for event in feed.events if event.kind == "stream.gap")
    counted = ", ".join(f"{count} {what}" for what, count in having.items() if count)
    feeds = f"; {shown} ends and {gaps} gaps in feeds" if records.feeds else ""
    return f"{len(records.streams)} followed{f', {counted}' if counted else ''}{feeds}"


def _requests(records: Records) -> dict[str, str]:
    """Return how the servers answered what was wished, and what became of it."""
    answers = {label for label, request in records.requests.items() if request.thread}
    requests = {
        each for view in records.views.values() if view.ended is not None for each in input_requests_of(view.ended)
    }
    given = {
        each
        for view in records.views.values()
        if view.label in answers and view.status
        for each in records.requests[view.label].answers
    }
    cancelled = {each.run_id for each in records.cancels} | {
        run_id for each in records.sweeps for run_id in each.stopped
    }
    alone = [
        run_id
        for run_id, view in records.views.items()
        if view.status == "cancelled" and view.label in records.left_at and run_id not in cancelled
        if records.requests[view.label].on_disconnect != "continue"
    ]
    return {
        "questions": f"{len(requests)} asked, {len(requests & given)} answered" if requests else "",
        "answers": counted(_code(each.status_code) for each in records.answered if each.label in answers),
        "cancels": counted(_code(each.status_code) for each in records.cancels if not each.force),
        "forced cancels": counted(_code(each.status_code) for each in records.cancels if each.force),
        "cancels of sessions": counted(_code(each.status_code) for each in records.sweeps),
        "cancelled since their clients had left": str(len(alone) or ""),
        "moves": counted(_code(each.status_code) for each in records.moves),
        "pauses": str(len(records.pauses) or ""),
        "deletions": counted(_code(each.status_code) for each in records.deletions),
    }


def _code(status_code: int) -> str:
    return str(status_code) if status_code else "lost"


def counted(each: Iterable[Any] | Mapping[Any, int]) -> str:
    """Return how often each thing is there, or how often a mapping says, the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(each).most_common())

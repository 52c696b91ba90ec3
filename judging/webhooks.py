"""Each event of a webhook is received at least once, always under one id and with one content, signed, and true."""

from collections import defaultdict
from collections.abc import Iterator

from judging.evidence import Evidence, Session

END = "run.finished"
PAUSED, RESUMED, DELETED = "session.paused", "session.resumed", "session.deleted"
OF_SESSIONS = (PAUSED, RESUMED, DELETED)


def delivered(evidence: Evidence) -> Iterator[str]:
    """Yield the runs whose end was to be sent to a webhook, and was not received."""
    ends = {each.run_id for each in evidence.deliveries if each.kind == END}
    for run_id in sorted(evidence.hooked - ends):
        run = evidence.runs.get(run_id)
        if run is not None and run.end is not None:
            yield f"the end of run {run.label} was to be sent to a webhook, and was not received"


def one_event(evidence: Evidence) -> Iterator[str]:
    """Yield the events that came with two contents, the ends that came under two ids, and what nobody has signed."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    ids: dict[str, set[str]] = defaultdict(set)
    for each in evidence.deliveries:
        contents[each.id].add(each.content)
        if each.kind == END:
            ids[each.run_id].add(each.id)
        if not each.is_signed:
            yield f"event {each.id} of run {each.run_id} came with a wrong signature"
    yield from (f"event {name} came with {len(found)} contents" for name, found in contents.items() if len(found) > 1)
    yield from (f"the end of run {name} came as {sorted(found)}" for name, found in ids.items() if len(found) > 1)


def true_event(evidence: Evidence) -> Iterator[str]:
    """Yield the events of runs that are not stored, and ends that came otherwise than they are stored."""
    for each in evidence.deliveries:
        run = evidence.runs.get(each.run_id)
        if each.kind in OF_SESSIONS:
            continue  # see `of_sessions`
        if run is None:
            if not evidence.is_deleted(each.session):
                yield f"event {each.id} came of run {each.run_id}, which is not stored"
        elif each.session != run.session:
            yield f"event {each.id} of run {run.label} came as one of {each.session}"
        elif each.kind == END and (each.status, each.end) != (run.status, run.end):
            yield f"run {run.label} is stored as {run.end}, and its end came as {each.end} ({each.status})"


def of_sessions(evidence: Evidence) -> Iterator[str]:
    """Yield the sessions whose events came too often or too rarely, or do not say that each pause came to its end."""
    ids: dict[tuple[Session, str], set[str]] = defaultdict(set)
    for each in evidence.deliveries:
        if each.kind in OF_SESSIONS:
            ids[each.session, each.kind].add(each.id)
    expected = {(each.session, each.kind): each for each in evidence.session_events}
    for session, kind in ids.keys() - expected.keys():
        yield f"{kind} came of {session}, to which nobody did that"
    for (session, kind), done in expected.items():
        times = len(ids[session, kind])
        if not done.least <= times <= done.most:
            yield f"{kind} came {times} times of {session}, to which that was done {done.least} to {done.most} times"
        others = len(ids[session, RESUMED])
        if kind == PAUSED and times != others and not evidence.is_deleted(session):
            yield f"{session} was paused {times} times and resumed {others} times, as the events of the webhook say"

"""Whether sessions were forgotten that are at rest, and no others: the judge's rules for `history_retention_s`.

What a client was answered before a session is forgotten must be older than that, and leave nothing open.
"""

from collections.abc import Iterator

from simulation.life import Life
from simulation.loop import EPOCH
from simulation.seen import Deletion
from simulation.timeline import Timeline
from strandline._model import RunStatus, SessionKey

SOON_S = 1e-3
EXPIRES_AFTER_S = 1.0
"""How long after its start a process looks for sessions at rest."""
LOOKED_S = 20.0
"""How long after that everything is forgotten that is to be, however slow the disk is."""


def forgotten_at_rest(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield which sessions were forgotten in which something continued, or was open."""
    for each in timeline.deletions.values():
        if each.at_rest and each.answered >= 0:
            if each.paused:
                yield f"session {each.session} was paused, and was forgotten"
            yield from _used(life, timeline, each)
            yield from _requested(timeline, each)


def _used(life: Life, timeline: Timeline, forgotten: Deletion) -> Iterator[str]:
    """Yield what had continued in a session for a shorter time before than it is kept."""
    assert life.options.history_retention_s is not None
    if not life.steady:
        return
    since = forgotten.sent_s - life.options.history_retention_s + SOON_S
    for run in timeline.runs.values():
        there = run.request.session == forgotten.session and 0 <= run.accepted_nth < forgotten.sent
        if there and run.request.sent_s > since:
            yield f"run {run.id} came {forgotten.sent_s - run.request.sent_s:.1f} s before its session was forgotten"
    for attempt in timeline.by_session[forgotten.session]:
        if attempt.began_nth < forgotten.sent and attempt.began_at > since:
            before_s = forgotten.sent_s - attempt.began_at
            yield f"run {attempt.run} began {before_s:.1f} s before its session was forgotten"


def _requested(timeline: Timeline, forgotten: Deletion) -> Iterator[str]:
    """Yield which question was open in a session: nobody had done anything by which it may have been closed."""
    key = forgotten.session
    for run in timeline.runs.values():
        requests_input = any(status == RunStatus.NEEDS_INPUT for status, _, _ in run.reported)
        if run.request.session != key or not (requests_input and 0 <= run.reported_nth < forgotten.sent):
            continue
        if run.withdrawn_nth >= 0 or run.cancelling or run.hung_up_at:
            continue
        others = [each for each in timeline.requests.values() if each.session == key and each is not run.request]
        wiped = [each for each in timeline.deletions.values() if each.session == key and each is not forgotten]
        swept = any(sweep.session == key for sweep in timeline.sweeps.values())
        if not (wiped or swept) and all(each.sent > forgotten.answered for each in others):
            yield f"session {key} was forgotten while it waited for what run {run.id} had asked"


def forgotten_in_time(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield which sessions are kept although they were at rest for long enough when it was last looked."""
    retention_s = life.options.history_retention_s
    if retention_s is None or not life.steady or life.faulty:
        return
    for key, messages in life.history.items():
        looked_at = _looked_at(life, timeline, key)
        if looked_at is None:
            continue
        runs = timeline.kept_in(key)
        may_rest_later = key in timeline.paused or timeline.had_question(key)
        ended = [run.ended_at for run in runs if run.ended_at is not None]
        if messages and runs and len(ended) == len(runs) and not may_rest_later:
            rested_s = looked_at - (max(ended) - EPOCH)
            if rested_s > retention_s + SOON_S:
                yield f"session {key} was at rest for {rested_s:.1f} s, and is kept"


def _looked_at(life: Life, timeline: Timeline, key: SessionKey) -> float | None:
    """Return when a process looked for the last time whether a session is at rest, its owner if there are several."""
    starts = timeline.starts if life.engines > 1 else timeline.starts[-1:]
    for started_at, process in reversed(starts):
        looked_at = started_at + EXPIRES_AFTER_S
        if life.events[-1].at < looked_at + LOOKED_S:
            continue
        before = [owner for at, owner in timeline.owned[key] if at <= looked_at]
        moves = any(looked_at < at <= looked_at + LOOKED_S for at, _ in timeline.owned[key])
        if life.engines == 1 or (before[-1:] == [process] and not moves):
            return looked_at
    return None

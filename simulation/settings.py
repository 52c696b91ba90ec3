"""Default options of sessions: each run has those that its session had when it was accepted.

A change puts a mark into the metadata of all runs that are accepted under it, or takes it away.
"""

from collections.abc import Iterator

from simulation.agents import MARK
from simulation.life import Life
from simulation.timeline import Timeline
from strandline._model import SessionKey


def marked(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that have not the mark of their session's options."""
    if not timeline.settings or life.options.history_retention_s is not None:
        return
    for stored in life.runs.values():
        run = timeline.runs[stored.run_id]
        is_fired = "@" in run.text  # (nobody sees when)
        is_edited = any(not each.refused for each in run.edits.values())  # (which replaces all metadata)
        if is_fired or is_edited or timeline.was_deleted(stored.key):
            continue
        mark = stored.metadata.get(MARK, "")
        until = run.accepted_nth if run.accepted_nth >= 0 else len(life.events)
        if mark not in (allowed := _marks(life, timeline, stored.key, run.request.sent, until)):
            yield f"run {run.id} has the mark {mark!r}, and its session had one of {sorted(allowed)}"
        for attempt in run.attempts:
            if attempt.mark != mark:
                yield f"attempt {attempt.number} of run {run.id} has the mark {attempt.mark!r}, and not {mark!r}"


def _marks(life: Life, timeline: Timeline, key: SessionKey, since: int, until: int) -> set[str]:
    """Return which marks the options of a session may have had between two places in the record."""
    changes = [each for each in timeline.settings.values() if each.session == key]
    made = [each for each in changes if 0 <= each.answered < since]
    found = {
        each.mark
        for each in changes
        if each.sent < until and not any(0 <= each.answered < other.sent for other in made)
    }
    if made:
        return found
    if key not in life.copied:
        return {*found, ""}
    source = life.copied[key].source
    return found.union(*(_marks(life, timeline, source, *window) for window in _forked(timeline, key)))


def _forked(timeline: Timeline, key: SessionKey) -> Iterator[tuple[int, int]]:
    """Yield between which places a fork was made."""
    yield from ((each.sent, each.answered) for each in timeline.forks.values() if each.session == key)

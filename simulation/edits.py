"""Edits of runs that wait: each that was answered counts until another one does, and none once its run has begun.

Each puts its name into the metadata of its run. What it makes of the priority is a common rule, as for moves.
"""

from collections import Counter
from collections.abc import Iterator

from judging.evidence import Move
from simulation.agents import EDITED
from simulation.life import Life
from simulation.seen import Edit, ObservedRun
from simulation.timeline import Timeline


def moves_by(run: ObservedRun) -> Iterator[Move]:
    """Yield what edits have made of the priority of a run, as moves."""
    for each in run.edits.values():
        if each.priority is not None and not each.refused:
            yield Move(sent_s=each.sent_s, answered_s=each.answered_s, priority=each.priority)


def edited(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that are not as their last edit has made them, and the edits that were not to be made."""
    for run in timeline.runs.values():
        stored = life.runs.get(run.id)
        if not run.edits or stored is None:
            continue
        last, wanted = stored.metadata.get(EDITED, ""), _last(run)
        if last not in wanted:
            yield f"run {run.id} was edited by {last!r} last, and not by one of {sorted(wanted)}"
        for attempt in run.attempts:
            if attempt.edited != last:
                yield f"attempt {attempt.number} of run {run.id} was edited by {attempt.edited!r}, and it by {last!r}"
        began = min((attempt.began_nth for attempt in run.attempts), default=len(life.events))
        made = [each for each in run.edits.values() if each.answered >= 0]
        for each in made:
            if each.sent > began:
                yield f"run {run.id} was edited by {each.name} when it had begun"
        for edition, times in Counter(edition for each in made for edition in each.expected).items():
            if times > 1:
                yield f"run {run.id} was edited {times} times as if it was as {edition} each time"


def _last(run: ObservedRun) -> set[str]:
    """Return the names of the edits of which each may be the last; "" for none."""
    edits = [each for each in run.edits.values() if not each.refused]
    found = {each.name for each in edits if not _is_replaced(each, edits)}
    return found if any(each.answered >= 0 for each in edits) else {*found, ""}


def _is_replaced(edit: Edit, edits: list[Edit]) -> bool:
    return any(0 <= edit.answered < other.sent and other.answered >= 0 for other in edits)

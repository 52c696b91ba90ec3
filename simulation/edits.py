"""Edits of runs that wait: each that was answered counts until another one does, and none once its run has begun.

Each puts its name into the metadata of its run, and into what that says if it changes it. What it makes of the priority
is a common rule, as for moves.
"""

from collections import Counter
from collections.abc import Iterator

from judging.evidence import Move
from simulation.agents import EDITED
from simulation.life import Life
from simulation.parts import split
from simulation.record import joined_texts, name_in, wording_of
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


def reworded(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs that do not say what their edits have them say: to their agents, and in history."""
    for run in timeline.runs.values():
        for attempt in run.attempts:
            if not attempt.answers and run.id in life.runs:
                yield from _wording(life, timeline.origin(run), attempt.wording)
    by_text = {run.text: run for run in timeline.runs.values()}
    for part in (part for key in life.history for part in split(life, timeline, key)):
        own = [] if part.run is None or part.opened is not None else [part.messages[0]["content"][0].get("text", "")]
        for said in [*own, *joined_texts(part.messages)]:
            if (spoke := by_text.get(name_in(said))) is not None and spoke.id in life.runs:
                yield from _wording(life, spoke, wording_of(said))


def _wording(life: Life, run: ObservedRun, wording: str) -> Iterator[str]:
    """Yield that a run says what another edit than its last one had it say."""
    if run.id not in life.runs:
        return
    last = run.edits.get(life.runs[run.id].metadata.get(EDITED, ""))
    allowed = {last.name} if last is not None and last.rewords else _last(run, rewords=True)
    if wording not in allowed:
        yield f"run {run.id} says what edit {wording!r} had it say, and not one of {sorted(allowed)}"


def _last(run: ObservedRun, *, rewords: bool = False) -> set[str]:
    """Return the names of the edits (that change what a run says) of which each may be the last; "" for none."""
    edits = [each for each in run.edits.values() if not each.refused and (each.rewords or not rewords)]
    found = {each.name for each in edits if not _is_replaced(each, edits)}
    return found if any(each.answered >= 0 for each in edits) else {*found, ""}


def _is_replaced(edit: Edit, edits: list[Edit]) -> bool:
    return any(0 <= edit.answered < other.sent and other.answered >= 0 for other in edits)

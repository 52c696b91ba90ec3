"""Judges what became of rollbacks and moves, as only the soak can see it. Pure."""

from collections.abc import Iterator
from typing import Final

from soak.case import CLOCKS_S, Case, places_of

INTERRUPTS: Final = frozenset({"interrupt", "rollback"})


def judge_moves(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about rollbacks and moves."""
    yield from _hidden(case)
    yield from _moves(case)


def _hidden(case: Case) -> Iterator[str]:
    """A run is hidden as a whole, or not at all."""
    for session, parts in case.parts.items():
        for part, places in zip(parts, places_of(parts), strict=True):
            hidden = case.records.hidden.get(session, frozenset()).intersection(places)
            if hidden and len(hidden) < len(places) and not case.is_answered(part.label):
                yield f"{part.label} is hidden in part"


def _moves(case: Case) -> Iterator[str]:
    """A run that could not be moved had begun, or ended."""
    for move in case.records.moves:
        view, label = case.records.views.get(move.run_id), case.label_of.get(move.run_id, "")
        if view is None or view.ended is None or view.ended_s is None or move.run_id in case.untimed:
            continue
        if move.code == "too_late" and (view.begun is None or view.begun > move.answered_s + CLOCKS_S):
            yield f"run {move.run_id} ({label}) had not begun when it was too late to move it"
        if move.code == "already_ended" and view.ended_s > move.answered_s + CLOCKS_S:
            yield f"run {move.run_id} ({label}) had not ended when it was not moved for that"

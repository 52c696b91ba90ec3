"""Judges what became of what clients asked for besides an answer: keys, policies, priorities, moves.

Pure; returns faults, one sentence each. Seconds since the epoch are the server's, which all processes of a machine
share.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from soak.case import CLOCKS_S, Case
from soak.records import Asked, Move, View

INTERRUPTS: Final = frozenset({"interrupt", "rollback"})
FRONT: Final = 2
MOVED: Final = 1
ACCEPTED_S: Final = 1.0
"""How long after its `created_at` a run may be accepted: on a slow disk, in a busy machine."""


def judge_wishes(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about keys, policies, priorities and moves."""
    yield from _keys(case)
    yield from _interrupts(case)
    yield from _priorities(case)
    yield from _moves(case)


def _keys(case: Case) -> Iterator[str]:
    """However often a message was sent under its key, it is one run."""
    runs: dict[str, set[str]] = defaultdict(set)
    for run_id, label in case.label_of.items():
        runs[label].add(run_id)
    for answer in case.records.answered:
        if answer.run_id:
            runs[answer.label].add(answer.run_id)
    for label, ids in runs.items():
        if len(ids) > 1 and label not in case.gone:
            yield f"{label} became {len(ids)} runs: {', '.join(sorted(ids))}"


def interrupts_of(case: Case, run_id: str, view: View) -> Iterator[Asked]:
    """Yield the interrupts that may be why a run was cancelled: of one that had begun, accepted before it ended."""
    asked = case.asked_for(run_id)
    if asked is None or not view.started:
        return
    for other in case.stored[asked.session]:
        interrupt = case.asked_for(other.run_id)
        if interrupt is not None and interrupt.if_busy in INTERRUPTS and other.run_id != run_id:
            yield interrupt


def _interrupts(case: Case) -> Iterator[str]:
    """An interrupt ends what had begun; what a rollback ended is hidden, and nothing else."""
    for session, runs in case.stored.items():
        hidden = case.records.hidden.get(session, frozenset())
        at = 0
        for part in case.parts.get(session, []):
            places, at = range(at, at + len(part.messages)), at + len(part.messages)
            run_id = next((run.run_id for run in runs if case.label_of.get(run.run_id) == part.label), "")
            view = case.records.views.get(run_id)
            if view is None or view.ended is None or hidden.isdisjoint(places):
                continue
            rollbacks = [each for each in interrupts_of(case, run_id, view) if each.if_busy == "rollback"]
            if any(each in case.answers for each in case.thread[part.label]):
                continue  # of an answer that was rolled back only what it did itself is hidden
            if not hidden.issuperset(places):
                yield f"run {run_id} ({part.label}) is hidden in part"
            if view.ended.kind != "cancelled" or not rollbacks:
                yield f"run {run_id} ({part.label}) is hidden, and nobody has rolled it back"
        for one, interrupt in combinations(runs, 2):  # (in the order of their acceptance)
            first, then = case.records.views.get(one.run_id), case.records.views.get(interrupt.run_id)
            asked = case.asked_for(interrupt.run_id)
            if first is None or then is None or asked is None or asked.if_busy not in INTERRUPTS:
                continue
            if first.begun is None or first.ended is None or first.took_s is None:
                continue
            ended = first.begun + first.took_s
            if first.begun < then.created and ended > then.created + ACCEPTED_S and first.ended.kind != "cancelled":
                yield f"run {one.run_id} ended as {first.ended.kind}, and {asked.label} had interrupted it"


def _priorities(case: Case) -> Iterator[str]:
    """No run starts while one waits that goes before it."""
    for runs in case.stored.values():
        begun: list[tuple[float, float, Asked, int, str]] = []
        for run in runs:
            view, asked = case.records.views.get(run.run_id), case.asked_for(run.run_id)
            if view is not None and view.begun is not None and asked is not None:
                begun.append((view.begun, view.created + ACCEPTED_S, asked, run.sequence, run.run_id))
        for at, _, asked, sequence, run_id in begun:
            rank = _rank(case, asked, sequence, run_id, at)
            for later, accepted, other, other_sequence, other_id in begun if rank else ():
                before = _rank(case, other, other_sequence, other_id, at) if accepted < at < later else None
                if rank and before and before < rank and not _unclear(before, rank):
                    yield f"{asked.label} started while {other.label} waited, which goes before it"


def _unclear(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    return one[0] == other[0] == FRONT and MOVED in (one[1], other[1])


def _rank(case: Case, asked: Asked, sequence: int, run_id: str, at: float) -> tuple[int, int, int] | None:
    """Return where a run stood at that moment, None if it may just have been moved.

    Of those at the front that were moved there nobody knows who came first.
    """
    moves = [move for move in case.records.moves if move.run_id == run_id and move.status_code in (0, 200)]
    done = [move for move in moves if move.status_code == 200 and move.told < at]
    if any(move.sent <= at for move in moves if move not in done) or len(done) > 1:
        return None
    if asked.thread:
        return (1, 0, sequence)
    if done:
        (move,) = done
        return (FRONT, MOVED, sequence) if move.priority is None else (3, move.priority, sequence)
    return (FRONT, 0, sequence) if asked.if_busy in INTERRUPTS else (3, asked.priority, sequence)


def _moves(case: Case) -> Iterator[str]:
    """A run that was moved to a priority has it; one that could not be had begun, or ended."""
    last: dict[str, list[Move]] = defaultdict(list)
    for move in case.records.moves:
        last[move.run_id].append(move)
    for run_id, moves in last.items():
        view, label = case.records.views.get(run_id), case.label_of.get(run_id, "")
        if view is None or view.ended is None or view.ended_s is None:
            continue
        for move in moves:
            if move.code == "too_late" and (view.begun is None or view.begun > move.told + CLOCKS_S):
                yield f"run {run_id} ({label}) had not begun when it was too late to move it"
            if move.code == "already_ended" and view.ended_s > move.told + CLOCKS_S:
                yield f"run {run_id} ({label}) had not ended when it was not moved for that"
        asked, done = case.asked_for(run_id), [move for move in moves if move.status_code in (0, 200)]
        if asked is not None and not any(move.status_code == 0 for move in done) and not asked.thread:
            wanted = {move.priority for move in _latest(done)} - {None} or {asked.priority}
            if view.priority not in wanted:
                yield f"run {run_id} ({label}) has priority {view.priority}, and was to have {sorted(map(str, wanted))}"


def _latest(done: list[Move]) -> list[Move]:
    """Return the moves to a priority that may have been the last."""
    to = [move for move in done if move.priority is not None]
    return [move for move in to if not any(other.sent > move.told for other in to)]

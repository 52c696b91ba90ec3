"""Judges what became of what clients asked for besides an answer: keys, cancels, policies, priorities.

Pure; returns faults, one sentence each. Seconds since the epoch are the server's, which all processes of a machine
share.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from soak.case import Case
from soak.records import Asked, View

INTERRUPTS: Final = frozenset({"interrupt", "rollback"})
ACCEPTED_S: Final = 1.0
"""How long after its `created_at` a run may be accepted: on a slow disk, in a busy machine."""


def judge_wishes(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about keys, cancels, policies and priorities."""
    yield from _keys(case)
    yield from _cancels(case)
    yield from _interrupts(case)
    yield from _priorities(case)


def _keys(case: Case) -> Iterator[str]:
    """However often a message was sent under its key, it is one run."""
    runs: dict[str, set[str]] = defaultdict(set)
    for run_id, label in case.label_of.items():
        runs[label].add(run_id)
    for answer in case.records.answered:
        if answer.run_id:
            runs[answer.label].add(answer.run_id)
    for label, ids in runs.items():
        if len(ids) > 1:
            yield f"{label} became {len(ids)} runs: {', '.join(sorted(ids))}"


def _cancels(case: Case) -> Iterator[str]:
    """A cancel that was answered holds, one that came too late has changed nothing, and nobody else is cancelled."""
    answers: dict[str, set[int]] = defaultdict(set)
    for cancel in case.records.cancels:
        answers[cancel.run_id].add(cancel.status_code)
    for run_id, view in case.records.views.items():
        if view.ended is None:
            continue
        label, codes = case.label_of.get(run_id, ""), answers[run_id]
        cancelled, others = view.ended.kind == "cancelled", [*_interrupts_of(case, run_id, view)]
        if codes & {200, 202} and not cancelled:
            yield f"run {run_id} ({label}) ended as {view.ended.kind}, and its cancel was answered {max(codes)}"
        if cancelled and not codes - {409, 503} and not others:
            why = "came too late" if 409 in codes else "nobody asked for"
            yield f"run {run_id} ({label}) was cancelled, and its cancel {why}"


def _interrupts_of(case: Case, run_id: str, view: View) -> Iterator[Asked]:
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
            rollbacks = [each for each in _interrupts_of(case, run_id, view) if each.if_busy == "rollback"]
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
        begun: list[tuple[float, float, tuple[int, int, int], str]] = []
        for run in runs:
            view, asked = case.records.views.get(run.run_id), case.asked_for(run.run_id)
            if view is not None and view.begun is not None and asked is not None:
                begun.append((view.begun, view.created + ACCEPTED_S, _rank(asked, run.sequence), asked.label))
        for at, _, rank, label in begun:
            for later, accepted, before, other in begun:
                if accepted < at < later and before < rank:
                    yield f"{label} started while {other} waited, which goes before it"


def _rank(asked: Asked, sequence: int) -> tuple[int, int, int]:
    interrupts = asked.if_busy in INTERRUPTS
    return (2, 0, sequence) if interrupts else (3, asked.priority, sequence)

"""Judges cancels: of a run, of a session, by force, and of a run whose client has left. Pure.

A cancel that was answered holds, one that came too late has changed nothing, nobody else is cancelled.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from soak.case import CLOCKS_S, Case, Rules
from soak.records import Cancel, View
from soak.wishes import interrupts_of

LEFT_ALONE_S: Final = 2.0
"""How long nobody must wait for a run that is not to go on without a client."""
NOTICED_S: Final = 0.25
"""How much earlier than its client's clock says a server may have seen it leave."""
SLACK_S: Final = 1.5
"""How much later than promised a server that lives may end a run."""
DRAIN_S: Final = 1.5
"""For how long a server that was told to end forgets who has left before its end."""
ENDS: Final = 200
ASKS: Final = 202


def judge_cancels(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about cancels."""
    yield from _cancels(case)
    yield from _sweeps(case)
    yield from _left_alone(case)


def _cancels(case: Case) -> Iterator[str]:
    cancels: dict[str, list[Cancel]] = defaultdict(list)
    for cancel in case.records.cancels:
        cancels[cancel.run_id].append(cancel)
        if cancel.held:
            yield f"run {cancel.run_id} was cancelled by force, and is still held"
    for run_id, view in case.records.views.items():
        if view.ended is None:
            continue
        label, codes = case.label_of.get(run_id, ""), {each.status_code for each in cancels[run_id]}
        cancelled = view.ended.kind == "cancelled"
        for cancel in () if cancelled else cancels[run_id]:
            if not _may_stand(cancel, view):
                yield (
                    f"run {run_id} ({label}) ended as {view.ended.kind}, and its cancel was answered"
                    f" {cancel.status_code}"
                )
        others = [*_sweeps_of(case, run_id, view), *interrupts_of(case, run_id, view), *_left(case, run_id, view)]
        if cancelled and not codes - {404, 409, 503} and not others:
            why = "came too late" if 409 in codes else "nobody asked for"
            yield f"run {run_id} ({label}) was cancelled, and its cancel {why}"


def _may_stand(cancel: Cancel, view: View) -> bool:
    """Return whether a run may have ended otherwise though its cancel was answered so.

    Of one that asks the question was withdrawn; of one that had ended only the hold, by force.
    """
    if cancel.status_code == ASKS:
        return False
    if cancel.status_code != ENDS or (view.ended is not None and view.ended.kind == "needs_input"):
        return True
    return cancel.force and view.ended_s is not None and view.ended_s <= cancel.told + CLOCKS_S


def _sweeps_of(case: Case, run_id: str, view: View) -> list[str]:
    """Return the sessions whose cancel may be why a run was cancelled."""
    asked = case.asked_for(run_id)
    return [
        sweep.session
        for sweep in case.records.sweeps
        if asked is not None
        and sweep.session == asked.session
        and (run_id in (*sweep.ended, *sweep.asked) or sweep.status_code == 0)
    ]


def _sweeps(case: Case) -> Iterator[str]:
    """A cancel of a session stops all that it says, and leaves out nothing that waited, nor (`running`) executed."""
    for sweep in case.records.sweeps:
        for run_id in (*sweep.ended, *sweep.asked):
            view = case.records.views.get(run_id)
            if view is not None and view.ended is not None and view.ended.kind != "cancelled":
                yield f"run {run_id} ended as {view.ended.kind}, and was cancelled with its session {sweep.session}"
        for run in case.stored[sweep.session] if sweep.status_code in (ENDS, ASKS) else ():
            view, label = case.records.views.get(run.run_id), case.label_of.get(run.run_id, "")
            if view is None or view.ended is None or view.ended.kind == "cancelled" or view.ended_s is None:
                continue
            if case.known_ns.get(label, 2**63) > sweep.sent_ns:
                continue
            if sweep.running and view.ended_s > sweep.told + CLOCKS_S:
                yield f"run {run.run_id} ({label}) had not ended when {sweep.session} was cancelled: {run.status}"
            elif view.begun is not None and view.begun > sweep.told + CLOCKS_S:
                yield f"run {run.run_id} ({label}) waited when {sweep.session} was cancelled, and began"


def _left(case: Case, run_id: str, view: View) -> list[str]:
    """Return whether the client of a run has left, which may be why it was cancelled, as a list."""
    asked, label = case.asked_for(run_id), case.label_of.get(run_id, "")
    left = case.records.left_at.get(label)
    if asked is None or left is None or view.ended_s is None or view.ended_s < left + LEFT_ALONE_S - NOTICED_S:
        return []
    if asked.on_disconnect == "cancel" or (asked.on_disconnect == "cancel_if_queued" and not view.started):
        return [label]
    return []


def _left_alone(case: Case) -> Iterator[str]:
    """A run that is not to go on without a client does not, if its server lived for long enough to see it left."""
    for run_id, view in case.records.views.items():
        asked, label = case.asked_for(run_id), case.label_of.get(run_id, "")
        left = case.records.left_at.get(label)
        if asked is None or left is None or asked.on_disconnect != "cancel" or run_id in case.records.waited_for:
            continue
        if view.ended_s is None or asked.keyed:
            continue  # (under a key others may have waited)
        alone = max(left, view.created)
        quiet = not any(alone - DRAIN_S <= blow <= view.ended_s for blow in case.records.blows)
        if quiet and view.ended_s > _latest(alone, case.rules):
            yield f"run {run_id} ({label}) ended {view.ended_s - alone:.1f} s after its client had left"


def _latest(alone: float, rules: Rules) -> float:
    return alone + LEFT_ALONE_S + rules.cancel_grace_s + SLACK_S

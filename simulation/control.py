"""Whether callers had their way with a busy session: the judge's rules for cancels, policies and idempotency keys.

A cancel that was answered holds, whatever dies; of a cancel and an end one wins. An interrupt ends what has begun, and
nothing else; only a rollback hides what that did. A key never gives two runs.
"""

from collections.abc import Iterator
from itertools import pairwise

from simulation.evidence import Evidence
from simulation.life import Life
from simulation.seen import Asked, RunEvidence, text_of
from simulation.truth import EPOCH, SLACK_S
from strandline._model import IfBusy, OnDisconnect, Outcome, Run, RunStatus

SOON_S = 1e-6
LEFT_ALONE_S = 2.0
"""How long nobody must wait for a run that is not to go on without a client."""


def as_told(outcome: Outcome) -> tuple[str, str, str]:
    """Return an outcome as clients write it down."""
    return outcome.status.value, outcome.error.code.value if outcome.error else "", outcome.output


# -- cancels -------------------------------------------------------------------------------------------


def cancelled(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which cancels were answered and did not hold, and which runs were cancelled though nobody asked for it."""
    for run, outcome in evidence.ended():
        kept = life.runs[run.id]
        is_cancelled = outcome.status is RunStatus.CANCELLED
        if run.cancelled_at is not None:
            if not is_cancelled and not (run.forced and _ended_by(life, kept, run.cancelled_at)):
                yield f"run {run.id} ended as {as_told(outcome)} although its cancel was accepted"
            for attempt in run.attempts:
                late = attempt.ended_nth > attempt.began_nth > run.cancelled_nth
                if late and not attempt.was_on_its_way(run.cancelled_at):
                    yield f"attempt {attempt.number} of run {run.id} began after its cancel was accepted"
            yield from _in_time(life, evidence, run, kept)
        if is_cancelled:
            others = [*_sweeps_of(evidence, run), *_interrupts_of(life, evidence, run), *_left_alone(run, kept)]
            if not (run.cancelling or others):
                yield f"run {run.id} was cancelled, which nobody asked for"
            if run.too_late and run.cancelled_at is None and not others:
                yield f"run {run.id} was cancelled, and its client was told that it is too late"


def _ended_by(life: Life, kept: Run, at: float) -> bool:
    """Return whether a run had ended at that second, as far as can be known."""
    return kept.ended_at is not None and (not life.steady or kept.ended_at - EPOCH <= at + SOON_S)


def _in_time(life: Life, evidence: Evidence, run: RunEvidence, kept: Run) -> Iterator[str]:
    if run.cancelled_at is None or kept.ended_at is None or not life.steady or life.faulty:
        return
    ended_at = kept.ended_at - EPOCH
    quiet = not any(run.cancelled_at <= each <= ended_at + SLACK_S for each in evidence.interruptions)
    if quiet and ended_at - run.cancelled_at > life.options.cancel_grace_s + SLACK_S:
        yield f"run {run.id} ended {ended_at - run.cancelled_at:.1f} s after its cancel was accepted"


def _left_alone(run: RunEvidence, kept: Run) -> list[float]:
    """Return when clients left that may be why a run was cancelled."""
    wanted = run.request.on_disconnect
    if wanted is OnDisconnect.CONTINUE or (wanted is OnDisconnect.CANCEL_IF_QUEUED and kept.started_at is not None):
        return []
    return run.hung_up_at


def left_alone(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which runs went on for long though their client was lost, and that was to end them."""
    if not life.steady or life.faulty:
        return
    for run, _ in evidence.ended():
        kept = life.runs[run.id]
        if run.request.on_disconnect is not OnDisconnect.CANCEL or run.request.key is not None or not run.hung_up_at:
            continue
        assert kept.ended_at is not None
        lost_at, ended_at = run.hung_up_at[0], kept.ended_at - EPOCH
        # (A server that stops, or has begun to, forgets who was lost.)
        drains_s = life.options.drain_grace_s + life.options.stop_grace_s + SLACK_S
        quiet = not any(lost_at - drains_s <= each <= ended_at for each in evidence.interruptions)
        if quiet and ended_at > lost_at + LEFT_ALONE_S + life.options.cancel_grace_s + SLACK_S:
            yield f"run {run.id} ended {ended_at - lost_at:.1f} s after its client was lost"


def _sweeps_of(evidence: Evidence, run: RunEvidence) -> list[str]:
    """Return the cancels of its session that may be why a run was cancelled."""
    return [
        name
        for name, sweep in evidence.sweeps.items()
        if sweep.session == run.request.session
        and (sweep.told_nth < 0 or run.id in sweep.stopped)
        and (sweep.told_nth < 0 or run.request.nth < sweep.told_nth)
    ]


def cancelled_all(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say what a cancel of a session has left out."""
    for sweep in evidence.sweeps.values():
        if sweep.told_nth < 0:
            continue
        for run in evidence.runs.values():
            kept = life.runs.get(run.id)
            if kept is None or run.request.session != sweep.session or not 0 <= run.accepted_nth < sweep.nth:
                continue
            # (A run whose claim was made has to begin yet, and is asked to end only if that is wanted.)
            waited = sweep.running or (life.steady and (kept.started_at or 0) - EPOCH > sweep.told_at + SOON_S)
            # (In a process that does not know yet that another one has its claim, an agent may begin in vain.)
            begun = [each for each in run.attempts if each.began_nth < each.ended_nth]
            first = min(begun, key=lambda each: each.began_nth, default=None)
            began = first is not None and first.began_nth > sweep.told_nth and not first.was_on_its_way(sweep.told_at)
            if waited and began:
                yield f"run {run.id} waited when its session was cancelled, and began"
            ended_after = life.steady and kept.ended_at is not None and kept.ended_at - EPOCH > sweep.told_at + SOON_S
            if sweep.running and ended_after and kept.status is not RunStatus.CANCELLED:
                yield f"run {run.id} had not ended when its session was cancelled, and ended as {kept.status}"


# -- policies ------------------------------------------------------------------------------------------


def went_by_policy(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which interrupts ended too little or too much, and which runs waited or were refused without need."""
    for run, _ in evidence.ended():
        kept = life.runs[run.id]
        rollbacks = [each for each in _interrupts_of(life, evidence, run) if each.if_busy is IfBusy.ROLLBACK]
        if (kept.discard or (kept.status is RunStatus.CANCELLED and kept.discarded)) and not rollbacks:
            yield f"run {run.id} was rolled back, which nobody asked for"
        if kept.discard and kept.status is RunStatus.CANCELLED and not kept.discarded:
            yield f"run {run.id} was rolled back, and is not hidden"
        for other in evidence.runs.values():
            if other.accepted and other.request.session == kept.key and other.id in life.runs and life.steady:
                yield from _met(life, evidence, run, kept, other)
    for text, code in evidence.refused.items():
        request = evidence.requests[text]
        maybe = request.session in evidence.paused or evidence.was_deleted(request.session) or _busy(life, request)
        if code == "session_busy" and life.steady and not maybe:
            yield f"request {text} was told that its session is busy, and it was not"


def _met(life: Life, evidence: Evidence, run: RunEvidence, kept: Run, other: RunEvidence) -> Iterator[str]:
    """Say what is wrong with how `other` was accepted while `run`, which came before it, had not ended."""
    sequence = life.runs[other.id].sequence
    if kept.sequence >= sequence or kept.ended_at is None or kept.ended_at - EPOCH <= other.accepted_at + SOON_S:
        return
    waits = not other.request.answers  # an answer goes before all that waits
    if other.request.must_not_wait and waits and run.accepted and run.accepted_nth < other.request.nth:
        yield f"run {other.id} was to be refused by a busy session, and was accepted beside run {run.id}"
    if not other.request.interrupts:
        return
    begun = [each for each in run.attempts if each.began_nth < each.ended_nth]
    if not begun or begun[0].began_nth > other.request.nth:
        return
    if kept.status is not RunStatus.CANCELLED:
        yield f"run {run.id} ended as {kept.status} although run {other.id} had interrupted it"
    elif other.request.if_busy is IfBusy.ROLLBACK and not kept.discarded:
        yield f"run {run.id} is not hidden although run {other.id} had rolled it back"


def _interrupts_of(life: Life, evidence: Evidence, run: RunEvidence) -> list[Asked]:
    """Return the interrupts that may be why a run was cancelled: accepted after it, when it had begun, before its end.

    One that waits and has not begun is innocent.
    """
    kept = life.runs[run.id]
    if kept.started_at is None:
        return []
    found = []
    for other in life.runs.values():
        request = evidence.requests[text_of(other)]
        in_time = not life.steady or kept.ended_at is None or request.at <= kept.ended_at - EPOCH + SOON_S
        if other.key == kept.key and request.interrupts and other.sequence > kept.sequence and in_time:
            found.append(request)
    return found


def _busy(life: Life, request: Asked) -> bool:
    """Return whether a session may have had a run at some time after it was asked for another."""
    return any(
        run.key == request.session
        and run.created_at - EPOCH < request.at + 100.0
        and (run.ended_at is None or run.ended_at - EPOCH + _closed_s(life, run) + SLACK_S > request.at)
        for run in life.runs.values()
    )


def _closed_s(life: Life, run: Run) -> float:
    """Return for how long the session of a run that has ended may be closed."""
    options = life.options
    return max(options.hold_limit_s, options.input_timeout_s if run.status is RunStatus.NEEDS_INPUT else 0.0)


# -- keys ----------------------------------------------------------------------------------------------


def keyed(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which keys stood for two runs, or for none."""
    for text, run_id in evidence.answered:
        kept = life.runs.get(run_id)
        if kept is not None and text_of(kept) != text:
            yield f"request {text} was answered by run {run_id}, which is another one: {text_of(kept)}"
    by_key: dict[tuple[object, str | None], list[Run]] = {}
    for kept in life.runs.values():
        key = evidence.requests[text_of(kept)].key
        if key is not None:
            by_key.setdefault((kept.key, key), []).append(kept)
    for (_, key), runs in by_key.items():
        runs.sort(key=lambda run: run.sequence)
        for earlier, later in pairwise(runs):
            over = earlier.ended_at
            # (Where the clock is set back, what was over has been forgotten.)
            if over is None or (life.steady and over >= later.created_at - life.options.idempotency_retention_s):
                yield f"the key {key} stood for run {earlier.run_id}, and run {later.run_id} was accepted with it"
    for text in evidence.reused:
        request = evidence.requests[text]
        others = by_key.get((request.session, request.key), ())
        if not any(text_of(run) != text for run in others) and not evidence.was_deleted(request.session):
            yield f"request {text} was told that its key stands for another, and there is none"

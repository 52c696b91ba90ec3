"""Makes the record that the common rules judge of a simulated world: its places are those of the record of events."""

import math
from collections.abc import Iterator

from judging.evidence import Cancel, End, Evidence, Limits, Question, Run, Session, ToolStarts, View, Work
from simulation.life import Life
from simulation.questions import closed_at
from simulation.seen import Attempt, ObservedRun
from simulation.timeline import Timeline
from simulation.truth import EPOCH, SLACK_S, may_outlive
from strandline._model import Outcome, RunStatus
from strandline._model import Run as StoredRun

SOON_S = 1e-6


def evidence_of(life: Life, timeline: Timeline) -> Evidence:
    """Return what is known of a life from outside."""
    runs = {run_id: _run(life, timeline, timeline.runs[run_id]) for run_id in life.runs}
    seen = timeline.runs.values()
    answered = {text for text, _ in timeline.answered}
    executed = {attempt.text for attempts in timeline.by_session.values() for attempt in attempts}
    return Evidence(
        limits=_limits(life),
        requests=timeline.requests,
        runs=runs,
        acknowledged={run.id: "executed" if run.begun else "accepted" for run in seen if run.begun or run.accepted},
        name_of={run.id: run.text for run in seen},
        missing=frozenset(run.id for run in seen if run.missing),
        refused=frozenset(timeline.refused.keys() - timeline.unsure - answered),
        happened=frozenset(executed | {run.request.name for run in runs.values()}),
        became=frozenset(timeline.answered),
        reported={run.id: {_end(*end) for end in run.reported} for run in seen},
        cancels=[cancel for run in seen for cancel in _cancels(run)],
        sweeps=list(timeline.sweeps.values()),
        pauses=timeline.pauses if life.steady else [],
        deletions=list(timeline.deletions.values()),
        questions=[
            Question(
                run=runs[run_id],
                requests=each.requests,
                closed_s=[at - EPOCH for at in closed_at(timeline, each)] if life.steady else [],
            )
            for run_id, each in timeline.questions.items()
        ],
        refused_answers=[(text, code) for text, code in timeline.refused.items() if timeline.requests[text].answers],
        executed={key: [runs[run.id] for run in order] for key, order in timeline.in_order_of_start().items()},
        tools=[
            ToolStarts(
                run_id=run.id,
                tool=tool,
                times=times,
                idempotent=tool in run.idempotent and bool(life.options.idempotent_tools),
            )
            for run in seen
            for tool, times in run.begun.items()
        ],
        work=_work(life, timeline),
        views=[
            View(session=key, place=nth, count=len(shown), is_beginning=shown == life.shown[key][: len(shown)])
            for nth, key, shown, _ in timeline.histories_seen
        ],
        interruptions=timeline.interruptions,
    )


def _limits(life: Life) -> Limits:
    options = life.options
    return Limits(
        max_attempts=options.max_attempts,
        cancel_grace_s=options.cancel_grace_s,
        input_timeout_s=options.input_timeout_s,
        key_retention_s=options.idempotency_retention_s,
        soon_s=SOON_S,
        slack_s=math.inf if life.faulty else SLACK_S,
        drain_s=options.drain_grace_s + options.stop_grace_s + SLACK_S,
        noticed_s=SOON_S,
    )


def _run(life: Life, timeline: Timeline, seen: ObservedRun) -> Run:
    stored = life.runs[seen.id]
    return Run(
        id=seen.id,
        request=timeline.requests[seen.text],
        session=stored.key,
        sequence=stored.sequence,
        status=stored.status,
        end=None if stored.outcome is None else _end(*as_reported(stored.outcome)),
        attempts=stored.attempt,
        priority=stored.priority,
        started=stored.started_at is not None,
        created_s=_seconds(life, stored.created_at),
        started_s=_seconds(life, stored.started_at),
        ended_s=_seconds(life, stored.ended_at),
        accepted=seen.accepted_nth,
        accepted_s=seen.accepted_at if seen.accepted else None,
        left_s=seen.hung_up_at,
        moves=[seen.move] if seen.move is not None else [],
        rolled_back=_is_rolled_back(stored),
    )


def _is_rolled_back(stored: StoredRun) -> bool:
    return stored.discard or (stored.status is RunStatus.CANCELLED and stored.discarded)


def _seconds(life: Life, at: float | None) -> float | None:
    """Return a stored time in virtual seconds, None if wall time was set meanwhile."""
    return at - EPOCH if at is not None and life.steady else None


def as_reported(outcome: Outcome) -> tuple[str, str, str]:
    """Return an outcome as clients write it down."""
    return outcome.status.value, outcome.error.code.value if outcome.error else "", outcome.output


def _end(status: str, code: str, output: str) -> End:
    return End(code or status, output)


def _cancels(run: ObservedRun) -> Iterator[Cancel]:
    if run.cancelled_at is not None:
        yield Cancel(run_id=run.id, result="accepted", force=run.forced, answered_s=run.cancelled_at)
    if run.too_late:
        yield Cancel(run_id=run.id, result="too_late")
    if run.cancelling:
        yield Cancel(run_id=run.id, result="unknown")


def _work(life: Life, timeline: Timeline) -> dict[Session, list[Work]]:
    return {
        key: [
            Work(
                run_id=each.run,
                unit=nth,
                began=each.began_nth,
                ended=each.ended_nth,
                began_s=each.began_at,
                free_from_s=_free_from_s(life, timeline, each),
            )
            for nth, each in enumerate(attempts)
        ]
        for key, attempts in timeline.by_session.items()
    }


def _free_from_s(life: Life, timeline: Timeline, attempt: Attempt) -> float:
    """Return when the hold of an attempt whose code still works may have been over."""
    stored, run = life.runs.get(attempt.run), timeline.runs[attempt.run]
    if stored is None and timeline.is_deleted(run):
        return -math.inf if may_outlive(life) else math.inf
    if run.forced:
        return -math.inf  # its hold was not wanted
    if stored is None or stored.ended_at is None or not may_outlive(life):
        return math.inf
    return (_seconds(life, stored.ended_at) or attempt.began_at) + life.options.hold_limit_s - 1e-3

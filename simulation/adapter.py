"""Makes the record that the common rules judge of a simulated world: its places are those of the record of events."""

import math
from collections import Counter
from collections.abc import Iterator

from judging.evidence import Cancel, End, Evidence, History, Limits, Question, Run, Session, ToolStarts, View, Work
from simulation.branches import goes_back
from simulation.edits import moves_by
from simulation.joins import joined_in
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.parts import Part, last_text, split
from simulation.questions import closed_at, waited_for_input_s
from simulation.schedules import replaced
from simulation.seen import Attempt, ObservedRun
from simulation.timeline import Timeline
from simulation.truth import SLACK_S, may_outlive
from strandline._model import JoinState, Message, Outcome, RunStatus
from strandline._model import Run as StoredRun

SOON_S = 1e-6


def evidence_of(life: Life, timeline: Timeline) -> Evidence:
    """Return what is known of a life from outside."""
    parts = {key: split(life, timeline, key) for key in life.history}
    joined = [found for each in parts.values() for part in each for found in joined_in(timeline, part)]
    count = Counter(part.run.id for each in parts.values() for part in each if part.run is not None)
    count.update(run_id for each in joined for run_id in each.runs)
    runs = {run_id: _run(life, timeline, timeline.runs[run_id], count[run_id]) for run_id in life.runs}
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
        cancels=[
            *(cancel for run in seen for cancel in _cancels(run)),
            *(Cancel(run_id=run_id, result="unknown") for run_id in replaced(life, timeline)),
        ],
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
            View(session=key, place=nth, count=len(shown), is_beginning=_is_beginning(life, timeline, key, shown))
            for nth, key, shown, _ in timeline.histories_seen
        ],
        histories=[*_histories(life, timeline, parts)],
        strangers=[
            (key, last_text(part.messages[:1]))
            for key, each in parts.items()
            for part in each
            if (part.opened is None if part.run is None else part.run.id not in life.runs)
        ],
        interruptions=timeline.interruptions,
        deliveries=timeline.deliveries,
        hooked=frozenset(run_id for run_id, run in life.runs.items() if run.webhook is not None),
        joined=joined,
    )


def _is_beginning(life: Life, timeline: Timeline, key: Session, shown: list[Message]) -> bool:
    """Return whether what was shown of a history is the beginning of it, or of another branch of it."""
    if not goes_back(timeline, key):
        return shown == life.shown[key][: len(shown)]
    rest = iter([*life.copied[key].messages, *life.history[key]] if key in life.copied else life.history[key])
    return all(message in rest for message in shown)


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
        late_s=math.inf if life.faulty else SLACK_S,
        undisturbed_s=math.inf if life.faulty else SLACK_S,
        closed_s=SLACK_S,
    )


def _run(life: Life, timeline: Timeline, seen: ObservedRun, parts: int) -> Run:
    stored = life.runs[seen.id]
    last = seen.attempts[-1] if seen.attempts else None
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
        moves=[*([] if seen.move is None else [seen.move]), *moves_by(seen)],
        rolled_back=_is_rolled_back(stored),
        resumed_s=None if last is None else last.began_at,
        was_cut_off=last is None or _was_cut_off(timeline, stored, last),
        closed_s=_closed_s(life, timeline, stored),
        can_resume=None if stored.join is JoinState.APPLIED else _can_resume(life, timeline, seen),
        parts=parts,
        join="" if stored.join is None else stored.join.value,
        host=stored.joined,
        has_checkpoints=seen.checkpointed or seen.request.resolves is not None,
    )


def _was_cut_off(timeline: Timeline, run: StoredRun, last: Attempt) -> bool:
    """Return whether the last attempt of a run may have been over before the run was: cut off, or in other hands.

    What happens to its process or its worker after the end of the run does not count.
    """
    if run.ended_at is None:
        return True
    ended_s = run.ended_at - EPOCH
    disturbed = any(last.began_at <= each <= ended_s + SLACK_S for each in timeline.interruptions)
    return disturbed or last.worker_gone_at <= ended_s


def _histories(life: Life, timeline: Timeline, parts: dict[Session, list[Part]]) -> Iterator[History]:
    """Yield all histories that were shown, and those at the end, also with what is hidden."""
    asking = frozenset(timeline.asking)
    for _, key, messages, pending in timeline.histories_seen:
        yield History(session=key, messages=messages, requests_input=asking, pending=pending)
    for key, each in parts.items():
        whole = [message for part in each if not (part.hidden and part.opened) for message in part.messages]
        yield History(session=key, messages=whole, requests_input=asking)
        yield History(session=key, messages=life.shown[key], requests_input=asking, pending=life.pending[key])


def _can_resume(life: Life, timeline: Timeline, run: ObservedRun) -> bool:
    """Return whether a run could resume after its last attempt.

    A server that stops on a full disk cannot store how its runs ended: at the next start they have crashed. Of those
    whose worker is ended because another's code blocks it, nobody waits until they are dead.
    """
    last = run.attempts[-1] if run.attempts else None
    cut_off = last is not None and (last.crashed or (life.faulty and bool(timeline.drains)))
    in_a_tool = cut_off and last in run.requested.values()
    fails = in_a_tool and (life.options.unknown_tool == "fail" or (last is not None and last.beside_blocked))
    return life.resumable and not fails


def _closed_s(life: Life, timeline: Timeline, run: StoredRun) -> tuple[float, float] | None:
    """Return for how many seconds of its wait the session of a run was closed, if nothing interrupted that."""
    until = run.ended_at if run.started_at is None else run.started_at
    if until is None or not life.steady or life.faulty:
        return None
    if any(_waits_since(run) - EPOCH <= each <= until - EPOCH + SLACK_S for each in timeline.interruptions):
        return None
    held_s = _held_s(life, timeline, run, until)
    least_s, most_s = waited_for_input_s(life, timeline, run, until)
    return max(held_s, least_s), held_s + most_s  # (locked and waiting at once counts once; it is not seen which)


def _waits_since(run: StoredRun) -> float:
    """Return since when the time of a run to wait counts."""
    return run.created_at if run.not_before is None else max(run.created_at, run.not_before)


def _held_s(life: Life, timeline: Timeline, run: StoredRun, until: float) -> float:
    """Return for how many seconds of its wait the session of a run was locked."""
    held_s = 0.0
    for attempt in timeline.by_session[run.key]:
        earlier = life.runs.get(attempt.run)
        if earlier is not None and earlier.ended_at is not None and attempt.run != run.run_id:
            over = min(attempt.ended_at + EPOCH, earlier.ended_at + life.options.hold_limit_s, until)
            held_s += max(0.0, over - max(earlier.ended_at, _waits_since(run)))
    return held_s


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

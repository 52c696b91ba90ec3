"""Judges a life of the simulation: by the common rules (`judging`), and by those that only the simulation can see.

Its own rules need virtual time, single attempts or the script of an agent: why a run ended, when it had to, and what
history says of it. They know what clients received, what user code did, what the operator did and what is stored at
the end, and share no code with the engine but the nouns. Where the order of two things cannot be seen, both may be.
"""

from collections.abc import Iterator
from itertools import pairwise

import judging.judge
from simulation.adapter import as_reported, evidence_of
from simulation.branches import could_go_back, superseded
from simulation.control import cancelled, cancelled_all, discarded, refused_as_busy, reused
from simulation.edits import edited, reworded
from simulation.forks import forked
from simulation.joins import heard_all, joins_what_executes
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.order import bounded, ordered
from simulation.owners import started_by_owner
from simulation.questions import answered_in_time, waited_for_answer
from simulation.resolutions import taken_up
from simulation.rest import forgotten_at_rest, forgotten_in_time
from simulation.schedules import fired
from simulation.script import SECRET, Ends
from simulation.seen import Attempt, ObservedRun
from simulation.settings import marked
from simulation.timeline import Timeline
from simulation.truth import SLACK_S, may_outlive, remembered, truthful
from strandline._model import ErrorCode, JoinState, Outcome, RunStatus

KNOWN_LATER_S = 1.0
"""How much later than the end of a run it may become known to its server that it has ended: a disk may be slow."""
FINISH_S = 1.0
"""How long runs get to finish in a drain, once they were stopped."""


def judge(life: Life) -> list[str]:
    """Return what was broken, one sentence each; [] if all was kept."""
    timeline = Timeline(life)
    rules = (_continued_later, _caused, _bounded, _kept_out, _stopped_in_time)
    control = (cancelled, cancelled_all, discarded, refused_as_busy, reused, ordered, bounded, joins_what_executes)
    questions = (answered_in_time, waited_for_answer)
    rest = (forgotten_at_rest, forgotten_in_time, started_by_owner, fired, taken_up)
    truths = (truthful, remembered, heard_all, superseded, could_go_back, edited, reworded, forked, marked)
    return [
        *life.faults,
        *judging.judge.judge(evidence_of(life, timeline)),
        *(fault for rule in (*rules, *control, *questions, *rest, *truths) for fault in rule(life, timeline)),
    ]


def _continued_later(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the runs of which a client heard that they continue later, though nothing had stopped."""
    for run in timeline.runs.values():
        stopped = any(run.request.sent < nth < run.later_nth for nth in timeline.stops)
        if run.later_nth >= 0 and not (stopped or life.faulty):
            yield f"run {run.id} was to continue later, without a cause"


# -- every end has a cause -----------------------------------------------------------------------------


def _caused(life: Life, timeline: Timeline) -> Iterator[str]:
    for run, outcome in timeline.ended():
        for fault in _cause(life, timeline, run, outcome) if _has_turn(life, run) else ():
            yield f"run {run.id} ended as {as_reported(outcome)}, {fault}"
        yield from _resumed(life, timeline, run)


def _has_turn(life: Life, run: ObservedRun) -> bool:
    """Return whether a run ended by itself, and not as the one that it had joined (see `judging.joins`)."""
    return life.runs[run.id].join is not JoinState.APPLIED


def _resumed(life: Life, timeline: Timeline, run: ObservedRun) -> Iterator[str]:
    """Yield what is wrong with the attempts that came after one that was cut off."""
    # Without those that began in a process that had lost its journal: they end as they begin.
    for before, attempt in pairwise(each for each in run.attempts if each.ended_nth > each.began_nth):
        if not before.crashed or before.drained:
            continue
        if attempt.number <= before.number and not (life.faulty and before.how == "cut"):
            # (It may have been requeued before its process died: as long as a server is not certain to have a session,
            # it starts nothing there.)
            yield f"attempt {before.number} of run {run.id} was cut off and not counted"
        if tools := _in_the_middle(life, run, before):
            yield f"run {run.id} continued, and nobody knows what became of {tools}"


def _cause(life: Life, timeline: Timeline, run: ObservedRun, outcome: Outcome) -> Iterator[str]:
    """Yield why a run cannot have ended as it did."""
    code = outcome.error.code if outcome.error else None
    if outcome.error and life.options.error_text != "full" and SECRET in outcome.error.detail:
        yield "and discloses what its agent raised"
    last = run.attempts[-1] if run.attempts else None
    if code is ErrorCode.CRASHED:
        crashes = any(nth > run.request.sent for nth in timeline.crashes)
        # (It may have been sent to a worker of which the server did not know yet that it was dead.)
        crashes = crashes or any(at > run.request.sent_s - SLACK_S for at in timeline.deaths)
        if not crashes and not (life.faulty and timeline.drains):
            yield "and nothing had crashed"  # (whether it could resume: see `judging.durability`)
    elif code is ErrorCode.TIMEOUT:
        pass  # see `judging.times`
    elif code is ErrorCode.QUEUE_TIMEOUT:
        # The claim of one that was cut off early may never have been kept.
        if any(each.durable or not each.crashed for each in run.attempts):
            yield "and had begun"
    elif outcome.status is RunStatus.CANCELLED:
        pass  # see `judging.cancels`
    elif last is None:
        on_its_way = bool(life.workers) and not life.resumable and code is ErrorCode.STOPPED  # it counts as begun then
        if not ((code is ErrorCode.AGENT_ERROR and life.faulty) or on_its_way):
            yield "and never began"
    else:
        yield from _own_cause(life, run, last, outcome)


def _in_the_middle(life: Life, run: ObservedRun, attempt: Attempt) -> list[str]:
    """Return the tools for which a run must not continue after an attempt that was cut off."""
    if life.options.unknown_tool != "fail":
        return []
    again = run.idempotent if life.options.idempotent_tools else set()
    return [
        tool
        for tool, requested_in in run.requested.items()
        if requested_in is attempt and tool in run.begun and tool not in run.finished and tool not in again
    ]


def _own_cause(life: Life, run: ObservedRun, last: Attempt, outcome: Outcome) -> Iterator[str]:
    """Yield why a run whose last attempt was seen cannot have ended by what it did."""
    script = life.scripts[run.text]
    code = outcome.error.code if outcome.error else None
    if outcome.status is RunStatus.SUCCEEDED:
        if last.how != "answered" or outcome.output != f"a:{run.says}":
            yield f"but its agent {last.how}"
    elif outcome.status is RunStatus.NEEDS_INPUT:
        if last.how != "asked" or last.requests_input != [each.id for each in outcome.input_requests]:
            yield f"but its agent {last.how}"
    elif code is ErrorCode.AGENT_ERROR:
        if not (
            script.ends is Ends.RAISES or script.build_fails or last.how == "raised" or last.blocked or life.faulty
        ):
            yield "and nothing had failed"
    elif code is ErrorCode.STOPPED:
        if not last.drained:
            yield "in a process that was not stopped"
    else:
        yield "which nobody requested"


# -- G1: no more at once than may be -------------------------------------------------------------------


def _bounded(life: Life, timeline: Timeline) -> Iterator[str]:
    for begun, attempts in timeline.at_once:
        process, at = begun.process, begun.began_at
        # One that was left has ended, and has no slot, before its code has.
        there = [timeline.runs[each.run] for each in attempts]
        gone = {run.id for run in there if timeline.is_deleted(run)}
        claimed = [each for each in attempts if each.run not in gone]
        most = 1 + sum(not life.steady or not _had_ended(life, each, at) for each in claimed)
        if most > life.options.max_running and (life.steady or not may_outlive(life)):
            yield f"{most} runs executed at once in process {process}"
        own = [each for each in claimed if each.session.principal == begun.session.principal]
        most = 1 + sum(not life.steady or not _had_ended(life, each, at) for each in own)
        share = life.options.max_running_per_principal
        if share is not None and most > share and (life.steady or not may_outlive(life)):
            yield f"{most} runs of one principal executed at once in process {process}"
        last = [each for each in claimed if each.number >= life.options.max_attempts > 1]
        if last and begun.number >= life.options.max_attempts and life.steady:
            for each in last:
                if not (each.drained or _had_ended(life, each, at)):
                    yield f"the last attempts of runs {each.run} and {begun.run} executed at once"


def _had_ended(life: Life, attempt: Attempt, at: float) -> bool:
    stored = life.runs.get(attempt.run)
    return stored is not None and stored.ended_at is not None and stored.ended_at - EPOCH <= at + 1e-6


def _kept_out(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield which runs began although as many ended ones of their principal as may be still worked."""
    bound = life.options.max_holds_per_principal
    if bound is None or not life.steady:
        return
    everything = [each for attempts in timeline.by_session.values() for each in attempts]
    for begun in everything:
        left = [
            each
            for each in everything
            if each.process == begun.process
            and each.session.principal == begun.session.principal
            and each.began_nth < begun.began_nth < each.ended_nth
            and _was_left(life, each, begun)
        ]
        if len(left) >= bound:
            yield f"run {begun.run} began although {len(left)} ended runs of its principal worked on"


def _was_left(life: Life, attempt: Attempt, begun: Attempt) -> bool:
    """Return whether it was known that an attempt had left its code working when the run of another was first
    claimed."""
    stored = life.runs.get(begun.run)
    if stored is None or stored.started_at is None or begun.number > 1 or attempt.worker_gone_at < begun.began_at:
        return False
    return _had_ended(life, attempt, stored.started_at - EPOCH - KNOWN_LATER_S)


# -- G9 ------------------------------------------------------------------------------------------------


def _stopped_in_time(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield the drains that took longer than their grace; when runs have to end: see `judging.times`."""
    options = life.options
    for process, took_s, faulty in timeline.drains:
        if faulty and life.engines > 1:  # it may have been frozen, or cut off from the database
            continue
        grace_s = options.drain_grace_s + options.stop_grace_s + FINISH_S
        if took_s > (2 * grace_s if faulty else grace_s) + SLACK_S:
            yield f"the drain of process {process} took {took_s:.1f} s"

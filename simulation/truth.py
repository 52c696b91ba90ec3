"""Whether history is true, and agents know all of it: the simulation's own rules for G4.

History has what an agent did and said, in order, with every tool that was started; what nobody can know reads as
unknown.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

from msgspec.structs import replace

from simulation.branches import Places, follow, goes_back
from simulation.life import Life
from simulation.loop import EPOCH
from simulation.parts import Part, split, uses
from simulation.resolutions import said_before, with_crashed
from simulation.rounds import came_to_nothing, only_uses, with_open_round
from simulation.script import SECRET
from simulation.seen import ObservedRun
from simulation.timeline import Timeline
from strandline._model import (
    Cancelled,
    Ending,
    ErrorCode,
    Failed,
    NeedsInput,
    Outcome,
    Raised,
    RunStatus,
    SessionKey,
    Succeeded,
)
from strandline.testing._checker import check_truthful

SLACK_S = 2.0
"""How much longer than promised something may take: for operations that are slow."""


def truthful(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield what is not true in the histories; whether a provider accepts them: see `judging.histories`."""
    for key, messages in life.history.items():
        parts = split(life, timeline, key)
        hides = [part.hidden for part in parts]
        places = Places(life, timeline, key)
        flagged = [message for n, message in enumerate(messages) if n not in life.hidden[key]]
        flagged = [*places.beginning.messages, *flagged]
        is_unclear = goes_back(timeline, key) or places.are_unclear
        shown = life.shown[key] if is_unclear else flagged  # (else see `simulation.branches`)
        if hides != [_hidden(life, part.run) for part in parts] or shown != life.shown[key]:
            yield f"the history of {key} does not hide what is discarded, and nothing else"
        left: dict[str, Part] = {}
        for part in parts:
            if part.run is not None:
                left[part.run.id] = part
            if part.run is None and part.opened is not None:
                yield from came_to_nothing(life, timeline, part)
            outcome = None if part.run is None or part.run.id not in life.runs else life.runs[part.run.id].outcome
            if part.run is None or outcome is None:
                continue
            crashed = left.get(part.run.request.resolves or "")
            for fault in _part(life, timeline, part, part.run, outcome, crashed):
                yield f"run {part.run.id} in history: {fault}"


def _part(
    life: Life, timeline: Timeline, part: Part, run: ObservedRun, outcome: Outcome, crashed: Part | None
) -> Iterator[str]:
    shown = [*part.messages]
    open_tools: list[str] = []
    if outcome.status is RunStatus.NEEDS_INPUT:  # what became of them is said when the round is closed
        open_tools = uses(shown[-1])
        shown[-1] = {**shown[-1], "content": [block for block in shown[-1]["content"] if "toolUse" not in block]}
    if part.opened is not None:
        shown.insert(0, only_uses(part.opened))
    ledger = run.ledger(
        _ending(life, outcome), shown, _heard_until(life, timeline, run), answers=part.opened is not None
    )
    if part.opened is not None:
        ledger = with_open_round(ledger, part, timeline)
    if crashed is not None:
        ledger = with_crashed(ledger, run, part, crashed, timeline.resolutions[run.text])
        ledger = replace(ledger, said=[*said_before(timeline, run), *ledger.said])
    finished = {tool: result for tool, result in ledger.finished.items() if tool not in open_tools}
    yield from check_truthful(shown, replace(ledger, finished=finished, unfinished=ledger.unfinished - set(open_tools)))


def _hidden(life: Life, run: ObservedRun | None) -> bool:
    """Return whether what a run left is to be flagged and hidden."""
    stored = None if run is None else life.runs.get(run.id)
    if stored is not None and stored.status is RunStatus.CANCELLED:
        return stored.discarded
    return stored is not None and stored.status is RunStatus.FAILED and life.options.on_failure == "drop"


def _heard_until(life: Life, timeline: Timeline, run: ObservedRun) -> float:
    """Return until when for sure what an agent reports is in history: a run may be left before its code has ended."""
    stored = life.runs[run.id]
    code = stored.outcome.error.code if stored.outcome and stored.outcome.error else None
    if code not in (ErrorCode.TIMEOUT, ErrorCode.STOPPED) and stored.status is not RunStatus.CANCELLED:
        return math.inf
    ended_at = math.inf if stored.ended_at is None or not life.steady else stored.ended_at
    # At the very moment in which a process is gone the next one may have it, as the clock rounds its times.
    if run.attempts and ended_at >= EPOCH + timeline.gone.get(run.attempts[-1].process, math.inf):
        return 0.0  # it ended in another process, which knew what was stored and nothing else
    if run.attempts and ended_at >= EPOCH + run.attempts[-1].worker_gone_at:
        return 0.0
    return stored.ended_at - EPOCH - SLACK_S if life.steady and not life.faulty and stored.ended_at else 0.0


def _ending(life: Life, outcome: Outcome) -> Ending:
    """Return how a run ended, with what was raised if that is not disclosed."""
    if outcome.error is not None:
        raised = None if life.options.error_text == "full" else Raised("Broken", SECRET)
        return Failed(outcome.error.code, outcome.error.detail, raised)
    if outcome.status is RunStatus.NEEDS_INPUT:
        return NeedsInput(outcome.input_requests, {})
    return Succeeded() if outcome.status is RunStatus.SUCCEEDED else Cancelled()


def remembered(life: Life, timeline: Timeline) -> Iterator[str]:
    """Yield where an agent knew another conversation, or another state, than its session had."""
    by_session: dict[SessionKey, dict[str, tuple[str, str]]] = defaultdict(dict)
    for key in life.history:
        follow(life, timeline, key, by_session[key])
    for attempts in timeline.by_session.values():
        for attempt in attempts:
            expected = by_session[attempt.session].get(attempt.text)
            if attempt.run not in life.runs and not timeline.is_deleted(timeline.runs[attempt.run]):
                yield f"run {attempt.run} began, and is not kept"
            if expected is None or attempt.run not in life.runs:  # (its request may have come again, as another run)
                continue
            if attempt.knows != expected[0]:
                yield f"the agent of run {attempt.run} knew {attempt.knows!r}, the session had {expected[0]!r}"
            if attempt.resuming == int(attempt.answers) and attempt.state != expected[1]:
                yield f"the agent of run {attempt.run} had the state of {attempt.state!r}, not of {expected[1]!r}"


def may_outlive(life: Life) -> bool:
    """Return whether the code of a run may work longer than the run."""
    return bool(life.traits.threads or life.traits.swallows or life.workers)

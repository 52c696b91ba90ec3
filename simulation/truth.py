"""Whether history tells the truth, and agents know what it tells: the judge's rules for G4.

What an agent did and said is told in order, with every tool that was started; what nobody can know reads as unknown.
"""

import math
from collections import defaultdict
from collections.abc import Iterator

from simulation.evidence import Evidence
from simulation.life import Life
from simulation.seen import RunEvidence
from strandline.model import Cancelled, Ending, ErrorCode, Failed, Message, Outcome, RunStatus, SessionKey, Succeeded
from strandline.testing.checker import check_history, check_truthful

EPOCH = 1_800_000_000.0
"""Wall time at virtual second 0."""
SLACK_S = 2.0
"""How much longer than promised something may take: for verbs that are slow."""


def tools_once(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say which tools were started twice, and which left no trace."""
    for run in evidence.runs.values():
        for tool, times in run.begun.items():
            if times > 1 and not (tool in run.idempotent and life.options.idempotent_tools):
                yield f"tool {tool} of run {run.id} was started {times} times"
        if run.id not in life.runs:
            if run.begun and not evidence.is_deleted(run):
                yield f"run {run.id} was not kept, and its tools were started"
        elif run.begun and expired(life, run):
            yield f"run {run.id} left no trace, and its tools were started"


def truthful(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say what is wrong in the histories, and what they tell that was otherwise."""
    for key, messages in life.history.items():
        for fault in (*check_history(messages), *check_history(life.shown[key])):
            yield f"the history of {key}: {fault}"
    for nth, key, messages in evidence.histories_seen:
        for fault in check_history(messages):
            yield f"the history of {key}, as it was shown: {fault}"
        if messages != life.shown[key][: len(messages)] and not evidence.was_deleted(key, nth):
            yield f"the history of {key} was shown otherwise than it is in the end"
    texts = {run.text: run for run in evidence.runs.values()}
    for key, messages in life.history.items():
        kept = [part for text, part in split(messages, texts) if not _hidden(life, texts.get(text))]
        if [message for part in kept for message in part] != life.shown[key]:
            yield f"the history of {key} does not hide what is discarded, and nothing else"
    told = [part for messages in life.history.values() for part in split(messages, texts)]
    for text, part in told:
        run = texts.get(text)
        if run is None or run.id not in life.runs or (outcome := life.runs[run.id].outcome) is None:
            yield f"history tells of {text!r}, which is no run"
            continue
        for fault in check_truthful(part, run.ledger(_ending(outcome), part, _heard_until(life, evidence, run))):
            yield f"run {run.id} in history: {fault}"
    for text, run in texts.items():
        if run.id in life.runs:
            times = [each for each, _ in told].count(text)
            traces: tuple[int, ...] = (0,) if expired(life, run) else (1,)
            if life.runs[run.id].status is RunStatus.CANCELLED and not run.staged:
                # None, if it waited, also if it was given back with nothing staged.
                traces = (0,) if life.runs[run.id].started_at is None else (0, 1)
            if times not in traces:
                yield f"run {run.id} stands {times} times in history, not {traces[-1]}"


def _hidden(life: Life, run: RunEvidence | None) -> bool:
    """Tell whether what a run left is to be flagged and hidden."""
    kept = None if run is None else life.runs.get(run.id)
    if kept is not None and kept.status is RunStatus.CANCELLED:
        return kept.discarded
    return kept is not None and kept.status is RunStatus.FAILED and life.options.on_failure == "drop"


def _heard_until(life: Life, evidence: Evidence, run: RunEvidence) -> float:
    """Return until when for sure what an agent reports is told: a run may be left before its code has ended."""
    kept = life.runs[run.id]
    code = kept.outcome.error.code if kept.outcome and kept.outcome.error else None
    if code not in (ErrorCode.TIMEOUT, ErrorCode.STOPPED) and kept.status is not RunStatus.CANCELLED:
        return math.inf
    ended_at = math.inf if kept.ended_at is None or not life.steady else kept.ended_at - EPOCH
    if run.attempts and ended_at > evidence.gone.get(run.attempts[-1].process, math.inf):
        return 0.0  # it ended in another process, which knew what was staged and nothing else
    return kept.ended_at - EPOCH - SLACK_S if life.steady and not life.faulty and kept.ended_at else 0.0


def split(messages: list[Message], texts: dict[str, RunEvidence]) -> Iterator[tuple[str, list[Message]]]:
    """Yield the messages of each run, with the text that it began with."""
    part: list[Message] = []
    for message in messages:
        if part and message["role"] == "user" and message["content"][0].get("text") in texts:
            yield str(part[0]["content"][0].get("text")), part
            part = []
        part.append(message)
    if part:
        yield str(part[0]["content"][0].get("text")), part


def _ending(outcome: Outcome) -> Ending:
    if outcome.error is not None:
        return Failed(outcome.error.code, outcome.error.detail)
    return Succeeded() if outcome.status is RunStatus.SUCCEEDED else Cancelled()


def remembered(life: Life, evidence: Evidence) -> Iterator[str]:
    """Say where an agent knew another conversation, or another state, than its session had."""
    texts = {run.text: run for run in evidence.runs.values()}
    by_session: dict[SessionKey, dict[str, tuple[str, str]]] = defaultdict(dict)
    for key, messages in life.history.items():
        before: list[Message] = []
        state = ""
        for text, part in split(messages, texts):
            by_session[key][text] = (evidence.as_line(before), state)
            run = texts.get(text)
            if not _hidden(life, run):
                before += part
            if run is not None and (kept := life.runs.get(run.id)) and kept.status is RunStatus.SUCCEEDED:
                state = text
    for attempts in evidence.by_session.values():
        for attempt in attempts:
            known = by_session[attempt.session].get(attempt.text)
            if known is None or evidence.runs[attempt.run].lost or evidence.was_in_vain(attempt):
                continue  # its agent had begun before it was known that the run is not kept, or not claimed
            if attempt.knows != known[0]:
                yield f"the agent of run {attempt.run} knew {attempt.knows!r}, the session had {known[0]!r}"
            if attempt.going_on == 0 and attempt.state != known[1]:
                yield f"the agent of run {attempt.run} had the state of {attempt.state!r}, not of {known[1]!r}"


def expired(life: Life, run: RunEvidence) -> bool:
    """Tell whether a run ended because it had waited too long; it leaves no trace."""
    outcome = life.runs[run.id].outcome
    return outcome is not None and outcome.error is not None and outcome.error.code is ErrorCode.QUEUE_TIMEOUT

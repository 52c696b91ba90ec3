"""Histories are what a provider accepts, have each run once, and only grow."""

from collections.abc import Iterator, Sequence
from typing import Any

from judging.evidence import Evidence, Run
from strandline.testing._checker import check_history

TO_COME = "to come"
Use = dict[str, Any]


def grown(evidence: Evidence) -> Iterator[str]:
    """Yield the histories that were shown otherwise than they are in the end."""
    for view in evidence.views:
        deleted = any(
            each.session == view.session and (each.answered < 0 or each.answered > view.place)
            for each in evidence.deletions
        )
        if not view.is_beginning and not deleted:
            yield f"the history of {view.session} was changed in its first {view.count} messages"


def acceptable(evidence: Evidence) -> Iterator[str]:
    """Yield what a provider would refuse in a history, and ends that are shown as open and are not, or the reverse."""
    for shown in evidence.histories:
        for fault in malformed(shown.messages, shown.requests_input):
            yield f"the history of {shown.session} is malformed: {fault}"
        is_open = bool(open_uses(shown.messages))
        if shown.pending not in (None, is_open):
            yield f"the last round of {shown.session} is {'' if is_open else 'not '}open, and shown otherwise"


def once(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that are in history more or less often than they should, and what is there and is no run's."""
    for session, text in evidence.strangers:
        yield f"the history of {session} has {text!r}, which is no run"
    for run in evidence.runs.values():
        if run.parts is None or run.end is None or run.parts in (expected := _parts(evidence, run)):
            continue
        yield f"run {run.label} stands {run.parts} times in history, not {expected[-1]}"


def _parts(evidence: Evidence, run: Run) -> tuple[int, ...]:
    """Return how many parts of history a run may have left: one, unless it came to its end while it waited."""
    if not run.has_turn:
        return (0,) if left_nothing(evidence, run) else (1,)
    if run.kind == "queue_timeout":
        return (0,)
    if run.kind == "timeout" and not run.has_checkpoints and run.was_cut_off:
        return (0, 1)  # none, if it was requeued with nothing stored
    if run.kind == "timeout" and not run.attempts and run.can_resume is False:
        return (0, 1)  # none, if nobody can know whether it had begun
    if run.kind == "needs_input" and run.request.answers:
        return (0, 1)  # none, if it has asked again in the round that it had to close
    if run.kind == "cancelled" and not run.has_checkpoints and not run.request.answers:
        return (0, 1) if run.started else (0,)  # none too, if it was requeued with nothing stored
    if run.kind == "cancelled" and not run.started and run.left_s:
        return (0, 1)  # none, if it was left alone: the question that it answers is given up
    return (1,)


def left_nothing(evidence: Evidence, run: Run) -> bool:
    """Return whether a run was collected with others, and their whole turn was requeued and ended with nothing stored:
    what they all said stands where the turn's does, which is nowhere."""
    host = evidence.runs.get(run.host or "")
    return run.request.if_busy == "collect" and host is not None and host.parts == 0 and 0 in _parts(evidence, host)


def malformed(history: Sequence[Any], requests_input: frozenset[str]) -> list[str]:
    """Return what a provider would refuse; a round at the end that waits for input counts as closed."""
    return check_history([*history, *_closing(history, requests_input)])


def open_uses(history: Sequence[Any]) -> list[Use]:
    """Return the tool uses in the last message: those of a round that is open."""
    last = history[-1] if history else {"content": []}
    return [block["toolUse"] for block in last["content"] if "toolUse" in block]


def _closing(history: Sequence[Any], requests_input: frozenset[str]) -> list[Any]:
    uses = open_uses(history)
    if requests_input.isdisjoint(use["toolUseId"] for use in uses):
        return []
    results = [
        {"toolResult": {"toolUseId": use["toolUseId"], "status": "success", "content": [{"text": TO_COME}]}}
        for use in uses
    ]
    return [{"role": "user", "content": results}, {"role": "assistant", "content": [{"text": TO_COME}]}]

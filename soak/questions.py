"""Judges input requests: what agents asked, who answered, and what waited meanwhile. Pure.

A question is answered once or not at all; its tools continue with the answer that was accepted, and never without one.
"""

from collections.abc import Iterator
from typing import Final

from soak.case import CLOCKS_S, NOT_ANSWERED, NOT_GIVEN, Case, text_of
from soak.message import ASKING, as_said
from soak.moves import INTERRUPTS
from soak.records import SentRequest, Stored, View, input_requests_of

WITHDRAWN: Final = 200


def judge_questions(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about input requests."""
    yield from _planned(case)
    yield from _continued(case)


def _planned(case: Case) -> Iterator[str]:
    """A run asks what its message makes it ask, all of one round."""
    for run_id, view in case.records.views.items():
        label = case.label_of.get(run_id, "")
        message = case.messages.get(case.thread_of.get(label, ""))
        if view.ended is None or view.ended.kind != "needs_input" or message is None:
            continue
        names = set(input_requests_of(view.ended).values())
        if not names or names not in [turn.requests_input(message.label) for turn in message.turns]:
            yield f"run {run_id} ({label}) asks {sorted(names)}, and its message does not"


def _continued(case: Case) -> Iterator[str]:
    """A tool that asks continues with the answer that was accepted; the round of one that got none says so."""
    for line in case.lines:
        if line.kind != "begin" or line.tool not in ASKING or line.label in case.gone:
            continue
        request, part = case.request_of(line.run_id), case.part_of.get(line.run_id)
        if request is None or not request.thread:
            yield f"{line.tool} {line.tool_use_id} of run {line.run_id} ({line.label}) continued without an answer"
            continue
        text = text_of(part.results[line.tool_use_id]) if part and line.tool_use_id in part.results else ""
        if text.startswith("did ") and not text.endswith(as_said(request.name)):
            which = f"{line.tool} {line.tool_use_id} of {line.label}"
            yield f"{which} was answered by {request.name}, and history has {text!r}"
    for thread, runs in case.thread.items():
        view, part = case.records.views.get(runs[-1]), case.part_of.get(runs[-1])
        if view is None or part is None or view.ended is None or view.ended.kind != "needs_input" or part.is_open:
            continue
        texts = [text_of(result) for result in part.results.values()]
        if part.said[-1:] != [NOT_GIVEN] or not any(text.startswith(NOT_ANSWERED) for text in texts):
            yield f"nobody has answered {thread}, and its round is closed by {part.said[-1:]}"
        elif not _dismissed(case, runs[-1], view):
            yield f"the question of {thread} was dismissed, and nothing is known that does"


def _dismissed(case: Case, run_id: str, view: View) -> bool:
    """Return whether there was something that closes a question which nobody has answered."""
    request, ended_s = case.request_of(run_id), view.ended_s or 0.0
    if request is None:
        return False
    if run_id in case.untimed:
        return True
    if any(each.run_id == run_id and each.status_code in (0, WITHDRAWN) for each in case.records.cancels):
        return True
    sweeps = (each for each in case.records.sweeps if each.session == request.session and each.running)
    if any(each.status_code in (0, 200, 202) for each in sweeps):
        return True
    others = [*_others(case, request.session, run_id)]
    if any(each.if_busy in INTERRUPTS for _, _, each in others):
        return True
    due = ended_s + case.rules.input_timeout_s - CLOCKS_S
    return any(other.begun is not None and other.begun >= due for _, other, _ in others)


def _others(case: Case, session: str, run_id: str) -> Iterator[tuple[Stored, View, SentRequest]]:
    for run in case.stored[session]:
        view, request = case.records.views.get(run.run_id), case.request_of(run.run_id)
        if run.run_id != run_id and view is not None and request is not None:
            yield run, view, request


def is_withdrawn(case: Case, run_id: str) -> bool:
    """Return whether a question may have been closed before its time."""
    request = case.request_of(run_id)
    return (
        any(each.run_id == run_id and each.status_code in (0, WITHDRAWN) for each in case.records.cancels)
        or request is None
        or any(each.session == request.session and each.running for each in case.records.sweeps)
        or any(each.if_busy in INTERRUPTS for _, _, each in _others(case, request.session, run_id))
    )

"""Judges input requests: what agents asked, who answered, and what waited meanwhile. Pure.

A question is answered once or not at all; its tools go on with the answer that was accepted, and never without one.
"""

from collections.abc import Iterator
from typing import Final

from soak.case import CLOCKS_S, NOT_ANSWERED, NOT_GIVEN, Case, text_of
from soak.message import ASKING, as_said
from soak.records import Answered, Asked, Stored, View, asked_by
from soak.wishes import INTERRUPTS

WITHDRAWN: Final = 200


def judge_questions(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about input requests."""
    yield from _asked(case)
    yield from _answered(case)
    yield from _refused(case)
    yield from _went_on(case)
    yield from _waited(case)


def _asked(case: Case) -> Iterator[str]:
    """A run asks what its message makes it ask, all of one round."""
    for run_id, view in case.records.views.items():
        label = case.label_of.get(run_id, "")
        message = case.messages.get(case.thread_of.get(label, ""))
        if view.ended is None or view.ended.kind != "needs_input" or message is None:
            continue
        names = set(asked_by(view.ended).values())
        if not names or names not in [turn.asks(message.label) for turn in message.turns]:
            yield f"run {run_id} ({label}) asks {sorted(names)}, and its message does not"


def _answered(case: Case) -> Iterator[str]:
    """A question is answered by one run at most, which answers what the run before it has asked."""
    for thread, runs in case.thread.items():
        for place, run_id in enumerate(runs):
            if run_id not in case.answers:
                continue
            asked, before = case.asked_for(run_id), case.records.views.get(runs[place - 1]) if place else None
            if asked is None or before is None or before.ended is None:
                continue
            if set(asked.requests) != set(asked_by(before.ended)):
                again = any(set(asked.requests) == set(_requests(case, other)) for other in runs[:place])
                what = "a question that was answered before" if again else "what was not asked"
                yield f"run {run_id} ({asked.label}) was accepted as an answer of {thread} to {what}"


def _requests(case: Case, run_id: str) -> tuple[str, ...]:
    asked = case.asked_for(run_id)
    return asked.requests if asked is not None else ()


def _refused(case: Case) -> Iterator[str]:
    """An answer is refused for what is true: there was another one, or none, or nobody has asked."""
    accepted = {request for run_id in case.answers for request in _requests(case, run_id)}
    known = {request for view in case.records.views.values() if view.ended for request in asked_by(view.ended)}
    for answer in case.records.answered:
        asked = case.records.asked.get(answer.label)
        if asked is not None and asked.thread and (why := _wrongly(answer, asked, accepted, known)):
            yield f"{answer.label} was answered {answer.status_code} {answer.code}, and {why}"


def _wrongly(answer: Answered, asked: Asked, accepted: set[str], known: set[str]) -> str:
    match answer.code:
        case "already_answered" if accepted.isdisjoint(asked.requests):
            return "there was no other answer"
        case "dismissed" if not accepted.isdisjoint(asked.requests):
            return "there was an answer"
        case "not_found" if not known.isdisjoint(asked.requests):
            return "its question was asked"
    if answer.run_id and known.isdisjoint(asked.requests):
        return "nobody has asked that"
    return ""


def _went_on(case: Case) -> Iterator[str]:
    """A tool that asks goes on with the answer that was accepted; the round of one that got none says so."""
    for line in case.lines:
        if line.kind != "begin" or line.tool not in ASKING or line.label in case.gone:
            continue
        asked, part = case.asked_for(line.run_id), case.part_of.get(line.run_id)
        if asked is None or not asked.thread:
            yield f"{line.tool} {line.tool_use_id} of run {line.run_id} ({line.label}) went on without an answer"
            continue
        text = text_of(part.results[line.tool_use_id]) if part and line.tool_use_id in part.results else ""
        if text.startswith("did ") and not text.endswith(as_said(asked.label)):
            yield f"{line.tool} {line.tool_use_id} of {line.label} was answered by {asked.label}, and told as {text!r}"
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
    asked, ended_s = case.asked_for(run_id), view.ended_s or 0.0
    if asked is None:
        return False
    if any(each.run_id == run_id and each.status_code in (0, WITHDRAWN) for each in case.records.cancels):
        return True
    sweeps = (each for each in case.records.sweeps if each.session == asked.session and each.running)
    if any(each.status_code in (0, 200, 202) for each in sweeps):
        return True
    others = [*_others(case, asked.session, run_id)]
    if any(each.if_busy in INTERRUPTS for _, _, each in others):
        return True
    due = ended_s + case.rules.input_timeout_s - CLOCKS_S
    return any(other.begun is not None and other.begun >= due for _, other, _ in others)


def _others(case: Case, session: str, run_id: str) -> Iterator[tuple[Stored, View, Asked]]:
    for run in case.stored[session]:
        view, asked = case.records.views.get(run.run_id), case.asked_for(run.run_id)
        if run.run_id != run_id and view is not None and asked is not None:
            yield run, view, asked


def _waited(case: Case) -> Iterator[str]:
    """While a session waits for input, nothing else of it starts."""
    for runs in case.thread.values():
        for place, run_id in enumerate(runs):
            view, asked = case.records.views.get(run_id), case.asked_for(run_id)
            if view is None or view.ended is None or view.ended.kind != "needs_input" or asked is None:
                continue
            if view.ended_s is None or _is_withdrawn(case, run_id, asked):
                continue
            until = view.ended_s + case.rules.input_timeout_s
            if place + 1 < len(runs) and (answer := case.records.views.get(runs[place + 1])) is not None:
                until = (answer.begun if answer.begun is not None else answer.ended_s) or until
            for _, other, also in _others(case, asked.session, run_id):
                if other.begun is not None and view.ended_s + CLOCKS_S < other.begun < until - CLOCKS_S:
                    early_s = until - other.begun
                    yield f"{also.label} started while {asked.label} waited for input for {early_s:.2f} s more"


def _is_withdrawn(case: Case, run_id: str, asked: Asked) -> bool:
    """Return whether a question may have been closed before its time."""
    return (
        any(each.run_id == run_id and each.status_code in (0, WITHDRAWN) for each in case.records.cancels)
        or any(each.session == asked.session and each.running for each in case.records.sweeps)
        or any(each.if_busy in INTERRUPTS for _, _, each in _others(case, asked.session, run_id))
    )

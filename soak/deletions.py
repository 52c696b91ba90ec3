"""Judges deletions of sessions: not while a run waits or executes, and then for good. Pure."""

from collections.abc import Iterator
from typing import Final

from soak.case import Case
from soak.records import Deletion

NONE: Final = 404


def judge_deletions(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about deletions."""
    for answer in case.records.answered:
        request = case.records.requests.get(answer.label)
        if answer.status_code == NONE and request is not None and not request.thread and answer.label not in case.gone:
            yield f"{answer.label} was answered {NONE}, and {request.session} was not deleted"
    for deletion in case.records.deletions:
        match deletion.status_code:
            case 204:
                yield from _deleted(case, deletion)
            case 404 if deletion.unsure:
                yield from _deleted(case, deletion)
            case 404:
                yield from _was_there(case, deletion)
            case 409 if deletion.idle:
                yield f"{deletion.session} was said to be busy, and all of it had ended"


def _deleted(case: Case, deletion: Deletion) -> Iterator[str]:
    """A deleted session is not shown, and nothing of it continues; what is left of it: see `judging`."""
    before = _known_before(case, deletion)
    if deletion.shown not in (0, NONE):
        yield f"{deletion.session} was deleted, and is shown with {deletion.shown}"
    for line in case.lines:
        if line.label in before and line.kind != "end" and line.at_ns > deletion.answered:
            yield f"{line.label} was executed after {deletion.session} was deleted"
            return


def _known_before(case: Case, deletion: Deletion) -> set[str]:
    """Return the labels of what was accepted for sure before a session was deleted, and not sent again after that."""
    return {
        label
        for label, request in case.records.requests.items()
        if request.session == deletion.session and case.known_ns.get(label, 2**63) < deletion.sent
        if not (request.key and label in case.records.unsure)
    }


def _was_there(case: Case, deletion: Deletion) -> Iterator[str]:
    """A session that is not there has no runs, or was deleted since."""
    earlier = [
        each.answered
        for each in case.deletions[deletion.session]
        if each.may_have_deleted and each.answered < deletion.answered
    ]
    for label in _known_before(case, deletion):
        if case.records.requests[label].sent > max(earlier, default=0):
            yield f"{deletion.session} was not there to be deleted, and {label} had been accepted"
            return

"""Judges what a soak has recorded: by the common rules (`judging`), and by those that only the soak can see. Pure.

Its own rules are about messages and their histories, the tools' ledger (`Line`s), HTTP answers, and how servers ended.
They read the clients' ledger (`Records`), and know nothing of how runs are stored or executed.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import judging.judge
from judging.evidence import End
from soak.adapter import evidence_of
from soak.cancels import judge_cancels
from soak.case import NOT_GIVEN, Case, Part, Rules, text_of
from soak.closed import judge_closed
from soak.deeds import judge_deeds
from soak.deletions import judge_deletions
from soak.kept import judge_kept
from soak.ledger import Line
from soak.message import LABEL, OUT_OF_ORDER, Message, answer
from soak.moves import judge_moves
from soak.owned import judge_owned
from soak.questions import judge_questions
from soak.records import Records, SentRequest

EARLY: Final = "(This run ended early: {}.)"
REASON: Final = 500
"""Characters of why a run failed that history keeps."""

LOST_LEASE: Final = 75
"""The exit code of a server that lost its lease."""
NO_JOURNAL: Final = 2
"""The exit code of a server that starts while its database is down."""
READ_TOO_LATE: Final = " cannot resume: "
"""What a server says that has lost its lease, and reads what the next owner has changed: it can store nothing more."""
UNSEEN: Final = 255
"""What Python says of a process that had ended when it was killed, and whose code it has lost therefore."""


def judge(records: Records, lines: Sequence[Line], rules: Rules) -> list[str]:
    """Return everything that is wrong."""
    case = Case(records, lines, rules)
    first = (_seen_at_once, _unanswered, _owned, _lists, _histories, judge_deeds)
    then = (judge_moves, judge_cancels, judge_questions, judge_closed, judge_deletions, _ends, _exits)
    own = [fault for each in (*first, *then) for fault in each(case)]
    return judging.judge.judge(evidence_of(case)) + own


def _seen_at_once(case: Case) -> Iterator[str]:
    yield from case.records.faults
    yield from judge_kept(case.records.kept, case.lines)
    if case.records.left:
        yield f"at the end {case.records.left} runs still executed, waited or were held"


def _unanswered(case: Case) -> Iterator[str]:
    """Servers answer, unless somebody has stopped them, or they lost their lease."""
    lost = {each.server for each in case.records.exits if case.rules.lease_s and each.code == LOST_LEASE}
    for each in case.records.unanswered:
        if each.server not in lost:
            yield f"server {each.server} left a client without an answer: {each.what}"


def _owned(case: Case) -> Iterator[str]:
    if case.rules.lease_s is not None:
        yield from judge_owned(case.owners, case.lines)


def _lists(case: Case) -> Iterator[str]:
    """The journal lists a run once; every client sees it end at the same time."""
    records = case.records
    if len({run.run_id for run in records.stored}) < len(records.stored):
        yield "a run is listed twice"
    for run_id, times in records.reported_at.items():
        if len(times) > 1:
            yield f"run {run_id} ended more than once: {sorted(times)}"


def _histories(case: Case) -> Iterator[str]:
    """Histories have what was sent, each message in its own session."""
    for session, parts in case.parts.items():
        for part in parts:
            request = case.records.requests.get(part.label)
            if request is None or LABEL.fullmatch(part.label) is None:
                yield f"the history of {session} has a question that nobody asked: {part.messages[0]}"
            elif request.session != session or part.messages[0]["content"][0] != {"text": request.text}:
                yield f"the question of {part.label} is wrong in {session}"


def _ends(case: Case) -> Iterator[str]:
    """Each run ended as its message, or what was done to the servers, makes it end; history says the same."""
    for run_id, view in case.records.views.items():
        part = case.part_of.get(run_id)
        label = case.label_of.get(run_id, "")
        request, message = case.request_of(run_id), case.messages.get(case.thread_of.get(label, ""))
        if view.ended is None or request is None or message is None:
            continue
        faults: list[str] = []
        if part is not None and case.is_last(run_id):
            faults += _end(request, message, part, view.ended)
        elif part is not None and view.ended.kind != "needs_input":
            faults.append(f"is {view.ended.kind}, and an answer was accepted for it")
        yield from (f"run {run_id} ({label}) {fault}" for fault in faults)


def _end(request: SentRequest, message: Message, part: Part, ended: End) -> Iterator[str]:
    said = part.said[-1] if part.said else ""
    match ended.kind:
        case "succeeded":
            results = [text_of(result) for result in part.results.values()]
            if message.fails:
                yield "succeeded, though its model fails"
            elif len(results) != len(message.calls):
                yield f"succeeded with {len(results)} of {len(message.calls)} tools"
            elif not (ended.text == said == answer(part.label, results)):
                yield f"answered {ended.text!r}, and {said!r} in history"
            return
        case "needs_input":
            return  # see `soak.questions`
        case "agent_error":
            if not message.fails or OUT_OF_ORDER not in ended.text:
                yield f"failed without reason: {ended.text}"
        case "crashed" | "stopped" | "timeout":
            pass  # how any run may end that executes while servers die
        case "cancelled":
            pass  # see `judging.cancels`
        case _:
            yield f"ended as {ended.kind}: {ended.text}"
    rolled_back = request.thread and ended.kind == "cancelled" and said == NOT_GIVEN  # its round is closed once more
    reason = [] if ended.kind == "cancelled" else [ended.text[:REASON]]
    closing = [EARLY.format(ended.kind), *reason]
    if part.said[-len(closing) :] != closing and not rolled_back:
        yield f"is {ended.kind}, and history closes with {said!r}"


def _exits(case: Case) -> Iterator[str]:
    """Servers end when they are stopped, with the exit code that this has."""
    for each in case.records.exits:
        allowed = {-9} if "KILL" in each.signals else set()
        if {"TERM", "KILL"} <= set(each.signals):
            allowed.add(UNSEEN)
        if "TERM" in each.signals:
            allowed |= {0} if each.phase != "starting" else {0, -15}
        if case.rules.lease_s is not None:
            allowed |= {LOST_LEASE, NO_JOURNAL} if each.phase != "ready" else {LOST_LEASE}
        if each.code not in allowed:
            yield f"server {each.server}, {each.phase}, sent {each.signals or 'nothing'}, ended with {each.code}"
        is_lost = case.rules.lease_s is not None and each.code == LOST_LEASE
        for complaint in each.complaints:
            if is_lost and READ_TOO_LATE in complaint:
                continue
            yield f"server {each.server} complained: {complaint}"

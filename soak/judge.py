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
from soak.case import NOT_GIVEN, UNKNOWN, Case, Part, Rules, text_of
from soak.closed import judge_closed
from soak.deeds import judge_deeds
from soak.deletions import judge_deletions
from soak.ledger import Line
from soak.message import LABEL, OUT_OF_ORDER, Message, answer
from soak.moves import judge_moves
from soak.questions import judge_questions
from soak.records import Records, SentRequest, View
from soak.shown import check_shown, is_open

LATE_S: Final = 15.0
"""How much later than promised a run may end: servers are dead for a while, and machines are busy."""
STALL_S: Final = 1.0
"""How long a server that lives may come too late to end a run whose time is up; tools of the soak take up to 2.5 s."""
EARLY: Final = "(This run ended early: {}.)"
REASON: Final = 500
"""Characters of why a run failed that history keeps."""

UNSEEN: Final = 255
"""What Python says of a process that had ended when it was killed, and whose code it has lost therefore."""


def judge(records: Records, lines: Sequence[Line], rules: Rules) -> list[str]:
    """Return everything that is wrong."""
    case = Case(records, lines, rules)
    judges = (_seen_at_once, _lists, _histories, _traces, judge_deeds, judge_moves, judge_cancels, judge_questions)
    own = [fault for each in (*judges, judge_closed, judge_deletions, _ends, _exits) for fault in each(case)]
    return judging.judge.judge(evidence_of(case)) + own


def _seen_at_once(case: Case) -> Iterator[str]:
    yield from case.records.faults
    if case.records.left:
        yield f"at the end {case.records.left} runs still executed, waited or were held"


def _lists(case: Case) -> Iterator[str]:
    """The journal lists a run once, and as the run API shows it; every client sees it end at the same time."""
    records = case.records
    if len({run.run_id for run in records.stored}) < len(records.stored):
        yield "a run is listed twice"
    for run in records.stored:
        view = records.views.get(run.run_id)
        if view is not None and view.ended is not None and view.status != run.status:
            yield f"run {run.run_id} is shown as {view.status} and stored as {run.status}"
    for run_id, times in records.reported_at.items():
        if len(times) > 1:
            yield f"run {run_id} ended more than once: {sorted(times)}"


def _histories(case: Case) -> Iterator[str]:
    """Histories are valid, only grow, and have each run once, in its own session."""
    places: dict[str, str] = {}
    for session, history in case.records.histories.items():
        hidden = case.records.hidden.get(session, frozenset())
        shown = [message for place, message in enumerate(history) if place not in hidden]
        if faults := check_shown(shown):
            yield f"the history of {session} is malformed: {'; '.join(faults[:3])}"
        if is_open(shown) != (session in case.records.pending):
            yield f"the last round of {session} is {'' if is_open(shown) else 'not '}open, and shown otherwise"
        for part in case.parts[session]:
            request = case.records.requests.get(part.label)
            if request is None or LABEL.fullmatch(part.label) is None:
                yield f"the history of {session} has a question that nobody asked: {part.messages[0]}"
            elif request.session != session or part.messages[0]["content"][0] != {"text": request.text}:
                yield f"the question of {part.label} is wrong in {session}"
            if part.label in places:
                yield f"{part.label} is twice in history, in {places[part.label]} and in {session}"
            places[part.label] = session


def _traces(case: Case) -> Iterator[str]:
    """Each thread has one part of history, unless it came to its end while it waited."""
    for session, runs in case.stored.items():
        threads = [run for run in runs if not ((request := case.request_of(run.run_id)) and request.thread)]
        left, parts = [run for run in threads if case.leaves_a_trace(run)], case.parts.get(session, [])
        if len(left) != len(parts):
            yield f"session {session} has {len(left)} runs, and {len(parts)} in history"


def _ends(case: Case) -> Iterator[str]:
    """Each run ended as its message, or what was done to the servers, makes it end; history says the same."""
    for run_id, view in case.records.views.items():
        part = case.part_of.get(run_id)
        label = case.label_of.get(run_id, "")
        request, message = case.request_of(run_id), case.messages.get(case.thread_of.get(label, ""))
        if view.ended is None or request is None or message is None:
            continue
        faults = [*_times(request, view, view.ended.kind, case.rules)]
        if part is not None:
            faults += _crash(view, part, case.rules)
            if case.is_last(run_id):
                faults += _end(request, message, part, view.ended)
            elif view.ended.kind != "needs_input":
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


def _times(request: SentRequest, view: View, kind: str, rules: Rules) -> Iterator[str]:
    """A run takes, and waits, not much longer than its time."""
    took_s, waited_s = view.took_s or 0.0, view.waited_s or 0.0
    if request.timeout_s is not None and took_s > request.timeout_s + rules.cancel_grace_s + LATE_S:
        yield f"took {took_s} s, and had {request.timeout_s}"
    most_s = None if request.timeout_s is None else request.timeout_s + rules.cancel_grace_s
    if kind == "succeeded" and view.attempt == 1 and most_s is not None and took_s > most_s + STALL_S:
        yield f"succeeded after {took_s} s, and had {request.timeout_s}"
    if request.queue_timeout_s is not None and waited_s > request.queue_timeout_s + LATE_S:
        yield f"waited {waited_s} s, and had {request.queue_timeout_s}"


def _crash(view: View, part: Part, rules: Rules) -> Iterator[str]:
    """A run fails as crashed only if it has to: for what a tool may have done, or at its last attempt."""
    if view.ended is None or view.ended.kind != "crashed" or view.attempt >= rules.max_attempts:
        return
    unknown = {key for key, result in part.results.items() if text_of(result).startswith(UNKNOWN)}
    tools = {name for key, name in part.tools.items() if key in unknown} - rules.idempotent
    if rules.inform or not tools:
        yield f"is crashed at attempt {view.attempt}, though it could have continued"


def _exits(case: Case) -> Iterator[str]:
    """Servers end when they are stopped, with the exit code that this has."""
    for each in case.records.exits:
        allowed = {-9} if "KILL" in each.signals else set()
        if {"TERM", "KILL"} <= set(each.signals):
            allowed.add(UNSEEN)
        if "TERM" in each.signals:
            allowed |= {0} if each.phase != "starting" else {0, -15}
        if each.code not in allowed:
            yield f"server {each.server}, {each.phase}, sent {each.signals or 'nothing'}, ended with {each.code}"
        for complaint in each.complaints:
            yield f"server {each.server} complained: {complaint}"

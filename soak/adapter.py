"""Makes the record that the common rules judge of a soak: its places are nanoseconds of the monotonic clock."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Final

from msgspec.structs import replace

from judging.evidence import (
    Cancel,
    Evidence,
    History,
    Joined,
    Move,
    Question,
    Request,
    Run,
    Session,
    SessionEvents,
    Sweep,
    ToolStarts,
    View,
    Work,
)
from judging.webhooks import DELETED, PAUSED, RESUMED
from soak.case import LATER, UNKNOWN, Case, text_of
from soak.closed import Spans, closed_s, closed_spans
from soak.ledger import Line
from soak.questions import is_withdrawn
from soak.records import DELETED as GONE
from soak.records import Records, Stored, digest, input_requests_of
from soak.shown import asking_uses

NEVER_S: Final = float("inf")


def evidence_of(case: Case) -> Evidence:
    """Return what is known of a soak from outside."""
    records = case.records
    requests: dict[str, Request] = {
        label: replace(request, resent=request.key is not None and label in records.unsure)
        for label, request in records.requests.items()
    }
    spans, accepted_s = closed_spans(case), _accepted_s(case)
    runs = {each.run_id: _run(case, requests, spans, each, accepted_s[each.run_id]) for each in records.stored}
    parts = {part.label for parts in case.parts.values() for part in parts}
    accepted = {(each.label, each.run_id) for each in records.answered if each.run_id}
    refused = {each.label for each in records.answered} - records.unsure - {label for label, _ in accepted}
    known = {run_id: label for run_id, label in case.label_of.items() if label}
    return Evidence(
        limits=case.rules,
        requests=requests,
        runs=runs,
        acknowledged=_acknowledged(case),
        name_of=case.label_of,
        missing=frozenset({*records.not_found} | {i for i, view in records.views.items() if view.status_code == 404}),
        refused=frozenset(refused),
        happened=frozenset({line.label for line in case.lines} | parts | {run.request.name for run in runs.values()}),
        became=frozenset(accepted | {(label, run_id) for run_id, label in known.items()}),
        reported=records.reported,
        cancels=[*_cancels(case)],
        sweeps=[*_sweeps(case)],
        pauses=[*records.pauses],
        deletions=[
            replace(each, is_certain=each.status_code in (204, 404))
            for each in records.deletions
            if each.may_have_deleted
        ],
        questions=[*_questions(case, runs)],
        refused_answers=[
            (each.label, each.code)
            for each in records.answered
            if each.code and (request := records.requests.get(each.label)) is not None and request.thread
        ],
        executed=_executed(case, runs),
        tools=[
            ToolStarts(
                run_id=starts[-1].run_id,
                tool=tool_use_id,
                times=len(starts),
                idempotent=starts[0].tool in case.rules.idempotent,
            )
            for (_, tool_use_id), starts in case.starts.items()
        ],
        work=_work(case),
        views=[*_views(case)],
        histories=[*_histories(case)],
        strangers=[
            (session, part.label)
            for session, parts in case.parts.items()
            for part in parts
            if not case.thread.get(case.thread_of.get(part.label, part.label))
        ],
        interruptions=records.blows,
        streams=[replace(stream, history=_left(case, stream.run_id)) for stream in records.streams],
        feeds=records.feeds,
        deliveries=records.deliveries,
        hooked=frozenset(runs) if records.has_webhook else frozenset(),
        session_events=[*_session_events(records)] if records.has_webhook else [],
        stored_ends=records.ends,
        joined=[*_joined(case)],
    )


def _session_events(records: Records) -> Iterator[SessionEvents]:
    """Yield how often the webhook has to have what was done to sessions.

    Those that are paused are never deleted, and each pause has ended; of those that are deleted only one client knows.
    """
    paused = Counter(each.session for each in records.pauses)
    for session, tried in Counter(records.tried_to_pause).items():
        for kind in (PAUSED, RESUMED):
            yield SessionEvents(session=session, kind=kind, least=paused[session], most=tried)
    certain, possible = Counter[Session](), Counter[Session]()
    for each in records.deletions:
        certain[each.session] += each.status_code == GONE
        possible[each.session] += (each.status_code == GONE) + each.unsure
    for session, most in possible.items():
        yield SessionEvents(session=session, kind=DELETED, least=certain[session], most=most)


def _joined(case: Case) -> Iterator[Joined]:
    """Yield which runs have joined each other one, as their messages stand in history."""
    for parts in case.parts.values():
        for part in parts:
            if labels := part.joined:
                runs = [(case.thread.get(label) or [label])[0] for label in labels]
                yield Joined(host=(case.thread.get(part.label) or [part.label])[0], runs=runs)


def _accepted_s(case: Case) -> dict[str, float]:
    """Return, by run id, the second before which a run was accepted for sure.

    It was before a client knew it, before the run started, and before any run was accepted that has a later sequence.
    How long its request had been on its way, or had waited for the disk, nobody knows.
    """
    found: dict[str, float] = {}
    in_session: dict[str, float] = {}
    last_s = NEVER_S
    for run in sorted(case.records.stored, key=lambda run: run.sequence, reverse=True):
        own_s = min(_known_s(case, run.run_id), _begun_s(case, run.run_id), in_session.get(run.session, NEVER_S))
        found[run.run_id] = min(own_s, last_s + case.rules.drawn_s)
        in_session[run.session], last_s = own_s, min(own_s, last_s)
    return found


def _known_s(case: Case, run_id: str) -> float:
    """Return when the acceptance of a run was known outside at the latest."""
    label = case.label_of.get(run_id, "")
    if label not in case.known_ns or label in case.gone:  # (it may have been an earlier run's)
        return NEVER_S
    return case.known_ns[label] / 1e9 + case.records.monotonic_s


def _begun_s(case: Case, run_id: str) -> float:
    """Return when a run first started, as far as that is known."""
    view = case.records.views.get(run_id)
    is_known = view is not None and view.status_code == 200 and run_id not in case.untimed
    return NEVER_S if not is_known or view is None or view.begun is None else view.begun


def _run(case: Case, requests: dict[str, Request], spans: Spans, stored: Stored, accepted_s: float) -> Run:
    view, label = case.records.views.get(stored.run_id), case.label_of.get(stored.run_id, "")
    request = requests.get(label) or Request(name=label, session=stored.session, sent=LATER)
    run = Run(
        id=stored.run_id,
        request=request,
        session=stored.session,
        sequence=stored.sequence,
        status=stored.status,
        end=None,
        attempts=stored.attempt,
        priority=request.priority,
        started=False,
        accepted=case.known_ns.get(label, -1),
        left_s=[case.records.left_at[label]] if label in case.records.left_at else [],
        moves=[*_moves(case, stored.run_id)],
        rolled_back=case.is_rolled_back(stored.run_id),
        waits_alone=stored.run_id not in case.records.waited_for,
        can_resume=_can_resume(case, stored.run_id),
        parts=case.parts_of(stored.run_id),
        has_checkpoints=case.has_checkpoints(stored),
    )
    if view is not None and view.status_code == 200:
        run.end = view.ended
        run.priority, run.started = view.priority, view.started
        run.join, run.host = view.join or "", view.joined
        if stored.run_id in case.untimed:
            run.closed_s = None
            return run
        run.created_s, run.started_s, run.ended_s = view.created, view.begun, view.ended_s
        run.accepted_s = accepted_s
        until_s = view.begun or view.ended_s or view.created
        run.closed_s = (closed_s(spans, stored.session, view.created, until_s),) * 2
    return run


def _left(case: Case, run_id: str) -> list[Any] | None:
    """Return the messages that a run left, None if others have left some of that part, or some may be deleted."""
    part = case.part_of.get(run_id)
    if part is None or part.label in case.gone or case.parts_of(run_id) != 1 or not case.is_last(run_id):
        return None
    return part.messages


def _can_resume(case: Case, run_id: str) -> bool | None:
    """Return whether no tool of a run has an unknown outcome, except those that may start again."""
    if (part := case.part_of.get(run_id)) is None:
        return None
    unknown = {key for key, result in part.results.items() if text_of(result).startswith(UNKNOWN)}
    return case.rules.inform or {part.tools.get(key, "") for key in unknown} <= case.rules.idempotent


def _histories(case: Case) -> Iterator[History]:
    for session, history in case.records.histories.items():
        hidden = case.records.hidden.get(session, frozenset())
        yield History(
            session=session,
            messages=(shown := [message for place, message in enumerate(history) if place not in hidden]),
            requests_input=frozenset(asking_uses(shown)),
            pending=session in case.records.pending,
        )


def _acknowledged(case: Case) -> dict[str, str]:
    found = {line.run_id: "executed" for line in case.lines if line.run_id}
    found |= {run_id: "seen as waiting" for run_id, _ in case.records.seen_waiting.values()}
    return found | {each.run_id: f"answered {each.status_code}" for each in case.records.answered if each.run_id}


def _cancels(case: Case) -> Iterator[Cancel]:
    for each in case.records.cancels:
        view = case.records.views.get(each.run_id)
        requests_input = view is not None and view.ended is not None and view.ended.kind == "needs_input"
        match each.status_code:
            case 202:
                yield Cancel(run_id=each.run_id, result="accepted")
            case 200 if requests_input:
                yield Cancel(run_id=each.run_id, result="withdrawn")
            case 200:
                yield Cancel(run_id=each.run_id, result="accepted", force=each.force, answered_s=each.answered_s)
            case 409:
                yield Cancel(run_id=each.run_id, result="too_late")
            case 404:
                pass
            case 503 if case.rules.lease_s is None:
                pass  # (of several servers one may have done it, and have been lost before it answered)
            case _:
                yield Cancel(run_id=each.run_id, result="unknown")


def _moves(case: Case, run_id: str) -> Iterator[Move]:
    """Yield the moves of a run that were made, and those of which nobody knows (as with cancels)."""
    for each in case.records.moves:
        if each.run_id != run_id:
            continue
        if each.status_code in (0, 200):
            yield each
        elif each.status_code in (502, 503) and case.rules.lease_s is not None:
            yield replace(each, answered_s=-1.0)


def _sweeps(case: Case) -> Iterator[Sweep]:
    """Yield the cancels of sessions that were carried out, and those of which nobody knows."""
    for each in case.records.sweeps:
        if each.status_code in (0, 200, 202):
            yield each
        elif each.status_code == 503 and case.rules.lease_s is not None:
            yield replace(each, answered=-1, answered_s=-1.0)


def _questions(case: Case, runs: dict[str, Run]) -> Iterator[Question]:
    for run_id, run in runs.items():
        view = case.records.views.get(run_id)
        if view is not None and view.ended is not None and (requests := frozenset(input_requests_of(view.ended))):
            is_timed = view.ended_s is not None and run_id not in case.untimed
            closed_s = [view.ended_s or 0.0] if is_timed and is_withdrawn(case, run_id) else []
            yield Question(run=run, requests=requests, closed_s=closed_s)


def _executed(case: Case, runs: dict[str, Run]) -> dict[Session, list[Run]]:
    """Return the first run of each part of history, in its order."""
    firsts = {
        session: [case.thread.get(part.label, [""])[0] for part in parts] for session, parts in case.parts.items()
    }
    return {session: [runs[each] for each in order if each in runs] for session, order in firsts.items()}


def _work(case: Case) -> dict[Session, list[Work]]:
    """Return what tools did, from line to line. One that wrote no end worked until the last line of its process.

    A server that loses a session while it stands still has tools there that nobody can end before it continues: they
    count until the session has another owner, who ends their run. (Whatever starts later: see `soak.owned`.)
    """
    ends = {line.token: place for place, line in enumerate(case.lines) if line.kind == "end"}
    lasts = {line.writer: place + 1 for place, line in enumerate(case.lines)}
    freed = {cancel.run_id for cancel in case.records.cancels if cancel.force}
    swept = {sweep.session for sweep in case.records.sweeps if sweep.force and sweep.running}
    times = [line.at_ns for line in case.lines]
    work: dict[Session, list[Work]] = defaultdict(list)
    for place, line in enumerate(case.lines):
        if line.kind == "begin" and not case.owners.is_late(line):
            work[line.session].append(
                Work(
                    run_id=line.run_id,
                    unit=line.run_id,
                    began=place,
                    ended=min(ends.get(line.token, lasts[line.writer]), _lost(case, line, times)),
                    free_from_s=-NEVER_S if line.run_id in freed or line.session in swept else NEVER_S,
                )
            )
    return work


def _lost(case: Case, line: Line, times: list[int]) -> int:
    """Return the place of the first line after the server that wrote a line lost its session."""
    lost_ns = case.owners.lost_ns(line.session, line.server, line.at_ns)
    return len(times) if lost_ns is None else bisect_left(times, lost_ns)


def _views(case: Case) -> Iterator[View]:
    for session, history in case.records.histories.items():
        hidden = case.records.hidden.get(session, frozenset())
        shown = [message for place, message in enumerate(history) if place not in hidden]
        for seen in case.records.seen.get(session, ()):
            same = digest(shown[: seen.count]) == seen.digest
            yield View(session=session, place=-1, count=seen.count, is_beginning=same)

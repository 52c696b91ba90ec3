"""The runs of a session execute one at a time, in order of lane, priority and acceptance, and none while it is paused.

What continues a crashed run comes first, then answers, then what interrupts or was moved to the front, then the others
by priority, and of these first those that were to join another.
"""

from collections.abc import Iterator
from itertools import groupby, pairwise

from judging.evidence import Evidence, Move, Run

REQUEUED, ANSWER, FRONT, NORMAL = 0, 1, 2, 3
MOVED = 1
BEFORE_ALL = 1 << 62
Rank = tuple[int, int, int]


def accepted_order(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that executed before an equal that was accepted earlier, by the journal or as clients know it."""
    for session, runs in evidence.executed.items():
        # (stable: those of a class stay in the order in which they executed)
        equals = sorted((run for run in runs if not run.moves), key=_class)
        for _, group in groupby(equals, key=_class):
            yield from _equals(session, list(group))


def _class(run: Run) -> tuple[int, bool]:
    if run.request.resolves is not None:
        return (-2, False)
    if run.request.answers:
        return (-1, False)
    return (0, False) if _goes_first(run) else (run.request.priority, run.join != "became_next_run")


def _equals(session: object, runs: list[Run]) -> Iterator[str]:
    for earlier, later in pairwise(runs):
        if earlier.sequence > later.sequence:
            yield f"run {earlier.label} executed before {later.label} of {session}, which is first by sequence"
    last: Run | None = None
    for run in runs:
        waits = run.request.not_before_s is None
        if last is not None and waits and 0 <= run.accepted < last.request.sent:
            yield f"run {run.label} of {session} was accepted before {last.label} was sent, and executed after it"
        if last is None or last.request.sent < run.request.sent:
            last = run


def ranked(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that started while another waited that goes before them."""
    for runs in evidence.by_session.values():
        begun = [(run.started_s, run) for run in runs if run.started_s is not None and run.has_turn]
        for started_s, run in begun if len(begun) > 1 else ():
            at = started_s - evidence.limits.soon_s
            for later_s, other in begun:
                if later_s <= started_s or not _was_accepted(other, run, at):
                    continue
                if "collect" in (run.request.if_busy, other.request.if_busy) and any(
                    abs(move.sent_s - started_s) <= evidence.limits.soon_s for move in (*run.moves, *other.moves)
                ):
                    continue  # the move may be why it started: nothing executed, and the turn was being gathered
                own, others = rank(run, at), rank(other, at)
                if own is not None and others is not None and _is_before(others, own):
                    yield f"run {run.label} started while {other.label} waited, which goes before it"


def _was_accepted(run: Run, before: Run, at: float) -> bool:
    """Return whether a run had been accepted for sure when another one of its session started, soon after `at`."""
    if run.sequence < before.sequence:
        return True
    return run.request.not_before_s is None and run.accepted_s is not None and run.accepted_s < at


def rank(run: Run, at: float) -> Rank | None:
    """Return where a run that waits is placed at second `at`, None if that cannot be known."""
    if run.request.resolves is not None:
        return REQUEUED, 0, run.sequence
    if run.request.answers:
        return ANSWER, 0, run.sequence
    moves = [move for move in run.moves if move.sent_s <= at]
    if any(not 0 <= move.answered_s < at for move in moves) or len(moves) > 1:
        return None
    if run.request.not_before_s is not None and (at < run.request.not_before_s or run.moves):
        return None  # it is behind all others, or was not any more since it was moved
    if moves and not run.request.goes_back:
        priority = moves[0].priority
        return (FRONT, MOVED, 0) if priority is None else (NORMAL, priority, _place(run))
    return (FRONT, 0, run.sequence) if _goes_first(run) else (NORMAL, run.request.priority, _place(run))


def _goes_first(run: Run) -> bool:
    """Return whether a run goes before those without a policy: none that came later starts before one that goes
    back."""
    return run.request.interrupts or run.request.goes_back


def _place(run: Run) -> int:
    """Return its place among those of its priority: one that was to join another goes before others."""
    return run.sequence - BEFORE_ALL if run.join == "became_next_run" else run.sequence


def _is_before(one: Rank, other: Rank) -> bool:
    """Return whether one goes before another for sure: of those moved to the front it is not known which came first."""
    return one < other and not (one[0] == other[0] == FRONT and MOVED in (one[1], other[1]))


def priorities(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that have another priority than their request, or their last move, gave them."""
    for run in evidence.runs.values():
        if run.request.answers and run.moves:
            continue  # it goes first wherever it is moved
        moves = [move for move in run.moves if move.priority is not None]
        wanted: set[int | None] = {move.priority for move in moves if not _is_replaced(move, moves)}
        if all(move.answered_s < 0 for move in moves):
            wanted.add(run.request.priority)
        if run.end is not None and run.priority not in wanted:
            yield f"run {run.label} has priority {run.priority}, and was to have {sorted(map(str, wanted))}"


def _is_replaced(move: Move, moves: list[Move]) -> bool:
    return move.answered_s >= 0 and any(other.answered_s >= 0 and other.sent_s > move.answered_s for other in moves)


def paused(evidence: Evidence) -> Iterator[str]:
    """Yield the runs that started in a session that was paused."""
    soon_s = evidence.limits.soon_s
    for pause in evidence.pauses:
        for run in evidence.by_session.get(pause.session, ()):
            # (What continues a crashed run counts as started from its acceptance on.)
            is_continuing = run.request.resolves is not None
            started_s = (run.resumed_s if run.attempts == 1 else None) if is_continuing else run.started_s
            if started_s is not None and run.has_turn and pause.since_s + soon_s < started_s < pause.until_s - soon_s:
                for_s = started_s - pause.since_s
                yield f"run {run.label} started when {pause.session} had been paused for {for_s:.4f} s"


def one_at_a_time(evidence: Evidence) -> Iterator[str]:
    """Yield the runs of one session that worked at once, unless the session was free by force or after its hold."""
    for session, work in evidence.work.items():
        working: list[tuple[int, int]] = []
        for number, later in enumerate(work):
            working = [each for each in working if each[0] > later.began]
            for _, place in working:
                earlier = work[place]
                if earlier.unit != later.unit and later.began_s <= earlier.free_from_s:
                    yield f"runs {earlier.run_id} and {later.run_id} of {session} executed at once"
            working.append((later.ended, number))


def started_once(evidence: Evidence) -> Iterator[str]:
    """Yield the tool calls that were started twice and may not be, or by a run that waited until its time was over."""
    for each in evidence.tools:
        if each.run_id in evidence.runs and evidence.runs[each.run_id].kind == "queue_timeout":
            yield f"run {each.run_id} left no trace, and its tool {each.tool} was started"
        if each.times > 1 and not each.idempotent:
            yield f"tool {each.tool} of run {each.run_id} was started {each.times} times"

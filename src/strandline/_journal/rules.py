"""The rules that every journal shares: order, last attempts, legal ends, cancels, holds, windows. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from strandline._history import close, close_answer, fold, prompt_message, took_too_long, with_collected
from strandline._journal.errors import CancelRequested
from strandline._journal.port import Attached, Reused, Unanswerable, Unresolvable
from strandline._lifecycle import ENDED, MOVES, advance
from strandline._model import (
    Cancelled,
    Checkpoint,
    Collecting,
    ErrorCode,
    Failed,
    IfBusy,
    Inline,
    Input,
    JoinState,
    Keyed,
    Lane,
    Message,
    NewRun,
    Outcome,
    Question,
    Range,
    Resolution,
    Run,
    RunError,
    RunId,
    RunsCollected,
    RunsJoined,
    RunStatus,
    Sender,
    Window,
    responses,
)
from strandline.errors import InvariantBroken

Closed = Literal["answered", "dismissed"]
"""How an input request was closed."""
Rank = tuple[int, int, int]
"""A run's rank in its session: (lane, urgency, sequence); the smallest is next.

The sequence is less by `BEFORE_ALL` for a run that became the next run. The urgency is the priority in the normal lane,
the place drawn on arrival in the front lane, the time and the priority of a delayed run, and 0 in all others.
"""

_DRAWN: Final = 1 << 40
_PRIORITY_BITS: Final = 3
BEFORE_ALL: Final = 1 << 62
"""Subtracted from the sequence of a run that became the next run, to rank it before others of its priority."""

_MOVE_TO: Final = {end: move for (_, move), end in MOVES.items() if end in ENDED}


def rank(lane: int, priority: int, sequence: int, join: JoinState | None = None) -> Rank:
    """Return a run's rank: by priority in the normal lane, by its arrival there in the front lane.

    In the normal lane one that was to join another and became the next run is before others of its priority.
    """
    urgency = priority if lane == Lane.NORMAL else drawn(sequence) if lane == Lane.FRONT else 0
    return (lane, urgency, place(lane, sequence, join))


def place(lane: int, sequence: int, join: str | None) -> int:
    """Return the place of a run among those of its lane and urgency."""
    if join == JoinState.BECAME_NEXT_RUN and lane == Lane.NORMAL:
        return sequence - BEFORE_ALL
    return sequence


def drawn(number: int) -> int:
    """Return the urgency for `number` in the front lane, which is larger than every priority."""
    return _DRAWN + number


def first_rank(new: NewRun, sequence: int, now: float, join: JoinState | None = None) -> Rank:
    """Return the rank of a run that is accepted now."""
    if new.not_before is None or new.not_before <= now:
        return rank(new.lane, new.priority, sequence, join)
    return (Lane.DELAYED, delayed(new.not_before, new.priority), sequence)


def delayed(not_before: float, priority: int) -> int:
    """Return the urgency of a delayed run: it goes by its time in milliseconds, then by the priority that it will
    have."""
    return int(not_before * 1000) << _PRIORITY_BITS | priority


def delayed_priority(urgency: int) -> int:
    """Return the priority that a delayed run with this urgency will have."""
    return urgency & ((1 << _PRIORITY_BITS) - 1)


def is_last(attempt: int, max_attempts: int) -> bool:
    """Return whether attempt number `attempt` is the last one allowed; a first attempt never counts as last."""
    return attempt >= max_attempts and attempt > 1


def check_names(new: NewRun) -> None:
    """Raise `InvariantBroken` for a name that no row can hold.

    Names are compared, so they are stored unchanged; a lone surrogate cannot be stored.
    """
    names = (new.run_id, *new.key) if new.keyed is None else (new.run_id, *new.key, new.keyed.key)
    for name in names:
        if not name.isascii():
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise InvariantBroken(f"the name {name!a} cannot be kept: {error.reason}") from error


def check_end(start: RunStatus, end: RunStatus) -> None:
    """Raise `InvariantBroken` unless a run that is `start` can end as `end`."""
    move = _MOVE_TO.get(end)
    if move is None:
        raise InvariantBroken(f"a run cannot end as {end}")
    advance(start, move)


class Cancellable(Protocol):
    """An executing run, as a journal knows it."""

    cancel_requested: bool
    discard: bool


def check_cancel(run: Cancellable, end: RunStatus, *, discarded: bool) -> None:
    """Raise `CancelRequested` if an executing run may not become `end` because its cancel was accepted."""
    if run.cancel_requested and not (end is RunStatus.CANCELLED and discarded >= run.discard):
        raise CancelRequested("a cancel of this run was accepted before", discard=run.discard)


def cancelled(
    checkpoints: Iterable[Checkpoint], *, discard: bool = False, question: Question | None = None
) -> tuple[Outcome, list[Message]]:
    """Return outcome and messages of a cancelled waiting run. It has messages only if it has checkpoints, or was to
    answer a question, whose round they close."""
    progress = fold(checkpoints, question)
    closed: list[Message] = []
    if question is not None:
        ending = Cancelled(discard=discard)
        closed = close_answer(
            progress.messages, progress.results, ending, begun=progress.begun, state=progress.question_state
        )
    elif progress.messages:
        closed = close(progress.messages, progress.results, Cancelled(discard=discard))
    return Outcome(status=RunStatus.CANCELLED, message=closed[-1] if closed else None), closed


def timed_out(
    run: Run, checkpoints: Iterable[Checkpoint], *, question: Question | None = None
) -> tuple[Outcome, list[Message]]:
    """Return outcome and messages of a run that had begun and waited again when its time was over.

    As if it had been executing: it leaves its prompt, what it had done, and that it ended early. One whose tools cannot
    be seen had not begun, or it would not wait, and may keep its own history: it leaves nothing.
    """
    ending = Failed(ErrorCode.TIMEOUT, took_too_long(run.timeout_s))
    checkpoints = list(checkpoints)
    progress = fold(checkpoints, question)
    closed: list[Message] = []
    prompt = prompt_message(*with_collected(run.input, run.sender, checkpoints))
    if question is not None:
        closed = close_answer(
            progress.messages, progress.results, ending, begun=progress.begun, state=progress.question_state
        )
    elif messages := progress.messages or ([prompt] if run.resumable else []):
        closed = close(messages, progress.results, ending)
    error = RunError(ending.code, ending.detail)
    return Outcome(status=RunStatus.FAILED, error=error, message=closed[-1] if closed else None), closed


def may_join(new: NewRun, host: Run) -> bool:
    """Return whether a run may join another: what both say is said by the same sender, unless any may join."""
    return new.key == host.key and (new.joins_any or new.sender == host.sender)


class Collectable(Protocol):
    """A waiting run, as far as collecting goes."""

    created_at: float
    size: int
    collect: Collecting | None

    @property
    def collects(self) -> bool:
        """Whether it is to be part of a turn."""
        ...


AnyCollectable = TypeVar("AnyCollectable", bound=Collectable)


def one_turn(queue: Sequence[AnyCollectable]) -> tuple[list[AnyCollectable], float]:
    """Return the runs at the head of a queue that are to start as one turn, and when (seconds since the epoch).

    Just the head, at once, if that does not collect. What cannot be part of its turn ends it, and does not shorten its
    wait; what would be too much starts it at once.
    """
    head = queue[0]
    if head.collect is None or not head.collects:
        return [head], 0.0
    by, turn, size = head.collect.by, [head], head.size
    for each in queue[1:]:
        if each.collect is None or not each.collects or not head.collect.takes(each.collect):
            break
        if len(turn) >= by.max_items or size + each.size > by.max_bytes:
            return turn, 0.0
        turn.append(each)
        size += each.size
    if len(turn) >= by.max_items or size >= by.max_bytes:
        return turn, 0.0
    last = max(each.created_at for each in turn)
    return turn, min(last + by.quiet, head.created_at + by.max_wait)


def collecting(new: NewRun) -> Collecting | None:
    """Return how a run collects that is accepted now, None if it does not."""
    if new.if_busy is not IfBusy.COLLECT or new.collect is None or new.lane != Lane.NORMAL:
        return None
    return Collecting(by=new.collect, sender=new.sender, any=new.joins_any)


def without_collecting(if_busy: IfBusy) -> IfBusy:
    """Return the policy of a run that cannot join another one, and has none to join it."""
    return IfBusy.ENQUEUE if if_busy in (IfBusy.STEER, IfBusy.COLLECT) else if_busy


def as_sent(given: Input, sender: Sender | None) -> Input:
    """Return an input as its agent reads it, if nothing else is set."""
    return given


def joined_outcome(outcome: Outcome) -> Outcome:
    """Return the outcome of a run that joined another, from that of its host, which alone counts what it cost."""
    return replace(outcome, usage=None)


def check_answer(
    given: Sequence[str], question: Question | None, closed: Callable[[str], Closed | None]
) -> Unanswerable | None:
    """Return why a run's answers are refused; None if they are for all requests of the open question, and no other.

    `closed` returns how a request that is not open was closed.
    """
    open_ids = [] if question is None else [each.id for each in question.requests]
    for each in given:
        if each not in open_ids:
            return Unanswerable(closed(each) or "unknown", [each])
    missing = [each for each in open_ids if each not in given]
    return Unanswerable("incomplete", missing) if missing else None


def check_resolution(resolution: Resolution, checkpoints: Iterable[Checkpoint]) -> Unresolvable | None:
    """Return why a resolution is refused; None if it is about all open tools of a run with these checkpoints, and no
    other."""
    given = [each.tool_use_id for each in resolution.tools]
    open_tools = fold(checkpoints).open_tools()
    if known := [each for each in given if each not in open_tools]:
        return Unresolvable("known", known)
    missing = [each for each in open_tools if each not in given]
    return Unresolvable("incomplete", missing) if missing else None


def continued(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints of a crashed run for the one that continues it: what joined has ended with the first."""
    joins = (RunsJoined, RunsCollected)
    return [replace(each, ended=True) if isinstance(each, joins) else each for each in checkpoints]


def as_answer(new: NewRun, question: Question) -> NewRun | None:
    """Return a run as the answer that it becomes; None unless there is exactly one request that it may answer."""
    if not new.may_answer or len(question.requests) != 1:
        return None
    if_busy = without_collecting(new.if_busy)
    return replace(new, if_busy=if_busy, lane=Lane.ANSWER, input=responses({question.requests[0].id: new.input}))


def answers_key(keyed: Keyed, run_id: RunId, ended_at: float | None, fingerprint: bytes) -> Attached | Reused | None:
    """Return the answer to a request whose key stands for a run; None if the key has expired."""
    if ended_at is not None and ended_at < keyed.ended_before:
        return None
    return Attached(run_id) if fingerprint == keyed.fingerprint else Reused()


def stood_s(held_since: float, waits_since: float, now: float) -> float:
    """Return for how long the queue deadline of a run stood still in a held session; at least 0."""
    return max(0.0, now - max(held_since, waits_since))


class Branch(NamedTuple):
    """Messages from `start` on continue those before `upto` in the branch that begins with `parent`, 0 for the first
    one. Each branch ends where the next one begins. `run` is the sequence of the run that began it, if one did."""

    start: int
    parent: int
    upto: int
    run: int | None = None


def branch_at(branches: Sequence[Branch], start: int, parent: int, upto: int, run: int | None = None) -> Branch:
    """Return the branch that continues after message `upto` - 1 of `parent`, or of its own parent if nothing of it is
    left."""
    by_start = {each.start: each for each in branches}
    while parent and upto == parent:
        _, parent, upto, _ = by_start[parent]
    return Branch(start, parent, upto, run)


def branch_of(branches: Sequence[Branch], index: int) -> int:
    """Return with which message the branch begins that has message `index`."""
    return max((each.start for each in branches if each.start <= index), default=0)


def clipped(course: Sequence[Range], end: int) -> list[Range]:
    """Return a course without what comes at or after message `end`."""
    ends = ((each.start, end if each.end is None else min(each.end, end)) for each in course)
    return [Range(start, until) for start, until in ends if start < until]


def without(course: Sequence[Range], other: Sequence[Range]) -> list[Range]:
    """Return what is on a course and not on another one; all ranges of both have ends."""
    for gone in other:
        course = [part for each in course for part in _around(each, gone)]
    return list(course)


def _around(each: Range, gone: Range) -> Iterator[Range]:
    """Yield what a range has before and after another one."""
    assert each.end is not None
    assert gone.end is not None
    if each.start < (end := min(each.end, gone.start)):
        yield Range(each.start, end)
    if (start := max(each.start, gone.end)) < each.end:
        yield Range(start, each.end)


def last_with(branches: Sequence[Branch], replaced: Mapping[int, Branch], index: int) -> tuple[int, int] | None:
    """Return where the last conversation ended that had message `index`: the last branch of its course that has a
    message, and how many messages history had then. None: it is the present one.

    `replaced` are branches without a message that another one replaced, by their start. Of several that replaced each
    other only the last is there: so does storage have them.
    """
    for number in range(len(branches), -1, -1):
        had = branches[:number]
        if is_on(course(had), index):
            return None if number == len(branches) else (had[-1].start if had else 0, branches[number].start)
        if had and (before := replaced.get(had[-1].start)) is not None and is_on(course([*had[:-1], before]), index):
            return before.parent, before.upto
    return None


def course(branches: Sequence[Branch]) -> list[Range]:
    """Return the ranges of messages that the last branch continues, in order, and its own, open at its end.

    Without branches that is all of history.
    """
    by_start = {each.start: each for each in branches}
    last = max(by_start, default=0)
    ranges = [Range(last, None)]
    while last:
        _, last, upto, _ = by_start[last]
        if last < upto:
            ranges.append(Range(last, upto))
    return ranges[::-1]


def is_on(course: Sequence[Range], index: int) -> bool:
    """Return whether a message is on a course."""
    return any(each.start <= index and (each.end is None or index < each.end) for each in course)


class PageBudget:
    """The bytes that are left for a page of history (None: no bound). One message always fits."""

    __slots__ = ("_is_taken", "_left")

    def __init__(self, most_bytes: int | None) -> None:
        self._left = inf if most_bytes is None else most_bytes
        self._is_taken = False

    def takes(self, size: int) -> bool:
        """Return whether a message of `size` bytes fits, and count it. If not, the page ends."""
        if self._is_taken and size > self._left:
            return False
        self._left -= size
        self._is_taken = True
        return True


def spans(
    window: Window, length: int, course: Sequence[Range] = (Range(0, None),)
) -> Iterator[tuple[int, int] | Inline]:
    """Yield `(start, end)` for each range that is not empty in a history of `length` messages, as far as it is on the
    `course`, and each inline message."""
    for part in window:
        if isinstance(part, Inline):
            yield part
            continue
        for on in course:
            start = max(part.start, on.start)
            end = min(length if each is None else each for each in (part.end, on.end, length))
            if start < end:
                yield start, end


def passes_client_tools(new: NewRun) -> bool:
    """Return whether a run says nothing about the session's question, so that it dismisses calls of a client's tools.

    A client that sends its next message has no result for them. One for later, or of a schedule, is not its next one.
    """
    is_plain = new.lane == Lane.NORMAL and new.not_before is None and new.fires is None
    return is_plain and "on_question" not in new.own_options

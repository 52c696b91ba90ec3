"""Reads committed state from the SQLite journal, on its own connections and threads."""

from collections import deque, namedtuple
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import pairwise
from math import isfinite
from typing import Any, Final, TypeVar

from msgspec import Raw, ValidationError, convert, json
from msgspec.structs import replace

from strandline._compat.threads import Threads, no_thread
from strandline._encoding import decoder
from strandline._journal import checksums
from strandline._journal.changes import SessionRef
from strandline._journal.database import Database
from strandline._journal.port import AgentState, AgentStateQuery, HistoryPage, HistoryQuery, RunQuery
from strandline._journal.records import StoredRun
from strandline._journal.rules import BEFORE_ALL, Branch, PageBudget, Rank, course, delayed, is_on, place, rank, spans
from strandline._journal.state import HistoryEnd, OpenRound, SessionState
from strandline._lifecycle import ENDED
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Carrier,
    Checkpoint,
    Collecting,
    GoBack,
    IfBusy,
    Inline,
    Input,
    JoinState,
    Lane,
    Message,
    Outcome,
    Question,
    Range,
    Run,
    RunId,
    RunStatus,
    RunSummary,
    RunWebhook,
    Sender,
    SessionKey,
    StateRecord,
    Window,
)
from strandline.errors import JournalUnavailable

T = TypeVar("T")
AnyRun = TypeVar("AnyRun", bound=RunSummary)

READERS: Final = 2
STORED_OF: Final = "SELECT bytes FROM stored WHERE principal = ?"
"""How many bytes are stored for a principal."""
OPENS_ALL: Final = "SELECT 1 FROM sqlite_master LIMIT 1"
"""Has SQLite open all files of a journal."""
_input: Final[Callable[[bytes], Input]] = decoder(Input)
_metadata: Final = decoder(dict[str, Any])
_trace: Final = decoder(Carrier)
_sender: Final = decoder(Sender)
_back_to: Final = decoder(GoBack)
_webhook: Final[Callable[[bytes], RunWebhook]] = decoder(RunWebhook)
_collecting: Final = decoder(Collecting)
_checkpoint: Final[Callable[[bytes], Checkpoint]] = decoder(Checkpoint)
_message: Final[Callable[[bytes], Message]] = decoder(Message)
in_full: Final[Callable[[bytes], list[Message]]] = decoder(list[Message])
_raw_messages: Final = json.Decoder(list[Raw]).decode
_outcome: Final = decoder(Outcome)
_question: Final[Callable[[bytes], Question]] = decoder(Question)
_state: Final = decoder(StateRecord)
_window: Final[Callable[[bytes], Window]] = decoder(Window)

UNREADABLE_INPUT: Final = "(This question cannot be read any more: the journal's file is damaged.)"


class RunRow(
    namedtuple(
        "RunRow",
        "run_id lane priority opaque metadata seq status attempt created_at started_at ended_at outcome timeout_s"
        " queue_deadline discarded cancel_requested discard if_busy moved trace not_before sender fence urgency joins"
        " host back webhook collect input",
    )
):
    """A stored run: a row of the columns `RUN_COLUMNS`, any of which may be damaged."""

    __slots__ = ()

    @property
    def rank(self) -> Rank:
        """Its rank among the waiting runs of its session, if it waits."""
        return self.lane, self.urgency, place(self.lane, self.seq, self.joins)


RUN_COLUMNS: Final = ", ".join(RunRow._fields)


def intact_run(kind: type[AnyRun], row: RunRow, session: SessionRef) -> AnyRun:
    """Return a stored run, or its summary. Raises `JournalUnavailable` if it is damaged or impossible."""
    run = stored_run(kind, row, session)
    for _ in faults_of(run, row):
        raise checksums.damaged_record(f"run {run.run_id}")
    return run


def faults_of(run: RunSummary, row: RunRow) -> Iterator[str]:
    """Yield what is impossible about a stored run that decodes as `run`."""
    ended, claimed, status = run.status in ENDED, row.fence is not None, run.status
    if ended and (run.outcome is None or run.ended_at is None):
        yield f"is {status} without an outcome"
    if not ended and (run.outcome is not None or run.ended_at is not None):
        yield f"is {status} and has an outcome"
    joins = run.join is not None and run.join is not JoinState.BECAME_NEXT_RUN
    if joins and (claimed or run.attempt > 0 or run.joined is None):
        yield "joins another run and has a turn of its own"
    if run.join is JoinState.APPLIED and status is RunStatus.QUEUED:
        yield "has joined another run and waits"
    if not joins and status is RunStatus.RUNNING and (not claimed or run.attempt < 1):
        yield "is running without a claim"
    if status is RunStatus.QUEUED and claimed:
        yield "waits and is claimed"
    if run.cancel_requested and status not in (RunStatus.RUNNING, RunStatus.CANCELLED):
        yield f"is {status} although its cancel was accepted before"
    if run.discard > (run.cancel_requested and (run.discarded or not ended)):
        yield "was to be discarded, and is not"
    if run.discarded and not ended:
        yield f"is {status} and discarded already"
    times = (run.created_at, run.started_at, run.ended_at, run.queue_deadline, run.not_before)
    if not all(isfinite(each or 0) for each in times):
        yield "has a time that never comes"
    if run.started_at is None and (run.attempt > 0 or status is RunStatus.RUNNING):
        yield "was attempted and has never started"
    if not (run.attempt >= 0 and _is_place(run, row.urgency)):
        yield "stands where no run can stand"


def _is_place(run: RunSummary, urgency: int) -> bool:
    """Return whether a run can have this urgency in its lane."""
    if run.lane == Lane.DELAYED:
        is_time = run.not_before is not None and isfinite(run.not_before)
        return is_time and run.started_at is None and urgency == delayed(run.not_before or 0.0, run.priority)
    _, least, _ = rank(run.lane, run.priority, run.sequence)
    return run.lane <= Lane.NORMAL and (urgency >= least if run.lane == Lane.FRONT else urgency == least)


def stored_run(kind: type[AnyRun], row: RunRow, session: SessionRef) -> AnyRun:
    """Return a stored run, or its summary, even if it is impossible. Raises `JournalUnavailable` if it is damaged."""
    what, crc = f"run {row.run_id}", session.crc
    request = checksums.request_owner(
        crc, row.seq, row.run_id, row.priority, not row.opaque, row.created_at, row.timeout_s, row.not_before
    )
    stored = row._asdict() | {
        "key": session.key,
        "sequence": row.seq,
        "priority": row.priority if row.moved is None else row.moved,
        "metadata": {} if row.metadata is None else checksums.read_checked(_metadata, row.metadata, what, request),
        "trace": None if row.trace is None else checksums.read_checked(_trace, row.trace, what, request),
        "sender": None
        if row.sender is None
        else checksums.read_checked(_sender, row.sender, what, request, is_new=True),
        "back": None if row.back is None else checksums.read_checked(_back_to, row.back, what, request, is_new=True),
        "webhook": None if row.webhook is None else webhook_of(session, row.run_id, row.webhook),
        "resumable": {0: True, 1: False}.get(row.opaque),  # (else None, which `convert` refuses)
        "if_busy": row.if_busy or (IfBusy.ENQUEUE if row.joins is None else IfBusy.STEER),
        "joined": row.host,
        "join": row.joins,
        "held": row.fence is not None and row.ended_at is not None,
    }
    if row.outcome is not None:
        owner = checksums.end_owner(crc, row.seq, row.attempt, bool(row.discarded), row.started_at, row.ended_at)
        stored["outcome"] = checksums.read_checked(_outcome, row.outcome, what, owner)
    if row.collect is not None:
        collecting(row.collect, session, row.seq)  # (the session table has it, if it waits)
    if kind is Run:
        stored["input"] = checksums.read_checked(_input, row.input, what, request)
    try:
        run = convert(stored, kind, strict=False)  # (0 and 1 are read as bools, and no other number is)
    except ValidationError as error:
        raise checksums.damaged_record(what) from error
    if run.outcome is not None and run.outcome.status != run.status:
        raise checksums.damaged_record(what)
    return run


def webhook_of(session: SessionRef, run_id: RunId, stored: bytes) -> RunWebhook:
    """Return where events of a run are sent. Raises `RecordDamaged`."""
    owner = checksums.webhook_owner(session.crc, run_id)
    return checksums.read_checked(_webhook, stored, f"run {run_id}", owner, is_new=True)


def collecting(stored: bytes, session: SessionRef, seq: int) -> Collecting:
    """Return how a run collects others. Raises `RecordDamaged`."""
    what = f"how the run with sequence {seq} collects"
    return checksums.read_checked(_collecting, stored, what, checksums.collect_owner(session.crc, seq), is_new=True)


def each_checkpoint(connection: Database, seq: int) -> Iterator[Checkpoint]:
    """Yield the checkpoints of a run, in order. Raises `JournalUnavailable` at the first damaged or missing one."""
    rows = connection.execute("SELECT no, fact FROM staged WHERE run = ? ORDER BY no", (seq,)).fetchall()
    for expected, (no, checkpoint) in enumerate(rows):
        what = f"a checkpoint of the run with sequence {seq}"
        if no != expected:
            raise checksums.damaged_record(what)
        yield checksums.read_checked(_checkpoint, checkpoint, what, checksums.checkpoint_owner(seq, no))


def readable(connection: Database, row: RunRow, session: SessionRef) -> StoredRun:
    """Return a stored run and its checkpoints, as far as both can be read.

    A damaged run is not `resumable`: nobody knows what it had done.
    """
    error: JournalUnavailable | None = None
    try:
        run = intact_run(Run, row, session)
    except JournalUnavailable as damaged:
        error = damaged
        run = Run(
            run_id=row.run_id,
            key=session.key,
            input=UNREADABLE_INPUT,
            lane=row.lane,
            priority=row.priority,
            resumable=False,
            metadata={},
            sequence=row.seq,
            status=RunStatus.RUNNING if row.status == RunStatus.RUNNING else RunStatus.QUEUED,
            attempt=row.attempt,
            created_at=row.created_at,
            started_at=row.started_at,
            cancel_requested=bool(row.cancel_requested),
            discard=bool(row.discard),
        )
    checkpoints: list[Checkpoint] = []
    try:
        for checkpoint in each_checkpoint(connection, row.seq):
            checkpoints.append(checkpoint)
    except JournalUnavailable as damaged:
        error = error or damaged
    return StoredRun(run if error is None else replace(run, resumable=False), tuple(checkpoints), error)


FIND_SESSION: Final = (
    "SELECT {names}sessions.no, paused, closed_since, rests_since, options, questions.run, until, answer,"
    " branch, unresolved,"
    " (messages IS NULL) = (count = 0) AND count >= 0 AND first >= 0 AND nth > 0 AND history.session = sessions.no,"
    " last, nth, first + count, history.agent"
    " FROM sessions LEFT JOIN history ON history.no = last LEFT JOIN questions ON questions.session = sessions.no"
)
_FIND_ONE: Final = f"{FIND_SESSION.format(names='')} WHERE principal = ? AND session_id = ?"


_Time = float | None
_Number = int | None
_Session = tuple[
    int,
    int,
    _Time,
    _Time,
    bytes | None,
    _Number,
    _Time,
    _Number,
    _Number,
    _Number,
    bool | int | None,
    _Number,
    _Number,
    _Number,
    _Number,
]


TIMES: Final = tuple[_Time, _Time]


def find_session(connection: Database, key: SessionKey) -> SessionState | None:
    """Return a session without its runs, None if there is none. Raises `JournalUnavailable` if its end is damaged."""
    row = connection.execute(_FIND_ONE, key).fetchone()
    return None if row is None else session_of(key, row)


def session_of(key: SessionKey, row: Sequence[Any]) -> SessionState:
    """Return the session of a row of `FIND_SESSION`. Raises `JournalUnavailable` if its end is damaged."""
    no, paused, closed_since, rests_since, options, asker, until, answer, branch, unresolved, is_whole, *end = plain(
        _Session, row, key
    )
    if end[0] is not None and not is_whole:
        raise checksums.damaged_record(f"the end of the history of session {key.session_id}")
    return SessionState(
        SessionRef.of(no, key),
        HistoryEnd() if end[0] is None else HistoryEnd(*end),
        bool(paused),
        closed_since,
        rests_since,
        None if asker is None or until is None else OpenRound(asker, until, answer),
        options=options,
        branch=branch,
        unresolved=unresolved,
    )


BRANCHES: Final = "SELECT start, parent, upto, run FROM branches WHERE session = ? ORDER BY start"


def course_of(connection: Database, session: SessionState) -> list[Range]:
    """Return the ranges of a session's messages that are not superseded, in order."""
    if session.branch is None:
        return [Range(0, None)]
    branches = [Branch(*row) for row in connection.execute(BRANCHES, (session.no,)).fetchall()]
    if any(True for _ in faults_of_branches(branches, session.end.length)) or branches[-1].start != session.branch:
        raise checksums.damaged_record(f"the branches of session {session.key.session_id}")
    return course(branches)


def faults_of_branches(branches: Sequence[Branch], length: int) -> Iterator[str]:
    """Yield what is impossible about the branches of a history of `length` messages."""
    starts = [0, *(each.start for each in branches)]
    if not branches:
        yield "has none"
    ends = dict(pairwise(starts))
    for each, before in zip(branches, starts, strict=False):
        if not before < each.start <= length or each.parent not in starts or each.parent >= each.start:
            yield f"begins with message {each.start}, where none can"
        elif not (each.parent < each.upto or each.parent == each.upto == 0) or each.upto > ends[each.parent]:
            yield f"with message {each.start} continues nothing"


def plain(kind: Any, row: Sequence[Any], key: SessionKey) -> Any:
    """Return columns of a row of a session, or of a run in it. Raises `RecordDamaged` if one is of another type, or a
    time that never comes."""
    try:
        found = convert(tuple(row), kind)
    except ValidationError as error:
        raise checksums.damaged_record(f"the row of session {key.session_id}") from error
    if not all(map(isfinite, (each for each in row if isinstance(each, float)))):
        raise checksums.damaged_record(f"the row of session {key.session_id}")
    return found


CHAIN: Final = (
    "WITH RECURSIVE chain (no, session, first, previous, run) AS (SELECT no, session, first, previous, run FROM history"
    " WHERE no = ? AND session = ? UNION ALL SELECT history.no, history.session, history.first, history.previous,"
    " history.run FROM chain JOIN history ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.first > ? AND chain.previous < chain.no) "
)
"""The rows of one session's history from a row back to the one with message `first`; -1 for all.

Each row names an older one of the same session; the chain ends at a damaged row that does not.
"""

BACK: Final = (
    f"{CHAIN} SELECT history.first, count, discarded, messages, origin FROM chain CROSS JOIN history USING (no)"
    " WHERE history.first < ?"
)
"""The rows of a chain that have messages before one, the newest first."""

BACK_WITH_RUNS: Final = (
    f"{CHAIN} SELECT history.first, count, history.discarded, messages, origin, coalesce(copied_run, run_id)"
    " FROM chain CROSS JOIN history USING (no) LEFT JOIN runs ON seq = chain.run WHERE history.first < ?"
)
"""The same rows, with the id of the run of each, NULL if it is deleted."""


class Readers:
    """A small pool of threads; each call has a connection to itself.

    `connect` makes a connection that cannot write; one that has raised a `broken` is not used again. `warm_up` is the
    first statement of each of the first connections. With `anew`, a call whose connection broke although it had been
    good before is made once more, on a new one.
    """

    def __init__(
        self,
        connect: Callable[[], Database],
        broken: type[Exception],
        *,
        warm_up: str,
        begin: str = "BEGIN",
        anew: bool = False,
    ) -> None:
        self._connect = connect
        self._broken = broken
        self._warm_up = warm_up
        self._begin = begin
        self._anew = anew
        self.check: Callable[[], None] = lambda: None
        """Called before a connection is opened; raises if the file is no longer the one in use.

        (A new connection to an emptied file would delete the WAL.)
        """
        self._idle: deque[Database] = deque()  # (each of its calls is atomic)
        self._threads = Threads(READERS, "strandline-journal-reader")

    def open(self) -> None:
        """Open a connection, with all its files, for each thread; start the first thread.

        Later the system may have no file descriptor or thread left.
        """
        for _ in range(READERS):
            connection = self._connect()
            self._idle.append(connection)
            connection.execute(self._warm_up).fetchall()
        self.ask(lambda connection: None).result()

    def ask(self, question: Callable[[Database], T]) -> Future[T]:
        """Answer `question` in one transaction. Raises `JournalUnavailable` after `close`, and if no thread can."""
        try:
            answer = self._threads.submit(self._answer, question)
        except RuntimeError as error:
            raise JournalUnavailable("the journal is not open") from error
        if self._threads.withdrawn(answer):
            raise JournalUnavailable(no_thread("reads of the journal", self._threads.refusal))
        return answer

    def _answer(self, question: Callable[[Database], T]) -> T:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # (another thread was quicker)
                break
            try:
                return self._answered_by(connection, question)
            except self._broken:
                if not self._anew:
                    raise
        self.check()
        return self._answered_by(self._connect(), question)

    def _answered_by(self, connection: Database, question: Callable[[Database], T]) -> T:
        try:
            connection.execute(self._begin)
            answer = question(connection)
            connection.execute("ROLLBACK")
        except self._broken:
            connection.close()  # failed I/O has already ended its transaction, and perhaps more
            raise
        except BaseException:
            connection.execute("ROLLBACK")
            self._idle.append(connection)
            raise
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Wait for the calls under way, then close all connections. Blocks."""
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().close()


# -- the questions ------------------------------------------------------------------------------------


def load(connection: Database, key: SessionKey) -> AgentRecord:
    """Return window and state of a session; an unknown session has the empty record."""
    session = find_session(connection, key)
    if session is None:
        return AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
    stored, length = _agent_state(connection, session), session.end.length
    shown: list[tuple[int | None, Message]] = []
    for span in spans(stored.window, length, course_of(connection, session)):
        shown += [(None, span.message)] if isinstance(span, Inline) else between(connection, session, *span)
    return AgentRecord(
        messages=[message for _, message in shown],
        origins=[index for index, _ in shown],
        window=stored.window,
        length=length,
        state=stored.state,
    )


def agent_state(connection: Database, query: AgentStateQuery) -> AgentState:
    """Return window and state of a session, without its messages."""
    session = find_session(connection, query.key)
    return AgentState(WHOLE_HISTORY, None) if session is None else _agent_state(connection, session)


def _agent_state(connection: Database, session: SessionState) -> AgentState:
    row = connection.execute('SELECT "window", state FROM agents WHERE session = ?', (session.no,)).fetchone()
    return decoded_state(session.ref, *(row or (None, None)))


def decoded_state(session: SessionRef, window: bytes | None, state: bytes | None) -> AgentState:
    """Return the stored window and state of a session. Raises `JournalUnavailable` if one of them is damaged."""
    what = f"the context window or state of session {session.key.session_id}"
    return AgentState(
        WHOLE_HISTORY if window is None else checksums.read_checked(_window, window, what, session.crc),
        None if state is None else checksums.read_checked(_state, state, what, session.crc),
    )


def between(connection: Database, session: SessionState, start: int, end: int) -> list[tuple[int, Message]]:
    """Return messages `start` to `end` with their indices, without those of discarded runs."""
    with closing(_back(BACK, in_full, connection, session, start, end)) as messages:
        return [(index, message) for index, message, discarded, _ in messages if not discarded][::-1]


def messages_of_runs(
    connection: Database, session: SessionState, start: int, end: int
) -> Generator[tuple[RunId | None, Message]]:
    """Yield messages `end` to `start`, the last one first, each with its run, None if that is deleted."""
    with closing(_back(BACK_WITH_RUNS, in_full, connection, session, start, end)) as messages:
        for _, message, _, run_id in messages:
            yield run_id, message


def fingerprint(session: int, seq: int, run_id: str, key: str, stored: bytes) -> bytes:
    """Return the fingerprint of a run's idempotency key; `session` is the `key_crc` of its session.

    Raises `JournalUnavailable` if it is damaged.
    """
    what = f"the idempotency key of run {run_id}"
    return checksums.read_checked(bytes, stored, what, checksums.key_owner(session, seq, key), is_new=True)


def _back(
    statement: str,
    decode: Callable[[bytes], list[T]],
    connection: Database,
    session: SessionState,
    start: int,
    end: int,
) -> Generator[tuple[int, T, bool, RunId | None]]:
    """Yield messages `end` to `start`, the last one first: its index, what `decode` makes of it, if it was discarded,
    and its run, if the `statement` is `BACK_WITH_RUNS` and the run is kept.

    Reads rows one by one. Raises `JournalUnavailable` at a damaged or missing one.
    """
    mark = connection.execute(
        "SELECT no FROM history WHERE session = ? AND nth % 64 = 0 AND first >= ? ORDER BY first LIMIT 1",
        (session.no, end),
    ).fetchone()
    missing = f"the history of session {session.key.session_id} before message {{}}"
    above, joins = end, False
    # Not sorted, which would read all rows at once: a chain comes link by link, and each must join the one before.
    rows = connection.execute(
        statement,
        (session.end.row if mark is None else mark[0], session.no, start, end),
    )
    with closing(rows):  # (a half-read cursor would pin the connection to that moment's state)
        for first, count, discarded, stored, origin, *run in rows:
            if first + count != above if joins else first + count < end:
                raise checksums.damaged_record(missing.format(above))
            above, joins = first, True
            if stored is not None or count:
                messages = messages_in(decode, stored, session.ref, first, count, origin, discarded=bool(discarded))
                for index in range(min(end, first + count) - 1, max(start, first) - 1, -1):
                    yield index, messages[index - first], bool(discarded), run[0] if run else None
    if start < min(end, above):
        raise checksums.damaged_record(missing.format(above))


def messages_in(
    decode: Callable[[bytes], list[T]],
    stored: bytes | None,
    session: SessionRef,
    first: int,
    count: int,
    origin: int | None = None,
    *,
    discarded: bool,
) -> list[T]:
    """Return the messages of a row of history. Raises `JournalUnavailable` if it is damaged.

    `origin` is what checksums of the session begin with from which the row was copied.
    """
    what = f"the history of session {session.key.session_id} from message {first} on"
    crc = session.crc if origin is None else origin
    messages = checksums.read_checked(
        decode, stored or b"", what, checksums.message_owner(crc, first, discarded=discarded)
    )
    if len(messages) != count:
        raise checksums.damaged_record(what)
    return messages


def history(connection: Database, query: HistoryQuery) -> HistoryPage:
    """Return a page of a session's history. Decodes only the messages on the page."""
    session = find_session(connection, query.key)
    if session is None:
        return HistoryPage([], 0)
    length = session.end.length
    end = length if query.before is None else min(query.before, length)
    first, room = end, PageBudget(query.most_bytes)
    shown: list[Message] = []
    indices: list[int] = []
    runs: list[RunId | None] = []
    hidden: set[int] = set()
    replaced: set[int] = set()
    on_course = course_of(connection, session)
    start = max(0, end - query.limit)
    with closing(_back(BACK_WITH_RUNS, _raw_messages, connection, session, start, end)) as messages:
        for index, raw, discarded, run_id in messages:
            stored = bytes(raw)
            if not room.takes(len(stored)):
                break
            first = index
            superseded = session.branch is not None and not is_on(on_course, index)
            if discarded <= query.discarded and superseded <= query.superseded:
                what = f"message {index} of the history of session {query.key.session_id}"
                shown.append(checksums.read_checked(_message, stored, what, 0))
                indices.append(index)
                runs.append(run_id)
                if discarded:
                    hidden.add(index)
                if superseded:
                    replaced.add(index)
    for each in (shown, indices, runs):
        each.reverse()
    return HistoryPage(
        shown,
        first,
        discarded=[number for number, index in enumerate(indices) if index in hidden],
        pending=bool(shown) and end == length and session.round is not None,
        indices=indices,
        runs=runs,
        superseded=[number for number, index in enumerate(indices) if index in replaced],
    )


def run(connection: Database, query: RunQuery) -> Run | None:
    """Return one run of a principal, with its position if it waits."""
    row = connection.execute(
        f"SELECT session, principal, session_id, {RUN_COLUMNS} FROM runs JOIN sessions ON no = session"
        " WHERE run_id = ? AND principal = ?",  # (another principal's input is not read)
        (query.run_id, query.principal),
    ).fetchone()
    if row is None:
        return None
    no, principal, session_id, *columns = row
    stored = RunRow(*columns)
    found = intact_run(Run, stored, SessionRef.of(no, SessionKey(principal, session_id)))
    return replace(found, position=position_of(connection, no, stored))


JOINED_ONES: Final = "joins IS NOT NULL AND ended_at IS NULL AND status"
"""Begins the condition for runs that joined, or were to join: they have a small index."""
PLACE: Final = f"CASE lane WHEN {Lane.NORMAL} THEN seq - {BEFORE_ALL} ELSE seq END"
"""The place of a run that became the next run."""
_WAITING_BEFORE: Final = (
    "SELECT (SELECT count(*) FROM runs WHERE session = ? AND status = 'queued' AND joins IS NULL"
    " AND (lane, urgency, seq) < (?,?,?))"
    f" + (SELECT count(*) FROM runs WHERE session = ? AND {JOINED_ONES} = 'queued' AND joins = 'became_next_run'"
    f" AND (lane, urgency, {PLACE}) < (?,?,?))"
)


def position_of(connection: Database, session: int, row: RunRow) -> int | None:
    """Return a run's position, 1 for the next to start; None if it does not wait."""
    is_in_queue = row.status == RunStatus.QUEUED and row.joins != JoinState.PENDING
    return waiting_before(connection, session, row.rank) + 1 if is_in_queue else None


def waiting_before(connection: Database, session: int, position: tuple[int, ...]) -> int:
    """Return how many runs of a session wait for their turn before `position`."""
    row = connection.execute(_WAITING_BEFORE, (session, *position, session, *position)).fetchone()
    return int(row[0])


def question_of(connection: Database, session: SessionRef, run: int, until: float) -> Question:
    """Return the open question of a run. Raises `JournalUnavailable` if it is damaged."""
    row = connection.execute("SELECT question FROM questions WHERE session = ?", (session.no,)).fetchone()
    what = f"the open question of session {session.key.session_id}"
    if row is None:
        raise checksums.damaged_record(what)
    return checksums.read_checked(
        _question, row[0], what, checksums.question_owner(session.crc, run, until), is_new=True
    )

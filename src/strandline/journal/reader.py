"""What is read from the SQLite journal: committed state, on connections and threads of its own."""

import sqlite3
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct, structs
from msgspec.structs import replace

from strandline.encoding import decoder
from strandline.errors import JournalUnavailable
from strandline.journal.driver import connect_reader
from strandline.journal.port import HistoryPage, HistoryQuery, RunQuery, Standing, StandingQuery, Waiting, WaitingQuery
from strandline.journal.rules import Rank, Room, drawn, spans
from strandline.journal.seal import (
    agent_owner,
    damaged_record,
    end_owner,
    fact_owner,
    history_owner,
    is_sealed,
    key_crc,
    question_owner,
    read_sealed,
    request_owner,
)
from strandline.journal.state import HistoryEnd
from strandline.lifecycle import ENDED
from strandline.model import (
    WHOLE_HISTORY,
    AgentRecord,
    Carrier,
    Fact,
    IfBusy,
    Inline,
    Input,
    Lane,
    Message,
    Outcome,
    Question,
    Run,
    RunStatus,
    RunSummary,
    SessionKey,
    StateRecord,
    Window,
)
from strandline.threads import Threads, no_thread

T = TypeVar("T")
AnyRun = TypeVar("AnyRun", bound=RunSummary)

READERS: Final = 2
_STATUSES: Final = {status.value: status for status in RunStatus}
_MARKS: Final = dict.fromkeys(ENDED, ((False, True), (True, True))) | {
    RunStatus.QUEUED: ((False, False),),
    RunStatus.RUNNING: ((True, False),),
}
"""By status: whether a run is claimed, and whether it has a time of its end."""

_POLICIES: Final = {None: IfBusy.ENQUEUE} | {policy.value: policy for policy in IfBusy}
_ASKED: Final = (RunStatus.RUNNING, RunStatus.CANCELLED)
"""What a run of which a cancel was requested can be."""

_input: Final[Callable[[bytes], Input]] = decoder(Input)
_metadata: Final = decoder(dict[str, Any])
_trace: Final = decoder(Carrier)
_fact: Final[Callable[[bytes], Fact]] = decoder(Fact)
_message: Final = decoder(Message)
_messages: Final = decoder(list[Message])
_raw_messages: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_outcome: Final = decoder(Outcome)
_question: Final[Callable[[bytes], Question]] = decoder(Question)
_state: Final = decoder(StateRecord)
_window: Final[Callable[[bytes], Window]] = decoder(Window)

SUMMARY_COLUMNS: Final = (
    "run_id, lane, priority, opaque, metadata, seq, status, attempt, created_at, started_at, ended_at, outcome,"
    " timeout_s, queue_deadline, discarded, cancel_requested, discard, if_busy, moved, trace, fence, urgency"
)
RUN_COLUMNS: Final = f"{SUMMARY_COLUMNS}, input"


def sound_run(row: tuple[Any, ...], key: SessionKey, crc: int | None = None) -> Run:
    """Return the run in a row of `RUN_COLUMNS`. Raises `JournalUnavailable` if it is damaged, or cannot be.

    `crc` is the `key_crc` of its session, for those who know it.
    """
    return _checked(to_run(row, key, crc), row)


def sound_summary(row: tuple[Any, ...], key: SessionKey) -> RunSummary:
    """Return the run in a row of `SUMMARY_COLUMNS`. Raises `JournalUnavailable` if that is damaged, or cannot be."""
    return _checked(_to_summary(row, key, key_crc(key)), row)


def _checked(run: AnyRun, row: tuple[Any, ...]) -> AnyRun:
    """Return `run` if it can be as the row says. Raises `JournalUnavailable`."""
    fence, urgency = row[20:22]
    ended, started = run.ended_at is not None, run.started_at is not None
    if (
        (fence is not None, ended) not in _MARKS[run.status]
        or ended is (run.outcome is None)
        or (not started and (run.attempt > 0 or run.status is RunStatus.RUNNING))
        or run.cancel_requested > (run.status in _ASKED)
        or run.discard > run.cancel_requested
        or not (run.lane <= Lane.NORMAL and run.attempt >= 0 and run.discarded <= ended)
        or not _is_urgency(urgency, run)
    ):
        raise damaged_record(f"run {run.run_id}")
    return run


def _is_urgency(urgency: int, run: RunSummary) -> bool:
    """Tell whether the second part of a run's rank can be what it is."""
    if run.lane == Lane.FRONT:
        return urgency >= drawn(run.sequence)
    return urgency == (run.priority if run.lane == Lane.NORMAL else 0)


def to_run(row: tuple[Any, ...], key: SessionKey, crc: int | None = None) -> Run:
    """Return the run in a row of `RUN_COLUMNS`, whether it can be or not. Raises `JournalUnavailable` if damaged."""
    session = key_crc(key) if crc is None else crc
    *columns, prompt = row
    run = _to_summary(tuple(columns), key, session)
    prompt = read_sealed(_input, prompt, f"run {run.run_id}", _request_owner(row, session))
    return Run(input=prompt, **structs.asdict(run))


def _request_owner(row: tuple[Any, ...], session: int) -> int:
    """Return whose the input, metadata and trace in a row are."""
    run_id, _, priority, opaque, _, seq, *_ = row
    return request_owner(session, seq, run_id, priority, bool(opaque), row[8], row[12])


def _to_summary(row: tuple[Any, ...], key: SessionKey, session: int) -> RunSummary:
    run_id, lane, priority, opaque, metadata, seq, status, attempt, *more = row
    created_at, started_at, ended_at, end, timeout_s, queue_deadline, discarded, *wanted, fence, _ = more
    cancel_requested, discard, if_busy, moved, trace = wanted
    what = f"run {run_id}"
    if status not in _STATUSES or if_busy not in _POLICIES or not {discarded, cancel_requested, discard} <= {0, 1}:
        raise damaged_record(what)
    outcome = None
    if end is not None:
        owner = end_owner(session, seq, attempt, bool(discarded), started_at, ended_at)
        outcome = read_sealed(_outcome, end, what, owner)
        if outcome.status != status:
            raise damaged_record(what)
    asked = _request_owner(row, session)
    return RunSummary(
        run_id=run_id,
        key=key,
        lane=lane,
        priority=priority if moved is None else moved,
        opaque=bool(opaque),
        metadata={} if metadata is None else read_sealed(_metadata, metadata, what, asked),
        sequence=seq,
        status=_STATUSES[status],
        attempt=attempt,
        created_at=created_at,
        started_at=started_at,
        ended_at=ended_at,
        timeout_s=timeout_s,
        queue_deadline=queue_deadline,
        outcome=outcome,
        held=fence is not None and ended_at is not None,
        discarded=bool(discarded),
        cancel_requested=bool(cancel_requested),
        discard=bool(discard),
        if_busy=_POLICIES[if_busy],
        trace=None if trace is None else read_sealed(_trace, trace, what, asked),
    )


def facts(connection: sqlite3.Connection, seq: int) -> tuple[Fact, ...]:
    """Return what is staged of a run, in order. Raises `JournalUnavailable` if a fact is damaged, or missing."""
    return tuple(each_fact(connection, seq))


def each_fact(connection: sqlite3.Connection, seq: int) -> Iterator[Fact]:
    """Yield what is staged of a run, in order. Raises `JournalUnavailable` at the first that is damaged, or missing."""
    rows = connection.execute("SELECT no, fact FROM staged WHERE run = ? ORDER BY no", (seq,)).fetchall()
    for expected, (no, fact) in enumerate(rows):
        what = f"what is staged of the run with sequence {seq}"
        if no != expected:
            raise damaged_record(what)
        yield read_sealed(_fact, fact, what, fact_owner(seq, no))


class Found(Struct, frozen=True):
    """A session as it is stored, with where its history ends; see `state.SessionState`."""

    no: int
    tail: HistoryEnd
    paused: bool
    closed_since: float | None
    rests_since: float | None


def find_session(connection: sqlite3.Connection, key: SessionKey) -> Found | None:
    """Return a session as it is stored, None if there is no such session."""
    row = connection.execute(
        "SELECT sessions.no, paused, closed_since, rests_since,"
        " (messages IS NULL) = (count = 0) AND history.session = sessions.no, last, nth, first + count"
        " FROM sessions LEFT JOIN history ON history.no = last WHERE principal = ? AND session_id = ?",
        key,
    ).fetchone()
    if row is None:
        return None
    no, paused, closed_since, rests_since, is_whole, *tail = row
    if tail[0] is not None and not is_whole:
        raise damaged_record(f"the end of the history of session {key.session_id}")
    return Found(no, HistoryEnd() if tail[0] is None else HistoryEnd(*tail), bool(paused), closed_since, rests_since)


CHAIN: Final = (
    "WITH RECURSIVE chain (no, session, first, previous) AS (SELECT no, session, first, previous FROM history"
    " WHERE no = ? UNION ALL SELECT history.no, history.session, history.first, history.previous FROM chain"
    " JOIN history ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.first > ? AND chain.previous < chain.no) "
)
"""The rows of one session's history from a row back to the one that has message `first`; -1 is all of them.

Each row names an older one of the same session; where one that is damaged does not, the chain ends.
"""


class Readers:
    """A small pool of threads, each call on a connection that no other call uses meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.check: Callable[[], None] = _nothing
        """Called before a connection is made; raises if the file is not the one that is in use any more.

        (A new connection to a file that was emptied would delete the WAL.)
        """
        self._lock = Lock()
        self._idle: list[sqlite3.Connection] = []
        self._threads = Threads(READERS, "strandline-journal-reader")

    def open(self) -> None:
        """Make a connection for each thread, and have it open all files: later there may be no file to be had."""
        for _ in range(READERS):
            connection = connect_reader(self._path)
            self._keep(connection)
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Answer `question` in one transaction. Raises `JournalUnavailable` after `close`, and if no thread can."""
        try:
            answer = self._threads.submit(self._answer, question)
        except RuntimeError as error:
            raise JournalUnavailable("the journal is not open") from error
        if self._threads.withdrawn(answer):
            raise JournalUnavailable(no_thread("reads of the journal", self._threads.refusal))
        return answer

    def _answer(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            self.check()
            connection = connect_reader(self._path)
        try:
            connection.execute("BEGIN")
            answer = question(connection)
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()  # failed I/O has ended its transaction already; who knows what else
            raise
        except BaseException:
            connection.execute("ROLLBACK")
            self._keep(connection)
            raise
        self._keep(connection)
        return answer

    def _keep(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Wait for the calls under way, then close all connections. Blocks."""
        self._threads.shutdown()
        for connection in self._idle:
            connection.close()
        self._idle.clear()


def _nothing() -> None:
    """Find nothing wrong."""


# -- the questions ------------------------------------------------------------------------------------


def load(connection: sqlite3.Connection, key: SessionKey) -> AgentRecord:
    """Return window and state of a session; an unknown session has the empty record."""
    found = find_session(connection, key)
    if found is None:
        return AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
    session, tail = found.no, found.tail
    kept = _standing(connection, key, session)
    messages: list[Message] = []
    origins: list[int | None] = []
    for span in spans(kept.window, tail.length):
        if isinstance(span, Inline):
            messages.append(span.message)
            origins.append(None)
            continue
        for index, message in between(connection, key, session, tail, *span):
            messages.append(message)
            origins.append(index)
    return AgentRecord(
        messages=messages,
        origins=origins,
        window=kept.window,
        length=tail.length,
        state=kept.state,
    )


def standing(connection: sqlite3.Connection, query: StandingQuery) -> Standing:
    """Return window and state of a session, without its messages."""
    found = find_session(connection, query.key)
    return Standing(WHOLE_HISTORY, None) if found is None else _standing(connection, query.key, found.no)


def _standing(connection: sqlite3.Connection, key: SessionKey, session: int) -> Standing:
    row = connection.execute("SELECT window, state FROM agents WHERE session = ?", (session,)).fetchone()
    window, state = row or (None, None)
    what, owner = f"the window or state of session {key.session_id}", agent_owner(key)
    return Standing(
        WHOLE_HISTORY if window is None else read_sealed(_window, window, what, owner),
        None if state is None else read_sealed(_state, state, what, owner),
    )


def between(
    connection: sqlite3.Connection, key: SessionKey, session: int, tail: HistoryEnd, start: int, end: int
) -> list[tuple[int, Message]]:
    """Return messages `start` to `end` with their indices, without those of discarded runs."""
    found: list[tuple[int, Message]] = []
    with closing(rows_back(connection, key, session, tail, start, end)) as rows:
        for first, count, discarded, stored in rows:
            messages = messages_in(stored, key, first, count, discarded=discarded)
            if not discarded:
                found += ((index, messages[index - first]) for index in inside(first, count, start, end))
    found.reverse()
    return found


def rows_back(
    connection: sqlite3.Connection, key: SessionKey, session: int, tail: HistoryEnd, start: int, end: int
) -> Generator[tuple[int, int, bool, bytes]]:
    """Yield the rows that hold messages `start` to `end`, the newest first, each read when it is its turn.

    For each the index of its first message, how many it has, whether they were discarded, and these. Raises
    `JournalUnavailable` where one is missing.
    """
    mark = connection.execute(
        "SELECT no FROM history WHERE session = ? AND nth % 64 = 0 AND first >= ? ORDER BY first LIMIT 1",
        (session, end),
    ).fetchone()
    missing = "the history of session {} before message {}"
    above, joins = end, False
    # Not sorted, which would read them all at once: a chain comes link by link, and each has to join the one before.
    asked = connection.execute(
        f"{CHAIN} SELECT history.first, count, discarded, messages FROM chain CROSS JOIN history USING (no)"
        " WHERE history.first < ?",
        (tail.row if mark is None else mark[0], start, end),
    )
    with closing(asked):  # (what is read to the half keeps the state of that moment before the connection's eyes)
        for first, count, discarded, stored in asked:
            if first + count != above if joins else first + count < end:
                raise damaged_record(missing.format(key.session_id, above))
            above, joins = first, True
            if stored is not None or count:
                yield first, count, bool(discarded), stored or b""
    if start < min(end, above):
        raise damaged_record(missing.format(key.session_id, above))


def inside(first: int, count: int, start: int, end: int) -> range:
    """Return which of a row's messages are among `start` to `end`, by their indices, the last one first."""
    return range(min(end, first + count) - 1, max(start, first) - 1, -1)


def messages_in(stored: bytes, key: SessionKey, first: int, count: int, *, discarded: bool) -> list[Message]:
    """Return the messages of a row of history. Raises `JournalUnavailable` if it is damaged."""
    return _messages_as(_messages, stored, key, first, count, discarded=discarded)


def _messages_as(
    decode: Callable[[bytes], list[T]], stored: bytes, key: SessionKey, first: int, count: int, *, discarded: bool
) -> list[T]:
    what = _row(key, first)
    messages = read_sealed(decode, stored, what, history_owner(key, first, discarded=discarded))
    if len(messages) != count:
        raise damaged_record(what)
    return messages


def _row(key: SessionKey, first: int) -> str:
    return f"the history of session {key.session_id} from message {first} on"


def history(connection: sqlite3.Connection, query: HistoryQuery) -> HistoryPage:
    """Return a page of a session's history. Of a row no more is decoded than what stands on the page."""
    found = find_session(connection, query.key)
    if found is None:
        return HistoryPage([], 0)
    key, tail = query.key, found.tail
    end = tail.length if query.before is None else min(query.before, tail.length)
    start = max(0, end - query.limit)
    first, room = end, Room(query.most_bytes)
    shown: list[tuple[Message, bool]] = []
    with closing(rows_back(connection, key, found.no, tail, start, end)) as rows:
        for begin, count, discarded, stored in rows:
            raws = _messages_as(_raw_messages, stored, key, begin, count, discarded=discarded)
            for index in inside(begin, count, start, end):
                raw = bytes(raws[index - begin])
                if not room.takes(len(raw)):
                    break
                first = index
                if discarded <= query.discarded:
                    shown.append((read_sealed(_message, raw, _row(key, begin), 0), discarded))
            if room.is_full:
                break
    shown.reverse()
    hidden = [place for place, (_, discarded) in enumerate(shown) if discarded]
    pending = bool(shown) and end == tail.length and is_open(connection, found.no)
    return HistoryPage([message for message, _ in shown], first, hidden, pending)


def is_open(connection: sqlite3.Connection, session: int) -> bool:
    """Tell whether the last round of a session's history is open."""
    return connection.execute("SELECT 1 FROM questions WHERE session = ?", (session,)).fetchone() is not None


def run(connection: sqlite3.Connection, query: RunQuery) -> Run | None:
    """Return one run of a principal, with its position if it waits."""
    row = connection.execute(
        f"SELECT session, principal, session_id, {RUN_COLUMNS} FROM runs JOIN sessions ON no = session"
        " WHERE run_id = ? AND principal = ?",  # (of somebody else's run the input is not read)
        (query.run_id, query.principal),
    ).fetchone()
    if row is None:
        return None
    session, principal, session_id, *columns = row
    found = sound_run(tuple(columns), SessionKey(principal, session_id))
    if found.status is not RunStatus.QUEUED:
        return found
    ahead = waiting_before(connection, session, (found.lane, columns[21], found.sequence))
    return replace(found, position=ahead + 1)


def waiting_before(connection: sqlite3.Connection, session: int, place: Rank) -> int:
    """Return how many runs of a session wait before `place`."""
    row = connection.execute(
        "SELECT count(*) FROM runs WHERE session = ? AND status = 'queued' AND (lane, urgency, seq) < (?,?,?)",
        (session, *place),
    ).fetchone()
    return int(row[0])


def waiting(connection: sqlite3.Connection, query: WaitingQuery) -> list[Waiting]:
    """Return a page of the waiting runs of all sessions, in order of sequence."""
    rows = connection.execute(
        "SELECT run_id, principal, session_id, seq, created_at, queue_deadline, paused"
        " FROM runs JOIN sessions ON no = session"
        " WHERE status = 'queued' AND seq > ? ORDER BY seq LIMIT ?",
        (query.after, query.limit),
    )
    return [
        Waiting(run_id, SessionKey(principal, session_id), sequence, created_at, deadline, bool(paused))
        for run_id, principal, session_id, sequence, created_at, deadline, paused in rows
    ]


def question_of(connection: sqlite3.Connection, key: SessionKey, session: int, run: int, until: float) -> Question:
    """Return the question of a session. Raises `JournalUnavailable` if it is damaged."""
    (stored,) = connection.execute("SELECT question FROM questions WHERE session = ?", (session,)).fetchone()
    what = f"what session {key.session_id} waits to be answered"
    if not is_sealed(stored):
        raise damaged_record(what)
    return read_sealed(_question, stored, what, question_owner(key_crc(key), run, until))


def last_message(connection: sqlite3.Connection, key: SessionKey) -> Message:
    """Return the last message of a history that is not empty."""
    found = find_session(connection, key)
    assert found is not None
    tail = found.tail
    return between(connection, key, found.no, tail, tail.length - 1, tail.length)[-1][1]

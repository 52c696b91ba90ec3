"""Lists of the SQLite journal: the sessions of a principal or of all, the runs of a session.

The cost of a page depends on its content only. Damaged entries are named on the page and do not affect the others.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from heapq import merge
from itertools import chain
from math import isfinite
from typing import Any, Final

from msgspec.structs import replace

from strandline._history import fold
from strandline._journal import port, reader
from strandline._journal.answers import answers
from strandline._journal.changes import SessionRef
from strandline._journal.checksums import (
    CHECKSUM_BYTES,
    damaged_record,
    delivery_owner,
    has_checksum,
    read_checked,
    schedule_owner,
    schedule_state_owner,
)
from strandline._journal.conversation import conversation
from strandline._journal.database import Database
from strandline._journal.defaults import options_of
from strandline._journal.files import file, files
from strandline._journal.forks import fork_of
from strandline._journal.rules import PageBudget
from strandline._journal.superseded import joined, superseded
from strandline._journal.tree import tree
from strandline._journal.waiting import waiting
from strandline._model import RunId, RunStatus, RunSummary, ScheduleId, SessionId, SessionKey, SessionView
from strandline.errors import Invalid, JournalUnavailable

_IS_THERE: Final = "EXISTS (SELECT 1 FROM runs WHERE seq = chain.run)"
LEFT: Final = f"{reader.CHAIN} SELECT no, previous, run, {_IS_THERE} FROM chain LIMIT ?"
"""Rows of a session's history, the newest first, each with its run and whether that run still exists."""
# (The length is in the row's header, so no input is read.)
_COLUMNS: Final = reader.RUN_COLUMNS.replace(" input", " length(input)")
_RUN: Final = f"SELECT {_COLUMNS} FROM runs WHERE seq = ?"
_EXECUTES: Final = f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND fence IS NOT NULL AND status = 'running'"
_WAITS: Final = (
    f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND status = 'queued' AND joins IS NULL"
    " AND (lane, urgency, seq) < (?,?,?) ORDER BY lane DESC, urgency DESC, seq DESC LIMIT ?"
)
_BECAME: Final = (
    f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND {reader.JOINED_ONES} = 'queued' AND joins = 'became_next_run'"
    f" AND (lane, urgency, {reader.PLACE}) < (?,?,?) ORDER BY lane DESC, urgency DESC, seq DESC LIMIT ?"
)
"""Runs that became the next run: they wait before others of their lane and priority."""
_JOINS: Final = (
    f"SELECT {_COLUMNS} FROM runs WHERE session = ? AND {reader.JOINED_ONES} IN ('queued', 'running')"
    " AND joins IN ('pending', 'applied') AND seq < ? ORDER BY seq DESC"
)
_OF: Final = (
    "SELECT seq, session, session_id, status IN ({statuses}) AND principal = ? FROM ({found}) AS found JOIN sessions"
    " ON no = session ORDER BY seq DESC"
)
"""The runs of a principal with these statuses, the last accepted first."""
_LATEST: Final = "SELECT seq, session, status FROM runs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
_WAITING: Final = "SELECT seq, session, status FROM runs WHERE status = 'queued' AND seq < ?"
_RUNNING: Final = "SELECT seq, session, status FROM runs WHERE fence IS NOT NULL AND status = 'running' AND seq < ?"
_JOINED: Final = f"SELECT seq, session, status FROM runs WHERE {reader.JOINED_ONES} = 'running' AND seq < ?"
_LISTED: Final = (
    "principal, session_id, coalesce((SELECT length(question) FROM questions WHERE session = no AND answer IS NULL), 0)"
    " + coalesce(length(options), 0)"
)
"""Columns of a session, with the length of its open question and of its options."""
_RUNS_READ: Final = 5_000
"""How many of the latest runs of all principals one page of a principal's ended runs reads at most."""
_LAST: Final = (1 << 60, 0, 0)
"""Behind every run that waits."""
_AFTER_ALL: Final = 1 << 62
"""Behind every sequence."""
_WALK: Final = 5_000
"""How many sessions one page of sessions at rest reads at most: about 1 ms."""
_WALKED: Final = "SELECT count(*), max(no) FROM (SELECT no FROM sessions WHERE no > ? ORDER BY no LIMIT ?) AS walked"
_RESTS: Final = (
    "SELECT no, principal, session_id FROM sessions WHERE no > ? AND no <= ? AND rests_since < ? AND paused = 0"
    " AND NOT EXISTS (SELECT 1 FROM questions WHERE session = no)"
    " AND NOT EXISTS (SELECT 1 FROM schedules WHERE schedules.session = no)"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session = no AND fence IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM runs WHERE session = no AND status = 'queued') ORDER BY no LIMIT ?"
)
STORED: Final = "SELECT CAST(coalesce(sum(bytes), 0) AS BIGINT), coalesce(max(bytes), 0) FROM stored"
"""How many bytes are stored for all principals, and for the largest."""
_RUN_KEY: Final = "SELECT session_id FROM runs JOIN sessions ON no = session WHERE run_id = ? AND principal = ?"
_DISMISSED: Final = (
    "SELECT 1 FROM closed_requests JOIN runs ON seq = run JOIN sessions ON no = runs.session"
    " WHERE run_id = ? AND principal = ? AND closed = 'dismissed' LIMIT 1"
)
DELETED: Final = "SELECT 1 WHERE 0 AND (?, ?, ?) IS NULL"
"""Whether a session was deleted after a time: a file does not say, since its one owner is never asked."""
_SCHEDULES: Final = (
    "SELECT id, session, sessions.principal, session_id, next_at, spec, state FROM schedules"
    " JOIN sessions ON no = session"
)
_DELIVERIES: Final = (
    "SELECT id, session, principal, session_id, host, created_at, next_at, attempts, error, body FROM deliveries"
)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_PLACE: Final = re.compile(r"[0-9]{1,18}|-4[0-9]{18}")
"""The last number of a rank in a cursor: the place of a run that became the next run is far below 0."""
_UNRESOLVED: Final = (
    "SELECT seq FROM runs JOIN sessions ON no = session AND unresolved = seq WHERE run_id = ? AND principal = ?"
    " AND NOT EXISTS (SELECT 1 FROM runs AS others WHERE others.session = no AND others.fence IS NOT NULL)"
    " AND NOT EXISTS (SELECT 1 FROM runs AS others WHERE others.session = no AND others.status = 'queued'"
    " AND others.started_at IS NOT NULL)"
)
_SKIPPED: Final = 500
_READS: Final = 20
"""How many rows of deleted runs a page skips in one read, and how many such reads it makes: about 20 ms in all."""


class _Listed:
    """A page of runs that is being filled, up to its limits of runs and bytes."""

    def __init__(self, query: port.RunsQuery | port.RunsOfQuery) -> None:
        self._limit = query.limit
        self._room = PageBudget(query.most_bytes)
        self._runs: list[RunSummary] = []
        self._damaged: list[RunId] = []

    @property
    def is_full(self) -> bool:
        """Whether the page has its limit of runs."""
        return len(self._runs) + len(self._damaged) >= self._limit

    def adds(self, row: reader.RunRow, session: SessionRef, position: int | None = None) -> bool:
        """Add a run of a session, or name it as damaged. False if it does not fit."""
        if self.is_full or not self._room.takes(_listed_bytes(row)):
            return False
        try:
            run = reader.intact_run(RunSummary, row, session)
        except JournalUnavailable:
            self._damaged.append(row.run_id)
        else:
            self._runs.append(run if position is None else replace(run, position=position))
        return True

    def page(self, after: str | None) -> port.RunsPage:
        """Return the page."""
        return port.RunsPage(self._runs, after, self._damaged)


def _listed_bytes(row: reader.RunRow) -> int:
    """Return how many bytes of a page a run takes, see `RunsQuery`; without checksums."""
    bodies = (each for each in (row.metadata, row.outcome) if isinstance(each, bytes))
    shown = sum(len(each) - CHECKSUM_BYTES * has_checksum(each) for each in bodies)
    length: int = row.input  # (see `_COLUMNS`)
    return shown + max(0, length - CHECKSUM_BYTES) // port.SKIPPED_INPUT_DIVISOR


def sessions(connection: Database, query: port.SessionsQuery) -> port.SessionPage:
    """Return a page of the sessions of a principal, or of all, in the order of principal and id."""
    own = query.principal
    begin = max(query.after or ("", ""), (own or "", ""))
    upto = () if own is None else (own,)
    rows = connection.execute(
        f"SELECT {_LISTED} FROM sessions WHERE (principal, session_id) > (?,?) {'AND principal <= ?' if upto else ''}"
        " ORDER BY principal, session_id LIMIT ?",
        (*begin, *upto, query.limit + 1),
    ).fetchall()
    room = PageBudget(query.most_bytes)
    shown: list[SessionView] = []
    damaged: list[SessionKey] = []
    last: SessionKey | None = None
    for number, (principal, session_id, length) in enumerate(rows):
        if number == query.limit or not room.takes(max(0, length - CHECKSUM_BYTES)):
            return port.SessionPage(shown, last, damaged)
        last = SessionKey(principal, session_id)
        try:
            found = session(connection, port.SessionQuery(last))
        except JournalUnavailable:
            damaged.append(last)
        else:
            if found is None:  # its key is damaged: no page could begin after it
                raise damaged_record(f"the name of session {session_id}")
            shown.append(found)
    return port.SessionPage(shown, None, damaged)


def resting(connection: Database, query: port.RestingQuery) -> port.RestingPage:
    """Return a page of the sessions at rest since before a time. A cursor is the number of a session.

    There is no index of that time, which every run would have to update: the walk reads all sessions.
    """
    looked, end = connection.execute(_WALKED, (query.cursor, _WALK)).fetchone()
    rows = connection.execute(_RESTS, (query.cursor, end, query.before, query.limit)).fetchall()
    keys = [SessionKey(*key) for _, *key in rows]
    if len(rows) == query.limit:
        return port.RestingPage(keys, rows[-1][0])
    return port.RestingPage(keys, end if looked == _WALK else None)


def stored(connection: Database, query: port.StoredQuery) -> port.Stored:
    """Return how many bytes are stored; reads one row per principal, some 10 million in a second."""
    return port.Stored(*connection.execute(STORED).fetchone())


def run_key(connection: Database, query: port.RunKeyQuery) -> SessionKey | None:
    """Return the session of a run."""
    row = connection.execute(_RUN_KEY, (query.run_id, query.principal)).fetchone()
    return None if row is None else SessionKey(query.principal, SessionId(row[0]))


def dismissed(connection: Database, query: port.DismissedQuery) -> bool:
    """Return whether the input requests of a run were dismissed."""
    return connection.execute(_DISMISSED, (query.run_id, query.principal)).fetchone() is not None


def deleted(connection: Database, query: port.DeletedQuery) -> bool:
    """Return whether a session was deleted after a time."""
    return connection.execute(DELETED, (*query.key, query.since)).fetchone() is not None


def schedule(connection: Database, query: port.ScheduleQuery) -> port.StoredSchedule | None:
    """Return one schedule. Raises `JournalUnavailable` if it is damaged."""
    row = connection.execute(
        f"{_SCHEDULES} WHERE id = ? AND schedules.principal = ?", (query.schedule_id, query.principal)
    ).fetchone()
    return None if row is None else schedule_of(row)


def schedule_of(row: Sequence[Any]) -> port.StoredSchedule:
    """Return the schedule of a row of `_SCHEDULES`. Raises `JournalUnavailable` if it is damaged."""
    schedule_id, no, principal, session_id, at, spec, state = row
    ref = SessionRef.of(no, SessionKey(principal, session_id))
    what = f"the schedule {schedule_id}"
    if not (at is None or (isinstance(at, float) and isfinite(at))):
        raise damaged_record(what)
    owners = schedule_owner(ref.crc, schedule_id), schedule_state_owner(ref.crc, schedule_id, at)
    parts = [
        read_checked(bytes, each, what, owner, is_new=True) for each, owner in zip((spec, state), owners, strict=True)
    ]
    return port.StoredSchedule(schedule_id, ref.key, at, *parts)


def schedules(connection: Database, query: port.SchedulesQuery) -> port.StoredSchedules:
    """Return a page of a principal's schedules, in the order of their ids."""
    session = query.session
    only = "" if session is None else " AND session_id = ?"
    values = (query.principal, query.after or "", *(() if session is None else (session,)), query.limit + 1)
    rows = connection.execute(
        f"{_SCHEDULES} WHERE schedules.principal = ? AND id > ?{only} ORDER BY id LIMIT ?", values
    ).fetchall()
    shown: list[port.StoredSchedule] = []
    damaged: list[ScheduleId] = []
    for row in rows[: query.limit]:
        try:
            shown.append(schedule_of(row))
        except JournalUnavailable:
            damaged.append(row[0])
    return port.StoredSchedules(shown, rows[query.limit - 1][0] if len(rows) > query.limit else None, damaged)


def delivery_of(row: Sequence[Any]) -> port.StoredDelivery:
    """Return the event to send of a row of `_DELIVERIES`."""
    delivery_id, no, principal, session_id, host, created_at, at, attempts, error, stored = row
    ref = SessionRef.of(no, SessionKey(principal, session_id))
    body = None
    try:
        owner = delivery_owner(ref.crc, delivery_id)
        body = read_checked(bytes, stored, f"the event {delivery_id}", owner, is_new=True)
    except JournalUnavailable:
        pass
    return port.StoredDelivery(delivery_id, ref.key, host, created_at, at, attempts, error, body)


def due_deliveries(connection: Database, query: port.DueDeliveriesQuery) -> port.DueDeliveries:
    """Return events to send, those that are due for longest first."""
    pairs = ", ".join(["(?, ?)"] * len(query.without))
    without = f" AND (principal, host) NOT IN (VALUES {pairs})" if pairs else ""
    rows = connection.execute(
        f"{_DELIVERIES} WHERE next_at <= ? AND (next_at, id) > (?, ?){without} ORDER BY next_at, id LIMIT ?",
        (query.now, *query.after, *chain.from_iterable(query.without), query.limit),
    ).fetchall()
    (next_at,) = connection.execute("SELECT min(next_at) FROM deliveries WHERE next_at > ?", (query.now,)).fetchone()
    return port.DueDeliveries([delivery_of(row) for row in rows], next_at)


def deliveries(connection: Database, query: port.DeliveriesQuery) -> list[port.StoredDelivery]:
    """Return a page of a principal's events, in the order of their ids."""
    only = "" if query.dead is None else f" AND next_at IS {'' if query.dead else 'NOT '}NULL"
    rows = connection.execute(
        f"{_DELIVERIES} WHERE principal = ? AND id > ?{only} ORDER BY id LIMIT ?",
        (query.principal, query.after, query.limit),
    ).fetchall()
    return [delivery_of(row) for row in rows]


def deliveries_left(connection: Database, query: port.DeliveriesLeftQuery) -> port.DeliveriesLeft:
    """Return how many events of all principals are stored."""
    (count,) = connection.execute("SELECT count(*) FROM deliveries").fetchone()
    if not count:
        return port.DeliveriesLeft(0, 0, None)
    waiting, oldest = connection.execute(
        "SELECT count(*), min(created_at) FROM deliveries WHERE next_at IS NOT NULL"
    ).fetchone()
    return port.DeliveriesLeft(waiting, count - waiting, oldest)


def schedule_times(connection: Database, query: port.ScheduleTimesQuery) -> list[tuple[ScheduleId, SessionKey, float]]:
    """Return the next times of some schedules of all principals, in the order of their ids."""
    rows = connection.execute(
        "SELECT id, sessions.principal, session_id, next_at FROM schedules JOIN sessions ON no = session"
        " WHERE id > ? AND next_at IS NOT NULL ORDER BY id LIMIT ?",
        (query.after, query.limit),
    ).fetchall()
    return [(schedule_id, SessionKey(*key), at) for schedule_id, *key, at in rows]


def stored_bytes(connection: Database, query: port.StoredBytesQuery) -> int:
    """Return how many bytes are stored for a principal."""
    row = connection.execute(reader.STORED_OF, (query.principal,)).fetchone()
    return 0 if row is None else int(row[0])


def unresolved(connection: Database, query: port.UnresolvedQuery) -> list[port.OpenTool]:
    """Return the tools of unknown outcome of a crashed run that can continue."""
    row = connection.execute(_UNRESOLVED, (query.run_id, query.principal)).fetchone()
    progress = fold(() if row is None else reader.each_checkpoint(connection, row[0]))
    unknown = progress.open_tools()
    uses = [each for message in progress.messages[-1:] for each in message["content"] if "toolUse" in each]
    inputs = {each["toolUse"]["toolUseId"]: each["toolUse"].get("input") for each in uses}
    return [port.OpenTool(each, name, inputs.get(each)) for each, name in unknown.items()]


def session(connection: Database, query: port.SessionQuery) -> SessionView | None:
    """Return one session, None if there is none."""
    found = reader.find_session(connection, query.key)
    if found is None:
        return None
    (waiting,) = connection.execute(
        "SELECT count(*) FROM runs WHERE session = ? AND status = 'queued'", (found.no,)
    ).fetchone()
    claimed = connection.execute(
        "SELECT run_id, ended_at IS NOT NULL FROM runs WHERE session = ? AND fence IS NOT NULL", (found.no,)
    ).fetchone()
    run_id, held = claimed or (None, 0)
    open_round = found.question
    view = SessionView(
        key=query.key,
        messages=found.end.length,
        waiting=waiting,
        claimed=run_id and RunId(run_id),
        held=bool(held),
        paused=found.paused,
        options=options_of(found.ref, found.options),
        branch=found.branch,
        forked_from=None if (fork := fork_of(connection, found.ref)) is None else fork.origin,
    )
    if open_round is None:
        return view
    question = reader.question_of(connection, found.ref, open_round.run, open_round.until)
    return replace(view, input_requests=question.requests, input_until=open_round.until)


def runs(connection: Database, query: port.RunsQuery) -> port.RunsPage:
    """Return a page of a session's runs: the last of the queue first, then those that join the executing one, then that
    one, then ended ones, latest first.

    A cursor is `w` and a rank (the runs that wait before it), `j` and a sequence (the joined runs accepted before it),
    `r` (the executing run), or `h` and a row of history (the run that ended there).
    """
    kind = "w" if query.cursor is None else query.cursor[:1]
    parts, form = {"w": 3, "j": 1, "r": 0, "h": 1}, _PLACE if kind == "w" else _NUMBER
    position = _LAST if query.cursor is None else _numbers(query.cursor[1:], parts.get(kind), form)
    found = reader.find_session(connection, query.key)
    if found is None:
        return port.RunsPage([], None)
    no = found.no
    listed = _Listed(query)
    if kind == "w":
        last_shown = position
        ahead = reader.waiting_before(connection, no, position)
        given = (no, *position, query.limit + 1)
        became = [reader.RunRow(*columns) for columns in connection.execute(_BECAME, given).fetchall()]
        with closing(connection.execute(_WAITS, given)) as rows:
            waits = map(reader.RunRow._make, rows)  # (one by one: each may be large)
            merged = merge(waits, became, key=lambda row: row.rank, reverse=True) if became else waits
            for index, row in enumerate(merged):
                if not listed.adds(row, found.ref, ahead - index):
                    return listed.page("w" + ".".join(map(str, last_shown)))
                last_shown = row.rank
    if kind in "wj":
        before = position[0] if kind == "j" else _AFTER_ALL
        for columns in connection.execute(_JOINS, (no, before)).fetchall():
            row = reader.RunRow(*columns)
            if not listed.adds(row, found.ref):
                return listed.page(f"j{row.seq + 1}")
    if kind in "wjr":
        for columns in connection.execute(_EXECUTES, (no,)).fetchall():
            if not listed.adds(reader.RunRow(*columns), found.ref):
                return listed.page("r")
    last = found.end.row if kind != "h" else position[0]
    after = None if last is None else _ended(connection, listed, query, found.ref, last)
    return listed.page(None if after is None else f"h{after}")


def runs_of(connection: Database, query: port.RunsOfQuery) -> port.RunsPage:
    """Return a page of a principal's runs, the last accepted first. A cursor is a sequence.

    Waiting and executing runs are found by index. There is no index of ended runs by principal, which every run would
    have to update: a page reads a bounded number of the latest runs of all principals, and its cursor says how far it
    came.
    """
    bound = _AFTER_ALL if query.cursor is None else _numbers(query.cursor, 1)[0]
    statuses = query.statuses or frozenset(RunStatus)
    listed = _Listed(query)
    found: str = _LATEST
    given: tuple[int, ...] = (bound, _RUNS_READ)
    if statuses <= {RunStatus.QUEUED, RunStatus.RUNNING}:
        found, given = f"{_WAITING} UNION ALL {_RUNNING} UNION ALL {_JOINED}", (bound, bound, bound)
    sql = _OF.format(found=found, statuses=", ".join("?" * len(statuses)))
    rows = connection.execute(sql, (*sorted(statuses), query.principal, *given)).fetchall()
    shown = bound
    for seq, no, session_id, is_wanted in rows:
        if is_wanted:
            key = SessionKey(query.principal, SessionId(session_id))
            row = None if listed.is_full else _run(connection, seq)
            if row is None or not listed.adds(row, SessionRef.of(no, key), reader.position_of(connection, no, row)):
                return listed.page(str(shown))
        shown = seq
    return listed.page(str(shown) if found is _LATEST and len(rows) == _RUNS_READ else None)


def _numbers(written: str, count: int | None, last: re.Pattern[str] = _NUMBER) -> tuple[int, ...]:
    """Return the `count` numbers of a cursor. Raises `Invalid`."""
    numbers = written.split(".") if written else []
    forms = (*(_NUMBER for _ in numbers[1:]), last)
    if len(numbers) != count or not all(form.fullmatch(each) for form, each in zip(forms, numbers, strict=False)):
        raise Invalid("cursor must be the `next_cursor` of a page of this list")
    return tuple(map(int, numbers))


def _run(connection: Database, seq: int) -> reader.RunRow:
    return reader.RunRow(*connection.execute(_RUN, (seq,)).fetchone())


def _ended(connection: Database, listed: _Listed, query: port.RunsQuery, session: SessionRef, last: int) -> int | None:
    """Add the runs that ended at a row of history and before it; return the row of the first that does not fit.

    Rows of deleted runs are skipped. Only after a great many of them may a page end early although more runs follow.
    """
    rows = query.limit + 1
    row: int | None = last
    for _ in range(_READS):
        read = connection.execute(LEFT, (row, session.no, -1, rows)).fetchall()
        for this, _, run, is_there in read:
            if is_there and (listed.is_full or not listed.adds(_run(connection, run), session)):
                return int(this)
        row = read[-1][1] if read else None
        if row is None:
            return None
        rows = _SKIPPED
    return row


ANSWERS: Final[Mapping[type[port.Query[Any]], Callable[[Database, Any], Any]]] = {
    port.RunQuery: reader.run,
    port.HistoryQuery: reader.history,
    port.AgentStateQuery: reader.agent_state,
    port.RunsQuery: runs,
    port.RunsOfQuery: runs_of,
    port.WaitingQuery: waiting,
    port.SessionQuery: session,
    port.SessionsQuery: sessions,
    port.RestingQuery: resting,
    port.StoredQuery: stored,
    port.RunKeyQuery: run_key,
    port.DismissedQuery: dismissed,
    port.AnswersQuery: answers,
    port.DeletedQuery: deleted,
    port.ScheduleQuery: schedule,
    port.SchedulesQuery: schedules,
    port.ScheduleTimesQuery: schedule_times,
    port.FileQuery: file,
    port.FilesQuery: files,
    port.StoredBytesQuery: stored_bytes,
    port.DueDeliveriesQuery: due_deliveries,
    port.DeliveriesQuery: deliveries,
    port.DeliveriesLeftQuery: deliveries_left,
    port.UnresolvedQuery: unresolved,
    port.SupersededQuery: superseded,
    port.JoinedQuery: joined,
    port.TreeQuery: tree,
    port.ConversationQuery: conversation,
}
"""The function that answers each kind of query."""


def answer(connection: Database, query: port.Query[port.A]) -> port.A:
    """Answer a query on `connection`."""
    answered: port.A = ANSWERS[type(query)](connection, query)
    return answered

"""The rows of a journal, written and read for the session table, and those of SQLite.

Decides nothing. Belongs to the writer's thread, and works in its open transaction.

The driver binds integers, texts and `bytearray` directly. For None, bool and `bytes` it first searches for an adapter,
which takes 0.5 us each: so values that are nearly always NULL are left out, or passed as a 0 that the statement turns
into NULL.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final

from msgspec.structs import asdict

from strandline._journal import changes, checksums, forks, reader, superseded
from strandline._journal.changes import COPIED_QUESTION, COPIED_RUN
from strandline._journal.database import Database, Rows
from strandline._journal.driver import is_damage, is_no_text
from strandline._journal.port import Unreachable
from strandline._journal.records import (
    DamagedSession,
    ForkRecord,
    ForkSource,
    KeyedRun,
    RunLocation,
    ScheduleTime,
    StoredQuestion,
    StoredRun,
    Turn,
)
from strandline._journal.rules import Branch, Closed, drawn
from strandline._journal.state import RunState, SessionState
from strandline._journal.transitions import NO_RUN
from strandline._lifecycle import ENDED
from strandline._model import (
    COPIED_AGENT,
    NO_AGENT,
    FileId,
    IfBusy,
    JoinState,
    Lane,
    Principal,
    Question,
    RunId,
    RunStatus,
    ScheduleId,
    SessionKey,
)
from strandline.errors import JournalUnavailable, RecordDamaged

_QUEUED: Final = RunStatus.QUEUED.value
_RUNNING: Final = RunStatus.RUNNING.value
_EVERY_RUN: Final = (
    "seq", "run_id", "session", "lane", "urgency", "priority", "status", "attempt", "last", "opaque", "input",
    "created_at",
)  # fmt: skip
_IS_OPEN: Final = " AND ".join(f"status <> '{status.value}'" for status in sorted(ENDED))
"""True for a run that has not ended. (For an IN list of more than two, SQLite builds a table each time.)"""

_CHANGE_RUN: Final = (
    "UPDATE runs SET status = ?, lane = ?, urgency = ?, moved = ?, attempt = ?, fence = nullif(?, 0), last = ?,"
    " started_at = ?, queue_deadline = ?, cancel_requested = ?, discard = ?"
    f" WHERE seq = ? AND coalesce(fence, 0) = ? AND {_IS_OPEN}"
)
_CHECKED: Final = (
    "SELECT input, metadata, trace, sender, key, fingerprint, run_id, priority, opaque, created_at, timeout_s,"
    f" not_before FROM runs WHERE seq = ? AND lane = {Lane.DELAYED}"
)
"""What the checksums of a delayed run cover, and what they are in."""
_REQUESTED: Final = (
    "SELECT length(input) + coalesce(length(metadata), 0), run_id, priority, opaque, created_at, timeout_s, not_before"
    f" FROM runs WHERE seq = ? AND status = '{_QUEUED}' AND fence IS NULL"
)
"""The bytes of a waiting run, and what their checksums cover."""
_EDIT_RUN: Final = "UPDATE runs SET input = ?, metadata = ? WHERE seq = ?"
_DUE_RUN: Final = (
    "UPDATE runs SET seq = ?, lane = ?, urgency = ?, input = ?, metadata = ?, trace = ?, sender = ?, fingerprint = ?"
    f" WHERE seq = ? AND status = '{_QUEUED}' AND fence IS NULL"
)
_END_RUN: Final = (
    "UPDATE runs SET status = ?, outcome = ?, ended_at = ?, fence = nullif(?, 0), last = 0, discarded = ?"
    f" WHERE seq = ? AND coalesce(fence, 0) = ? AND {_IS_OPEN}"
)
_ADD_HISTORY: Final = (
    "INSERT INTO history (no, session, nth, first, count, previous, run, discarded, messages, agent)"
    " VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_PLAIN: Final[dict[type[changes.Change], str]] = {
    changes.ChangeSession: (
        "UPDATE sessions SET paused = :paused, closed_since = :closed_since, rests_since = :rests_since WHERE no = :no"
    ),
    changes.ChangeJoin: (
        "UPDATE runs SET joins = :join, host = :host, started_at = :started_at,"
        " status = CASE WHEN :join = 'applied' THEN 'running' ELSE 'queued' END"
        f" WHERE seq = :seq AND fence IS NULL AND {_IS_OPEN}"
    ),
    changes.ChangeCourse: "UPDATE sessions SET branch = :branch, unresolved = :unresolved WHERE no = :no",
    changes.AddBranch: (
        "INSERT INTO branches (session, start, parent, upto, run, forgotten)"
        " SELECT :no, :start, :parent, :upto, :run, :forgotten WHERE true"
        " ON CONFLICT (session, start) DO UPDATE SET was_parent = branches.parent, was_upto = branches.upto,"
        " parent = excluded.parent, upto = excluded.upto, run = excluded.run, forgotten = excluded.forgotten"
    ),
    changes.EndHold: "UPDATE runs SET fence = NULL WHERE seq = :seq AND fence = :fence",
    changes.DropCheckpoints: "DELETE FROM staged WHERE run = :seq",
    changes.DropKey: "UPDATE runs SET key = NULL, fingerprint = NULL WHERE seq = :seq",
    changes.ForgetSchedule: "DELETE FROM schedules WHERE id = :id",
    changes.NameFile: "UPDATE files SET named = 1 WHERE session = :no AND id = :id",
    changes.ForgetFile: "DELETE FROM files WHERE session = :no AND id = :id",
    changes.MoveDelivery: ("UPDATE deliveries SET next_at = :at, attempts = :attempts, error = :error WHERE id = :id"),
    changes.DropDelivery: "DELETE FROM deliveries WHERE id = :id",
    changes.AnswerQuestion: "UPDATE questions SET answer = :answer WHERE session = :no AND answer IS NULL",
    changes.DropQuestion: "DELETE FROM questions WHERE session = :no",
    changes.CloseRequest: (
        "INSERT INTO closed_requests (session, id, run, closed)"
        " SELECT :no, :id, :run, :closed WHERE EXISTS (SELECT 1 FROM runs WHERE seq = :run)"
        " ON CONFLICT (session, id) DO UPDATE SET run = excluded.run, closed = excluded.closed"
    ),
}
"""Changes that one statement writes, with their fields as parameters."""
_OF_WHAT_IS_THERE: Final = (
    changes.ChangeSession,
    changes.ChangeCourse,
    changes.ChangeJoin,
    changes.EndHold,
    changes.AnswerQuestion,
    changes.ForgetSchedule,
    changes.NameFile,
    changes.ForgetFile,
)
_OF_SESSIONS: Final = (
    "agents", "agents_after", "questions", "closed_requests", "schedules", "files", "deliveries", "branches",
    "forks",
)  # fmt: skip
"""The tables whose rows are deleted with their session."""
_LAST_ROW: Final = "UPDATE sessions SET last = ?, rests_since = ? WHERE no = ?"
KEEP_AGENT: Final = (
    'INSERT INTO agents (session, "window", state) VALUES (?,?,?) ON CONFLICT (session) DO UPDATE SET "window" ='
    ' coalesce(excluded."window", agents."window"), state = coalesce(excluded.state, agents.state)'
)
KEEP_AGENT_AFTER: Final = (
    'INSERT INTO agents_after (session, run, "window", state)'
    ' SELECT session, ?, "window", state FROM agents WHERE session = ?'
)
"""Keeps what an agent is rebuilt from after a run."""
_RESET_AGENT: Final = (
    "DELETE FROM agents WHERE session = ?",
    (
        'INSERT INTO agents (session, "window", state)'
        ' SELECT session, "window", state FROM agents_after WHERE session = ? AND run = ?'
    ),
)
_ROW_OF_RUN: Final = (
    "WITH RECURSIVE chain (no, session, count, previous, run, later) AS ("
    "SELECT no, session, count, previous, run, CAST(NULL AS BIGINT) FROM history WHERE no = ? AND session = ?"
    " UNION ALL SELECT history.no, history.session, history.count, history.previous, history.run,"
    " CASE WHEN chain.count > 0 THEN chain.no ELSE chain.later END FROM chain JOIN history"
    " ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.previous < chain.no AND chain.run <> ?)"
    " SELECT no, previous, later FROM chain WHERE run = ?"
)
"""The row of a run in its session's history, the one before it, and the next one after it with messages."""
_ROW_OF_COPIED: Final = (
    "WITH RECURSIVE chain (no, session, count, previous, copied_run, later) AS ("
    "SELECT no, session, count, previous, coalesce(copied_run, ''), CAST(NULL AS BIGINT) FROM history"
    " WHERE no = ? AND session = ?"
    " UNION ALL SELECT history.no, history.session, history.count, history.previous, coalesce(history.copied_run, ''),"
    " CASE WHEN chain.count > 0 THEN chain.no ELSE chain.later END FROM chain JOIN history"
    " ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.previous < chain.no AND chain.copied_run <> ?)"
    " SELECT no, previous, later FROM chain WHERE copied_run = ?"
)
"""The same of a run whose row was copied."""
_ROW_OF_MESSAGE: Final = (
    "WITH RECURSIVE chain (no, session, first, count, previous, later) AS ("
    "SELECT no, session, first, count, previous, CAST(NULL AS BIGINT) FROM history WHERE no = ? AND session = ?"
    " UNION ALL SELECT history.no, history.session, history.first, history.count, history.previous,"
    " CASE WHEN chain.count > 0 THEN chain.no ELSE chain.later END FROM chain JOIN history"
    " ON history.no = chain.previous AND history.session = chain.session"
    " WHERE chain.previous < chain.no AND chain.first > ?)"
    " SELECT no, previous, later FROM chain WHERE first <= ? AND first + count > ?"
)
"""The same of a message."""
_HISTORY_ROW: Final = (
    "SELECT first, count, history.discarded, agent, history.run, coalesce(copied_run, run_id), nth FROM history"
    " LEFT JOIN runs ON seq = run WHERE no = ?"
)
_STATUS: Final = "SELECT status FROM runs WHERE seq = ?"
_TURN: Final = (
    "SELECT runs.seq, runs.status, runs.joins, hosts.seq FROM runs LEFT JOIN runs AS hosts"
    " ON hosts.run_id = runs.host WHERE runs.seq = ?"
)
_HOST: Final = (
    "SELECT host FROM runs JOIN sessions ON no = session"
    " WHERE run_id = ? AND principal = ? AND joins = 'applied' AND host IS NOT NULL"
)
_REPLACED: Final = "SELECT start, was_parent, was_upto FROM branches WHERE session = ? AND was_parent IS NOT NULL"
_AGENT_AT: Final = (
    f"{reader.CHAIN} SELECT history.agent FROM chain JOIN history USING (no)"
    " WHERE history.first <= ? AND history.first + history.count > ?"
)
COPY: Final = (
    "INSERT INTO history (no, session, nth, first, count, previous, run, discarded, messages, agent, origin,"
    " copied_run) {begin}SELECT :row + (nth - 1) * :step, :session, nth, history.first, count,"
    " CASE WHEN nth > 1 THEN :row + (nth - 2) * :step END,"
    f" CASE WHEN history.run IN ({NO_RUN}, {COPIED_RUN}, {COPIED_QUESTION}) THEN history.run"
    f" WHEN runs.status = 'needs_input' THEN {COPIED_QUESTION} ELSE {COPIED_RUN} END,"
    " history.discarded, messages,"
    f" CASE WHEN agent = {NO_AGENT} THEN {NO_AGENT} WHEN agent = :kept THEN {COPIED_AGENT} END,"
    " coalesce(origin, :crc), coalesce(copied_run, run_id) FROM {found}"
)
"""Copies the rows of a history up to one."""
_COPY: Final = COPY.format(
    begin=reader.CHAIN.replace("?", ":last", 1).replace("?", ":source", 1).replace("?", "-1", 1),
    found="chain CROSS JOIN history USING (no) LEFT JOIN runs ON seq = history.run",
)
_NEW_STATE: Final = "UPDATE agents SET state = ? WHERE session = ?"
LIVE: Final = (
    "SELECT run_id, seq, lane, urgency, created_at, queue_deadline, attempt, started_at, moved, fence,"
    f" CASE WHEN NOT ({_IS_OPEN}) THEN coalesce(ended_at, created_at) END, cancel_requested, discard,"
    " CASE WHEN started_at IS NULL AND attempt = 0 THEN 0 ELSE (SELECT count(*) FROM staged WHERE run = seq) END,"
    " timeout_s, not_before, joins, host, webhook, collect, CASE WHEN collect IS NOT NULL THEN length(input) END"
    " FROM runs"
)
"""The fields of `RunState` for a waiting or claimed run, in their order; then whether and whom it joins, its
webhook, and how it collects others."""
_Time = float | None
_Number = int | None
_Live = tuple[
    str, int, int, int, float, _Time, int, _Time, _Number, _Number, _Time, int, int, int, _Time, _Time,
    JoinState | None, str | None, bytes | None, bytes | None, _Number,
]  # fmt: skip
_LIVE_OF: Final = (
    f"{LIVE} WHERE session = ? AND status = 'queued' UNION ALL {LIVE} WHERE session = ? AND fence IS NOT NULL"
    f" UNION ALL {LIVE} WHERE session = ? AND status = 'running' AND joins = 'applied' AND ended_at IS NULL"
)
_BUSY: Final = "SELECT session FROM runs WHERE status = 'queued' UNION SELECT session FROM runs WHERE fence IS NOT NULL"
_KEY: Final = "SELECT principal, session_id FROM sessions WHERE no = ?"
_LAST_PLACE: Final = f"SELECT max(urgency) FROM runs WHERE status = 'queued' AND lane = {Lane.FRONT}"


@cache
def _add_run(more: tuple[str, ...]) -> str:
    """Return the statement that adds a run, with these columns beside those of every run."""
    columns = (*_EVERY_RUN, *more)
    return f"INSERT INTO runs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


def add_live(session: SessionState, columns: Sequence[Any]) -> None:
    """Give a session a run that waits or is claimed, as `LIVE` has it."""
    *plain, join, host, webhook, collect, size = reader.plain(_Live, columns, session.key)
    run = RunState(session, *plain)
    if collect is not None:
        run.size = (size or 0) - checksums.CHECKSUM_BYTES
        with suppress(RecordDamaged):  # (then it waits for no other, and ends as damaged)
            run.collect = reader.collecting(collect, session.ref, run.seq)
    run.cancel_requested, run.discard = bool(run.cancel_requested), bool(run.discard)
    run.join, run.host_id = join, host
    if webhook is not None:
        run.webhook = reader.webhook_of(session.ref, run.run_id, webhook)
    if run.fence is not None:
        session.claimed = run
        return
    if join is None or join is JoinState.BECAME_NEXT_RUN:
        session.queue.add(run)
    else:
        session.joining.append(run)


def attach_joins(session: SessionState) -> None:
    """Give the runs of a session that join another their hosts. One whose host is gone is a run of its own."""
    if not session.joining:
        return
    hosts = {run.run_id: run for run in (*session.queue, *([session.claimed] if session.claimed else []))}
    found, session.joining = sorted(session.joining, key=lambda run: run.seq), []
    for run in found:
        run.host = None if run.host_id is None else hosts.get(run.host_id)
        if run.host is not None and run.host.held_since is None:
            session.joining.append(run)
        else:
            run.host, run.join, run.started_at = None, JoinState.BECAME_NEXT_RUN, None
            session.queue.add(run)


def lost_session(no: int) -> RecordDamaged:
    """Return the error for runs that wait or are claimed in a session that is not there."""
    return checksums.damaged_record(f"session number {no}, of which there are runs but no row,")


class Mismatch(Exception):
    """The cached state differs from the stored one."""


class StoredRows(ABC):
    """What is written and read on one connection. Implements `records.Records`.

    `execute` reads: what it returns is to be read before the next statement. `write` writes, maybe later than at once.
    """

    def __init__(
        self,
        connection: Database,
        execute: Callable[..., Rows],
        write: Callable[..., Any],
        measure: Callable[[], None] = lambda: None,
    ) -> None:
        self._execute = execute
        self._write = write
        self._connection = connection
        self._measure = measure
        self._writers: dict[type[Any], Callable[[Any], None]] = {
            changes.AddSession: self._add_session,
            changes.DropSession: self._drop_session,
            changes.AddRun: self._add_run,
            changes.ChangeRun: self._change_run,
            changes.DueRun: self._due_run,
            changes.EditRun: self._edit_run,
            changes.EndRun: self._end_run,
            changes.AddHistory: self._add_history,
            changes.StoreAgent: self._store_agent,
            changes.ResetAgent: self._reset_agent,
            changes.StoreOptions: self._store_options,
            changes.CopyHistory: self._copy_history,
            changes.AddFork: self._add_fork,
            changes.AddCheckpoint: self._add_checkpoint,
            changes.AddQuestion: self._add_question,
            changes.StoreSchedule: self._store_schedule,
            changes.MoveSchedule: self._move_schedule,
            changes.StoreFile: self._store_file,
            changes.AddDelivery: self._add_delivery,
            changes.CedePartitions: self._cede,
            **dict.fromkeys(_PLAIN, self._write_plain),
        }

    def next_numbers(self) -> tuple[int, int, int]:
        """Return the numbers of the next session, run and row of history."""
        (session,) = self._execute("SELECT coalesce(max(no), 0) + 1 FROM sessions").fetchone()
        (row,) = self._execute("SELECT coalesce(max(no), 0) + 1 FROM history").fetchone()
        (pruned,) = self._execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        (highest,) = self._execute("SELECT coalesce(max(seq), -1) FROM runs").fetchone()
        (urgency,) = self._execute(_LAST_PLACE).fetchone()
        return session, max(pruned, highest, (urgency or 0) - drawn(0)) + 1, row

    # -- what is written ------------------------------------------------------------------------------

    def write(self, rows: Iterable[changes.Change]) -> None:
        """Write rows in their order. Raises `Mismatch` if a stored row differs from the session table's state."""
        writers = self._writers
        for row in rows:
            writers[type(row)](row)

    @abstractmethod
    def _update(self, statement: str, values: tuple[object, ...] | dict[str, Any]) -> None:
        """Write something that changes exactly one row."""

    @abstractmethod
    def _drop_session(self, row: changes.DropSession) -> None:
        """Delete a session with its history. Raises `JournalError` if its history is damaged."""

    @abstractmethod
    def _store_agent(self, row: changes.StoreAgent) -> None:
        """Store the window, the state, or both."""

    def _cede(self, row: changes.CedePartitions) -> None:
        raise Mismatch("only servers that share a journal cede parts of it")

    def _write_plain(self, row: changes.Change) -> None:
        write = self._update if isinstance(row, _OF_WHAT_IS_THERE) else self._write
        write(_PLAIN[type(row)], asdict(row))

    def _add_session(self, row: changes.AddSession) -> None:
        session = row.session
        self._write("INSERT INTO sessions (no, principal, session_id) VALUES (?,?,?)", (session.no, *session.key))

    def _store_options(self, row: changes.StoreOptions) -> None:
        self._update("UPDATE sessions SET options = ? WHERE no = ?", (row.options, row.session.no))

    def _add_run(self, row: changes.AddRun) -> None:
        new, body, seq, crc = row.new, row.body, row.seq, row.session.crc
        owner = checksums.request_owner(
            crc, seq, new.run_id, new.priority, new.resumable, new.created_at, new.timeout_s, new.not_before
        )
        more: dict[str, object] = {}
        if row.fence is not None:
            more["fence"], more["started_at"] = row.fence, row.started_at
        if row.queue_deadline is not None:
            more["queue_deadline"] = row.queue_deadline
        if new.timeout_s is not None:
            more["timeout_s"] = new.timeout_s
        if new.not_before is not None:
            more["not_before"] = new.not_before
        if body.metadata is not None:
            more["metadata"] = checksums.with_checksum(body.metadata, owner)
        if body.trace is not None:
            more["trace"] = checksums.with_checksum(body.trace, owner)
        if body.sender is not None:
            more["sender"] = checksums.with_checksum(body.sender, owner)
        if body.back is not None:
            more["back"] = checksums.with_checksum(body.back, owner)
        if body.webhook is not None:
            more["webhook"] = checksums.with_checksum(body.webhook, checksums.webhook_owner(crc, new.run_id))
        if body.collect is not None:
            more["collect"] = checksums.with_checksum(body.collect, checksums.collect_owner(crc, seq))
        if row.join is not None:  # (which says that it steers, also where a server does not know that)
            more["joins"] = row.join.value
            if row.host is not None:
                more["host"] = row.host
        elif new.if_busy is not IfBusy.ENQUEUE:
            more["if_busy"] = new.if_busy.value
        if (keyed := new.keyed) is not None:
            more["key"] = keyed.key
            more["fingerprint"] = checksums.with_checksum(keyed.fingerprint, checksums.key_owner(crc, seq, keyed.key))
        status, attempt = (_QUEUED, 0) if row.fence is None else (_RUNNING, 1)
        self._write(
            _add_run(tuple(more)),
            (
                seq, new.run_id, row.session.no, row.lane, row.urgency, new.priority, status, attempt, 0,
                int(not new.resumable), checksums.with_checksum(body.prompt, owner), new.created_at, *more.values(),
            ),
        )  # fmt: skip

    def _change_run(self, row: changes.ChangeRun) -> None:
        self._update(
            _CHANGE_RUN,
            (
                _QUEUED if row.fence is None else _RUNNING, row.lane, row.urgency, row.moved, row.attempt,
                row.fence or 0, int(row.is_last), row.started_at, row.queue_deadline, int(row.cancel_requested),
                int(row.discard), row.seq, row.was or 0,
            ),
        )  # fmt: skip

    def _due_run(self, row: changes.DueRun) -> None:
        # (Once for a run that was delayed: reading it first is simpler than to keep all parts of it in memory.)
        found = self._execute(_CHECKED, (row.seq,)).fetchone()
        if found is None:
            raise Mismatch(f"there is no delayed run with sequence {row.seq}")
        *bodies, key, fingerprint, run_id, priority, opaque, created_at, timeout_s, not_before = found
        crc = row.session.crc
        request = (run_id, priority, not opaque, created_at, timeout_s, not_before)
        owners = [checksums.request_owner(crc, seq, *request) for seq in (row.seq, row.drawn)]
        parts = [checksums.with_owner(part, *owners) for part in bodies]
        if key is not None:
            keys = [checksums.key_owner(crc, seq, key) for seq in (row.seq, row.drawn)]
            fingerprint = checksums.with_owner(fingerprint, *keys)
        self._update(_DUE_RUN, (row.drawn, row.lane, row.urgency, *parts, fingerprint, row.seq))

    def _edit_run(self, row: changes.EditRun) -> None:
        found = self._execute(_REQUESTED, (row.seq,)).fetchone()
        if found is None:
            raise Mismatch(f"there is no waiting run with sequence {row.seq}")
        size, run_id, priority, opaque, created_at, timeout_s, not_before = found
        owner = checksums.request_owner(
            row.session.crc, row.seq, run_id, priority, not opaque, created_at, timeout_s, not_before
        )
        body = row.body
        metadata = None if body.metadata is None else checksums.with_checksum(body.metadata, owner)
        self._update(_EDIT_RUN, (checksums.with_checksum(body.prompt, owner), metadata, row.seq))
        self._count_edit(row.session.key.principal, body.size - size)

    @abstractmethod
    def _count_edit(self, principal: Principal, more: int) -> None:
        """Count bytes that an edited run has more, or less, in what is stored for its principal."""

    def _end_run(self, row: changes.EndRun) -> None:
        # A run that has ended and has a fence is held, and the index of claims has its session.
        owner = checksums.end_owner(row.session.crc, row.seq, row.attempt, row.discarded, row.started_at, row.ended_at)
        self._update(
            _END_RUN,
            (
                row.status.value, checksums.with_checksum(row.outcome, owner), row.ended_at, row.fence or 0,
                int(row.discarded), row.seq, row.was or 0,
            ),
        )  # fmt: skip

    def _add_history(self, row: changes.AddHistory) -> None:
        session = row.session
        messages = row.messages and checksums.with_checksum(
            row.messages, checksums.message_owner(session.crc, row.first, discarded=row.discarded)
        )
        self._write(
            _ADD_HISTORY,
            (
                row.row, session.no, row.nth, row.first, row.length, row.previous, row.run, int(row.discarded),
                messages, row.agent,
            ),
        )  # fmt: skip
        self._update(_LAST_ROW, (row.row, row.rests_since, session.no))

    def _reset_agent(self, row: changes.ResetAgent) -> None:
        delete, copy = _RESET_AGENT
        self._write(delete, (row.no,))
        if row.run != NO_AGENT:
            self._write(copy, (row.no, row.run))

    def _copy_history(self, row: changes.CopyHistory) -> None:
        if self._copied(row) != row.count:
            raise JournalUnavailable(f"session {row.source.key.session_id} was deleted while it was copied")
        last = row.row + (row.count - 1) * row.step
        self._write("UPDATE history SET agent = ? WHERE no = ?", (row.agent, last))
        self._update(_LAST_ROW, (last, row.rests_since, row.session.no))

    @abstractmethod
    def _copied(self, row: changes.CopyHistory) -> int:
        """Copy rows of history; return how many there were."""

    def _add_fork(self, row: changes.AddFork) -> None:
        record = checksums.with_checksum(row.record, checksums.fork_owner(row.session.crc))
        self._write("INSERT INTO forks (session, source, record) VALUES (?,?,?)", (row.session.no, row.source, record))

    def _add_checkpoint(self, row: changes.AddCheckpoint) -> None:
        checkpoint = checksums.with_checksum(row.checkpoint, checksums.checkpoint_owner(row.seq, row.nth))
        self._write("INSERT INTO staged (run, no, fact) VALUES (?,?,?)", (row.seq, row.nth, checkpoint))

    def _add_question(self, row: changes.AddQuestion) -> None:
        session = row.session
        question = checksums.with_checksum(row.question, checksums.question_owner(session.crc, row.run, row.until))
        self._write(
            "INSERT INTO questions (session, run, until, answer, question) VALUES (?,?,?,NULL,?) ON CONFLICT (session)"
            " DO UPDATE SET run = excluded.run, until = excluded.until, answer = NULL, question = excluded.question",
            (session.no, row.run, row.until, question),
        )

    def _store_schedule(self, row: changes.StoreSchedule) -> None:
        session = row.session
        spec = checksums.with_checksum(row.spec, checksums.schedule_owner(session.crc, row.id))
        state = checksums.with_checksum(row.state, checksums.schedule_state_owner(session.crc, row.id, row.at))
        self._write(
            "INSERT INTO schedules (id, session, principal, next_at, spec, state) VALUES (?,?,?,?,?,?)",
            (row.id, session.no, session.key.principal, row.at, spec, state),
        )

    def _move_schedule(self, row: changes.MoveSchedule) -> None:
        crc = row.session.crc
        state = checksums.with_checksum(row.state, checksums.schedule_state_owner(crc, row.id, row.at))
        if row.spec is None:
            self._update("UPDATE schedules SET next_at = ?, state = ? WHERE id = ?", (row.at, state, row.id))
        else:
            spec = checksums.with_checksum(row.spec, checksums.schedule_owner(crc, row.id))
            self._update(
                "UPDATE schedules SET next_at = ?, state = ?, spec = ? WHERE id = ?", (row.at, state, spec, row.id)
            )

    def _store_file(self, row: changes.StoreFile) -> None:
        session = row.session
        record = checksums.with_checksum(row.record, checksums.file_owner(session.crc, row.id, row.size, row.at))
        self._write(
            "INSERT INTO files (session, id, principal, size, at, named, record) VALUES (?,?,?,?,?,?,?)",
            (session.no, row.id, session.key.principal, row.size, row.at, int(row.named), record),
        )

    def _add_delivery(self, row: changes.AddDelivery) -> None:
        session = row.session
        body = checksums.with_checksum(row.body, checksums.delivery_owner(session.crc, row.id))
        self._write(
            "INSERT INTO deliveries (id, session, principal, session_id, host, created_at, next_at, attempts, body)"
            " VALUES (?,?,?,?,?,?,?,0,?) ON CONFLICT (id) DO NOTHING",
            (row.id, session.no, *session.key, row.host, row.at, row.at, body),
        )

    # -- what the session table asks for --------------------------------------------------------------

    def busy_sessions(self) -> Iterator[SessionState | DamagedSession]:
        """Yield every session with waiting or claimed runs."""
        for (no,) in self._execute(_BUSY).fetchall():
            key: SessionKey | None = None
            try:
                key = self._key_of(no)
                session = self.session(key)
                if session is None:
                    raise lost_session(no)
                yield session
            except RecordDamaged as error:
                yield DamagedSession(key, error)

    def _key_of(self, no: int) -> SessionKey:
        """Return the key of the session with this number, which runs name. Raises `RecordDamaged` if there is none."""
        row = self._execute(_KEY, (no,)).fetchone()
        if row is None:
            raise lost_session(no)
        return SessionKey(*row)

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session, None if there is none. Raises `RecordDamaged`."""
        session = reader.find_session(self._connection, key)
        if session is not None:
            for columns in self._execute(_LIVE_OF, (session.no,) * 3).fetchall():
                add_live(session, columns)
            attach_joins(session)
        return session

    def locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return where a run is; None if it is not stored."""
        row = self._execute(
            "SELECT principal, session_id, seq FROM runs JOIN sessions ON no = session WHERE run_id = ?", (run_id,)
        ).fetchone()
        return None if row is None else RunLocation(SessionKey(*row[:2]), row[2])

    def keys(self, session: changes.SessionRef, most: int) -> list[str]:
        """Return the idempotency keys of a session's runs."""
        found = self._execute(
            "SELECT key FROM runs WHERE session = ? AND key IS NOT NULL LIMIT ?", (session.no, most)
        ).fetchall()
        return [key for (key,) in found]

    def keyed_run(self, session: changes.SessionRef, key: str) -> KeyedRun | None:
        """Return the run that an idempotency key stands for."""
        row = self._execute(
            "SELECT run_id, seq, ended_at, fingerprint FROM runs WHERE session = ? AND key = ?", (session.no, key)
        ).fetchone()
        if row is None:
            return None
        run_id, seq, ended_at, stored = row
        return KeyedRun(RunId(run_id), seq, ended_at, reader.fingerprint(session.crc, seq, run_id, key, stored))

    def run(self, session: changes.SessionRef, seq: int) -> StoredRun:
        """Return a run with its input and checkpoints, as far as they can be read."""
        row = self._execute(f"SELECT {reader.RUN_COLUMNS} FROM runs WHERE seq = ?", (seq,)).fetchone()
        if row is None:
            raise Mismatch(f"there is no run with sequence {seq}")
        return reader.readable(self._connection, reader.RunRow(*row), session)

    def question(self, session: changes.SessionRef, run: int, until: float) -> StoredQuestion:
        """Return the open question, or what history has of it."""
        try:
            return StoredQuestion(reader.question_of(self._connection, session, run, until))
        except JournalUnavailable as error:
            asking = reader.find_session(self._connection, session.key)
            assert asking is not None
            ((_, message),) = reader.between(self._connection, asking, asking.end.length - 1, asking.end.length)
            return StoredQuestion(Question(requests=[], message=message, results={}, state={}), error)

    def closed_request(self, session: changes.SessionRef, request: str) -> Closed | None:
        """Return how an input request was closed."""
        row = self._execute(
            "SELECT closed FROM closed_requests WHERE session = ? AND id = ?", (session.no, request)
        ).fetchone()
        return row[0] if row else None

    def schedule(self, schedule_id: ScheduleId) -> ScheduleTime | None:
        """Return the session of a schedule, and its next time."""
        row = self._execute("SELECT session, next_at FROM schedules WHERE id = ?", (schedule_id,)).fetchone()
        return None if row is None else ScheduleTime(*row)

    def is_named(self, session: int, file_id: FileId) -> bool | None:
        """Return whether a run names a file of a session; None if there is none."""
        row = self._execute("SELECT named FROM files WHERE session = ? AND id = ?", (session, file_id)).fetchone()
        return None if row is None else bool(row[0])

    def schedules_of(self, principal: Principal) -> int:
        """Return how many schedules a principal has."""
        (count,) = self._execute("SELECT count(*) FROM schedules WHERE principal = ?", (principal,)).fetchone()
        return int(count)

    def has_schedules(self, session: changes.SessionRef) -> bool:
        """Return whether a session has a schedule."""
        found = self._execute("SELECT 1 FROM schedules WHERE session = ? LIMIT 1", (session.no,)).fetchone()
        return found is not None

    def deliveries_of(self, principal: Principal, most: int) -> int:
        """Return how many events of a principal are to be sent or dead, at most `most`."""
        (count,) = self._execute(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE principal = ? LIMIT ?) AS counted", (principal, most)
        ).fetchone()
        return int(count)

    def delivery(self, principal: Principal, delivery_id: str) -> bool:
        """Return whether an event of a principal is to be sent, or dead."""
        found = self._execute(
            "SELECT 1 FROM deliveries WHERE id = ? AND principal = ?", (delivery_id, principal)
        ).fetchone()
        return found is not None

    def first_of(self, row: int) -> int:
        """Return the index of the first message of a row of history; of one without messages, of the one before."""
        at: int | None = row
        while found := self._execute("SELECT first, count, previous FROM history WHERE no = ?", (at,)).fetchone():
            first, count, at = found
            if count:
                return int(first)
        raise Mismatch(f"there is no row {row} of history, or none with messages before it")

    def turn(self, session: changes.SessionRef, last: int, seq: int) -> Turn | None:
        """Return what history has of an ended run, or of the one that it joined; None if it has nothing."""
        found = self._execute(_TURN, (seq,)).fetchone()
        if found is not None and found[2] == JoinState.APPLIED and found[3] is not None:
            found = self._execute(_TURN, (found[3],)).fetchone()
        if found is None:
            return None
        seq, status, _, _ = found
        row = self._execute(_ROW_OF_RUN, (last, session.no, seq, seq)).fetchone()
        if row is None:
            raise checksums.damaged_record(f"the history of session {session.key.session_id}")
        return self._turn_at(row, seq, status)

    def joined(self, session: changes.SessionRef, last: int | None, run_id: RunId) -> int:
        """Return how many runs have joined a run of a session."""
        return superseded.count_joined(self._connection, session, last, run_id)

    def copied_turn(self, session: changes.SessionRef, last: int, run_id: RunId) -> Turn | None:
        """Return what the history of a copied session has of a run of its source, or of the one that it joined.

        None if it has nothing of it.
        """
        if self._execute("SELECT 1 FROM forks WHERE session = ?", (session.no,)).fetchone() is None:
            return None
        row = self._execute(_ROW_OF_COPIED, (last, session.no, run_id, run_id)).fetchone()
        turn = None if row is None else self.turn_of_row(row)
        if turn is None or turn.first == turn.end:
            host = self._execute(_HOST, (run_id, session.key.principal)).fetchone()
            if host is not None:
                return self.copied_turn(session, last, RunId(host[0]))
        return turn

    def turn_with(self, session: changes.SessionRef, last: int, index: int) -> Turn | None:
        """Return the turn that has a message; None if history has no such message."""
        row = self._execute(_ROW_OF_MESSAGE, (last, session.no, index, index, index)).fetchone()
        return None if row is None else self.turn_of_row(row)

    def turn_of_row(self, row: tuple[int, int | None, int | None]) -> Turn:
        """Return the turn of a row of history, given with the one before it, and the next one with messages."""
        run: int = self._history_row(row[0])[4]
        if run < 0:
            return self._turn_at(row, run, RunStatus.NEEDS_INPUT if run == COPIED_QUESTION else RunStatus.SUCCEEDED)
        found = self._execute(_STATUS, (run,)).fetchone()
        return self._turn_at(row, run, RunStatus.SUCCEEDED if found is None else found[0])

    def _turn_at(self, row: tuple[int, int | None, int | None], seq: int, status: str) -> Turn:
        this, before, after = (None if no is None else self._history_row(no) for no in row)
        assert this is not None
        first, count, discarded, agent, _, run_id, nth = this
        is_closed = after is not None and after[4] == NO_RUN and status == RunStatus.NEEDS_INPUT
        last = row[2] if is_closed and row[2] is not None else row[0]
        return Turn(
            seq,
            status,
            first,
            first + count,
            discarded=bool(discarded),
            agent=agent,
            agent_before=NO_AGENT if before is None else before[3],
            is_last=after is None,
            closing=after[1] if after is not None and is_closed else 0,
            next_run=None if after is None else after[5],
            run_id=run_id,
            last=last,
            nth=after[6] if after is not None and is_closed else nth,
        )

    def _history_row(self, no: int) -> tuple[Any, ...]:
        return tuple(self._execute(_HISTORY_ROW, (no,)).fetchone())

    def agent_at(self, session: changes.SessionRef, last: int, index: int) -> int | None:
        """Return the run that had changed the agent last when a message was the end of history, as in `Place`."""
        row = self._execute(_AGENT_AT, (last, session.no, index, index, index)).fetchone()
        if row is None:
            raise checksums.damaged_record(f"the history of session {session.key.session_id}")
        return None if row[0] is None else int(row[0])

    def fork_source(self, key: SessionKey, after: RunId | int | None) -> ForkSource | Unreachable | None:
        """Return what to copy of a session up to a place, or why nothing ends there; None if there is no session."""
        return forks.source_of(self, self._connection, key, after)

    def fork(self, session: changes.SessionRef) -> ForkRecord | None:
        """Return where a session was copied from; None if it was not."""
        return forks.fork_of(self._connection, session)

    def keeps_agent(self, session: changes.SessionRef, run: int) -> bool:
        """Return whether it is kept what a session's agent is rebuilt from after a run."""
        found = self._execute("SELECT 1 FROM agents_after WHERE session = ? AND run = ?", (session.no, run)).fetchone()
        return found is not None

    def branches(self, session: changes.SessionRef) -> list[Branch]:
        """Return the branches of a session's history after the first one, in order."""
        return [Branch(*row) for row in self._execute(reader.BRANCHES, (session.no,)).fetchall()]

    def replaced(self, session: changes.SessionRef) -> dict[int, Branch]:
        """Return the branches without a message that another one replaced, by their start: of each start the last."""
        branches = self.branches(session)
        found = [Branch(*row) for row in self._execute(_REPLACED, (session.no,)).fetchall()]
        for each in found:
            before = [*(other for other in branches if other.start < each.start), each]
            if any(True for _ in reader.faults_of_branches(before, each.start)):
                raise checksums.damaged_record(f"the branches of session {session.key.session_id}")
        return {each.start: each for each in found}

    def stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are stored for a principal."""
        row = self._execute(reader.STORED_OF, (principal,)).fetchone()
        return row[0] if row else 0

    def look_for_room(self) -> None:
        """Measure the free space on the disk."""
        self._measure()


@contextmanager
def _damage_of(what: str) -> Iterator[None]:
    """Raise `RecordDamaged` in place of what the driver says of damaged pages and texts."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error) or is_no_text(error):
            raise checksums.damaged_record(what) from error
        raise


class SqliteRows(StoredRows):
    """The rows of a journal in SQLite."""

    def __init__(self, connection: sqlite3.Connection, measure: Callable[[], None] = lambda: None) -> None:
        # One cursor for all statements: creating one takes a tenth of the time of a short statement.
        self._cursor = connection.cursor()
        super().__init__(connection, self._cursor.execute, self._cursor.execute, measure)

    def close(self) -> None:
        """Release the connection: one that is closed before its statements stays open unseen."""
        self._cursor.close()

    def session(self, key: SessionKey) -> SessionState | None:
        """Return a session, None if there is none. Raises `RecordDamaged`."""
        with _damage_of(f"session {key.session_id}"):
            return super().session(key)

    def _key_of(self, no: int) -> SessionKey:
        with _damage_of(f"session number {no}"):
            return super()._key_of(no)

    def _update(self, statement: str, values: tuple[object, ...] | dict[str, Any]) -> None:
        if self._write(statement, values).rowcount != 1:
            raise Mismatch(f"not one row was changed by: {statement}")

    def _drop_session(self, row: changes.DropSession) -> None:
        # No run of it waits or is claimed, so each has its row of history.
        session, delete = row.session, self._connection.executemany
        rows = self._execute(f"{reader.CHAIN} SELECT run, no FROM chain", (row.last, session.no, -1)).fetchall()
        if len(rows) != row.rows:
            raise checksums.damaged_record(f"the history of session {session.key.session_id}")
        delete("DELETE FROM runs WHERE seq = ? AND session = ?", ((seq, session.no) for seq, _ in rows))
        delete("DELETE FROM history WHERE no = ?", ((no,) for _, no in rows))
        for table in _OF_SESSIONS:
            self._write(f"DELETE FROM {table} WHERE session = ?", (session.no,))
        self._write("DELETE FROM sessions WHERE no = ?", (session.no,))

    def _copied(self, row: changes.CopyHistory) -> int:
        values = {
            "row": row.row, "step": row.step, "session": row.session.no, "kept": row.kept, "crc": row.source.crc,
            "last": row.last, "source": row.source.no,
        }  # fmt: skip
        return int(self._write(_COPY, values).rowcount)

    def _count_edit(self, principal: Principal, more: int) -> None:
        self._write("UPDATE stored SET bytes = bytes + ? WHERE principal = ?", (more, principal))

    def _store_agent(self, row: changes.StoreAgent) -> None:
        # Nearly always the row exists, and only the state changes.
        session = row.session
        window = row.window and checksums.with_checksum(row.window, session.crc)
        state = row.state and checksums.with_checksum(row.state, session.crc)
        if window is not None or not self._execute(_NEW_STATE, (state, session.no)).rowcount:
            self._write(KEEP_AGENT, (session.no, window, state))
        if row.run is not None:
            self._write(KEEP_AGENT_AFTER, (row.run, session.no))

"""The session table: the one set of rules for every session and run.

Deterministic and synchronous: it knows no clock, event loop or SQL. Each operation reads what it needs (`records.py`),
decides, changes the cached state, and adds the rows to write and the claims that it made; `drain` returns them as a
batch. An operation that raises has changed nothing. Batches must be stored in their order, before the answers that rest
on them are sent or their claims delivered; meanwhile more may be decided. If a batch cannot be stored, `undo` returns
the sessions to reset to their stored state. `now` is in seconds since the epoch.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from strandline._encoding import encode_messages
from strandline._journal.changes import (
    AddCheckpoint,
    AddRun,
    AnswerQuestion,
    Body,
    CedePartitions,
    Change,
    DropKey,
    DropSession,
    EncodedCompletion,
    ForgetSchedule,
    MoveSchedule,
    StoreAgent,
    StoreOptions,
    StoreSchedule,
)
from strandline._journal.defaults import changed_options, options_of, stored_options, with_defaults
from strandline._journal.errors import RunIdTaken
from strandline._journal.live import DUE_AGAIN_S
from strandline._journal.numbers import Numbers
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    AddSchedule,
    AsRead,
    Attached,
    Bounds,
    Busy,
    Cancel,
    CancelSession,
    ChangeAnswer,
    Changed,
    ChangeSchedule,
    ClaimResult,
    Delete,
    DropSchedule,
    Ended,
    EndOverdue,
    EndWaiting,
    Move,
    Overlaps,
    Pause,
    Refused,
    Resume,
    Reused,
    SchedulesFull,
    SetOptions,
    Stale,
    Stopped,
    Unanswerable,
    Unresolvable,
)
from strandline._journal.port import Change as AnyChange
from strandline._journal.records import DamagedSession, Records, Room, RunLocation, ScheduleTime
from strandline._journal.rules import (
    Branch,
    Closed,
    answers_key,
    as_answer,
    check_answer,
    check_cancel,
    check_end,
    check_resolution,
    continued,
    delayed,
    drawn,
    first_rank,
    may_join,
)
from strandline._journal.state import Keys, OpenRound, RunState, SessionState
from strandline._journal.transitions import Crashed, Transitions, as_run, in_order
from strandline._model import (
    INTERRUPTS,
    NO_DEFAULTS,
    Claim,
    FencingToken,
    Firing,
    IfBusy,
    JoinedInput,
    JoinState,
    Lane,
    Message,
    NewRun,
    Outcome,
    Principal,
    Question,
    Resolution,
    RunDefaults,
    RunId,
    RunsJoined,
    RunStatus,
    ScheduleId,
    SessionKey,
    answered,
)
from strandline.errors import RecordDamaged

_log = logging.getLogger("strandline.journal")

_ENQUEUE: Final = IfBusy.ENQUEUE
KEPT_BYTES: Final = 2048
"""An input up to this size stays in memory while its run waits; a longer one is read when its run is claimed."""


class Batch(Struct, gc=False):
    """Decisions to store together: rows in their order, and the claims to deliver afterwards."""

    changes: list[Change]
    claims: list[Claim]
    sessions: list[SessionState]
    """The changed ones."""
    coming: list[tuple[Principal, int]]
    """The bytes of new runs, by principal, where these are bounded."""
    dropped: list[SessionKey]
    """Sessions that are deleted."""
    ceded: dict[int, int] = {}
    """Partitions that are ours no more, each with how many owners it has had."""


class SessionTable(Transitions):
    """The sessions with waiting or claimed runs, and those that were used last."""

    @classmethod
    def of(
        cls,
        records: Records,
        *,
        max_attempts: int,
        numbers: Numbers,
        room: Room | None = None,
    ) -> "SessionTable":
        """Return a table of the stored sessions, all in one partition. `numbers` continues after theirs.

        What is not cached is read from `records` at once, until its `records` are set to None.
        """
        table = cls(records, room, max_attempts=max_attempts, numbers=numbers)
        table.install(records.busy_sessions())
        return table

    def install(self, sessions: Iterable[SessionState | DamagedSession]) -> None:
        """Cache sessions as they are stored. A damaged one is left out, and refused."""
        for session in sessions:
            if isinstance(session, DamagedSession):
                self._refuse(session)
            else:
                self._install(session)

    def _refuse(self, damaged: DamagedSession) -> None:
        """Refuse everything in a damaged session from now on; nothing of it is known, or it is forgotten."""
        _log.error("%s; everything else continues", damaged.error)
        if damaged.key is not None:
            self._forget(damaged.key)
            self._damaged[damaged.key] = str(damaged.error)

    # -- what was decided -----------------------------------------------------------------------------

    def drain(self) -> Batch:
        """Return what was decided since the last drain."""
        changes, self._changes = self._changes, []
        claims, self._claims = self._claims, []
        sessions, self._changed = self._changed, []
        for session in sessions:
            session.is_changed = False
            session.in_flight += 1
        coming, self._coming = self._coming, []
        dropped, self._dropped = self._dropped, []
        ceded, self._ceded = self._ceded, {}
        return Batch(changes, claims, sessions, coming, dropped, ceded)

    @property
    def decided(self) -> int:
        """How many rows were decided since the last drain."""
        return len(self._changes)

    def durable(self, batch: Batch, stored: Mapping[Principal, int]) -> None:
        """Note that a batch is durable. `stored` are the bytes now stored for each of its `principals`."""
        for session in batch.sessions:
            session.in_flight -= 1
        for principal, size in batch.coming:
            self._bytes_in_flight[principal] -= size
        for key in batch.dropped:
            self._drops_in_flight[key] -= 1
            if not self._drops_in_flight[key]:
                del self._drops_in_flight[key]
        self._stored_of.update(stored)

    def principals(self, batch: Batch) -> set[Principal]:
        """Return the principals of a batch whose stored bytes the table needs."""
        return (
            {session.key.principal for session in batch.sessions} & self._stored_of.keys() if self._stored_of else set()
        )

    def forget_stored(self) -> None:
        """Note that the stored bytes of principals changed by something that was not decided here."""
        self._stored_of.clear()

    def undo(self, batches: Iterable[Batch]) -> set[SessionKey]:
        """Drop all decisions since the last drain, as `batches` could not be stored; return the sessions to
        `put_back`."""
        batches = list(batches)
        sessions = [*self._changed, *(session for batch in batches for session in batch.sessions)]
        for ceded in (self._ceded, *(batch.ceded for batch in batches)):
            self._epochs.update(ceded)
        self._ceded.clear()
        self._changes.clear()
        self._claims.clear()
        self._changed.clear()
        self._coming.clear()
        self._dropped.clear()
        self._stored_of.clear()
        self._bytes_in_flight.clear()
        self._drops_in_flight.clear()
        return {session.key for session in sessions}

    def put_back(self, sessions: Mapping[SessionKey, SessionState | None]) -> None:
        """Replace sessions by their stored state; None: the session does not exist."""
        for key, session in sessions.items():
            self._forget(key)
            if session is not None and self.owns(self.partition(key)):
                # A run whose end could not be stored is not due again at once.
                self._install(session, self._now + DUE_AGAIN_S)

    def session_of(self, run_id: RunId | None) -> SessionKey | None:
        """Return the session of a waiting or claimed run; None for any other."""
        run = None if run_id is None else self._runs.get(run_id)
        return None if run is None else run.session.key

    # -- ownership ------------------------------------------------------------------------------------

    def take_over(self, epochs: Mapping[int, int], now: float, *, top: int = 0) -> list[Claim]:
        """Own partitions: end all holds and fence every older owner; return new claims on what was executing, in order
        of sequence.

        `epochs` says of each partition how many owners it has had, with this one; `top` as in `Numbers.begin`.
        """
        self._now = now
        self._epochs = dict(epochs)
        self.numbers.begin(max(epochs.values(), default=0), top)
        claimed = in_order(run for run in self._runs.values() if run.fence is not None)
        for held in [run for run in claimed if run.held_since is not None]:
            self._end_hold(held)
        claims = []
        for run in [run for run in claimed if run.fence is not None]:
            try:
                found, checkpoints, _ = self._stored(run)
                question = None
                if run.session.answered_by(run) is not None:
                    question, error = self._question(run.session)
                    found = found if error is None else replace(found, resumable=False)
            except RecordDamaged as error:
                self._refuse(DamagedSession(run.session.key, error))
                continue
            was, run.fence = run.fence, self.numbers.fence(self._partition(run.session))
            self._change_run(run, was=was)
            claims.append(
                Claim(token=FencingToken(run.run_id, run.fence), run=found, checkpoints=checkpoints, question=question)
            )
        return claims

    def epoch_of(self, key: SessionKey) -> int:
        """Return how many owners the partition of a session has had. Raises `NotOwner` if it is not ours."""
        self._check_owned(key)
        return self._epochs[self.partition(key)]

    def join(self, gained: "SessionTable") -> None:
        """Own the partitions of another table too, with their sessions, which it has no more."""
        sessions = gained.drop_all()
        self._damaged.update(gained.damaged)
        self._epochs.update(gained._epochs)
        self.numbers.begin(0, gained.numbers.top)
        self.install(sessions)

    def close(self, partitions: Collection[int], rests: Callable[[], object] = lambda: None) -> None:
        """Claim nothing in partitions of ours any more; runs are accepted, and wait.

        `rests` is called each time when nothing is left that is claimed in one of them, in the middle of an operation.
        """
        self._closing.update(dict.fromkeys(partitions, rests))

    def reopen(self, partitions: Collection[int]) -> None:
        """Claim in partitions again."""
        for each in partitions:
            self._closing.pop(each, None)
        ours = self._epochs.keys() & set(partitions)
        if not ours:
            return
        for run in self._runs.values():
            if run.fence is None and self._partition(run.session) in ours:
                self._moved(run.session.key)

    def cede(self, partitions: Collection[int]) -> frozenset[int]:
        """Own partitions no longer, those of them in which nothing is claimed; return these."""
        ceded = frozenset(self.at_rest(partitions))
        if not ceded:
            return ceded
        for session in [each for each in self._sessions.values() if self._partition(each) in ceded]:
            self._touch(session)  # (to be read again if this cannot be stored)
            self._forget(session.key)
        for key in [each for each in self._damaged if self.partition(each) in ceded]:
            del self._damaged[key]
        for partition in ceded:
            self._ceded[partition] = self._epochs.pop(partition)
        self._changes.append(CedePartitions(tuple(sorted(ceded))))
        return ceded

    # -- runs -----------------------------------------------------------------------------------------

    def accept(self, new: NewRun, body: Body, bounds: Bounds, *, claim_next: bool, now: float) -> AcceptAnswer:
        """Store a run, or refuse it over `bounds`; `claim_next`: claim it if its session is free and it is first."""
        self._now = now
        if new.run_id in self._runs:
            raise RunIdTaken(new.run_id)
        session = self._find(new.key)
        open_round = None if session is None else session.question
        executing = None if session is None else session.executing
        forgotten = None
        replaced: RunState | None = None
        if (fires := new.fires) is not None:
            if session is None or not self._is_next_time(session, fires):
                return Stale()
            before = self._unended(session, fires.before)
            if before is not None and fires.skipped is not None:
                at, state = fires.next_at, fires.skipped
                self._note(session, MoveSchedule(session.ref, fires.schedule_id, at, None, state))
                return Overlaps()
            if before is not None and fires.replaces and before.fence is None and not before.has_begun:
                replaced = before
        if new.keyed is not None and session is not None:
            known = self._stands_for(session, new)
            if isinstance(known, Attached | Reused):
                return known
            forgotten = known
        expected = new.expected_run_id
        if expected is not None and (executing is None or executing.run_id != expected):
            return Refused("not_running", 0)
        defaults = None if session is None or session.options is None else self._options(session)
        if defaults is not None:
            new, body = with_defaults(new, body, defaults)
        question: Question | None = None
        if session is not None and open_round is not None and new.may_answer:
            found = self._question(session).question
            if (answer := as_answer(new, found)) is not None:
                new, question = answer, found
                body = replace(body, prompt=encode_messages(answer.input))
        crashed: Crashed | None = None
        if new.resolution is not None:
            found_run = self._to_continue(session, new.resolution)
            if isinstance(found_run, Unresolvable):
                return found_run
            crashed = found_run
        partition = self.partition(new.key) if session is None else self._partition(session)
        seq = self.numbers.next_run(partition)
        host, join = None, None
        if new.if_busy is IfBusy.STEER:
            host = self._host_for(new, executing)
            join = JoinState.BECAME_NEXT_RUN if host is None else JoinState.PENDING
        place = first_rank(new, seq, now, join)
        ahead = session.queue.ahead(place) if session is not None else 0
        may_proceed = open_round is None or new.dismisses or open_round.until <= now
        leaving: list[RunState] = []
        if new.if_busy is not _ENQUEUE and session is not None:
            is_behind = new.lane != Lane.ANSWER and (session.queue.has_next or not may_proceed)
            is_busy = is_behind or session.claimed is not None or session.paused
            if is_busy and new.if_busy is IfBusy.REJECT:
                return Refused("session_busy", ahead + 1)
            leaving = self._begun_and_waiting(session, new.if_busy)
            self._look_up_waiting(leaving)
            ahead -= len(leaving)
        if replaced is not None:
            leaving = [replaced]
            ahead -= replaced.rank < place
        if session is not None and open_round is not None and may_proceed:
            self._question(session)  # (to dismiss it)
        if new.lane == Lane.ANSWER and question is None:
            if session is not None and open_round is not None:
                question, error = self._question(session)
                if error is not None:
                    raise error
            if (cannot := self._cannot_answer(session, question, new)) is not None:
                return cannot
        most = bounds.stored_bytes
        if most is not None and self._stored_bytes(new.key.principal) + body.size > most:
            return Refused("storage_full", ahead + 1)
        if (room := self._room) is not None:
            if room.is_due:
                self._fetched("room", lambda records: records.look_for_room())
            if not room.has_room(body.size):
                return Refused("disk_low", ahead + 1)
        answers = question is not None
        is_free = session is None or (session.claimed is None and not session.paused)
        is_free = is_free and not self._is_closing(partition) and place[0] != Lane.DELAYED
        at_once = claim_next and not ahead and is_free and (may_proceed or answers)
        if not at_once and not answers:
            waiting = (session.waiting if session is not None else 0) - len(leaving)
            if (full := self._full(new, bounds, waiting, len(leaving))) is not None:
                return Refused(full, ahead + 1)
        if session is None:
            session = self._add(new.key)
        if new.keyed is not None and session.keys is not None:
            session.keys.add(new.keyed.key)
        run = RunState(
            session, new.run_id, seq, place[0], place[1], new.created_at, new.queue_deadline, timeout_s=new.timeout_s,
            not_before=new.not_before,
        )  # fmt: skip
        run.host, run.join = host, join
        self.numbers.drew_run(seq)
        if most is not None:
            self._coming.append((new.key.principal, body.size))
            self._bytes_in_flight[new.key.principal] += body.size
        if room is not None:
            room.keeps(body.size)
        if open_round is not None:
            self._meet_question(session, open_round, run, question, dismiss=at_once or new.dismisses)
        stopped = None if new.if_busy is _ENQUEUE else self._interrupt(session, leaving, new.if_busy)
        if fires is not None:
            at, state = fires.next_at, fires.state
            self._note(session, MoveSchedule(session.ref, fires.schedule_id, at, None, state))
        if replaced is not None:
            stopped = Stopped(self._cancel_waiting(replaced), [])
        if forgotten is not None:
            self._note(session, DropKey(forgotten))
        fence = self._claim(run) if at_once else None
        host_id = None if host is None else host.run_id
        added = AddRun(
            session.ref,
            run.seq,
            new,
            body,
            run.lane,
            run.urgency,
            run.queue_deadline,
            fence,
            run.started_at,
            host_id,
            join,
        )
        self._note(session, added)
        self._runs[run.run_id] = run
        if crashed is not None:
            self._continue(run, crashed)
        if fence is None:
            if crashed is None:
                run.new = new if body.size <= KEPT_BYTES else None
            else:
                run.started_at = now
                self._change_run(run, was=None)
            if host is not None:
                self._wait_for_host(run)
                return Accepted(0, None, defaults, None if defaults is None else new, joined=host.run_id)
            self._enqueue(run)
            return Accepted(ahead + 1, stopped, defaults, None if defaults is None else new)
        claimed, checkpoints = as_run(new, run), () if crashed is None else crashed.checkpoints
        token = FencingToken(run.run_id, fence)
        self._claims.append(Claim(token=token, run=claimed, checkpoints=checkpoints, question=question))
        return Accepted(0, stopped, defaults, None if defaults is None else new)

    def _options(self, session: SessionState) -> RunDefaults:
        """Return the default options of a session's runs. Raises `RecordDamaged`."""
        return options_of(session.ref, session.options)

    def _to_continue(self, session: SessionState | None, resolution: Resolution) -> Crashed | Unresolvable:
        """Return the crashed run that a resolution is about, if no run has begun since."""
        located = self._locate_run(resolution.run_id)
        if session is None or located is None or located.key != session.key or located.seq != session.unresolved:
            return Unresolvable("gone")
        if session.claimed is not None or any(run.has_begun for run in session.queue):
            return Unresolvable("gone")
        ref, row = session.ref, session.end.row
        assert row is not None
        stored = self._fetched(("run", located.seq), lambda records: records.run(ref, located.seq))
        if stored.error is not None:
            raise stored.error
        if (cannot := check_resolution(resolution, stored.checkpoints)) is not None:
            return cannot
        first = self._fetched(("first", row), lambda records: records.first_of(row))
        branches = self._branches(session)
        return Crashed((*continued(stored.checkpoints), *resolution.tools), first, branches)

    def _branches(self, session: SessionState) -> list[Branch]:
        """Return the branches of a session's history after the first one."""
        if session.branch is None:
            return []
        ref = session.ref
        return self._fetched(("branches", ref.no), lambda records: records.branches(ref))

    def _stands_for(self, session: SessionState, new: NewRun) -> Attached | Reused | int | None:
        """Return the answer that the key of a new run gives; the sequence of a run whose key has expired; or None."""
        assert new.keyed is not None
        ref, key = session.ref, new.keyed.key
        if session.keys is None:
            session.keys = Keys(self._fetched(("keys", session.no), lambda records: records.keys(ref, Keys.MOST + 1)))
        if not session.keys.may_have(key):
            return None
        known = self._fetched(("key", session.no, key), lambda records: records.keyed_run(ref, key))
        if known is None:
            return None
        is_interrupted = session.round is not None and session.round.run == known.seq
        answer = answers_key(new.keyed, known.run_id, None if is_interrupted else known.ended_at, known.fingerprint)
        return known.seq if answer is None else answer

    def _is_next_time(self, session: SessionState, fires: Firing) -> bool:
        """Return whether a schedule of a session is still to fire at the time that a run is for."""
        known = self._schedule(session, fires.schedule_id)
        return known is not None and known.at == fires.at

    def _schedule(self, session: SessionState, schedule_id: ScheduleId) -> ScheduleTime | None:
        known = self._fetched(("schedule", schedule_id), lambda records: records.schedule(schedule_id))
        return None if known is None or known.session != session.no else known

    def _unended(self, session: SessionState, run_id: RunId | None) -> RunState | None:
        """Return a run of a session that waits or executes."""
        run = None if run_id is None else self._runs.get(run_id)
        return None if run is None or run.session is not session or run.held_since is not None else run

    def _cannot_answer(
        self, session: SessionState | None, question: Question | None, new: NewRun
    ) -> Unanswerable | None:
        def closed(request: str) -> Closed | None:
            if session is None:
                return None
            ref = session.ref
            return self._fetched(("closed", ref.no, request), lambda records: records.closed_request(ref, request))

        return check_answer(answered(new.input), question, closed)

    def _stored_bytes(self, principal: Principal) -> int:
        """Return how many bytes are stored for a principal, including those whose commit is under way."""
        if self.records is not None:
            return self.records.stored_bytes(principal)
        stored = self._stored_of.get(principal)
        if stored is None:
            what = ("bytes", principal)
            stored = self._fetched(what, lambda records: records.stored_bytes(principal))
            self._stored_of[principal] = stored
            self.found.pop(what)  # (decisions in the meantime change it)
        return stored + self._bytes_in_flight[principal]

    def _full(
        self, new: NewRun, bounds: Bounds, waiting: int, leaving: int
    ) -> Literal["queue_full", "principal_full", "server_full"] | None:
        if waiting >= bounds.per_session:
            return "queue_full"
        most = bounds.per_principal
        principal = new.key.principal
        if most is not None and self._waiting_of[principal] + self._elsewhere_of.get(principal, 0) - leaving >= most:
            return "principal_full"
        return "server_full" if self.waiting + self._elsewhere - leaving >= bounds.total else None

    def _begun_and_waiting(self, session: SessionState, if_busy: IfBusy) -> list[RunState]:
        """Return the waiting runs that an interrupt ends: those that have begun."""
        if if_busy not in INTERRUPTS:
            return []
        return [run for run in session.queue if run.lane == Lane.REQUEUED and run.has_begun]

    def _interrupt(self, session: SessionState, begun: list[RunState], if_busy: IfBusy) -> Stopped | None:
        """Cancel what has begun in a session, for a run that goes before everything else."""
        if if_busy not in INTERRUPTS:
            return None
        discard = if_busy is IfBusy.ROLLBACK
        ended: dict[RunId, Outcome] = {}
        for run in begun:
            ended |= self._cancel_waiting(run, discard=discard)
        executing = session.executing
        cancelling = [] if executing is None else [self._request_end(executing, discard=discard)]
        return Stopped(ended, cancelling) if ended or cancelling else None

    def _meet_question(
        self, session: SessionState, open_round: OpenRound, run: RunState, question: Question | None, *, dismiss: bool
    ) -> None:
        """Apply an accepted run to the open question of its session; with `question`, the run answers it."""
        if question is not None:
            self._close_requests(session, open_round, question, "answered")
            open_round.answer = run.seq
            self._note(session, AnswerQuestion(session.no, run.seq))
            self._question_moved(session)
        elif dismiss:
            self._dismiss(session)
        elif (
            run.queue_deadline is not None
        ):  # its time stands still since it came, or since the question if that was later
            run.queue_deadline += max(0.0, open_round.until - max(run.waits_since, session.rests_since or 0.0))

    def claim_next(self, key: SessionKey, *, now: float) -> ClaimResult:
        """Claim the session's next run, counting an attempt."""
        self._now = now
        session = self._find(key)
        if session is None:
            return ClaimResult.NOTHING
        self._look_ahead(session)
        return self._claim_next(session)

    def checkpoint(self, token: FencingToken, checkpoint: bytes) -> None:
        """Store what a running run has done so far."""
        run = self._executing(token)
        self._note(run.session, AddCheckpoint(run.seq, run.checkpoints, checkpoint))
        run.checkpoints += 1

    def _host_for(self, new: NewRun, executing: RunState | None) -> RunState | None:
        """Return the run that a new one joins, if that executes: it must have model calls that can be seen."""
        if executing is None or not new.resumable or not may_join(new, self._stored(executing).run):
            return None
        return executing

    def apply_joins(
        self, token: FencingToken, messages: list[Message], as_read: AsRead, *, now: float
    ) -> list[JoinedInput]:
        """Have the runs reach their host that wait for that, by a checkpoint; return them. One that cannot be read
        waits on, and so do all once the host's cancel was accepted."""
        host = self._executing(token)
        session, self._now = host.session, now
        if host.cancel_requested:
            return []
        pending = [(run, self._stored(run)) for run in session.pending if run.host is host]
        readable = [(run, found.run) for run, found in pending if found.error is None]
        joined = [JoinedInput(run.run_id, as_read(found.input, found.sender), found.sender) for run, found in readable]
        if joined:
            self.checkpoint(token, encode_messages(RunsJoined(messages, joined)))
        for run, _ in readable:
            self._apply(run)
        return joined

    def finish(
        self, token: FencingToken, completion: EncodedCompletion, *, hold: bool, claim_next: bool, now: float
    ) -> ClaimResult:
        """End a run: outcome, messages, window and state. With `hold`, keep its claim; else claim the next."""
        check_end(RunStatus.RUNNING, completion.status)
        run = self._executing(token)
        check_cancel(run, completion.status, discarded=completion.discarded)
        self._now = now
        session = run.session
        closed = (completion.length > 0 and not completion.discarded) or completion.question is not None
        if not closed and session.answered_by(run) is not None:
            self._question(session)
        if claim_next and not hold:
            self._look_ahead(session, completion.joined)
        unresolved = completion.unresolved and run.checkpoints > 0
        self._end(
            run,
            completion.status,
            completion.outcome,
            discarded=completion.discarded,
            hold=hold,
            unresolved=unresolved,
        )
        self._append(session, run.seq, completion.messages, completion.length, discarded=completion.discarded)
        if session.joining:
            outcome, discarded = completion.joined_outcome, completion.discarded
            self._end_joins(run, completion.status, outcome, completion.joined, discarded=discarded)
        if unresolved:
            self._leave_unresolved(run)
        self._close_round_of(run, closed=closed, begun=completion.discarded)
        if completion.question is not None:
            self._ask(session, run.seq, completion.question, now + completion.answer_within_s, hold=hold)
        if completion.window is not None or completion.state is not None:
            self._note(session, StoreAgent(session.ref, completion.window, completion.state))
        return self._claim_next(session) if claim_next and not hold else ClaimResult.NOTHING

    def release(self, token: FencingToken, *, counted: bool, now: float) -> None:
        """Requeue a running run at the head of its queue, with `counted` False without its attempt; or end a hold."""
        run = self._claimed(token)
        if run.held_since is None:
            check_cancel(run, RunStatus.QUEUED, discarded=False)
            self._now = now
            self._requeue(run, run.attempt - (not counted))
        else:
            self._now = now
            self._end_hold(run)

    # -- requested changes --------------------------------------------------------------------------

    def change(self, change: AnyChange, *, now: float) -> ChangeAnswer:
        """Apply a requested change, unless the state of its subject does not (or no longer) allow it."""
        self._now = now
        match change:
            case Cancel():
                return self._cancel(change)
            case EndWaiting():
                return self._end_one(change)
            case EndOverdue():
                return self._end_overdue(change)
            case CancelSession():
                return self._cancel_session(change)
            case Move():
                return self._move(change)
            case Pause():
                return self._pause(change)
            case Resume():
                return self._resume(change)
            case Delete():
                return self._delete(change)
            case SetOptions():
                return self._set_options(change)
            case AddSchedule():
                return self._add_schedule(change)
            case ChangeSchedule():
                return self._change_schedule(change)
            case DropSchedule():
                return self._drop_schedule(change)
            case _:
                assert_never(change)

    def _locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return where a run is, from storage if it is not cached."""
        return self._fetched(run_id, lambda records: records.locate_run(run_id))

    def _delete(self, change: Delete) -> Changed | Busy:
        """Delete a session with its history, state and ended runs, unless a run of it waits or is claimed."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        if not session.is_idle:
            return Busy()
        if (before := change.ended_before) is not None:
            is_closed = session.paused or session.round is not None
            if is_closed or session.rests_since is None or session.rests_since >= before:
                return Busy()
            ref = session.ref
            if self._fetched(("scheduled", ref.no), lambda records: records.has_schedules(ref)):
                return Busy()
        self._note(session, DropSession(session.ref, session.end.row, session.end.nth, self._now))
        del self._sessions[session.key]
        self._dropped.append(session.key)
        self._drops_in_flight[session.key] += 1
        return Changed(existed=True)

    # -- schedules ------------------------------------------------------------------------------------

    def _add_schedule(self, change: AddSchedule) -> Changed | SchedulesFull:
        """Store a schedule, in a session that may be new."""
        session, principal = self._find(change.key), change.key.principal
        if self._fetched(("schedules", principal), lambda records: records.schedules_of(principal)) >= change.most:
            return SchedulesFull()
        if session is None:
            session = self._add(change.key)
        self._note(session, StoreSchedule(session.ref, change.schedule_id, change.at, change.spec, change.state))
        return Changed(existed=True)

    def _change_schedule(self, change: ChangeSchedule) -> Changed | Busy:
        session = self._find(change.key)
        known = None if session is None else self._schedule(session, change.schedule_id)
        if session is None or known is None:
            return Changed(existed=False)
        if known.at != change.was:
            return Busy()
        self._note(session, MoveSchedule(session.ref, change.schedule_id, change.at, change.spec, change.state))
        return Changed(existed=True)

    def _drop_schedule(self, change: DropSchedule) -> Changed:
        session = self._find(change.key)
        if session is None or self._schedule(session, change.schedule_id) is None:
            return Changed(existed=False)
        self._note(session, ForgetSchedule(change.schedule_id))
        return Changed(existed=True)

    def _end_one(self, change: EndWaiting) -> Changed | Busy:
        """End a run of this session if it waits and has not begun; it leaves no message in history."""
        check_end(RunStatus.QUEUED, change.outcome.status)
        self._check_owned(change.key)
        run = self._runs.get(change.run_id)
        if run is None:
            known = self._locate_run(change.run_id)
            return Busy() if known is not None and known.key == change.key else Changed(existed=False)
        if run.session.key != change.key:
            return Changed(existed=False)
        if run.fence is not None or run.has_begun:
            return Busy()
        self._look_up_waiting([run])
        self._end_waiting(run, change.outcome, [])
        return Changed(existed=True)

    def _end_overdue(self, change: EndOverdue) -> Stopped:
        """Have delayed runs of a session queue that are due, then end its overdue runs.

        Those that have begun are closed by their checkpoints, the others leave no message in history."""
        check_end(RunStatus.QUEUED, change.outcome.status)
        session = self._find(change.key)
        queue = () if session is None else (*session.pending, *session.queue)
        self._look_up_waiting(run for run in queue if not run.is_delayed and self._is_overdue(run, self._now))
        for run in queue:
            if self._is_due(run, self._now):
                self._become_due(run)
        overdue = [run for run in queue if not run.is_delayed and self._is_overdue(run, self._now)]
        ended: dict[RunId, Outcome] = {}
        for run in overdue:
            if run.deadline is None:
                ended[run.run_id] = change.outcome
                self._end_waiting(run, change.outcome, [])
            else:
                ended |= self._time_out(run, discard=change.drop)
        return Stopped(ended=ended, cancelling=[])

    def _cancel(self, change: Cancel) -> Stopped | Changed | Busy | Ended:
        """End a waiting run, request the end of an executing one, or dismiss the open question of an ended one."""
        run = self._runs.get(change.run_id)
        if run is not None and run.held_since is None:
            if run.session.key.principal != change.principal:
                return Changed(existed=False)
            if run.fence is not None:
                return Stopped(ended={}, cancelling=[self._request_end(run)])
            if not run.waits:
                return Busy()
            self._look_up_waiting([run])
            return Stopped(ended=self._cancel_waiting(run), cancelling=[])
        known = self._locate_run(change.run_id)
        if known is None or known.key.principal != change.principal:
            return Changed(existed=False)
        session = self._find(known.key)
        if session is None:  # (it was deleted meanwhile)
            return Changed(existed=False)
        open_round = session.question
        if open_round is None or open_round.run != known.seq:
            return Ended()
        self._question(session)
        self._dismiss(session)
        return Stopped(ended={}, cancelling=[], dismissed=True)

    def _cancel_session(self, change: CancelSession) -> Stopped | Changed:
        """End all waiting runs of a session; with `running` also the one that executes, and the question."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        self._look_up_waiting(session.queue)
        if session.round is not None:
            self._question(session)
        ended: dict[RunId, Outcome] = {}
        for run in (*session.pending, *session.queue):
            ended |= self._cancel_waiting(run)
        cancelling, dismissed = list[RunId](), False
        if change.running:
            if (executing := session.executing) is not None:
                cancelling.append(self._request_end(executing))
            if dismissed := session.question is not None:
                self._dismiss(session)
        return Stopped(ended, cancelling, dismissed)

    def _move(self, change: Move) -> Changed | Busy | Ended:
        """Give a waiting run another priority, or the last place of the front lane."""
        run = self._runs.get(change.run_id)
        if run is None or run.held_since is not None:
            known = self._locate_run(change.run_id)
            if known is None or known.key.principal != change.principal:
                return Changed(existed=False)
            self._check_owned(known.key)
            return Ended()
        if run.session.key.principal != change.principal:
            return Changed(existed=False)
        if run.fence is not None or run.has_begun:
            return Busy()
        if run.lane == Lane.ANSWER:
            return Changed(existed=True)
        queue, is_queued = run.session.queue, run.host is None
        if is_queued:
            queue.remove(run)
        if change.priority is None:
            place = self.numbers.next_run(self._partition(run.session))
            run.lane, run.urgency = Lane.FRONT, drawn(place)
            self.numbers.drew_run(place)
        elif run.is_delayed and run.not_before is not None:
            run.urgency, run.moved = delayed(run.not_before, change.priority), change.priority
        else:
            run.lane, run.urgency, run.moved = Lane.NORMAL, change.priority, change.priority
        if is_queued:
            queue.add(run)
        if run.not_before is not None:
            self._watch(run)  # (it may be delayed no longer)
        self._moved(run.session.key)
        self._change_run(run, was=None)
        return Changed(existed=True)

    def _set_options(self, change: SetOptions) -> Changed | Refused:
        """Change the default options of a session's runs, unless too much would be stored for its principal."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        merged = NO_DEFAULTS
        if change.options is not None:  # (else also damaged ones are removed)
            merged = changed_options(self._options(session), change.options)
        options = stored_options(session.ref, merged)
        if options == session.options:
            return Changed(existed=True)
        more = len(options or b"") - len(session.options or b"")
        principal = change.key.principal
        if (most := change.stored_bytes) is not None and more > 0:
            if self._stored_bytes(principal) + more > most:
                return Refused("storage_full", 0)
            self._coming.append((principal, more))
            self._bytes_in_flight[principal] += more
        session.options = options
        self._note(session, StoreOptions(session.ref, options))
        return Changed(existed=True)

    def _pause(self, change: Pause) -> Changed:
        """Pause a session: its queue deadlines stand still from now on, or already since a hold began."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        if session.closed_since is None:
            held, open_round = session.held, session.question
            since = held.held_since if held is not None and held.held_since is not None else self._now
            session.closed_since = since if open_round is None else max(since, open_round.until)
        session.paused = True
        self._change_session(session)
        self._moved(session.key)
        return Changed(existed=True)

    def _resume(self, change: Resume) -> Changed:
        """Resume a session, or do so when its hold ends. It is at rest from now on at the earliest."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        if session.paused:
            session.paused = False
            session.rests_since = None if session.rests_since is None else self._now
            self._change_session(session)
            if session.held is None:
                self._open_again(session, self._now)
        return Changed(existed=True)

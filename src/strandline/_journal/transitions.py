"""The steps that the operations of the session table consist of: moves of runs, sessions and questions.

Each changes the cached state and adds the rows to write. An operation reads what it needs from storage before its first
step, since a step that raised `Missing` would leave it half done.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeVar

from msgspec.structs import replace

from strandline._encoding import decoder, encode_messages
from strandline._history import dismissed, joined_in
from strandline._journal.changes import (
    AddBranch,
    AddCheckpoint,
    AddHistory,
    AddQuestion,
    AddSession,
    Change,
    ChangeCourse,
    ChangeJoin,
    ChangeRun,
    ChangeSession,
    CloseRequest,
    DropCheckpoints,
    DropQuestion,
    DueRun,
    EndHold,
    EndRun,
    ResetAgent,
    SessionRef,
)
from strandline._journal.defaults import options_of
from strandline._journal.deliveries import Payload, delivery, finished, joined, session_delivery, started
from strandline._journal.errors import ClaimLost
from strandline._journal.live import LiveSessions
from strandline._journal.numbers import Numbers
from strandline._journal.port import ClaimResult, Refused, SessionReport
from strandline._journal.records import (
    DiskSpace,
    Missing,
    Records,
    RunLocation,
    ScheduleTime,
    StoredQuestion,
    StoredRun,
)
from strandline._journal.rules import (
    Branch,
    Closed,
    Rank,
    branch_at,
    cancelled,
    delayed_priority,
    is_last,
    joined_outcome,
    place,
    rank,
    stood_s,
    timed_out,
)
from strandline._journal.state import HistoryEnd, Keys, OpenRound, RunState, SessionState
from strandline._lifecycle import Move, advance
from strandline._model import (
    NO_AGENT,
    Checkpoint,
    Claim,
    FencingToken,
    FileId,
    GoBack,
    JoinedInput,
    JoinState,
    Lane,
    Message,
    NewRun,
    Outcome,
    Place,
    Principal,
    Question,
    Run,
    RunDefaults,
    RunId,
    RunsCollected,
    RunStatus,
    RunWebhook,
    ScheduleId,
    SessionKey,
)
from strandline.errors import RecordDamaged

T = TypeVar("T")

_log = logging.getLogger("strandline.journal")
_decoded_question: Final[Callable[[bytes], Question]] = decoder(Question)


class Crashed(NamedTuple):
    """A crashed run that is to continue: the checkpoints to continue from, its first message, its session's
    branches."""

    checkpoints: tuple[Checkpoint, ...]
    first: int
    branches: list[Branch]


NO_RUN: Final = -1
"""The run of a row of history without one."""
_BECAME: Final = JoinState.BECAME_NEXT_RUN
RUNNING: Final = advance(RunStatus.QUEUED, Move.CLAIM)


class Transitions(LiveSessions):
    """Changes the cached sessions, and notes the rows to write."""

    def __init__(
        self,
        records: Records | None,
        room: DiskSpace | None,
        *,
        max_attempts: int,
        numbers: Numbers,
        partitions: int = 1,
    ) -> None:
        super().__init__(max_attempts=max_attempts, partitions=partitions)
        self.records = records
        """Where uncached records are read at once; None: they are `Missing`."""
        self.found: dict[Hashable, Any] = {}
        """What was missing and has been read for the operation that is decided next."""
        self._room = room
        self.numbers = numbers
        """Draws the numbers of sessions, runs (also of places in the front lane), rows of history and claims."""
        self._now = 0.0
        self._changes: list[Change] = []
        self._claims: list[Claim] = []
        self._changed: list[SessionState] = []
        """Sessions with changes that are in no batch yet."""
        self._stored_of: dict[Principal, int] = {}
        """Stored bytes by principal, where they were needed so far; new runs are counted."""
        self._coming: list[tuple[Principal, int]] = []
        """Bytes of new runs that are in no batch yet, by principal."""
        self._bytes_in_flight: Counter[Principal] = Counter()
        """Bytes of new runs that are not durable, by principal, where these are bounded."""
        self._dropped: list[SessionKey] = []
        """Deleted sessions that are in no batch yet."""
        self._ceded: dict[int, int] = {}
        """Partitions that are ours no more, and how many owners each has had; in no batch yet."""
        self._to_send = 0
        """How many events to send are in no batch yet."""
        self._on_send: Callable[[], object] | None = None
        self._drops_in_flight: Counter[SessionKey] = Counter()
        """How many deletions of a session are not durable: storage still has it."""

    # -- what is stored -------------------------------------------------------------------------------

    def _fetched(self, what: Hashable, read: Callable[[Records], T]) -> T:
        """Return a record from storage. Raises `Missing` if it was not read yet."""
        if self.records is not None:
            return read(self.records)
        try:
            found: T = self.found[what]
        except KeyError:
            raise Missing(what, read) from None
        return found

    def _stored(self, run: RunState) -> StoredRun:
        """Return a waiting or claimed run with its checkpoints."""
        if run.new is not None:
            return StoredRun(as_run(run.new, run), ())
        session, seq = run.session.ref, run.seq
        return self._fetched(("run", seq), lambda records: records.run(session, seq))

    def _question(self, session: SessionState) -> StoredQuestion:
        """Return the question of a session's open round."""
        open_round = session.round
        assert open_round is not None
        for change in reversed(self._changes):  # (the one of this operation)
            if isinstance(change, AddQuestion) and change.session.no == session.no:
                return StoredQuestion(_decoded_question(change.question))
        ref, run, until = session.ref, open_round.run, open_round.until
        return self._fetched(("question", session.no, run), lambda records: records.question(ref, run, until))

    def _look_ahead(self, session: SessionState, joined: Collection[RunId] = ()) -> None:
        """Read what the next claim of a session needs: its next run, the question that it answers or dismisses.

        The next run may be one that joins the run that ends now, unless that ends those `joined` as well.
        """
        heads = [session.queue.head] if session.queue.has_next else []
        if session.joining:
            heads += [run for run in session.joining if run.waits or run.run_id not in joined]
        if not heads:
            return
        run = heads[0] if len(heads) == 1 else min(heads, key=_rank_alone)
        back = self._stored(run).run.back if run.new is None else run.new.back
        if run.collect is not None:
            self._look_at_turn(session, run, heads)
        self._look_back(session, back)
        if session.question is not None or session.answered_by(run) is not None:
            self._question(session)

    def _look_at_turn(self, session: SessionState, run: RunState, heads: Sequence[RunState]) -> None:
        """Read what is said with the next run, which collects; what joins the one that ends now may be part of it."""
        if not session.joining:
            turn, until = self._next_turn(session)
            more = turn[1:] if until <= self._now else []
        else:
            assert run.collect is not None
            more = [*heads, *session.queue.first(run.collect.by.max_items)]
        for each in more:
            if each.collect is not None:
                self._stored(each)

    def _look_up_waiting(self, runs: Iterable[RunState]) -> None:
        """Read what cancelling waiting runs needs."""
        for run in runs:
            if run.has_begun:
                self._stored(run)
            if run.session.answered_by(run) is not None:
                self._question(run.session)

    def _options(self, session: SessionState) -> RunDefaults:
        """Return the default options of a session's runs. Raises `RecordDamaged`."""
        return options_of(session.ref, session.options)

    def _locate_run(self, run_id: RunId) -> RunLocation | None:
        """Return where a run is, from storage if it is not cached."""
        return self._fetched(run_id, lambda records: records.locate_run(run_id))

    def _schedule(self, session: SessionState, schedule_id: ScheduleId) -> ScheduleTime | None:
        known = self._fetched(("schedule", schedule_id), lambda records: records.schedule(schedule_id))
        return None if known is None or known.session != session.no else known

    def _is_named(self, session: SessionState, file_id: FileId) -> bool | None:
        """Return whether a run names a file of a session; None if there is none."""
        return self._fetched(("file", session.no, file_id), lambda records: records.is_named(session.no, file_id))

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

    def _count_more(self, principal: Principal, more: int, most: int | None) -> Refused | None:
        """Count bytes that are to be stored for a principal, or refuse them if they would be too many."""
        if most is None or more <= 0:
            return None
        if self._stored_bytes(principal) + more > most:
            return Refused("storage_full", 0)
        self._coming.append((principal, more))
        self._bytes_in_flight[principal] += more
        return None

    # -- sessions -------------------------------------------------------------------------------------

    def _find(self, key: SessionKey) -> SessionState | None:
        """Return a session, from storage if it is not cached; None if it does not exist.

        Raises `NotOwner` if it is in a partition that is not ours, and `RecordDamaged`.
        """
        session = self._sessions.get(key)
        if session is None:
            self._check_owned(key)
            if (damage := self._damaged.get(key)) is not None:
                raise RecordDamaged(damage)
        if session is None and key not in self._drops_in_flight:
            session = self._fetched(key, lambda records: records.session(key))
            if session is not None:
                self._install(session)
                self.found.pop(key, None)
        return session

    def _add(self, key: SessionKey) -> SessionState:
        session = SessionState(SessionRef.of(self.numbers.session(self.partition(key)), key), keys=Keys())
        self._install(session)
        self._note(session, AddSession(session.ref))
        return session

    def _change_session(self, session: SessionState) -> None:
        self._note(
            session,
            ChangeSession(session.no, session.paused, session.closed_since, session.rests_since),
        )

    def _touch(self, session: SessionState) -> None:
        """Note that a session is about to be changed."""
        if not session.is_changed:
            session.is_changed = True
            self._changed.append(session)

    def _note(self, session: SessionState, change: Change) -> None:
        """Note a row to write."""
        if not session.is_changed:
            self._touch(session)
        self._changes.append(change)

    # -- runs -----------------------------------------------------------------------------------------

    def _claimed(self, token: FencingToken) -> RunState:
        """Return the run that `token` is for. Raises `ClaimLost` if the token is stale."""
        run = self._runs.get(token.run_id)
        if run is None or run.fence != token.fence:
            raise ClaimLost(f"the claim on run {token.run_id} is lost")
        return run

    def _executing(self, token: FencingToken) -> RunState:
        """Return the run that `token` is for. Raises `ClaimLost` if the token is stale, or good for a release only."""
        run = self._claimed(token)
        if run.held_since is not None:
            raise ClaimLost(f"run {token.run_id} has ended; its claim is held and can only be released")
        return run

    def _enqueue(self, run: RunState) -> None:
        self._touch(run.session)
        self._join(run)

    def _leave_queue(self, run: RunState) -> None:
        self._touch(run.session)
        self._leave(run)

    def _change_run(self, run: RunState, *, was: int | None) -> None:
        last = run.fence is not None and is_last(run.attempt, self._max_attempts)
        self._note(
            run.session,
            ChangeRun(
                run.seq, was, run.lane, run.urgency, run.moved, run.attempt, run.fence, last, run.started_at,
                run.queue_deadline, run.cancel_requested, run.discard,
            ),
        )  # fmt: skip

    def _send(self, run: RunState, event: Payload) -> None:
        """Have an event of a run sent to its webhook, if that wants it."""
        webhook = run.webhook
        if webhook is not None and webhook.wants(event.type):
            self._note(run.session, delivery(run.session.ref, run, webhook, event, self._now))
            self._to_send += 1

    def _webhook_for(self, session: SessionState, event: str, report: SessionReport) -> RunWebhook | None:
        """Return where an event of a session is to be sent; None for nowhere. To be asked before anything changes."""
        try:
            own = self._options(session).webhook
        except RecordDamaged:  # (nobody knows where it was to go)
            return None
        webhook = report.webhook if own is None else RunWebhook(own.url, own.events)
        if webhook is None or not webhook.wants(event):
            return None
        principal, most = session.key.principal, report.deliveries
        if most is not None and self._deliveries_of(principal, most) >= most:
            return None
        return webhook

    def _deliveries_of(self, principal: Principal, most: int) -> int:
        """Return how many events of a principal are left, `most` at most."""
        return self._fetched(("deliveries", principal), lambda records: records.deliveries_of(principal, most))

    def _send_of_session(self, session: SessionState, kind: str, webhook: RunWebhook | None) -> None:
        """Have an event of a session sent to a webhook, if there is one."""
        if webhook is not None:
            number = self.numbers.fence(self._partition(session))
            self._note(session, session_delivery(session.ref, kind, webhook, number, self._now))
            self._to_send += 1

    # -- runs that join -------------------------------------------------------------------------------

    def _change_join(self, run: RunState) -> None:
        assert run.join is not None
        host = None if run.host is None else run.host.run_id
        self._note(run.session, ChangeJoin(run.seq, run.join.value, host, run.started_at))

    def _apply(self, run: RunState) -> None:
        """Note that a run has reached its host, whose outcome will be its own."""
        self._touch(run.session)
        run.join, run.started_at = JoinState.APPLIED, self._now
        self._reach_host(run)
        self._change_join(run)
        if run.webhook is not None:
            self._send(run, joined(run))

    def _become_next(self, run: RunState) -> None:
        """Give a run that was to join another a turn of its own: before others of its priority."""
        self._leave_host(run)
        joined_at = run.started_at
        run.host, run.join, run.started_at = None, JoinState.BECAME_NEXT_RUN, None
        if joined_at is not None and run.queue_deadline is not None:
            run.queue_deadline += max(0.0, self._now - joined_at)  # (it did not wait since then)
        self._enqueue(run)
        self._change_join(run)
        if joined_at is not None:
            self._change_run(run, was=None)

    def _leave_host(self, run: RunState) -> None:
        """Have a run join its host no longer."""
        self._touch(run.session)
        run.session.joining.remove(run)
        if run.join is JoinState.PENDING:
            new = run.new
            self._reach_host(run)
            run.new = new

    def _end_joins(
        self, host: RunState, status: RunStatus, outcome: bytes, joined: Collection[RunId], *, discarded: bool
    ) -> None:
        """End the runs that joined one that ends, if its messages have theirs; the others become the next runs."""
        session = host.session
        for run in [each for each in session.joining if each.host is host]:
            if run.join is JoinState.APPLIED and run.run_id in joined:
                self._end(run, status, outcome, discarded=discarded)
                self._append(session, run.seq, None, 0, discarded=discarded)
            else:
                self._become_next(run)

    def _claim(self, run: RunState) -> int:
        """Claim a run for execution; return its fence."""
        self._touch(run.session)
        run.fence = fence = self.numbers.fence(self._partition(run.session))
        run.attempt += 1
        if run.started_at is None:
            run.started_at = self._now
        run.session.claimed = run
        self._gains_claim(run.session)
        self._executes(run)
        if run.webhook is not None:
            self._send(run, started(run))
        return fence

    def _unclaim(self, run: RunState) -> None:
        self._touch(run.session)
        run.session.claimed = None
        self._loses_claim(run.session)
        run.fence = None
        if run.held_since is None:
            self._executes_no_more(run)
        self._moved(run.session.key)

    def _requeue(self, run: RunState, attempt: int) -> None:
        """Requeue an executing run at the head of its queue; since it has begun, it has no queue deadline."""
        was = run.fence
        self._unclaim(run)
        run.lane, run.urgency, _ = rank(Lane.REQUEUED, 0, run.seq)
        run.attempt, run.queue_deadline = attempt, None
        self._enqueue(run)
        self._change_run(run, was=was)

    def _become_due(self, run: RunState) -> None:
        """Have a delayed run wait for its turn, behind all that wait already with its priority."""
        session = run.session
        self._touch(session)
        session.queue.remove(run)
        was, run.seq = run.seq, self.numbers.next_run(self._partition(session))
        self.numbers.drew_run(run.seq)
        run.lane, run.urgency, _ = rank(Lane.NORMAL, delayed_priority(run.urgency), run.seq)
        session.queue.add(run)
        self._watch(run)
        self._note(session, DueRun(session.ref, was, run.seq, run.lane, run.urgency))
        self._moved(session.key)

    def _claim_next(self, session: SessionState) -> ClaimResult:
        """Claim the next run of a session."""
        if (cannot := self._cannot_claim(session, self._now)) is not None:
            return cannot
        run = session.queue.head
        stored, checkpoints, error = self._stored(run)
        collected = self._collected(session) if run.collect is not None and error is None else []
        back = None if run.has_begun or stored.back is None else stored.back.at
        branches: list[Branch] = []
        if back is not None:  # (what was kept when it was accepted may be gone)
            branches, back = self._branches(session), replace(back, agent=self._kept(session, back.agent))
        question = None
        if session.answered_by(run) is not None:
            question, damage = self._question(session)
            error = error or damage
        if error is not None:
            _log.error("run %s cannot resume: %s", run.run_id, error)
        if session.question is not None:
            self._dismiss(session)
        if back is not None:
            self._go_back(session, back, branches, run.seq)
        self._leave_queue(run)
        fence = self._claim(run)
        self._change_run(run, was=None)
        if collected:
            checkpoints = (*checkpoints, self._collect(run, collected))
        claimed = replace(
            stored,
            status=RUNNING,
            lane=run.lane,
            attempt=run.attempt,
            started_at=run.started_at,
            queue_deadline=run.queue_deadline,
            position=None,
            joined=None,
            join=run.join,
        )
        token, damaged = FencingToken(run.run_id, fence), error is not None
        self._claims.append(
            Claim(token=token, run=claimed, checkpoints=checkpoints, question=question, damaged=damaged)
        )
        return ClaimResult.CLAIMED

    def _collected(self, session: SessionState) -> list[tuple[RunState, Run]]:
        """Return the runs that are part of the turn of the next one, with what they say; one that cannot be read ends
        it."""
        runs = self._next_turn(session)[0][1:]
        found = [(run, self._stored(run)) for run in runs]
        return [(run, each.run) for run, each in takewhile(lambda pair: pair[1].error is None, found)]

    def _collect(self, host: RunState, collected: Sequence[tuple[RunState, Run]]) -> RunsCollected:
        """Have waiting runs join one that starts, by a checkpoint before anything else of it."""
        session = host.session
        checkpoint = RunsCollected([JoinedInput(run.run_id, said.input, said.sender) for run, said in collected])
        self._note(session, AddCheckpoint(host.seq, host.checkpoints, encode_messages(checkpoint)))
        host.checkpoints += 1
        for run, _ in collected:
            self._leave_queue(run)
            run.host, run.join, run.started_at = host, JoinState.APPLIED, self._now
            self._change_join(run)
            if run.webhook is not None:
                self._send(run, joined(run))
        session.joining = in_order([*session.joining, *(run for run, _ in collected)])
        return checkpoint

    def _end(
        self,
        run: RunState,
        status: RunStatus,
        outcome: bytes,
        *,
        discarded: bool,
        hold: bool = False,
        unresolved: bool = False,
    ) -> None:
        """End a run; with `hold` keep its claim, as `unresolved` its checkpoints."""
        was = run.fence
        if hold:
            run.held_since = self._now
            self._executes_no_more(run)
        else:
            if run.session.claimed is run:
                self._unclaim(run)
            elif run.host is not None:
                self._leave_host(run)
            else:
                self._leave_queue(run)
            del self._runs[run.run_id]
        end = EndRun(
            run.session.ref, run.seq, was, status, outcome, run.attempt, run.started_at, self._now, run.fence,
            discarded,
        )  # fmt: skip
        self._note(run.session, end)
        if run.webhook is not None:
            self._send(run, finished(run, status, outcome))
        if run.checkpoints and not unresolved:
            self._note(run.session, DropCheckpoints(run.seq))
            run.checkpoints = 0

    def _end_waiting(
        self,
        run: RunState,
        outcome: Outcome,
        messages: Sequence[Message],
        *,
        discard: bool = False,
        joined: Collection[RunId] = (),
    ) -> None:
        """End a waiting run, leaving `messages` in history; `joined` are the runs whose messages are among these."""
        session = run.session
        self._end(run, outcome.status, encode_messages(outcome), discarded=discard)
        encoded = encode_messages(messages) if messages else None
        self._append(session, run.seq, encoded, len(messages), discarded=discard, continues=run.has_begun)
        if session.joining:
            shared = encode_messages(joined_outcome(outcome))
            self._end_joins(run, outcome.status, shared, joined, discarded=discard)
        self._close_round_of(run, closed=bool(messages) and not discard, begun=discard)

    def _cancel_waiting(self, run: RunState, *, discard: bool = False) -> dict[RunId, Outcome]:
        """End a waiting run as cancelled, and those that joined it; one that has begun is closed by its checkpoints."""
        session = run.session
        question = None if session.answered_by(run) is None else self._question(session).question
        checkpoints = self._stored(run).checkpoints if run.has_begun else ()
        outcome, messages = cancelled(checkpoints, question=question)
        return self._end_begun(run, outcome, messages, checkpoints, discard=discard)

    def _end_begun(
        self,
        run: RunState,
        outcome: Outcome,
        messages: Sequence[Message],
        checkpoints: Iterable[Checkpoint],
        *,
        discard: bool,
    ) -> dict[RunId, Outcome]:
        """End a waiting run with those that joined it, as its checkpoints say; return the outcomes."""
        joined = joined_in(checkpoints)
        self._end_waiting(run, outcome, messages, discard=discard, joined=joined)
        return {run.run_id: outcome, **dict.fromkeys(joined, joined_outcome(outcome))}

    def _time_out(self, run: RunState, *, discard: bool) -> dict[RunId, Outcome]:
        """End a run that has begun and waits again as timed out, and those that joined it, closed by its
        checkpoints."""
        session = run.session
        question = None if session.answered_by(run) is None else self._question(session).question
        found, checkpoints, _ = self._stored(run)
        outcome, messages = timed_out(found, checkpoints, question=question)
        return self._end_begun(run, outcome, messages, checkpoints, discard=discard)

    def _request_end(self, run: RunState, *, discard: bool = False) -> RunId:
        """Note that an executing run can only end as cancelled."""
        run.cancel_requested = True
        run.discard = run.discard or discard
        self._change_run(run, was=run.fence)
        return run.run_id

    def _append(
        self,
        session: SessionState,
        seq: int,
        messages: bytes | None,
        count: int,
        *,
        discarded: bool = False,
        agent: int | None = None,
        continues: bool = True,
    ) -> None:
        """Append a run's messages to history; `agent` is the run that has changed window or state, if one has now.

        With `continues` False and no messages history has not continued: a crashed run at its end can be resolved.
        """
        if session.unresolved is not None and (continues or count):
            self._resolved(session)
        end, row = session.end, self.numbers.row(self._partition(session))
        if agent is None:
            agent = end.agent
        self._note(
            session,
            AddHistory(
                session.ref, row, end.nth + 1, end.length, count, end.row, seq, discarded, messages, self._now, agent
            ),
        )  # fmt: skip
        session.end = HistoryEnd(row, end.nth + 1, end.length + count, agent)
        session.rests_since = self._now

    # -- crashed runs that a person takes up --------------------------------------------------------------

    def _leave_unresolved(self, run: RunState) -> None:
        """Note that a run at the end of history has a tool whose outcome a person may find out."""
        session = run.session
        session.unresolved = run.seq
        self._note(session, ChangeCourse(session.no, session.branch, run.seq))

    def _resolved(self, session: SessionState) -> None:
        """Drop the checkpoints of the run at the end of history: nobody can have it continue any more."""
        assert session.unresolved is not None
        self._note(session, DropCheckpoints(session.unresolved))
        session.unresolved = None
        self._note(session, ChangeCourse(session.no, session.branch, None))

    def _continue(self, run: RunState, crashed: Crashed) -> None:
        """Have an accepted run continue a crashed one, whose messages are superseded."""
        session = run.session
        for nth, checkpoint in enumerate(crashed.checkpoints):
            self._note(session, AddCheckpoint(run.seq, nth, encode_messages(checkpoint)))
        run.checkpoints = len(crashed.checkpoints)
        self._resolved(session)
        self._branch(session, crashed.branches, session.branch or 0, crashed.first, run.seq)

    def _branch(
        self,
        session: SessionState,
        branches: Sequence[Branch],
        parent: int,
        upto: int,
        run: int | None,
        *,
        forgotten: bool = False,
    ) -> None:
        """Have history continue after the messages before `upto` of a branch: all others are superseded.

        `run` is the run that it continues with, if it is one. `forgotten`: without window and state as they were.
        """
        made = branch_at(branches, session.end.length, parent, upto, run)
        session.branch = made.start
        self._note(session, AddBranch(session.no, *made, forgotten))
        self._note(session, ChangeCourse(session.no, session.branch, session.unresolved))

    # -- histories that continue from an earlier place ------------------------------------------------------

    def _branches(self, session: SessionState) -> list[Branch]:
        """Return the branches of a session's history after the first one."""
        if session.branch is None:
            return []
        ref = session.ref
        return self._fetched(("branches", ref.no), lambda records: records.branches(ref))

    def _goes_back(self, run: RunState) -> bool:
        """Return whether a waiting run goes back."""
        if run.lane != Lane.FRONT:
            return False
        return (self._stored(run).run.back if run.new is None else run.new.back) is not None

    def _look_back(self, session: SessionState, back: GoBack | None) -> None:
        """Read what it needs to go back to a place in a session's history."""
        if back is not None:
            self._branches(session)
            if back.at is not None and back.at.agent not in (None, NO_AGENT):
                self._is_kept(session, back.at.agent)  # (the run that ends now may change the agent)

    def _is_kept(self, session: SessionState, agent: int) -> bool:
        ref = session.ref
        return self._fetched(("agent", agent), lambda records: records.keeps_agent(ref, agent))

    def _kept(self, session: SessionState, agent: int | None) -> int | None:
        """Return the run after which window and state were as they are to be again; None if they are forgotten."""
        if agent is None or agent in (NO_AGENT, session.end.agent):
            return agent
        return agent if self._is_kept(session, agent) else None

    def _go_back(self, session: SessionState, place: Place, branches: Sequence[Branch], run: int | None) -> None:
        """Have history continue from a place, with window and state as they were by then.

        A row of history without messages says so, since an agent may have been forgotten. At the end of history nothing
        happens, unless a run that has left no message has changed the agent since: that begins a branch, too.
        """
        here = branch_at(branches, session.end.length, session.branch or 0, session.end.length)
        is_here = branch_at(branches, session.end.length, place.parent, place.upto) == here
        if is_here and place.agent == session.end.agent:
            return
        agent = NO_AGENT if place.agent is None else place.agent
        if place.agent is None or agent != session.end.agent:
            self._note(session, ResetAgent(session.no, agent))
        self._append(session, NO_RUN, None, 0, agent=agent)
        self._branch(session, branches, place.parent, place.upto, run, forgotten=place.agent is None)

    # -- time that stands still -----------------------------------------------------------------------

    def _end_hold(self, run: RunState) -> None:
        """End the hold of a run; its session reopens unless it is paused."""
        session, since = run.session, run.held_since
        assert run.fence is not None
        self._note(session, EndHold(run.seq, run.fence))
        self._unclaim(run)
        del self._runs[run.run_id]
        if not session.paused:
            self._open_again(session, since)

    def _open_again(self, session: SessionState, held_since: float | None) -> None:
        """Reopen a session that was held since `held_since` or closed earlier, and move its queue deadlines by that
        time."""
        since = session.closed_since if session.closed_since is not None else held_since
        assert since is not None
        self._delay_since(session, since)
        if session.closed_since is not None:
            session.closed_since = None
            self._change_session(session)
        for run in (*session.queue, *session.pending):
            self._watch(run)
        self._moved(session.key)

    def _delay_since(self, session: SessionState, since: float) -> None:
        for run in (*session.queue, *session.pending):
            self._delay(run, stood_s(since, run.waits_since, self._now))

    def _delay_until(self, session: SessionState, until: float, sign: int) -> None:
        """Move the queue deadlines of a session, there or back, by the time that is left until then."""
        for run in (*session.queue, *session.pending):
            self._delay(run, sign * max(0.0, until - max(self._now, run.waits_since)))

    def _delay(self, run: RunState, seconds: float) -> None:
        if run.queue_deadline is not None and seconds:
            run.queue_deadline += seconds
            self._change_run(run, was=None)
            if seconds < 0 and not run.is_delayed:
                self._watch(run)

    # -- questions ------------------------------------------------------------------------------------

    def _ask(self, session: SessionState, seq: int, question: bytes, until: float, *, hold: bool) -> None:
        """Have a session wait for input until then; what waits in it may wait for so much longer.

        If it is closed besides, its time stands still for that only when it waits no longer: no minute counts twice.
        """
        session.round = OpenRound(seq, until)
        self._note(session, AddQuestion(session.ref, seq, until, question))
        if session.closed_since is not None:
            self._delay_since(session, session.closed_since)
        if session.closed_since is not None or hold:
            session.closed_since = until
            self._change_session(session)
        self._delay_until(session, until, 1)
        self._question_moved(session)

    def _close_requests(self, session: SessionState, open_round: OpenRound, question: Question, how: Closed) -> None:
        """Have a session wait for input no longer; note why, for as long as the run is kept that has asked."""
        for each in question.requests:
            self._note(session, CloseRequest(session.no, each.id, open_round.run, how))
        self._delay_until(session, open_round.until, -1)
        if session.closed_since is not None and session.closed_since > self._now:
            session.closed_since = self._now
            self._change_session(session)

    def _dismiss(self, session: SessionState, *, begun: bool = False) -> None:
        """Close the open round of a question in history."""
        open_round = session.round
        assert open_round is not None
        question, error = self._question(session)
        if error is not None:
            _log.error("%s", error)
        if open_round.answer is None:
            self._close_requests(session, open_round, question, "dismissed")
        messages = dismissed(question, begun=begun)
        self._append(session, NO_RUN, encode_messages(messages), len(messages))
        self._drop_question(session)

    def _drop_question(self, session: SessionState) -> None:
        session.round = None
        self._note(session, DropQuestion(session.no))
        self._question_moved(session)

    def _question_moved(self, session: SessionState) -> None:
        """Note that a session waits for input from now on, or no longer."""
        self._watch_session(session)
        self._moved(session.key)

    def _close_round_of(self, run: RunState, *, closed: bool, begun: bool) -> None:
        """Note that a run has ended; if it answered a question, its round is `closed` by what it left, or else here."""
        session = run.session
        if session.answered_by(run) is None:
            return
        if closed:
            self._drop_question(session)
        else:
            self._dismiss(session, begun=begun)


def in_order(runs: Iterable[RunState]) -> list[RunState]:
    """Return runs in order of sequence."""
    return sorted(runs, key=lambda run: run.seq)


def _rank_alone(run: RunState) -> Rank:
    """Return the rank of a run; of one that joins, the rank it will have as the next run."""
    return run.rank if run.host is None else (run.lane, run.urgency, place(run.lane, run.seq, _BECAME))


def as_run(new: NewRun, run: RunState) -> Run:
    """Return a run as it is now, from what it was accepted as."""
    return Run(
        run_id=new.run_id,
        key=new.key,
        input=new.input,
        lane=run.lane,
        priority=new.priority if run.moved is None else run.moved,
        resumable=new.resumable,
        metadata=new.metadata,
        sequence=run.seq,
        status=RunStatus.QUEUED if run.fence is None else RUNNING,
        attempt=run.attempt,
        created_at=new.created_at,
        started_at=run.started_at,
        timeout_s=new.timeout_s,
        queue_deadline=run.queue_deadline,
        if_busy=new.if_busy,
        joined=None if run.host is None else run.host.run_id,
        join=run.join,
        trace=new.trace,
        not_before=new.not_before,
        sender=new.sender,
        back=new.back,
        webhook=new.webhook,
    )

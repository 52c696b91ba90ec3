"""Accepts runs: what decides whether, and as what, a run is stored.

`accept` first completes an `Arrival`, one reason to refuse after the other, then stores it, which cannot fail.
"""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from strandline._encoding import encode_messages
from strandline._journal.changes import AddRun, AnswerQuestion, Body, DropKey, MoveSchedule
from strandline._journal.defaults import with_defaults
from strandline._journal.deliveries import queued
from strandline._journal.errors import RunIdTaken
from strandline._journal.going_back import GoingBack, at_place
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    Attached,
    Bounds,
    JoinedSince,
    Overlaps,
    Refused,
    Reused,
    ScheduleMoved,
    Stopped,
    Unanswerable,
    Unreachable,
    Unresolvable,
)
from strandline._journal.rules import (
    Branch,
    Closed,
    Rank,
    answers_key,
    as_answer,
    check_answer,
    check_resolution,
    collecting,
    continued,
    first_rank,
    may_join,
    passes_client_tools,
)
from strandline._journal.state import Keys, OpenRound, RunState, SessionState
from strandline._journal.transitions import Crashed, as_run
from strandline._model import (
    INTERRUPTS,
    Claim,
    Collecting,
    FencingToken,
    Firing,
    IfBusy,
    JoinedInput,
    JoinState,
    Lane,
    NewRun,
    OnQuestion,
    Outcome,
    Place,
    Question,
    Resolution,
    RunDefaults,
    RunId,
    RunsJoined,
    answered,
)

_ENQUEUE: Final = IfBusy.ENQUEUE
KEPT_BYTES: Final = 2048
"""An input up to this size stays in memory while its run waits; a longer one is read when its run is claimed."""


class Arrival(Struct, gc=False):
    """A run that is to be accepted, and what that rests on."""

    new: NewRun
    body: Body
    session: SessionState | None
    """None: it begins with this run."""
    partition: int
    open_round: OpenRound | None
    """The question of the session that is open."""
    executing: RunState | None
    replaced: RunState | None = None
    """The waiting run of its schedule whose place it takes."""
    forgotten: int | None = None
    """The sequence of the run that its key stood for until it expired."""
    defaults: RunDefaults | None = None
    """Those of its session, which `new` has."""
    question: Question | None = None
    """The question that it answers."""
    crashed: Crashed | None = None
    """The run that it continues."""
    branches: Sequence[Branch] = ()
    """Those of its session, if it goes back."""
    host: RunState | None = None
    """The run that it joins."""
    join: JoinState | None = None
    collect: Collecting | None = None
    """How it collects others."""
    seq: int = 0
    place: Rank = (0, 0, 0)
    ahead: int = 0
    """How many runs wait before it, without those that leave."""
    may_proceed: bool = True
    """Whether the open question holds it up no longer."""
    leaving: Sequence[RunState] = ()
    """The waiting runs that end with its acceptance."""
    repeated: Sequence[JoinedInput] = ()
    """What joined the run that it interrupts and replaces, and is said again with it."""
    at_once: bool = False
    """Whether it is claimed with its acceptance."""


class Accepting(GoingBack):
    """Stores runs, or refuses them."""

    def accept(self, new: NewRun, body: Body, bounds: Bounds, *, claim_next: bool, now: float) -> AcceptAnswer:
        """Store a run, or refuse it over `bounds`; `claim_next`: claim it if its session is free and it is first."""
        self._now = now
        if new.run_id in self._runs:
            raise RunIdTaken(new.run_id)
        session = self._find(new.key)
        if session is None:
            arrival = Arrival(new, body, None, self.partition(new.key), None, None)
        else:
            arrival = Arrival(new, body, session, self._partition(session), session.question, session.executing)
        refusal = (
            (None if new.fires is None else self._check_schedule(arrival, new.fires))
            or (None if new.keyed is None else self._check_key(arrival))
            or (None if new.expected_run_id is None else self._check_expected(arrival))
            or self._complete(arrival)
            or self._place(arrival)
            or (
                None
                if arrival.open_round is None and arrival.new.lane != Lane.ANSWER
                else self._check_question(arrival)
            )
            or self._check_storage(arrival, bounds)
            or self._check_queues(arrival, bounds, claim_next=claim_next)
        )
        return self._admit(arrival, bounds) if refusal is None else refusal

    # -- what decides ---------------------------------------------------------------------------------

    def _check_schedule(self, arrival: Arrival, fires: Firing) -> ScheduleMoved | Overlaps | None:
        """Refuse a run that is not for the next time of its schedule, or skips it since the one before has not
        ended."""
        session = arrival.session
        if session is None or not self._is_next_time(session, fires):
            return ScheduleMoved()
        before = self._unended(session, fires.before)
        if before is not None and fires.skipped is not None:
            at, state = fires.next_at, fires.skipped
            self._note(session, MoveSchedule(session.ref, fires.schedule_id, at, None, state))
            return Overlaps()
        if before is not None and fires.replaces and before.fence is None and not before.has_begun:
            arrival.replaced = before
        return None

    def _check_key(self, arrival: Arrival) -> Attached | Reused | None:
        """Find the run that the key of a run stands for already."""
        if arrival.session is None:
            return None
        known = self._stands_for(arrival.session, arrival.new)
        if isinstance(known, Attached | Reused):
            return known
        arrival.forgotten = known
        return None

    def _check_expected(self, arrival: Arrival) -> Refused | None:
        """Refuse a run that is to join another than the one that executes."""
        expected, executing = arrival.new.expected_run_id, arrival.executing
        if expected is not None and (executing is None or executing.run_id != expected):
            return Refused("not_running", 0)
        return None

    def _complete(self, arrival: Arrival) -> Unresolvable | Unreachable | JoinedSince | Refused | None:
        """Give a run the defaults of its session, and find the question that it answers, or the run that it
        continues, or the place that it goes back to."""
        session = arrival.session
        if session is not None and session.options is not None:
            arrival.defaults = defaults = self._options(session)
            arrival.new, arrival.body = with_defaults(arrival.new, arrival.body, defaults)
        if arrival.new.unless_last and session is not None and self._is_last_run(session, arrival.new):
            arrival.new, arrival.body = replace(arrival.new, back=None), replace(arrival.body, back=None)
        collects = arrival.new.if_busy is IfBusy.COLLECT or arrival.new.resolution is not None
        if not collects and "collect" in arrival.new.own_options:
            return Refused("not_collecting", 0)
        if session is not None and arrival.open_round is not None:
            self._complete_for_question(session, arrival)
        if arrival.new.resolution is not None:
            crashed = self._to_continue(session, arrival.new.resolution)
            if isinstance(crashed, Unresolvable):
                return crashed
            arrival.crashed = crashed
        if arrival.new.back is not None:
            place = self._place_for(session, arrival.new)
            if not isinstance(place, Place):
                return place
            arrival.new, arrival.body = at_place(arrival.new, arrival.body, place)
            arrival.branches = () if session is None else self._branches(session)
        return None

    def _complete_for_question(self, session: SessionState, arrival: Arrival) -> None:
        """Have a run dismiss its session's open question if that calls a client's tools, or answer it if it may."""
        if passes_client_tools(arrival.new) and self._question(session).question.is_of_client:
            arrival.new = replace(arrival.new, on_question=OnQuestion.DISMISS)
        if arrival.new.may_answer:
            found = self._question(session).question
            if (answer := as_answer(arrival.new, found)) is not None:
                arrival.new, arrival.question = answer, found
                arrival.body = replace(arrival.body, prompt=encode_messages(answer.input))

    def _place(self, arrival: Arrival) -> Refused | None:
        """Find a run's host, or its place in the queue, unless it must not wait; and which runs leave for it."""
        new, session, open_round = arrival.new, arrival.session, arrival.open_round
        arrival.seq = self.numbers.next_run(arrival.partition)
        if new.if_busy is IfBusy.STEER:
            arrival.host = self._host_for(new, arrival.executing)
            arrival.join = JoinState.BECAME_NEXT_RUN if arrival.host is None else JoinState.PENDING
        elif new.if_busy is IfBusy.COLLECT and (collect := collecting(new)) is not None:
            arrival.collect = collect
            arrival.body = replace(arrival.body, collect=encode_messages(collect))
        arrival.place = first_rank(new, arrival.seq, self._now, arrival.join)
        if session is None:
            return None
        arrival.ahead = session.queue.ahead(arrival.place)
        arrival.may_proceed = open_round is None or new.dismisses or open_round.until <= self._now
        if new.if_busy is not _ENQUEUE:
            is_behind = new.lane != Lane.ANSWER and (session.queue.has_next or not arrival.may_proceed)
            is_busy = is_behind or session.claimed is not None or session.paused
            if is_busy and new.if_busy is IfBusy.REJECT:
                return Refused("session_busy", arrival.ahead + 1)
            arrival.leaving = self._begun_and_waiting(session, new.if_busy)
            self._look_up_waiting(arrival.leaving)
            arrival.repeated = self._repeated(new, arrival.executing)
            arrival.ahead -= len(arrival.leaving)
        if (replaced := arrival.replaced) is not None:
            arrival.leaving = [replaced]
            arrival.ahead -= replaced.rank < arrival.place
        return None

    def _check_question(self, arrival: Arrival) -> Unanswerable | None:
        """Read the question that a run answers or dismisses; refuse an answer to any other."""
        session, new = arrival.session, arrival.new
        is_open = session is not None and arrival.open_round is not None
        if session is not None and is_open and arrival.may_proceed:
            self._question(session)  # (to dismiss it)
        if new.lane != Lane.ANSWER or arrival.question is not None:
            return None
        if session is not None and is_open:
            arrival.question, error = self._question(session)
            if error is not None:
                raise error
        return self._cannot_answer(session, arrival.question, new)

    def _check_storage(self, arrival: Arrival, bounds: Bounds) -> Refused | None:
        """Refuse a run for which there is no storage left, or no space on the disk."""
        most = bounds.stored_bytes
        if most is not None and self._stored_bytes(arrival.new.key.principal) + arrival.body.size > most:
            return Refused("storage_full", arrival.ahead + 1)
        if arrival.new.webhook is not None and (most := bounds.deliveries) is not None:
            count = self._deliveries_of(arrival.new.key.principal, most)
            if count >= most:
                return Refused("webhooks_full", arrival.ahead + 1)
        if (room := self._room) is not None:
            if room.is_due:
                self._fetched("room", lambda records: records.look_for_room())
            if not room.has_room(arrival.body.size):
                return Refused("disk_low", arrival.ahead + 1)
        return None

    def _check_queues(self, arrival: Arrival, bounds: Bounds, *, claim_next: bool) -> Refused | None:
        """Find whether a run is claimed at once; refuse one that is not and would wait in a full queue."""
        session, answers = arrival.session, arrival.question is not None
        is_free = session is None or (session.claimed is None and not session.paused)
        is_free = is_free and not self._is_closing(arrival.partition) and arrival.place[0] != Lane.DELAYED
        if arrival.collect is not None and is_free:
            is_free = arrival.collect.starts_alone(len(arrival.body.prompt))
        arrival.at_once = claim_next and not arrival.ahead and is_free and (arrival.may_proceed or answers)
        if arrival.at_once or answers:
            return None
        leaving = len(arrival.leaving)
        waiting = (session.waiting if session is not None else 0) - leaving
        full = self._full(arrival.new, bounds, waiting, leaving)
        return None if full is None else Refused(full, arrival.ahead + 1)

    # -- what is stored -------------------------------------------------------------------------------

    def _admit(self, arrival: Arrival, bounds: Bounds) -> Accepted:
        """Store a run that nothing refuses, with all that its acceptance changes."""
        new, session = arrival.new, arrival.session
        if session is None:
            session = self._add(new.key)
        if new.keyed is not None and session.keys is not None:
            session.keys.add(new.keyed.key)
        run = self._draw(arrival, session, bounds)
        stopped = self._make_way(arrival, session, run)
        self._add_run(arrival, run)
        defaults = arrival.defaults
        defaulted = None if defaults is None and not new.unless_last else new
        if run.fence is not None:
            claimed, crashed = as_run(new, run), arrival.crashed
            checkpoints = () if crashed is None else crashed.checkpoints
            token = FencingToken(run.run_id, run.fence)
            self._claims.append(Claim(token=token, run=claimed, checkpoints=checkpoints, question=arrival.question))
            return Accepted(0, stopped, defaults, defaulted)
        if arrival.host is not None:
            self._wait_for_host(run)
            return Accepted(0, None, defaults, defaulted, joined=arrival.host.run_id)
        self._enqueue(run)
        return Accepted(arrival.ahead + 1, stopped, defaults, defaulted)

    def _draw(self, arrival: Arrival, session: SessionState, bounds: Bounds) -> RunState:
        """Make the run that an arrival becomes, which has its sequence and is counted from now on."""
        new, place = arrival.new, arrival.place
        run = RunState(
            session, new.run_id, arrival.seq, place[0], place[1], new.created_at, new.queue_deadline,
            timeout_s=new.timeout_s, not_before=new.not_before,
        )  # fmt: skip
        run.host, run.join, run.webhook = arrival.host, arrival.join, new.webhook
        if arrival.collect is not None:
            run.collect, run.size = arrival.collect, len(arrival.body.prompt)
        self.numbers.drew_run(run.seq)
        if bounds.stored_bytes is not None:
            self._coming.append((new.key.principal, arrival.body.size))
            self._bytes_in_flight[new.key.principal] += arrival.body.size
        if self._room is not None:
            self._room.keeps(arrival.body.size)
        return run

    def _make_way(self, arrival: Arrival, session: SessionState, run: RunState) -> Stopped | None:
        """Apply what the acceptance of a run changes in its session: its question, what it stops, its schedule, the
        key of an older run."""
        new, open_round = arrival.new, arrival.open_round
        if open_round is not None:
            dismiss = arrival.at_once or new.dismisses
            self._meet_question(session, open_round, run, arrival.question, dismiss=dismiss)
        stopped = None if new.if_busy is _ENQUEUE else self._interrupt(session, arrival)
        if (fires := new.fires) is not None:
            at, state = fires.next_at, fires.state
            self._note(session, MoveSchedule(session.ref, fires.schedule_id, at, None, state))
        if arrival.replaced is not None:
            stopped = Stopped(self._cancel_waiting(arrival.replaced), [])
        if arrival.forgotten is not None:
            self._note(session, DropKey(arrival.forgotten))
        return stopped

    def _add_run(self, arrival: Arrival, run: RunState) -> None:
        """Store an accepted run, claimed if that is `at_once`."""
        session, new, body, crashed = run.session, arrival.new, arrival.body, arrival.crashed
        if arrival.at_once and new.back is not None and new.back.at is not None:
            self._go_back(session, new.back.at, arrival.branches, run.seq)
        fence = self._claim(run) if arrival.at_once else None
        host = None if run.host is None else run.host.run_id
        added = AddRun(
            session.ref, run.seq, new, body, run.lane, run.urgency, run.queue_deadline, fence, run.started_at, host,
            run.join,
        )  # fmt: skip
        self._note(session, added)
        self._runs[run.run_id] = run
        if run.webhook is not None:
            self._send(run, queued(run))
        if crashed is not None:
            self._continue(run, crashed)
        if fence is not None:
            return
        if crashed is None:
            run.new = new if body.size <= KEPT_BYTES else None
        else:
            run.started_at = self._now
            self._change_run(run, was=None)

    # -- what it rests on -----------------------------------------------------------------------------

    def _to_continue(self, session: SessionState | None, resolution: Resolution) -> Crashed | Unresolvable:
        """Return the crashed run that a resolution is about, if no run has begun since."""
        located = self._locate_run(resolution.run_id)
        if session is None or located is None or located.key != session.key or located.seq != session.unresolved:
            return Unresolvable("gone")
        if session.claimed is not None or any(run.has_begun or self._goes_back(run) for run in session.queue):
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

    def _repeated(self, new: NewRun, executing: RunState | None) -> list[JoinedInput]:
        """Return what joined the run that executes, if a new one interrupts and replaces that."""
        again = None if new.back is None or new.if_busy not in INTERRUPTS else new.back.again
        if executing is None or executing.run_id != again:
            return []
        if not any(run.join is JoinState.APPLIED for run in executing.session.joining):
            return []
        checkpoints = self._stored(executing).checkpoints
        return [run for each in checkpoints if isinstance(each, RunsJoined) and not each.ended for run in each.runs]

    def _interrupt(self, session: SessionState, arrival: Arrival) -> Stopped | None:
        """Cancel what has begun in a session, for a run that goes before everything else."""
        if_busy = arrival.new.if_busy
        if if_busy not in INTERRUPTS:
            return None
        discard = if_busy is IfBusy.ROLLBACK
        ended: dict[RunId, Outcome] = {}
        for run in arrival.leaving:
            ended |= self._cancel_waiting(run, discard=discard)
        executing = session.executing
        cancelling = [] if executing is None else [self._request_end(executing, discard=discard)]
        return Stopped(ended, cancelling, repeated=list(arrival.repeated)) if ended or cancelling else None

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

    def _host_for(self, new: NewRun, executing: RunState | None) -> RunState | None:
        """Return the run that a new one joins, if that executes: it must have model calls that can be seen."""
        if executing is None or not new.resumable or not may_join(new, self._stored(executing).run):
            return None
        return executing

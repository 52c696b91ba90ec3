"""Applies requested changes: to what waits or executes, to sessions, to their schedules and files."""

from typing import assert_never

from msgspec.structs import replace

from strandline._journal.accepting import KEPT_BYTES
from strandline._journal.changes import (
    DropDelivery,
    DropSession,
    EditRun,
    ForgetFile,
    ForgetSchedule,
    MoveDelivery,
    MoveSchedule,
    NameFile,
    StoreFile,
    StoreOptions,
    StoreSchedule,
    encoded_body,
)
from strandline._journal.checksums import CHECKSUM_BYTES
from strandline._journal.defaults import changed_options, stored_options
from strandline._journal.editions import edited_parts, edition
from strandline._journal.forking import Forking
from strandline._journal.port import (
    AddFile,
    AddSchedule,
    Busy,
    Cancel,
    CancelSession,
    ChangeAnswer,
    Changed,
    ChangeSchedule,
    Delete,
    DropFile,
    DropSchedule,
    Edit,
    Edited,
    Ended,
    EndOverdue,
    EndWaiting,
    Fork,
    Move,
    NameFiles,
    NoteDeliveries,
    Outdated,
    Pause,
    Refused,
    Resend,
    Restore,
    Resume,
    SchedulesFull,
    SetOptions,
    Stopped,
)
from strandline._journal.port import Change as AnyChange
from strandline._journal.rules import check_end, delayed, drawn
from strandline._journal.state import RunState
from strandline._model import NO_DEFAULTS, Lane, Outcome, Principal, RunId, RunStatus


class Changing(Forking):
    """Applies changes, unless the state of their subject does not (or no longer) allow them."""

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
            case Edit():
                return self._edit(change)
            case Pause():
                return self._pause(change)
            case Resume():
                return self._resume(change)
            case Delete():
                return self._delete(change)
            case SetOptions():
                return self._set_options(change)
            case Restore():
                return self._restore(change)
            case Fork():
                return self._fork(change)
            case AddSchedule():
                return self._add_schedule(change)
            case ChangeSchedule():
                return self._change_schedule(change)
            case DropSchedule():
                return self._drop_schedule(change)
            case AddFile():
                return self._add_file(change)
            case NameFiles():
                return self._name_files(change)
            case DropFile():
                return self._drop_file(change)
            case NoteDeliveries():
                return self._note_deliveries(change)
            case Resend():
                return self._resend(change)
            case _:
                assert_never(change)

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
        webhook = self._webhook_for(session, "session.deleted", change.report)
        self._note(session, DropSession(session.ref, session.end.row, session.end.nth, self._now))
        self._send_of_session(session, "deleted", webhook)
        del self._sessions[session.key]
        self._dropped.append(session.key)
        self._drops_in_flight[session.key] += 1
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
        run = self._not_begun(change.principal, change.run_id)
        if not isinstance(run, RunState):
            return run
        if run.lane != Lane.ANSWER:
            self._place_again(run, change.priority)
        return Changed(existed=True)

    def _not_begun(self, principal: Principal, run_id: RunId) -> RunState | Changed | Busy | Ended:
        """Return a principal's run that waits and was never claimed, or the answer to a change of any other."""
        run = self._runs.get(run_id)
        if run is None or run.held_since is not None:
            known = self._locate_run(run_id)
            if known is None or known.key.principal != principal:
                return Changed(existed=False)
            self._check_owned(known.key)
            return Ended()
        if run.session.key.principal != principal:
            return Changed(existed=False)
        return Busy() if run.fence is not None or run.has_begun else run

    def _place_again(self, run: RunState, priority: int | None) -> None:
        """Place a waiting run by another priority, or with None at the end of the front lane.

        One that goes back stays where it is, whatever its priority: it would supersede what started before it.
        """
        if self._goes_back(run):
            if priority is not None and priority != run.moved:
                run.moved = priority
                self._change_run(run, was=None)
            return
        queue, is_queued = run.session.queue, run.host is None
        if is_queued:
            queue.remove(run)
        if priority is None:
            place = self.numbers.next_run(self._partition(run.session))
            run.lane, run.urgency = Lane.FRONT, drawn(place)
            self.numbers.drew_run(place)
        elif run.is_delayed and run.not_before is not None:
            run.urgency, run.moved = delayed(run.not_before, priority), priority
        else:
            run.lane, run.urgency, run.moved = Lane.NORMAL, priority, priority
        if is_queued:
            queue.add(run)
        if run.not_before is not None:
            self._watch(run)  # (it may be delayed no longer)
        self._moved(run.session.key)
        self._change_run(run, was=None)

    def _edit(self, change: Edit) -> Edited | Outdated | Changed | Busy | Ended | Refused:
        """Replace what a waiting run asks for, unless it is not as expected, or too much would be stored."""
        run = self._not_begun(change.principal, change.run_id)
        if not isinstance(run, RunState):
            return run
        if run.lane == Lane.ANSWER:
            return Busy()
        found, _, error = self._stored(run)
        if error is not None:
            raise error
        parts = edited_parts(found, change.input, change.metadata, change.priority)
        if not parts:
            return Edited(())
        if change.expected is not None and edition(found) not in change.expected:
            return Outdated()
        session = run.session
        given = {name: getattr(change, name) for name in parts if name != "priority"}
        if given:
            body, was = encoded_body(edited := replace(found, **given)), encoded_body(found)
            more = body.size - was.size
            if (full := self._count_more(session.key.principal, more, change.stored_bytes)) is not None:
                return full
            self._note(session, EditRun(session.ref, run.seq, body))
            if run.collect is not None:
                run.size = len(body.prompt)
                self._watch(run)
                self._moved(session.key)
            if run.new is not None:
                kept = body.size <= KEPT_BYTES
                run.new = replace(run.new, input=edited.input, metadata=edited.metadata) if kept else None
        if "priority" in parts:
            self._place_again(run, change.priority)
        return Edited(parts)

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
        if (full := self._count_more(change.key.principal, more, change.stored_bytes)) is not None:
            return full
        session.options = options
        self._note(session, StoreOptions(session.ref, options))
        return Changed(existed=True)

    def _pause(self, change: Pause) -> Changed:
        """Pause a session: its queue deadlines stand still from now on, or already since a hold began."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        webhook = None if session.paused else self._webhook_for(session, "session.paused", change.report)
        if session.closed_since is None:
            held, open_round = session.held, session.question
            since = held.held_since if held is not None and held.held_since is not None else self._now
            session.closed_since = since if open_round is None else max(since, open_round.until)
        session.paused = True
        self._change_session(session)
        self._send_of_session(session, "paused", webhook)
        self._moved(session.key)
        return Changed(existed=True)

    def _resume(self, change: Resume) -> Changed:
        """Resume a session, or do so when its hold ends. It is at rest from now on at the earliest."""
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        if session.paused:
            webhook = self._webhook_for(session, "session.resumed", change.report)
            session.paused = False
            session.rests_since = None if session.rests_since is None else self._now
            self._change_session(session)
            self._send_of_session(session, "resumed", webhook)
            if session.held is None:
                self._open_again(session, self._now)
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

    # -- files ----------------------------------------------------------------------------------------

    def _add_file(self, change: AddFile) -> Changed | Refused:
        """Store the record of a file, in a session that may be new and is then at rest."""
        session, size = self._find(change.key), change.size + len(change.record) + CHECKSUM_BYTES
        if (full := self._count_more(change.key.principal, size, change.stored_bytes)) is not None:
            return full
        if session is None:
            session = self._add(change.key)
            session.rests_since = self._now
            self._change_session(session)
        self._note(session, StoreFile(session.ref, change.file_id, change.size, change.at, change.record))
        return Changed(existed=True)

    def _name_files(self, change: NameFiles) -> Changed:
        session = self._find(change.key)
        if session is None:
            return Changed(existed=False)
        named = [self._is_named(session, each) for each in change.file_ids]
        if None in named:
            return Changed(existed=False)
        for file_id, is_named in zip(change.file_ids, named, strict=True):
            if not is_named:
                self._note(session, NameFile(session.no, file_id))
        return Changed(existed=True)

    def _drop_file(self, change: DropFile) -> Changed | Busy:
        session = self._find(change.key)
        is_named = None if session is None else self._is_named(session, change.file_id)
        if session is None or is_named is None:
            return Changed(existed=False)
        if change.unnamed and is_named:
            return Busy()
        self._note(session, ForgetFile(session.no, change.file_id))
        return Changed(existed=True)

    # -- events to send -------------------------------------------------------------------------------

    def _note_deliveries(self, change: NoteDeliveries) -> Changed:
        """Forget events that were received, and note when the others are sent again."""
        self._changes.extend(map(DropDelivery, change.received))
        self._changes.extend(MoveDelivery(each.id, each.at, each.attempts, each.error) for each in change.not_received)
        return Changed(existed=True)

    def _resend(self, change: Resend) -> Changed:
        """Have an event be sent at once, as often as a new one."""
        principal, of = change.principal, change.id
        if not self._fetched(("delivery", of), lambda records: records.delivery(principal, of)):
            return Changed(existed=False)
        self._changes.append(MoveDelivery(of, self._now, 0, None))
        self._to_send += 1
        return Changed(existed=True)

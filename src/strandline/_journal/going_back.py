"""Histories that continue from an earlier place: where that is, and how superseded messages come back."""

from msgspec.structs import replace

from strandline._encoding import encode_messages
from strandline._history import dismissed
from strandline._journal.changes import Body
from strandline._journal.port import Busy, Changed, JoinedSince, Refused, Restore, Restored, Unreachable
from strandline._journal.records import Turn
from strandline._journal.rules import branch_of, last_with, without_collecting
from strandline._journal.state import SessionState
from strandline._journal.transitions import Transitions
from strandline._model import INTERRUPTS, NO_AGENT, Lane, NewRun, Place, RunId, RunStatus

_BEGINNING = Place(0, 0, NO_AGENT)


class GoingBack(Transitions):
    """Finds the places in histories that runs go back to, and restores what was superseded."""

    def _place_for(self, session: SessionState | None, new: NewRun) -> Place | Unreachable | Refused | JoinedSince:
        """Return the place from which history is to continue with a new run."""
        back = new.back
        assert back is not None
        if session is not None and new.if_busy not in INTERRUPTS and not _is_at_rest(session, self._now):
            return Refused("session_busy", session.waiting + 1)
        named = back.after if back.again is None else back.again
        if named is None:
            return _BEGINNING
        located = self._locate_run(named)
        if session is None:
            return Unreachable("unknown")
        if located is None or located.key != session.key:
            copied = self._copied_turn(session, named)
            return Unreachable("unknown") if copied is None or back.again is not None else self._after(session, copied)
        if new.expected_joined is not None and new.expected_joined != self._joined(session, named):
            return JoinedSince()
        live = self._runs.get(named)
        if live is not None and live.held_since is None:
            live = live.host or live
            is_under_way = live.fence is not None or live.has_begun
            return self._end_of(session) if back.again and is_under_way else Unreachable("not_ended")
        turn = self._turn(session, located.seq)
        if turn is None:
            return Unreachable("unknown")
        if back.again is None:
            return self._after(session, turn)
        if turn.first == turn.end:
            return self._end_of(session) if turn.is_last else Unreachable("left_nothing")
        parent = branch_of(self._branches(session), turn.first)
        return Place(parent, turn.first, self._kept(session, turn.agent_before))

    def _is_last_run(self, session: SessionState, new: NewRun) -> bool:
        """Return whether a new run continues after the last run of a session, and so at the end of its history.

        Later runs that have left no message do not count.
        """
        assert new.back is not None
        if new.back.after is None or (located := self._locate_run(new.back.after)) is None:
            return False
        claimed = () if session.claimed is None else (session.claimed,)
        later = any(each.seq > located.seq for each in (*claimed, *session.queue, *session.joining))
        if located.key != session.key or later:
            return False
        if new.back.after in self._runs or (turn := self._turn(session, located.seq)) is None:
            return True
        is_at_end = turn.first == turn.end or branch_of(self._branches(session), turn.end - 1) == (session.branch or 0)
        return turn.is_last and is_at_end

    def _after(self, session: SessionState, turn: Turn) -> Place | Unreachable:
        """Return the place after a run that has ended, and after what closes its question."""
        if turn.discarded:
            return Unreachable("discarded")
        if turn.first == turn.end:
            return Unreachable("left_nothing")
        end, open_round = turn.end, session.round
        if open_round is not None and open_round.run == turn.seq:
            if open_round.answer is not None:
                return Unreachable("answered")
            end += len(dismissed(self._question(session).question))  # (which this run does)
        elif turn.status == RunStatus.NEEDS_INPUT:
            if not turn.closing:
                return Unreachable("answered", turn.next_run)
            end += turn.closing
        parent = branch_of(self._branches(session), turn.end - 1)
        return Place(parent, end, self._kept(session, turn.agent))

    def _joined(self, session: SessionState, run_id: RunId) -> int:
        ref, last = session.ref, session.end.row
        return self._fetched(("joined", run_id), lambda records: records.joined(ref, last, run_id))

    def _end_of(self, session: SessionState) -> Place | Unreachable:
        """Return the end of history, and after what closes an open question: no turn begins in the middle of a
        round."""
        end, open_round = session.end.length, session.round
        if open_round is not None:
            if open_round.answer is not None:
                return Unreachable("left_nothing")
            end += len(dismissed(self._question(session).question))  # (which this run does)
        return Place(session.branch or 0, end, session.end.agent)

    def _turn(self, session: SessionState, seq: int) -> Turn | None:
        ref, last = session.ref, session.end.row
        if last is None:
            return None
        return self._fetched(("turn", seq), lambda records: records.turn(ref, last, seq))

    def _copied_turn(self, session: SessionState, run_id: RunId) -> Turn | None:
        ref, last = session.ref, session.end.row
        if last is None:
            return None
        return self._fetched(("copied", run_id), lambda records: records.copied_turn(ref, last, run_id))

    def _restore(self, change: Restore) -> Restored | Unreachable | Busy | Changed:
        """Have history continue from where it ended when a superseded run was last in it."""
        located = self._locate_run(change.run_id)
        if located is None or located.key.principal != change.principal:
            return Changed(existed=False)
        session = self._find(located.key)
        if session is None:
            return Changed(existed=False)
        if change.run_id in self._runs or not _is_at_rest(session, self._now):
            return Busy()
        turn = self._turn(session, located.seq)
        if turn is None:
            return Changed(existed=False)
        if turn.discarded:
            return Unreachable("discarded")
        if turn.first == turn.end:
            return Unreachable("left_nothing")
        branches = self._branches(session)
        ref = session.ref
        replaced = self._fetched(("replaced", ref.no), lambda records: records.replaced(ref)) if branches else {}
        ended = last_with(branches, replaced, turn.first)
        if ended is None:
            return Restored(session.key)
        parent, end = ended
        last = session.end.row
        assert last is not None
        agent = self._fetched(("agent at", end), lambda records: records.agent_at(ref, last, end - 1))
        kept = self._kept(session, agent)
        if session.round is not None:
            self._question(session)
            self._dismiss(session)
        self._go_back(session, Place(parent, end, kept), branches, None)
        return Restored(session.key, session.branch, forgotten=kept is None)


def at_place(new: NewRun, body: Body, place: Place) -> tuple[NewRun, Body]:
    """Return a new run that goes back to a place, which was found. It joins no other run, and none that comes later
    starts before it: it would supersede what that says."""
    assert new.back is not None
    back = replace(new.back, at=place)
    if_busy = without_collecting(new.if_busy)
    return replace(new, back=back, if_busy=if_busy, lane=Lane.FRONT), replace(body, back=encode_messages(back))


def _is_at_rest(session: SessionState, now: float) -> bool:
    """Return whether nothing of a session executes, is held, asks or waits; delayed runs may wait for their time.

    A question whose time is over asks nobody any more, and is closed with whatever comes next.
    """
    is_open = session.round is not None and (session.round.answer is not None or session.round.until > now)
    is_free = session.claimed is None and not is_open
    return is_free and not session.queue.has_next and not session.joining

"""The queues of sessions, move by move: slots never leak."""

from strandline.engine.queues import SessionQueues, Share, WaitingRun
from strandline.model import Principal, RunId, SessionId, SessionKey

A = SessionKey(Principal("p"), SessionId("a"))
B = SessionKey(Principal("p"), SessionId("b"))


def free_slots(queues: SessionQueues) -> int:
    """Count the free slots by using them up."""
    number = 0
    while queues.reserve(SessionKey(Principal("probe"), SessionId(f"probe{number}"))):
        number += 1
    return number


def test_a_run_that_is_taken_at_once_uses_one_slot_until_it_ends() -> None:
    queues = SessionQueues(2)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    assert queues.waiting == 0
    queues.ended(RunId("1"), A, taken=False)
    assert free_slots(queues) == 2


def test_the_claim_of_a_run_that_was_accepted_with_the_end_before_it_leaves_nothing_waiting() -> None:
    """The settle of run 1 takes run 2 in the very commit that accepts it: both are answered, then its claim comes."""
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    assert not queues.reserve(A)
    queues.waits(RunId("2"), A, 0.0)
    queues.ended(RunId("1"), A, taken=True)
    queues.claimed(RunId("2"), A)
    assert queues.waiting == 0
    assert queues.oldest is None
    queues.ended(RunId("2"), A, taken=False)
    assert (queues.sessions, free_slots(queues)) == (0, 1)


def test_a_slot_goes_over_to_the_next_run_of_its_session_and_is_not_given_twice() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    assert not queues.reserve(A)
    queues.waits(RunId("2"), A, 1.0)
    assert queues.keeps_slot(A)
    queues.ended(RunId("1"), A, taken=True)
    queues.claimed(RunId("2"), A)
    assert free_slots(queues) == 0
    queues.ended(RunId("2"), A, taken=False)
    assert free_slots(queues) == 1


def test_a_session_that_arrives_while_no_slot_is_free_goes_before_a_busy_ones_next_run() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    assert not queues.reserve(A)
    queues.waits(RunId("2"), A, 1.0)
    assert not queues.reserve(B)
    queues.waits(RunId("3"), B, 2.0)
    assert not queues.keeps_slot(A)
    queues.ended(RunId("1"), A, taken=False)
    assert queues.next() == B
    assert queues.next() is None, "there is one slot"
    queues.claimed(RunId("3"), B)
    queues.ended(RunId("3"), B, taken=False)
    assert queues.next() == A


def test_a_claim_is_expected_from_the_moment_in_which_a_slot_is_reserved_until_it_comes_or_comes_no_more() -> None:
    queues = SessionQueues(1)
    assert not queues.expects_claims()
    assert queues.reserve(A)
    assert queues.expects_claims(), "an accept may make one"
    queues.free(A)
    assert not queues.expects_claims(), "it was refused"
    queues.waits(RunId("1"), A, 0.0)
    assert not queues.expects_claims(), "nobody has asked for it"
    assert queues.next() == A
    assert queues.expects_claims()
    queues.claimed(RunId("1"), A)
    assert not queues.expects_claims()
    queues.waits(RunId("2"), A, 0.0)
    queues.ended(RunId("1"), A, taken=True)
    assert queues.expects_claims(), "the end of the run has taken the next one"
    queues.claimed(RunId("2"), A)
    queues.held(RunId("2"), A)
    assert not queues.expects_claims()


def test_a_session_whose_run_is_held_uses_no_slot_and_goes_on_when_that_is_over() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    queues.waits(RunId("2"), A, 1.0)
    queues.held(RunId("1"), A)
    assert queues.next() is None, "it is held"
    assert queues.shares()[A.principal] == Share(claimed=1, waiting=1, leftovers=1)
    assert not queues.reserve(A)
    queues.hold_ended(A)
    assert queues.next() == A
    assert free_slots(queues) == 0


def test_a_refused_run_gives_its_slot_back() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.free(A)
    assert free_slots(queues) == 1


def test_a_blocked_session_uses_no_slot_and_lines_up_when_unblocked() -> None:
    queues = SessionQueues(1)
    queues.waits(RunId("1"), A, 0.0)
    assert queues.next() == A
    queues.blocked(A)
    queues.waits(RunId("2"), A, 1.0)
    assert queues.next() is None, "it waits for another session's last attempt"
    queues.unblock()
    assert queues.next() == A


def test_a_session_in_which_nothing_was_found_is_not_asked_again_until_a_run_arrives() -> None:
    queues = SessionQueues(1)
    queues.waits(RunId("1"), A, 0.0)
    assert queues.next() == A
    queues.emptied(A)
    assert queues.next() is None
    assert not queues.reserve(A)
    queues.waits(RunId("2"), A, 1.0)
    assert queues.next() == A


def test_a_session_in_which_nothing_was_found_is_forgotten_when_all_that_waits_has_left() -> None:
    queues = SessionQueues(1)
    for name in ("1", "2"):
        queues.waits(RunId(name), A, 0.0)
    assert queues.next() == A
    queues.emptied(A)  # it waits for input, for instance
    queues.left(RunId("1"), A)
    assert queues.next() is None, "one that leaves opens nothing"
    queues.left(RunId("2"), A)
    assert queues.sessions == 0


def test_nothing_starts_after_a_stop() -> None:
    queues = SessionQueues(4)
    queues.waits(RunId("1"), A, 0.0)
    queues.stop()
    assert queues.next() is None
    assert not queues.reserve(B)
    assert not queues.keeps_slot(A)
    assert queues.is_waiting(RunId("1"))


def test_a_session_with_nothing_to_do_is_forgotten() -> None:
    queues = SessionQueues(1)
    for number in range(1000):
        session = SessionKey(Principal("p"), SessionId(f"s{number}"))
        run_id = RunId(str(number))
        assert queues.reserve(session)
        queues.claimed(run_id, session)
        queues.ended(run_id, session, taken=False)
    assert queues.sessions == 0


def test_a_run_that_is_given_back_in_this_process_waits_again() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("r"), A)
    queues.ended(RunId("r"), A, taken=False)
    queues.waits(RunId("r"), A, 0.0)
    assert queues.waiting == 1
    assert queues.next() == A


def test_a_session_whose_blocked_head_is_gone_lines_up_again() -> None:
    """What had to wait for another session's last attempt was cancelled; the next one need not."""
    queues = SessionQueues(1)
    for run_id in ("1", "2"):
        queues.waits(RunId(run_id), A, 0.0)
    assert queues.next() == A
    queues.blocked(A)
    assert queues.next() is None
    queues.left(RunId("1"), A)
    assert queues.next() == A
    queues.claimed(RunId("2"), A)
    queues.unblock()
    queues.ended(RunId("2"), A, taken=False)
    assert (queues.sessions, free_slots(queues)) == (0, 1)


def test_slots_go_round_between_principals_however_many_sessions_one_has() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("x"), A)
    keys = [SessionKey(Principal("many"), SessionId(f"s{number}")) for number in range(100)]
    others = [SessionKey(Principal(name), SessionId("s")) for name in ("few", "late")]
    for number, key in enumerate([*keys, others[0]]):
        assert not queues.reserve(key)
        queues.waits(RunId(f"r{number}"), key, 1.0)
    served: list[SessionKey] = []

    def turn() -> None:
        key = queues.next()
        assert key is not None
        number = [*keys, *others].index(key)
        queues.claimed(RunId(f"r{number}"), key)
        queues.ended(RunId(f"r{number}"), key, taken=False)
        served.append(key)

    queues.ended(RunId("x"), A, taken=False)
    for _ in range(3):
        turn()
    assert served == [keys[0], others[0], keys[1]], "the one of few sessions waited for one run of the other"
    queues.waits(RunId("r101"), others[1], 2.0)
    for _ in range(3):
        turn()
    assert others[1] in served[3:5], "whoever comes late waits for one turn of each, not for all that waits"
    for _ in range(96):
        turn()
    assert [key for key in served if key.principal == "many"] == keys, "in the order in which they lined up"
    assert queues.next() is None


def test_no_session_goes_on_with_its_own_next_run_while_another_principal_waits() -> None:
    queues = SessionQueues(1)
    other = SessionKey(Principal("q"), SessionId("a"))
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    for run_id, key in (("2", A), ("3", other)):
        assert not queues.reserve(key)
        queues.waits(RunId(run_id), key, 1.0)
    assert not queues.keeps_slot(A)
    assert queues.shares() == {"p": Share(claimed=1, waiting=1), "q": Share(claimed=0, waiting=1)}
    queues.ended(RunId("1"), A, taken=False)
    assert queues.next() == other


OTHER = SessionKey(Principal("q"), SessionId("a"))


def test_a_principal_with_its_share_of_slots_leaves_the_others_and_goes_on_when_it_gives_one_back() -> None:
    queues = SessionQueues(3, per_principal=1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    assert not queues.reserve(B)
    queues.waits(RunId("2"), B, 1.0)
    assert queues.next() is None, "it has its share"
    assert queues.reserve(OTHER), "nobody waits before another principal"
    assert not queues.keeps_slot(A), "its other session waits for its slot"
    queues.ended(RunId("1"), A, taken=False)
    assert queues.next() == B
    assert queues.next() is None


def test_sessions_of_a_principal_with_its_share_take_turns() -> None:
    queues = SessionQueues(9, per_principal=1)
    for number, session in enumerate((A, B, A, B)):
        queues.waits(RunId(f"r{number}"), session, 0.0)
    turns = []
    for number in (0, 1, 2, 3):
        key = queues.next()
        assert key is not None
        assert queues.next() is None
        queues.claimed(RunId(f"r{number}"), key)
        queues.ended(RunId(f"r{number}"), key, taken=False)
        turns.append(key)
    assert turns == [A, B, A, B]
    assert queues.sessions == 0


def test_a_session_that_turns_out_empty_or_blocked_gives_its_share_back() -> None:
    queues = SessionQueues(2, per_principal=1)
    queues.waits(RunId("1"), A, 0.0)
    queues.waits(RunId("2"), B, 0.0)
    assert queues.next() == A
    queues.emptied(A)
    assert queues.next() == B
    queues.blocked(B)
    assert queues.reserve(SessionKey(A.principal, SessionId("c")))


def leave(queues: SessionQueues, run_id: str, key: SessionKey) -> None:
    """Have a run of a session end that works on, and give its hold up at once."""
    assert queues.reserve(key)
    queues.claimed(RunId(run_id), key)
    queues.held(RunId(run_id), key)
    queues.hold_ended(key)


def test_leftovers_keep_the_slots_of_their_principal_until_they_work_no_more() -> None:
    queues = SessionQueues(9, per_principal=2, leftovers_per_principal=4)
    leave(queues, "1", A)
    assert queues.shares() == {"p": Share(claimed=0, waiting=0, leftovers=1)}
    assert queues.reserve(A)
    queues.claimed(RunId("2"), A)
    assert not queues.reserve(B), "one slot is the leftover's, one that of the run that executes"
    queues.waits(RunId("3"), B, 0.0)
    assert queues.next() is None
    queues.works_no_more(A.principal)
    assert queues.next() == B


def test_a_principal_with_as_many_leftovers_as_it_may_have_starts_nothing_more_and_delays_no_other() -> None:
    queues = SessionQueues(9, leftovers_per_principal=2)
    assert queues.reserve(A)
    queues.claimed(RunId("w"), A)
    leave(queues, "1", B)
    assert not queues.is_full(A.principal)
    assert queues.keeps_slot(A)
    leave(queues, "2", B)
    assert queues.is_full(A.principal)
    assert not queues.keeps_slot(A), "its next run would be one more that may work on"
    assert not queues.reserve(B)
    queues.waits(RunId("3"), B, 0.0)
    assert queues.next() is None
    assert not queues.is_full(OTHER.principal)
    assert queues.reserve(OTHER)
    queues.works_no_more(A.principal)
    assert queues.next() == B


def test_leftovers_keep_half_of_all_slots_at_most_so_that_something_can_execute() -> None:
    for max_running, left in ((1, 1), (2, 1), (3, 2), (4, 2)):
        queues = SessionQueues(max_running, leftovers_per_principal=1)
        for number in range(6):
            leave(queues, f"r{number}", SessionKey(Principal(f"p{number}"), A.session_id))
        assert free_slots(queues) == left


def test_where_leftovers_are_not_bounded_they_keep_no_slot() -> None:
    queues = SessionQueues(2, per_principal=1)
    for number in range(3):
        leave(queues, f"r{number}", A)
    assert not queues.is_full(A.principal)
    assert free_slots(queues) == 1, "the share of one principal"


# -- the record of a session ---------------------------------------------------------------------------


def test_the_end_of_a_run_is_not_the_end_of_the_next_one_that_has_begun_already() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    queues.waits(RunId("2"), A, 1.0)
    queues.claimed(RunId("2"), A, since=5.0)
    assert queues.executing == 2
    queues.ended(RunId("1"), A, taken=True)
    assert queues.executes(A)
    assert queues.executing == 1
    assert not queues.expects_claims()
    queues.ended(RunId("2"), A, taken=False)
    assert (queues.executing, queues.sessions, free_slots(queues)) == (0, 0, 1)


def test_a_paused_session_whose_run_is_requeued_is_known_to_be_paused_still() -> None:
    queues = SessionQueues(1)
    assert queues.reserve(A)
    queues.claimed(RunId("1"), A)
    queues.paused(A)
    queues.waits(RunId("1"), A, 1.0)
    queues.ended(RunId("1"), A, taken=False)
    assert queues.is_paused(A)
    assert queues.is_closed(A)
    queues.resumed(A)
    assert not queues.is_closed(A)
    assert queues.next() == A


def test_nothing_is_known_of_a_session_that_has_nothing_to_do() -> None:
    queues = SessionQueues(1)
    queues.waits(RunId("1"), A, 1.0, deadline=9.0, paused=True)
    queues.waits_for_input(A, 7.0)
    assert queues.is_paused(A)
    assert len(queues.deadlines) == 2
    queues.left(RunId("1"), A)
    assert (queues.sessions, queues.waiting, queues.is_closed(A), len(queues.deadlines)) == (0, 0, False, 0)
    assert queues.deadlines.pop(10.0) == []


def test_a_run_whose_time_stands_still_is_due_when_its_session_is_open_and_others_come_earlier() -> None:
    queues = SessionQueues(1)
    queues.waits(RunId("stands"), A, 1.0, deadline=3.0)
    queues.waits(RunId("later"), A, 1.0, deadline=30.0)
    queues.waits_for_input(A, 20.0)
    (due,) = queues.deadlines.pop(3.0)
    assert isinstance(due, WaitingRun)
    queues.watch(due.run_id, None)
    assert queues.deadlines.pop(19.0) == []
    queues.dismissed(A, 10.0)
    assert [each.run_id for each in queues.deadlines.pop(20.0) if isinstance(each, WaitingRun)] == ["stands", "later"]


def test_positions_have_changed_where_a_run_came_began_or_ended_and_nowhere_else() -> None:
    queues = SessionQueues(1)
    for number, key in enumerate((A, B)):
        queues.waits(RunId(str(number)), key, 1.0)
    since = queues.changes
    queues.waits(RunId("3"), A, 2.0)
    assert (queues.has_changed(A, since), queues.has_changed(B, since)) == (True, False)
    since = queues.changes
    queues.changed(B)
    assert (queues.has_changed(A, since), queues.has_changed(B, since)) == (False, True), "a run of it was moved"

"""The dispatcher's books, move by move: slots never leak, whatever order verbs and claims report in."""

from strandline.engine.dispatcher import Dispatcher, Share
from strandline.model import Principal, RunId, SessionId, SessionKey

A = SessionKey(Principal("p"), SessionId("a"))
B = SessionKey(Principal("p"), SessionId("b"))


def free_slots(dispatcher: Dispatcher) -> int:
    """Count the free slots by using them up."""
    number = 0
    while dispatcher.reserve(RunId(f"probe{number}"), SessionKey(Principal("probe"), SessionId(f"probe{number}"))):
        number += 1
    return number


def test_a_run_that_is_taken_at_once_uses_one_slot_until_it_ends() -> None:
    dispatcher = Dispatcher(2)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert dispatcher.waiting == 0
    dispatcher.ended(RunId("1"), A, taken=False)
    assert free_slots(dispatcher) == 2


def test_a_claim_that_reports_before_its_accept_leaves_nothing_waiting() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), A)
    # The settle of run 1 takes run 2 in the very batch that accepts it: its claim is told first.
    dispatcher.claimed(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 0.0, reserved=False, taken=False)
    dispatcher.ended(RunId("1"), A, taken=True)
    assert dispatcher.waiting == 0
    assert dispatcher.oldest is None
    dispatcher.ended(RunId("2"), A, taken=False)
    assert free_slots(dispatcher) == 1


def test_a_slot_goes_over_to_the_next_run_of_its_session_and_is_not_given_twice() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 1.0, reserved=False, taken=False)
    assert dispatcher.keeps_slot(A)
    dispatcher.ended(RunId("1"), A, taken=True)
    dispatcher.claimed(RunId("2"), A)
    assert free_slots(dispatcher) == 0
    dispatcher.ended(RunId("2"), A, taken=False)
    assert free_slots(dispatcher) == 1


def test_a_session_that_arrives_while_no_slot_is_free_goes_before_a_busy_ones_next_run() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 1.0, reserved=False, taken=False)
    assert not dispatcher.reserve(RunId("3"), B)
    dispatcher.accepted(RunId("3"), B, 2.0, reserved=False, taken=False)
    assert not dispatcher.keeps_slot(A)
    dispatcher.ended(RunId("1"), A, taken=False)
    assert dispatcher.next() == B
    assert dispatcher.next() is None, "there is one slot"
    dispatcher.claimed(RunId("3"), B)
    dispatcher.ended(RunId("3"), B, taken=False)
    assert dispatcher.next() == A


def test_a_commit_that_fails_after_its_claim_was_told_frees_one_slot_once() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.refused(RunId("1"), A, reserved=True)
    assert free_slots(dispatcher) == 0, "the stale claim still executes"
    dispatcher.ended(RunId("1"), A, taken=False)
    assert free_slots(dispatcher) == 1


def test_a_settle_whose_take_failed_after_its_claim_was_told_frees_one_slot_once() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 1.0, reserved=False, taken=False)
    dispatcher.claimed(RunId("2"), A)
    dispatcher.ended(RunId("1"), A, taken=True)
    dispatcher.ended(RunId("2"), A, taken=False)
    dispatcher.restored(RunId("2"), A, 1.0)
    assert dispatcher.waiting == 1
    assert dispatcher.next() == A


def _a_lost_claim_is_held_while_the_settle_that_made_it_goes_on() -> Dispatcher:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 1.0, reserved=False, taken=False)
    dispatcher.claimed(RunId("2"), A)  # by the settle of run 1, whose commit fails
    dispatcher.held(A)  # its agent still works
    assert free_slots(dispatcher) == 0, "run 1 uses it"
    return dispatcher


def test_a_lost_claim_that_is_held_leaves_the_slot_to_the_claim_that_its_run_gets_then() -> None:
    dispatcher = _a_lost_claim_is_held_while_the_settle_that_made_it_goes_on()
    dispatcher.claimed(RunId("2"), A)
    dispatcher.ended(RunId("1"), A, taken=True)
    dispatcher.hold_ended(RunId("2"), A)
    assert free_slots(dispatcher) == 0
    dispatcher.ended(RunId("2"), A, taken=False)
    assert free_slots(dispatcher) == 1
    assert dispatcher.next() is None


def test_a_session_whose_lost_claim_is_held_uses_no_slot_and_goes_on_when_that_is_over() -> None:
    dispatcher = _a_lost_claim_is_held_while_the_settle_that_made_it_goes_on()
    dispatcher.ended(RunId("1"), A, taken=False)
    assert dispatcher.next() is None, "it is held"
    dispatcher.hold_ended(RunId("2"), A)
    dispatcher.restored(RunId("2"), A, 1.0)
    assert dispatcher.next() == A
    assert free_slots(dispatcher) == 0


def test_a_refused_run_gives_its_slot_back() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.refused(RunId("1"), A, reserved=True)
    assert free_slots(dispatcher) == 1


def test_a_blocked_session_uses_no_slot_and_lines_up_when_unblocked() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.restored(RunId("1"), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.blocked(A)
    dispatcher.restored(RunId("2"), A, 1.0)
    assert dispatcher.next() is None, "it waits for another session's last attempt"
    dispatcher.unblock()
    assert dispatcher.next() == A


def test_a_session_in_which_nothing_was_found_is_not_asked_again_until_a_run_arrives() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.restored(RunId("1"), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)
    assert dispatcher.next() is None
    assert not dispatcher.reserve(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 1.0, reserved=False, taken=False)
    assert dispatcher.next() == A


def test_a_session_in_which_nothing_was_found_is_forgotten_when_all_that_waits_has_left() -> None:
    dispatcher = Dispatcher(1)
    for name in ("1", "2"):
        dispatcher.restored(RunId(name), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)  # it waits for input, for instance
    dispatcher.left(RunId("1"), A)
    assert dispatcher.next() is None, "one that leaves opens nothing"
    dispatcher.left(RunId("2"), A)
    assert dispatcher.sessions == 0


def test_nothing_starts_after_a_stop() -> None:
    dispatcher = Dispatcher(4)
    dispatcher.restored(RunId("1"), A, 0.0)
    dispatcher.stop()
    assert dispatcher.next() is None
    assert not dispatcher.reserve(RunId("2"), B)
    assert not dispatcher.keeps_slot(A)
    assert dispatcher.waiting_runs() == [RunId("1")]


def test_a_session_with_nothing_to_do_is_forgotten() -> None:
    dispatcher = Dispatcher(1)
    for number in range(1000):
        session = SessionKey(Principal("p"), SessionId(f"s{number}"))
        run_id = RunId(str(number))
        assert dispatcher.reserve(run_id, session)
        dispatcher.claimed(run_id, session)
        dispatcher.accepted(run_id, session, 0.0, reserved=True, taken=True)
        dispatcher.ended(run_id, session, taken=False)
    assert dispatcher.sessions == 0


def test_a_claim_that_ends_before_its_failed_accept_is_told_frees_one_slot_once() -> None:
    dispatcher = Dispatcher(2)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.ended(RunId("1"), A, taken=False)
    dispatcher.refused(RunId("1"), A, reserved=True)
    assert free_slots(dispatcher) == 2


def test_a_run_claimed_at_once_is_known_alike_whether_its_claim_or_its_accept_is_told_first() -> None:
    for claim_first in (True, False):
        dispatcher = Dispatcher(1)
        assert dispatcher.reserve(RunId("r"), A)
        if claim_first:
            dispatcher.claimed(RunId("r"), A)
        dispatcher.accepted(RunId("r"), A, 0.0, reserved=True, taken=True)
        if not claim_first:
            dispatcher.claimed(RunId("r"), A)
        dispatcher.ended(RunId("r"), A, taken=False)
        dispatcher.restored(RunId("r"), A, 0.0)  # given back in this process: it waits again
        assert dispatcher.waiting == 1
        assert dispatcher.next() == A


def test_a_session_whose_blocked_head_is_gone_lines_up_again() -> None:
    """What had to wait for another session's last attempt was cancelled; the next one need not."""
    dispatcher = Dispatcher(1)
    for run_id in ("1", "2"):
        dispatcher.restored(RunId(run_id), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.blocked(A)
    assert dispatcher.next() is None
    dispatcher.left(RunId("1"), A)
    assert dispatcher.next() == A
    dispatcher.claimed(RunId("2"), A)
    dispatcher.unblock()
    dispatcher.ended(RunId("2"), A, taken=False)
    assert (dispatcher.sessions, free_slots(dispatcher)) == (0, 1)


def test_slots_go_round_between_principals_however_many_sessions_one_has() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(RunId("x"), A)
    dispatcher.claimed(RunId("x"), A)
    dispatcher.accepted(RunId("x"), A, 0.0, reserved=True, taken=True)
    keys = [SessionKey(Principal("many"), SessionId(f"s{number}")) for number in range(100)]
    others = [SessionKey(Principal(name), SessionId("s")) for name in ("few", "late")]
    for number, key in enumerate([*keys, others[0]]):
        assert not dispatcher.reserve(RunId(f"r{number}"), key)
        dispatcher.accepted(RunId(f"r{number}"), key, 1.0, reserved=False, taken=False)
    served: list[SessionKey] = []

    def turn() -> None:
        key = dispatcher.next()
        assert key is not None
        number = [*keys, *others].index(key)
        dispatcher.claimed(RunId(f"r{number}"), key)
        dispatcher.ended(RunId(f"r{number}"), key, taken=False)
        served.append(key)

    dispatcher.ended(RunId("x"), A, taken=False)
    for _ in range(3):
        turn()
    assert served == [keys[0], others[0], keys[1]], "the one of few sessions waited for one run of the other"
    dispatcher.restored(RunId("r101"), others[1], 2.0)
    for _ in range(3):
        turn()
    assert others[1] in served[3:5], "whoever comes late waits for one turn of each, not for all that waits"
    for _ in range(96):
        turn()
    assert [key for key in served if key.principal == "many"] == keys, "in the order in which they lined up"
    assert dispatcher.next() is None


def test_no_session_goes_on_with_its_own_next_run_while_another_principal_waits() -> None:
    dispatcher = Dispatcher(1)
    other = SessionKey(Principal("q"), SessionId("a"))
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    for run_id, key in (("2", A), ("3", other)):
        assert not dispatcher.reserve(RunId(run_id), key)
        dispatcher.accepted(RunId(run_id), key, 1.0, reserved=False, taken=False)
    assert not dispatcher.keeps_slot(A)
    assert dispatcher.shares() == {"p": Share(claimed=1, waiting=1), "q": Share(claimed=0, waiting=1)}
    dispatcher.ended(RunId("1"), A, taken=False)
    assert dispatcher.next() == other


OTHER = SessionKey(Principal("q"), SessionId("a"))


def test_a_principal_with_its_share_of_slots_leaves_the_others_and_goes_on_when_it_gives_one_back() -> None:
    dispatcher = Dispatcher(3, per_principal=1)
    assert dispatcher.reserve(RunId("1"), A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.accepted(RunId("1"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("2"), B)
    dispatcher.accepted(RunId("2"), B, 1.0, reserved=False, taken=False)
    assert dispatcher.next() is None, "it has its share"
    assert dispatcher.reserve(RunId("3"), OTHER), "nobody waits before another principal"
    assert not dispatcher.keeps_slot(A), "its other session waits for its slot"
    dispatcher.ended(RunId("1"), A, taken=False)
    assert dispatcher.next() == B
    assert dispatcher.next() is None


def test_sessions_of_a_principal_with_its_share_take_turns() -> None:
    dispatcher = Dispatcher(9, per_principal=1)
    for number, session in enumerate((A, B, A, B)):
        dispatcher.restored(RunId(f"r{number}"), session, 0.0)
    turns = []
    for number in (0, 1, 2, 3):
        key = dispatcher.next()
        assert key is not None
        assert dispatcher.next() is None
        dispatcher.claimed(RunId(f"r{number}"), key)
        dispatcher.ended(RunId(f"r{number}"), key, taken=False)
        turns.append(key)
    assert turns == [A, B, A, B]
    assert dispatcher.sessions == 0


def test_a_session_that_turns_out_empty_or_blocked_gives_its_share_back() -> None:
    dispatcher = Dispatcher(2, per_principal=1)
    dispatcher.restored(RunId("1"), A, 0.0)
    dispatcher.restored(RunId("2"), B, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)
    assert dispatcher.next() == B
    dispatcher.blocked(B)
    assert dispatcher.reserve(RunId("3"), SessionKey(A.principal, SessionId("c")))


def leave(dispatcher: Dispatcher, run_id: str, key: SessionKey) -> None:
    """Have a run of a session end that works on, and give its hold up at once."""
    assert dispatcher.reserve(RunId(run_id), key)
    dispatcher.claimed(RunId(run_id), key)
    dispatcher.accepted(RunId(run_id), key, 0.0, reserved=True, taken=True)
    dispatcher.held(key)
    dispatcher.hold_ended(RunId(run_id), key)


def test_leftovers_keep_the_slots_of_their_principal_until_they_work_no_more() -> None:
    dispatcher = Dispatcher(9, per_principal=2, leftovers_per_principal=4)
    leave(dispatcher, "1", A)
    assert dispatcher.shares() == {"p": Share(claimed=0, waiting=0, leftovers=1)}
    assert dispatcher.reserve(RunId("2"), A)
    dispatcher.claimed(RunId("2"), A)
    dispatcher.accepted(RunId("2"), A, 0.0, reserved=True, taken=True)
    assert not dispatcher.reserve(RunId("3"), B), "one slot is the leftover's, one that of the run that executes"
    dispatcher.accepted(RunId("3"), B, 0.0, reserved=False, taken=False)
    assert dispatcher.next() is None
    dispatcher.works_no_more(A.principal)
    assert dispatcher.next() == B


def test_a_principal_with_as_many_leftovers_as_it_may_have_starts_nothing_more_and_delays_no_other() -> None:
    dispatcher = Dispatcher(9, leftovers_per_principal=2)
    assert dispatcher.reserve(RunId("w"), A)
    dispatcher.claimed(RunId("w"), A)
    dispatcher.accepted(RunId("w"), A, 0.0, reserved=True, taken=True)
    leave(dispatcher, "1", B)
    assert not dispatcher.is_full(A.principal)
    assert dispatcher.keeps_slot(A)
    leave(dispatcher, "2", B)
    assert dispatcher.is_full(A.principal)
    assert not dispatcher.keeps_slot(A), "its next run would be one more that may work on"
    assert not dispatcher.reserve(RunId("3"), B)
    dispatcher.accepted(RunId("3"), B, 0.0, reserved=False, taken=False)
    assert dispatcher.next() is None
    assert not dispatcher.is_full(OTHER.principal)
    assert dispatcher.reserve(RunId("4"), OTHER)
    dispatcher.works_no_more(A.principal)
    assert dispatcher.next() == B


def test_leftovers_keep_half_of_all_slots_at_most_so_that_something_can_execute() -> None:
    for max_running, left in ((1, 1), (2, 1), (3, 2), (4, 2)):
        dispatcher = Dispatcher(max_running, leftovers_per_principal=1)
        for number in range(6):
            leave(dispatcher, f"r{number}", SessionKey(Principal(f"p{number}"), A.session_id))
        assert free_slots(dispatcher) == left


def test_where_leftovers_are_not_bounded_they_keep_no_slot() -> None:
    dispatcher = Dispatcher(2, per_principal=1)
    for number in range(3):
        leave(dispatcher, f"r{number}", A)
    assert not dispatcher.is_full(A.principal)
    assert free_slots(dispatcher) == 1, "the share of one principal"

"""The dispatcher's books, move by move: slots never leak."""

from strandline.engine.queues import Dispatcher, Share
from strandline.model import Principal, RunId, SessionId, SessionKey

A = SessionKey(Principal("p"), SessionId("a"))
B = SessionKey(Principal("p"), SessionId("b"))


def free_slots(dispatcher: Dispatcher) -> int:
    """Count the free slots by using them up."""
    number = 0
    while dispatcher.reserve(SessionKey(Principal("probe"), SessionId(f"probe{number}"))):
        number += 1
    return number


def test_a_run_that_is_taken_at_once_uses_one_slot_until_it_ends() -> None:
    dispatcher = Dispatcher(2)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    assert dispatcher.waiting == 0
    dispatcher.ended(A, taken=False)
    assert free_slots(dispatcher) == 2


def test_the_claim_of_a_run_that_was_accepted_with_the_end_before_it_leaves_nothing_waiting() -> None:
    """The settle of run 1 takes run 2 in the very commit that accepts it: both are answered, then its claim comes."""
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    assert not dispatcher.reserve(A)
    dispatcher.waits(RunId("2"), A, 0.0)
    dispatcher.ended(A, taken=True)
    dispatcher.claimed(RunId("2"), A)
    assert dispatcher.waiting == 0
    assert dispatcher.oldest is None
    dispatcher.ended(A, taken=False)
    assert (dispatcher.sessions, free_slots(dispatcher)) == (0, 1)


def test_a_slot_goes_over_to_the_next_run_of_its_session_and_is_not_given_twice() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    assert not dispatcher.reserve(A)
    dispatcher.waits(RunId("2"), A, 1.0)
    assert dispatcher.keeps_slot(A)
    dispatcher.ended(A, taken=True)
    dispatcher.claimed(RunId("2"), A)
    assert free_slots(dispatcher) == 0
    dispatcher.ended(A, taken=False)
    assert free_slots(dispatcher) == 1


def test_a_session_that_arrives_while_no_slot_is_free_goes_before_a_busy_ones_next_run() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    assert not dispatcher.reserve(A)
    dispatcher.waits(RunId("2"), A, 1.0)
    assert not dispatcher.reserve(B)
    dispatcher.waits(RunId("3"), B, 2.0)
    assert not dispatcher.keeps_slot(A)
    dispatcher.ended(A, taken=False)
    assert dispatcher.next() == B
    assert dispatcher.next() is None, "there is one slot"
    dispatcher.claimed(RunId("3"), B)
    dispatcher.ended(B, taken=False)
    assert dispatcher.next() == A


def test_a_claim_is_expected_from_the_moment_in_which_a_slot_is_reserved_until_it_comes_or_comes_no_more() -> None:
    dispatcher = Dispatcher(1)
    assert not dispatcher.expects_claims()
    assert dispatcher.reserve(A)
    assert dispatcher.expects_claims(), "an accept may make one"
    dispatcher.free(A)
    assert not dispatcher.expects_claims(), "it was refused"
    dispatcher.waits(RunId("1"), A, 0.0)
    assert not dispatcher.expects_claims(), "nobody has asked for it"
    assert dispatcher.next() == A
    assert dispatcher.expects_claims()
    dispatcher.claimed(RunId("1"), A)
    assert not dispatcher.expects_claims()
    dispatcher.waits(RunId("2"), A, 0.0)
    dispatcher.ended(A, taken=True)
    assert dispatcher.expects_claims(), "the end of the run has taken the next one"
    dispatcher.claimed(RunId("2"), A)
    dispatcher.held(A)
    assert not dispatcher.expects_claims()


def test_a_session_whose_run_is_held_uses_no_slot_and_goes_on_when_that_is_over() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    dispatcher.waits(RunId("2"), A, 1.0)
    dispatcher.held(A)
    assert dispatcher.next() is None, "it is held"
    assert dispatcher.shares()[A.principal] == Share(claimed=1, waiting=1, leftovers=1)
    assert not dispatcher.reserve(A)
    dispatcher.hold_ended(A)
    assert dispatcher.next() == A
    assert free_slots(dispatcher) == 0


def test_a_refused_run_gives_its_slot_back() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.free(A)
    assert free_slots(dispatcher) == 1


def test_a_blocked_session_uses_no_slot_and_lines_up_when_unblocked() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.waits(RunId("1"), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.blocked(A)
    dispatcher.waits(RunId("2"), A, 1.0)
    assert dispatcher.next() is None, "it waits for another session's last attempt"
    dispatcher.unblock()
    assert dispatcher.next() == A


def test_a_session_in_which_nothing_was_found_is_not_asked_again_until_a_run_arrives() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.waits(RunId("1"), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)
    assert dispatcher.next() is None
    assert not dispatcher.reserve(A)
    dispatcher.waits(RunId("2"), A, 1.0)
    assert dispatcher.next() == A


def test_a_session_in_which_nothing_was_found_is_forgotten_when_all_that_waits_has_left() -> None:
    dispatcher = Dispatcher(1)
    for name in ("1", "2"):
        dispatcher.waits(RunId(name), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)  # it waits for input, for instance
    dispatcher.left(RunId("1"), A)
    assert dispatcher.next() is None, "one that leaves opens nothing"
    dispatcher.left(RunId("2"), A)
    assert dispatcher.sessions == 0


def test_nothing_starts_after_a_stop() -> None:
    dispatcher = Dispatcher(4)
    dispatcher.waits(RunId("1"), A, 0.0)
    dispatcher.stop()
    assert dispatcher.next() is None
    assert not dispatcher.reserve(B)
    assert not dispatcher.keeps_slot(A)
    assert dispatcher.waiting_runs() == [RunId("1")]


def test_a_session_with_nothing_to_do_is_forgotten() -> None:
    dispatcher = Dispatcher(1)
    for number in range(1000):
        session = SessionKey(Principal("p"), SessionId(f"s{number}"))
        run_id = RunId(str(number))
        assert dispatcher.reserve(session)
        dispatcher.claimed(run_id, session)
        dispatcher.ended(session, taken=False)
    assert dispatcher.sessions == 0


def test_a_run_that_is_given_back_in_this_process_waits_again() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("r"), A)
    dispatcher.ended(A, taken=False)
    dispatcher.waits(RunId("r"), A, 0.0)
    assert dispatcher.waiting == 1
    assert dispatcher.next() == A


def test_a_session_whose_blocked_head_is_gone_lines_up_again() -> None:
    """What had to wait for another session's last attempt was cancelled; the next one need not."""
    dispatcher = Dispatcher(1)
    for run_id in ("1", "2"):
        dispatcher.waits(RunId(run_id), A, 0.0)
    assert dispatcher.next() == A
    dispatcher.blocked(A)
    assert dispatcher.next() is None
    dispatcher.left(RunId("1"), A)
    assert dispatcher.next() == A
    dispatcher.claimed(RunId("2"), A)
    dispatcher.unblock()
    dispatcher.ended(A, taken=False)
    assert (dispatcher.sessions, free_slots(dispatcher)) == (0, 1)


def test_slots_go_round_between_principals_however_many_sessions_one_has() -> None:
    dispatcher = Dispatcher(1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("x"), A)
    keys = [SessionKey(Principal("many"), SessionId(f"s{number}")) for number in range(100)]
    others = [SessionKey(Principal(name), SessionId("s")) for name in ("few", "late")]
    for number, key in enumerate([*keys, others[0]]):
        assert not dispatcher.reserve(key)
        dispatcher.waits(RunId(f"r{number}"), key, 1.0)
    served: list[SessionKey] = []

    def turn() -> None:
        key = dispatcher.next()
        assert key is not None
        number = [*keys, *others].index(key)
        dispatcher.claimed(RunId(f"r{number}"), key)
        dispatcher.ended(key, taken=False)
        served.append(key)

    dispatcher.ended(A, taken=False)
    for _ in range(3):
        turn()
    assert served == [keys[0], others[0], keys[1]], "the one of few sessions waited for one run of the other"
    dispatcher.waits(RunId("r101"), others[1], 2.0)
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
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    for run_id, key in (("2", A), ("3", other)):
        assert not dispatcher.reserve(key)
        dispatcher.waits(RunId(run_id), key, 1.0)
    assert not dispatcher.keeps_slot(A)
    assert dispatcher.shares() == {"p": Share(claimed=1, waiting=1), "q": Share(claimed=0, waiting=1)}
    dispatcher.ended(A, taken=False)
    assert dispatcher.next() == other


OTHER = SessionKey(Principal("q"), SessionId("a"))


def test_a_principal_with_its_share_of_slots_leaves_the_others_and_goes_on_when_it_gives_one_back() -> None:
    dispatcher = Dispatcher(3, per_principal=1)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("1"), A)
    assert not dispatcher.reserve(B)
    dispatcher.waits(RunId("2"), B, 1.0)
    assert dispatcher.next() is None, "it has its share"
    assert dispatcher.reserve(OTHER), "nobody waits before another principal"
    assert not dispatcher.keeps_slot(A), "its other session waits for its slot"
    dispatcher.ended(A, taken=False)
    assert dispatcher.next() == B
    assert dispatcher.next() is None


def test_sessions_of_a_principal_with_its_share_take_turns() -> None:
    dispatcher = Dispatcher(9, per_principal=1)
    for number, session in enumerate((A, B, A, B)):
        dispatcher.waits(RunId(f"r{number}"), session, 0.0)
    turns = []
    for number in (0, 1, 2, 3):
        key = dispatcher.next()
        assert key is not None
        assert dispatcher.next() is None
        dispatcher.claimed(RunId(f"r{number}"), key)
        dispatcher.ended(key, taken=False)
        turns.append(key)
    assert turns == [A, B, A, B]
    assert dispatcher.sessions == 0


def test_a_session_that_turns_out_empty_or_blocked_gives_its_share_back() -> None:
    dispatcher = Dispatcher(2, per_principal=1)
    dispatcher.waits(RunId("1"), A, 0.0)
    dispatcher.waits(RunId("2"), B, 0.0)
    assert dispatcher.next() == A
    dispatcher.emptied(A)
    assert dispatcher.next() == B
    dispatcher.blocked(B)
    assert dispatcher.reserve(SessionKey(A.principal, SessionId("c")))


def leave(dispatcher: Dispatcher, run_id: str, key: SessionKey) -> None:
    """Have a run of a session end that works on, and give its hold up at once."""
    assert dispatcher.reserve(key)
    dispatcher.claimed(RunId(run_id), key)
    dispatcher.held(key)
    dispatcher.hold_ended(key)


def test_leftovers_keep_the_slots_of_their_principal_until_they_work_no_more() -> None:
    dispatcher = Dispatcher(9, per_principal=2, leftovers_per_principal=4)
    leave(dispatcher, "1", A)
    assert dispatcher.shares() == {"p": Share(claimed=0, waiting=0, leftovers=1)}
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("2"), A)
    assert not dispatcher.reserve(B), "one slot is the leftover's, one that of the run that executes"
    dispatcher.waits(RunId("3"), B, 0.0)
    assert dispatcher.next() is None
    dispatcher.works_no_more(A.principal)
    assert dispatcher.next() == B


def test_a_principal_with_as_many_leftovers_as_it_may_have_starts_nothing_more_and_delays_no_other() -> None:
    dispatcher = Dispatcher(9, leftovers_per_principal=2)
    assert dispatcher.reserve(A)
    dispatcher.claimed(RunId("w"), A)
    leave(dispatcher, "1", B)
    assert not dispatcher.is_full(A.principal)
    assert dispatcher.keeps_slot(A)
    leave(dispatcher, "2", B)
    assert dispatcher.is_full(A.principal)
    assert not dispatcher.keeps_slot(A), "its next run would be one more that may work on"
    assert not dispatcher.reserve(B)
    dispatcher.waits(RunId("3"), B, 0.0)
    assert dispatcher.next() is None
    assert not dispatcher.is_full(OTHER.principal)
    assert dispatcher.reserve(OTHER)
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

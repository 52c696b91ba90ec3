"""The queues of sessions, move by move, over a journal in memory: slots never leak."""

from collections.abc import Coroutine
from itertools import takewhile
from typing import Any, TypeVar

from strandline._engine.queues import Obstacle, SessionQueues, Share
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Accepted, CancelSession, ClaimResult, Pause, Resume
from strandline._model import (
    Claim,
    Completion,
    InputRequest,
    Message,
    Outcome,
    Principal,
    Question,
    RunStatus,
    SessionId,
    SessionKey,
)
from strandline.testing._desk import Desk, StillClock, done, said

A = SessionKey(Principal("p"), SessionId("a"))
B = SessionKey(Principal("p"), SessionId("b"))
OTHER = SessionKey(Principal("q"), SessionId("a"))

T = TypeVar("T")


def do(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that never waits, as the operations of a journal in memory."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class Queues:
    """Queues that follow a journal, and what the engine does with both."""

    def __init__(self, max_running: int, *, max_attempts: int = 3, **bounds: int) -> None:
        clock = StillClock()
        journal = MemoryJournal(clock)
        self.desk = Desk(journal, clock, lambda: never())
        do(self.desk.open(max_attempts))
        self.it = SessionQueues(journal, clock, max_running, **bounds)
        self.woken = 0
        self.it.follow(self._wake)
        self._claims: dict[str, Claim] = {}

    def _wake(self) -> None:
        self.woken += 1

    def begin(self, run_id: str, key: SessionKey) -> None:
        """Accept a run that is claimed at once."""
        assert self.it.reserve(key)
        assert do(self.desk.accept(run_id, key)) == Accepted(0)
        self._claim(run_id)

    def wait(self, run_id: str, key: SessionKey) -> None:
        """Accept a run that waits."""
        assert isinstance(do(self.desk.accept(run_id, key, claim_next=False)), Accepted)

    def go_on(self, run_id: str) -> SessionKey | None:
        """Have the session that goes next claim a run."""
        key = self.it.next()
        if key is not None:
            assert do(self.desk.journal.claim_next(key)) is ClaimResult.CLAIMED
            self._claim(run_id)
        return key

    def _claim(self, run_id: str) -> None:
        claim = self._claims[run_id] = do(self.desk.claim(of=run_id))
        self.it.claimed(claim.run.run_id, claim.run.key, 5.0)

    def end(self, run_id: str, *, claim_next: bool = False) -> None:
        """End a run; with `claim_next`, claim the next one of its session."""
        claim = self._claims.pop(run_id)
        taken = do(self.desk.finish(claim, claim_next=claim_next)) is ClaimResult.CLAIMED
        self.it.ended(claim.run.run_id, claim.run.key, claimed=taken)

    def ask(self, run_id: str, until: float) -> None:
        """Have a run end with a question that nothing but an answer may follow until then."""
        claim, requests = self._claims.pop(run_id), [InputRequest("i", "sure")]
        message: Message = {"role": "assistant", "content": [{"text": "sure?"}]}
        completion = Completion(
            outcome=Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests),
            messages=[*said("go"), message],
            question=Question(requests=requests, message=message, results={}, state={}),
            answer_within_s=until - self.desk.clock.at,
        )
        do(self.desk.finish(claim, completion))
        self.it.ended(claim.run.run_id, claim.run.key, claimed=False)

    def requeue(self, run_id: str) -> None:
        """Have a run wait again."""
        claim = self._claims.pop(run_id)
        do(self.desk.release(claim.token, counted=True))
        self.it.ended(claim.run.run_id, claim.run.key, claimed=False)

    def hold(self, run_id: str) -> None:
        """End a run of which something still works."""
        claim = self._claims[run_id]
        do(self.desk.finish(claim, done(), hold=True))
        self.it.held(claim.run.run_id, claim.run.key)

    def end_hold(self, run_id: str) -> None:
        """Have the session of such a run continue."""
        do(self.desk.release(self._claims.pop(run_id).token, counted=True))

    def leave(self, run_id: str, key: SessionKey) -> None:
        """Have a run of a session end that works on, and give its hold up at once."""
        self.begin(run_id, key)
        self.hold(run_id)
        self.end_hold(run_id)

    @property
    def free(self) -> int:
        """Count the free slots by using them up."""
        probes = (SessionKey(Principal("probe"), SessionId(f"probe{number}")) for number in range(100))
        return len(list(takewhile(self.it.reserve, probes)))


async def never() -> MemoryJournal:
    raise AssertionError("nobody restarts it")


def test_a_run_that_is_claimed_at_once_uses_one_slot_until_it_ends() -> None:
    queues = Queues(2)
    queues.begin("1", A)
    queues.end("1")
    assert len(queues.it) == 0
    assert queues.free == 2


def test_a_slot_goes_over_to_the_next_run_of_its_session_and_is_not_given_twice() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    assert not queues.it.reserve(A)
    queues.wait("2", A)
    assert queues.it.keeps_slot(A)
    queues.end("1", claim_next=True)
    assert queues.it.expects_claims(), "the end of the run has claimed the next one"
    queues._claim("2")
    assert not queues.it.expects_claims()
    assert queues.free == 0
    queues.end("2")
    assert queues.free == 1


def test_the_end_of_a_run_is_not_the_end_of_the_next_one_that_has_begun_already() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    queues.wait("2", A)
    claim = queues._claims.pop("1")
    assert do(queues.desk.finish(claim, claim_next=True)) is ClaimResult.CLAIMED
    queues._claim("2")
    queues.it.ended(claim.run.run_id, A, claimed=True)
    assert queues.it.executing_since(A) == 5.0
    assert not queues.it.expects_claims()
    queues.end("2")
    assert (queues.it.executing_since(A), queues.free) == (None, 1)


def test_a_session_that_arrives_while_no_slot_is_free_goes_before_a_busy_ones_next_run() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    queues.wait("2", A)
    assert not queues.it.reserve(B)
    queues.wait("3", B)
    assert queues.it.obstacle(B) is Obstacle.SERVER
    assert not queues.it.keeps_slot(A)
    queues.end("1")
    assert queues.go_on("3") == B
    assert queues.it.next() is None, "there is one slot"
    queues.end("3")
    assert queues.go_on("2") == A


def test_a_claim_is_expected_from_the_moment_in_which_a_slot_is_reserved_until_it_comes_or_comes_no_more() -> None:
    queues = Queues(1)
    assert not queues.it.expects_claims()
    assert queues.it.reserve(A)
    assert queues.it.expects_claims(), "an accept may make one"
    queues.it.free(A)
    assert not queues.it.expects_claims(), "it was refused"
    assert queues.free == 1


def test_a_session_keeps_its_slot_until_its_claim_comes() -> None:
    queues = Queues(1)
    queues.wait("1", A)
    assert not queues.it.expects_claims(), "no claim was requested"
    assert queues.it.next() == A
    assert queues.it.expects_claims()
    assert queues.it.obstacle(A) is None
    assert queues.it.next() is None
    queues.it.free(A)  # (the journal was not to be had)
    assert queues.go_on("1") == A


def test_a_follower_is_woken_once_until_the_queues_are_read() -> None:
    queues = Queues(1)
    assert queues.woken == 0
    queues.wait("1", A)
    queues.wait("2", A)
    queues.wait("3", B)
    assert queues.woken == 1
    assert queues.it.next() == A
    queues.wait("4", B)
    assert queues.woken == 2


def test_what_waits_when_the_journal_is_opened_goes_next() -> None:
    queues = Queues(1)
    queues.wait("1", A)
    later = SessionQueues(queues.desk.journal, queues.desk.clock, 1)
    later.follow(lambda: None)
    assert later.next() == A


def test_a_session_whose_run_is_held_uses_no_slot_and_goes_on_when_that_is_over() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    queues.wait("2", A)
    queues.hold("1")
    assert queues.it.next() is None, "it is held"
    assert queues.it.shares()[A.principal] == Share(claimed=1, waiting=1, lingering=1)
    assert not queues.it.reserve(A)
    queues.end_hold("1")
    assert queues.go_on("2") == A
    assert queues.free == 0


def test_a_last_attempt_waits_for_another_one_without_a_slot() -> None:
    queues = Queues(2, max_attempts=2)
    for run_id, key in (("1", A), ("2", B)):
        queues.begin(run_id, key)
    for run_id in "12":
        queues.requeue(run_id)
    queues.wait("3", B)
    assert queues.go_on("1") == A
    assert queues.it.next() is None, "it waits for another session's last attempt"
    assert queues.it.obstacle(B) is Obstacle.LAST_ATTEMPT
    assert queues.free == 1
    queues.end("1")
    assert queues.go_on("2") == B


def test_a_session_whose_last_attempt_waited_and_is_gone_lines_up_again() -> None:
    """What had to wait for another session's last attempt was cancelled; the next one need not."""
    queues = Queues(2, max_attempts=2)
    for run_id, key in (("1", A), ("2", B)):
        queues.begin(run_id, key)
    for run_id in "12":
        queues.requeue(run_id)
    queues.wait("3", B)
    assert queues.go_on("1") == A
    assert queues.it.next() is None
    do(queues.desk.cancel("2", "p"))
    assert queues.go_on("3") == B


def test_a_paused_session_leaves_the_line_and_comes_back() -> None:
    queues = Queues(1)
    queues.begin("0", OTHER)
    queues.wait("1", A)
    assert queues.it.obstacle(A) is Obstacle.SERVER
    do(queues.desk.journal.change(Pause(A)))
    assert queues.it.is_closed(A)
    assert queues.it.keeps_slot(OTHER), "nobody waits for it"
    assert queues.it.obstacle(A) is None
    assert len(queues.it) == 1
    queues.end("0")
    assert queues.it.next() is None
    do(queues.desk.journal.change(Resume(A)))
    assert not queues.it.is_closed(A)
    assert queues.go_on("1") == A


def test_a_session_leaves_the_line_when_all_that_waits_has_left() -> None:
    queues = Queues(1)
    queues.begin("0", OTHER)
    for run_id in "12":
        queues.wait(run_id, A)
    assert not queues.it.keeps_slot(OTHER)
    do(queues.desk.journal.change(CancelSession(A, running=False)))
    assert queues.it.keeps_slot(OTHER)
    assert len(queues.it) == 1


def test_a_session_that_waits_for_input_again_since_the_clock_was_set_back_lines_up_when_that_is_over() -> None:
    """The time of its question was over, but no slot was free."""
    queues = Queues(1)
    queues.begin("1", A)
    queues.ask("1", until=1_060.0)
    queues.begin("0", OTHER)
    queues.wait("2", A)
    queues.desk.clock.at = 1_060.0
    assert queues.it.sessions.due(1_060.0) == []
    assert queues.it.obstacle(A) is Obstacle.SERVER
    queues.desk.clock.at = 1_030.0
    queues.end("0")
    assert queues.it.next() == A
    assert do(queues.desk.journal.claim_next(A)) is ClaimResult.NOTHING
    queues.it.free(A)
    assert queues.it.next() is None
    assert queues.it.sessions.next_due == 1_060.0
    queues.desk.clock.at = 1_060.0
    assert queues.it.sessions.due(1_060.0) == []
    assert queues.go_on("2") == A


def test_nothing_starts_after_a_stop() -> None:
    queues = Queues(4)
    queues.wait("1", A)
    queues.it.stop()
    assert queues.it.next() is None
    assert not queues.it.reserve(B)
    assert not queues.it.keeps_slot(A)


def test_a_session_with_nothing_to_do_is_forgotten() -> None:
    queues = Queues(1)
    for number in range(100):
        queues.begin(f"r{number}", SessionKey(Principal("p"), SessionId(f"s{number}")))
        queues.end(f"r{number}")
    assert len(queues.it) == 0


def test_a_requeued_run_goes_next_again() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    queues.requeue("1")
    assert queues.go_on("1") == A


# -- between principals --------------------------------------------------------------------------------


def test_slots_go_round_between_principals_however_many_sessions_one_has() -> None:
    queues = Queues(1)
    queues.begin("x", A)
    keys = [SessionKey(Principal("many"), SessionId(f"s{number}")) for number in range(100)]
    others = [SessionKey(Principal(name), SessionId("s")) for name in ("few", "late")]
    names = {key: f"r{number}" for number, key in enumerate([*keys, *others])}
    for key in [*keys, others[0]]:
        assert not queues.it.reserve(key)
        queues.wait(names[key], key)
    served: list[SessionKey] = []

    def turn() -> None:
        key = queues.it.next()
        assert key is not None
        assert do(queues.desk.journal.claim_next(key)) is ClaimResult.CLAIMED
        queues._claim(names[key])
        queues.end(names[key])
        served.append(key)

    queues.end("x")
    for _ in range(3):
        turn()
    assert served == [keys[0], others[0], keys[1]], "the one of few sessions waited for one run of the other"
    queues.wait(names[others[1]], others[1])
    for _ in range(3):
        turn()
    assert others[1] in served[3:5], "a late session waits for one turn of each principal, not for all waiting sessions"
    for _ in range(96):
        turn()
    assert [key for key in served if key.principal == "many"] == keys, "in the order in which they lined up"
    assert queues.it.next() is None


def test_no_session_goes_on_with_its_own_next_run_while_another_principal_waits() -> None:
    queues = Queues(1)
    queues.begin("1", A)
    queues.wait("2", A)
    queues.wait("3", OTHER)
    assert not queues.it.keeps_slot(A)
    assert queues.it.shares() == {"p": Share(claimed=1, waiting=1), "q": Share(claimed=0, waiting=1)}
    queues.end("1")
    assert queues.go_on("3") == OTHER


def test_a_principal_with_its_share_of_slots_leaves_the_others_and_goes_on_when_it_gives_one_back() -> None:
    queues = Queues(3, per_principal=1)
    queues.begin("1", A)
    assert not queues.it.reserve(B)
    queues.wait("2", B)
    assert queues.it.next() is None, "it has its share"
    assert queues.it.obstacle(B) is Obstacle.PRINCIPAL
    assert queues.it.reserve(OTHER), "nobody waits before another principal"
    assert not queues.it.keeps_slot(A), "its other session waits for its slot"
    queues.end("1")
    assert queues.go_on("2") == B
    assert queues.it.next() is None


def test_a_slot_that_is_free_again_frees_one_of_its_principals_share() -> None:
    queues = Queues(9, per_principal=2)
    queues.begin("1", A)
    queues.begin("2", B)
    c, d = (SessionKey(A.principal, SessionId(each)) for each in "cd")
    assert not queues.it.reserve(c)
    queues.end("1")
    queues.begin("3", c)
    assert not queues.it.reserve(d), "it has two again"


def test_a_session_of_a_principal_with_its_share_leaves_the_line_when_all_that_waits_has_left() -> None:
    queues = Queues(3, per_principal=1)
    queues.begin("1", A)
    queues.wait("2", B)
    assert not queues.it.keeps_slot(A)
    do(queues.desk.journal.change(CancelSession(B, running=False)))
    assert queues.it.keeps_slot(A)
    assert len(queues.it) == 1
    queues.end("1")
    assert queues.it.next() is None


def test_sessions_of_a_principal_with_its_share_take_turns() -> None:
    queues = Queues(9, per_principal=1)
    for number, session in enumerate((A, B, A, B)):
        queues.wait(f"r{number}", session)
    turns = []
    for number in range(4):
        turns.append(queues.go_on(f"r{number}"))
        assert queues.it.next() is None
        queues.end(f"r{number}")
    assert turns == [A, B, A, B]
    assert len(queues.it) == 0


def test_a_session_that_turns_out_empty_gives_its_share_back() -> None:
    queues = Queues(2, per_principal=1)
    queues.wait("1", A)
    queues.wait("2", B)
    assert queues.it.next() == A
    do(queues.desk.cancel("1", "p"))
    assert do(queues.desk.journal.claim_next(A)) is ClaimResult.NOTHING
    queues.it.free(A)
    assert queues.go_on("2") == B
    queues.end("2")
    assert queues.it.reserve(SessionKey(A.principal, SessionId("c")))


def test_lingering_runs_keep_slots_of_their_principal_until_they_stop() -> None:
    queues = Queues(9, per_principal=2, lingering_per_principal=4)
    queues.leave("1", A)
    assert queues.it.shares() == {"p": Share(claimed=0, waiting=0, lingering=1)}
    queues.begin("2", A)
    assert not queues.it.reserve(B), "one slot is the lingering run's, one the executing run's"
    queues.wait("3", B)
    assert queues.it.next() is None
    queues.it.lingering_ended(A.principal)
    assert queues.go_on("3") == B


def test_a_principal_at_its_limit_of_lingering_runs_starts_nothing_and_delays_no_other() -> None:
    queues = Queues(9, lingering_per_principal=2)
    queues.begin("w", A)
    queues.leave("1", B)
    assert not queues.it.is_full(A.principal)
    assert queues.it.keeps_slot(A)
    queues.leave("2", B)
    assert queues.it.is_full(A.principal)
    assert not queues.it.keeps_slot(A), "its next run would be one more that may work on"
    assert not queues.it.reserve(B)
    queues.wait("3", B)
    assert queues.it.next() is None
    assert queues.it.obstacle(B) is Obstacle.LINGERING
    assert not queues.it.is_full(OTHER.principal)
    assert queues.it.reserve(OTHER)
    queues.it.lingering_ended(A.principal)
    assert queues.it.lingering(A.principal) == 1, "the other one still executes"
    assert queues.go_on("3") == B


def test_a_session_that_goes_next_meets_no_obstacle() -> None:
    queues = Queues(1, per_principal=1)
    queues.wait("1", A)
    assert queues.it.obstacle(A) is None


def test_lingering_runs_keep_at_most_half_of_all_slots() -> None:
    for max_running, left in ((1, 1), (2, 1), (3, 2), (4, 2)):
        queues = Queues(max_running, lingering_per_principal=1)
        for number in range(6):
            queues.leave(f"r{number}", SessionKey(Principal(f"p{number}"), A.session_id))
        assert queues.free == left


def test_unlimited_lingering_runs_keep_no_slot() -> None:
    queues = Queues(2, per_principal=1)
    for number in range(3):
        queues.leave(f"r{number}", A)
    assert not queues.it.is_full(A.principal)
    assert queues.free == 1, "the share of one principal"

"""The session table by itself: what it decides, which rows it writes, what it has forgotten when a commit failed.

What it decides in which case is in the contract suite, which it passes behind every journal; whether memory and storage
agree in a hostile order, in `tests/properties/test_session_table.py`.
"""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from stored_rows import StoredRows
from strandline._encoding import encode_messages
from strandline._history import UNKNOWN_OUTCOME
from strandline._journal import live
from strandline._journal.accepting import KEPT_BYTES
from strandline._journal.changes import (
    AddCheckpoint,
    AddHistory,
    AddRun,
    AddSession,
    Body,
    Change,
    ChangeRun,
    DropCheckpoints,
    EndHold,
    EndRun,
    SessionRef,
    StoreAgent,
    encode_completion,
    encoded_body,
)
from strandline._journal.defaults import stored_options
from strandline._journal.errors import CancelRequested, ClaimLost
from strandline._journal.live import DUE_AGAIN_S
from strandline._journal.numbers import Counted
from strandline._journal.port import (
    AcceptAnswer,
    Accepted,
    AddSchedule,
    Attached,
    Bounds,
    Cancel,
    Changed,
    ChangeSchedule,
    ClaimResult,
    Delete,
    EndOverdue,
    Move,
    Pause,
    Refused,
    Resume,
    SetOptions,
    Stopped,
)
from strandline._journal.port import Change as AnyChange
from strandline._journal.records import Missing, StoredRun
from strandline._journal.state import Keys, RunQueue, RunState, SessionState
from strandline._journal.table import Batch, SessionTable
from strandline._model import (
    ANONYMOUS,
    Claim,
    Completion,
    FencingToken,
    IfBusy,
    InputRequest,
    JoinState,
    Keyed,
    Lane,
    NewRun,
    OnQuestion,
    Outcome,
    Question,
    Resolution,
    RoundStarted,
    RunDefaults,
    RunId,
    RunStatus,
    ScheduleId,
    SessionKey,
    ToolNotDone,
)
from strandline.errors import InvariantBroken, JournalUnavailable
from strandline.testing._checker import check_history
from strandline.testing._desk import WIDE, key, said

DONE = Outcome(status=RunStatus.SUCCEEDED)
NOW = 1000.0


class Desk:
    """A table over a store in memory, and what it has decided: operations are stored unless their commit `fails`."""

    def __init__(self, store: StoredRows | None = None, *, max_attempts: int = 3, epoch: int = 1) -> None:
        self.store = store or StoredRows()
        self.now = NOW
        no, seq, row = self.store.next_numbers()
        self.table = SessionTable.of(self.store, max_attempts=max_attempts, numbers=Counted(no, seq, row))
        self.orphans = self.table.take_over({0: epoch}, self.now)
        self.rows: list[Change] = []
        self.claims: list[Claim] = []
        self.keep()

    @property
    def last_fence(self) -> int:
        """The last fence that was given."""
        numbers = self.table.numbers
        assert isinstance(numbers, Counted)
        return numbers.last_fence

    def keep(self) -> None:
        """Store what was decided."""
        batch = self.table.drain()
        self.rows, self.claims = batch.changes, batch.claims
        self.store.write(self.rows)
        self.table.durable(batch, {})

    def lose(self, *batches: Batch) -> None:
        """Put everything back to what is stored, as these batches could not be, and what was decided since."""
        stale = self.table.undo(batches)
        self.table.put_back({key: self.store.session(key) for key in stale})

    def accept(self, run_id: str, session: str = "s", *, claim_next: bool = True, **fields: Any) -> AcceptAnswer:
        fields.setdefault("input", f"ask {run_id}")
        new = NewRun(run_id=RunId(run_id), key=key(session), created_at=self.now, **fields)
        answer = self.table.accept(new, encoded_body(new), WIDE, claim_next=claim_next, now=self.now)
        self.keep()
        return answer

    def token(self, run_id: str) -> FencingToken:
        fence = self.store.runs[RunId(run_id)].fence
        assert fence is not None
        return FencingToken(RunId(run_id), fence)

    def decide(self, token: FencingToken, *, hold: bool = False, claim_next: bool = True, **fields: Any) -> ClaimResult:
        whole: dict[str, Any] = {"outcome": DONE, "messages": said(token.run_id)} | fields
        left = encode_completion(Completion(**whole))
        return self.table.finish(token, left, hold=hold, claim_next=claim_next, now=self.now)

    def finish(self, run_id: str, *, hold: bool = False, claim_next: bool = True, **fields: Any) -> ClaimResult:
        taken = self.decide(self.token(run_id), hold=hold, claim_next=claim_next, **fields)
        self.keep()
        return taken

    def checkpoint(self, run_id: str) -> None:
        self.table.checkpoint(self.token(run_id), encode_messages(RoundStarted(said(run_id))))
        self.keep()

    def change(self, change: AnyChange) -> object:
        answer = self.table.change(change, now=self.now)
        self.keep()
        return answer

    def kinds(self) -> list[type]:
        return [type(row) for row in self.rows]


def with_question(*ids: str) -> dict[str, Any]:
    """Return the fields of a completion with a question."""
    uses = [{"toolUse": {"toolUseId": each, "name": "pay", "input": {}}} for each in ids]
    message: Any = {"role": "assistant", "content": uses}
    requests = [InputRequest(each, "sure", 1) for each in ids]
    return {
        "outcome": Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests),
        "messages": [{"role": "user", "content": [{"text": "?"}]}, message],
        "question": Question(requests=requests, message=message, results={}, state={}),
    }


# -- rows -----------------------------------------------------------------------------------------------


def test_a_run_that_starts_at_once_is_one_row_with_its_fence() -> None:
    desk = Desk()
    assert desk.accept("a") == Accepted(0)
    assert desk.kinds() == [AddSession, AddRun]
    added = desk.rows[1]
    assert isinstance(added, AddRun)
    (claim,) = desk.claims
    assert (added.fence, added.started_at) == (claim.token.fence, NOW)
    assert (claim.run.status, claim.run.attempt, claim.run.input) == (RunStatus.RUNNING, 1, "ask a")


def test_the_end_of_a_run_and_the_claim_of_the_next_are_decided_together() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    assert desk.kinds() == [AddRun]
    desk.checkpoint("a")
    assert desk.kinds() == [AddCheckpoint]
    assert desk.finish("a", state={"n": 1}) is ClaimResult.CLAIMED
    assert desk.kinds() == [EndRun, DropCheckpoints, AddHistory, StoreAgent, ChangeRun]
    assert [claim.run.run_id for claim in desk.claims] == ["b"]


def test_a_hold_ends_with_the_claim_and_its_time_is_given_to_what_waits() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", queue_deadline=NOW + 5)
    desk.checkpoint("a")
    desk.finish("a", hold=True)
    assert not desk.claims
    desk.now += 60
    desk.table.release(desk.token("a"), counted=True, now=desk.now)
    assert desk.table.claim_next(key(), now=desk.now) is ClaimResult.CLAIMED
    desk.keep()
    assert desk.kinds() == [EndHold, ChangeRun, ChangeRun]
    assert desk.claims[0].run.queue_deadline == NOW + 65


def test_a_run_that_gets_more_time_to_wait_is_overdue_when_that_is_over() -> None:
    """It is looked at when it would have been due, and again later."""
    desk = Desk()
    desk.accept("a")
    desk.accept("b", queue_deadline=NOW + 10)
    desk.finish("a", **with_question("i"), answer_within_s=90)
    assert desk.table.due(NOW + 10) == []
    assert desk.table.due(NOW + 99) == []
    assert desk.table.next_due == NOW + 100
    assert desk.table.due(NOW + 100) == [key()]


def test_a_run_whose_session_gets_its_answer_early_is_overdue_so_much_earlier() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", queue_deadline=NOW + 10)
    desk.finish("a", **with_question("i"), answer_within_s=90)
    assert desk.table.due(NOW + 10) == []
    desk.now += 20
    desk.accept("c", on_question=OnQuestion.ANSWER)
    assert desk.table.due(NOW + 29) == []
    assert desk.table.next_due == NOW + 30
    assert desk.table.due(NOW + 30) == [key()]


def test_a_row_says_whether_an_executing_run_is_in_its_last_attempt() -> None:
    desk = Desk(max_attempts=2)
    desk.accept("a", claim_next=False)
    found = []
    for _ in range(2):
        desk.table.claim_next(key(), now=desk.now)
        desk.keep()
        found += [row.is_last for row in desk.rows if isinstance(row, ChangeRun)]
        desk.table.release(desk.token("a"), counted=True, now=desk.now)
        desk.keep()
        found += [row.is_last for row in desk.rows if isinstance(row, ChangeRun)]
    assert found == [False, False, True, False]


def test_the_next_owner_claims_what_executed_with_its_question_if_it_answers_one() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", "asks")
    desk.finish("b", **with_question("i"), answer_within_s=60.0)
    desk.accept("c", "asks", on_question=OnQuestion.ANSWER)
    first, second = Desk(desk.store, epoch=2).orphans
    assert (first.run.run_id, first.question) == ("a", None)
    assert second.run.run_id == "c"
    assert second.question is not None
    assert [each.id for each in second.question.requests] == ["i"]


def test_every_row_has_a_writer() -> None:
    assert set(StoredRows()._writers) == set(Change.__subclasses__())


# -- nothing is half done -------------------------------------------------------------------------------


def test_an_operation_that_raises_changes_nothing_and_notes_nothing() -> None:
    desk = Desk()
    desk.accept("a")
    token = desk.token("a")
    stale = FencingToken(token.run_id, token.fence - 1)
    with pytest.raises(ClaimLost):
        desk.decide(stale)
    with pytest.raises(ClaimLost):
        desk.table.checkpoint(stale, b"{}")
    with pytest.raises(ClaimLost):
        desk.table.release(stale, counted=True, now=NOW)
    with pytest.raises(InvariantBroken):
        desk.decide(token, outcome=Outcome(status=RunStatus.QUEUED))
    desk.change(Cancel(ANONYMOUS, RunId("a")))
    with pytest.raises(CancelRequested):
        desk.decide(token)
    with pytest.raises(CancelRequested):
        desk.table.release(token, counted=True, now=NOW)
    assert not desk.table.decided
    assert desk.finish("a", outcome=Outcome(status=RunStatus.CANCELLED)) is ClaimResult.NOTHING


def test_a_later_cancel_does_not_keep_what_a_rollback_discards() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK)
    assert desk.change(Cancel(ANONYMOUS, RunId("a"))) == Stopped({}, [RunId("a")])
    with pytest.raises(CancelRequested) as wanted:
        desk.finish("a", outcome=Outcome(status=RunStatus.CANCELLED))
    assert wanted.value.discard
    desk.finish("a", outcome=Outcome(status=RunStatus.CANCELLED), discarded=True)
    assert [row.discarded for row in desk.rows if isinstance(row, AddHistory)] == [True]


def test_what_is_refused_leaves_no_session_behind() -> None:
    desk = Desk()
    new = NewRun(run_id=RunId("a"), key=key("s"), input="x", created_at=NOW)
    answer = desk.table.accept(new, encoded_body(new), Bounds(0, 0), claim_next=False, now=NOW)
    assert answer == Refused("queue_full", 1)
    assert not desk.table.decided
    assert desk.table.change(Pause(key("s")), now=NOW) == Changed(existed=False)


# -- commits that fail ----------------------------------------------------------------------------------


def test_what_was_rolled_back_is_decided_again_alike_with_a_later_fence() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    desk.accept("c", lane=Lane.FRONT)
    token = desk.token("a")
    assert desk.decide(token) is ClaimResult.CLAIMED
    batch = desk.table.drain()
    (lost,) = batch.claims
    desk.lose(batch)
    assert desk.table.position(RunId("c")) == 1
    assert desk.table.position(RunId("b")) == 2
    assert desk.finish("a") is ClaimResult.CLAIMED
    (claim,) = desk.claims
    assert claim.run.run_id == lost.run.run_id == "c"
    assert claim.token.fence > lost.token.fence
    with pytest.raises(ClaimLost):
        desk.decide(lost.token)


def test_a_session_that_was_never_stored_is_not_there_after_its_commit_failed() -> None:
    desk = Desk()
    for claim_next in (True, False):
        new = NewRun(run_id=RunId("a"), key=key("s"), input="x", created_at=NOW)
        desk.table.accept(new, encoded_body(new), WIDE, claim_next=claim_next, now=NOW)
        desk.lose()
        assert not desk.table.decided
        assert desk.table.claim_next(key("s"), now=NOW) is ClaimResult.NOTHING
        assert desk.table.position(RunId("a")) is None
    assert desk.accept("a") == Accepted(0)


@pytest.mark.parametrize("comes_again", [True, False])
def test_a_session_that_was_deleted_in_vain_is_there_again(comes_again: bool) -> None:
    desk = Desk()
    desk.accept("a")
    desk.finish("a")
    assert desk.table.change(Delete(key()), now=NOW) == Changed(existed=True)
    if comes_again:
        new = NewRun(run_id=RunId("b"), key=key(), input="x", created_at=NOW)
        desk.table.accept(new, encoded_body(new), WIDE, claim_next=True, now=NOW)
    desk.lose()
    session = desk.table._find(key())
    assert session is not None
    assert (session.end.length, session.is_idle) == (len(said("a")), True)


def test_what_is_decided_while_a_batch_is_stored_is_undone_with_it() -> None:
    desk = Desk()
    desk.accept("a")
    desk.decide(desk.token("a"))
    batch = desk.table.drain()
    new = NewRun(run_id=RunId("b"), key=key("other"), input="x", created_at=NOW)
    desk.table.accept(new, encoded_body(new), WIDE, claim_next=True, now=NOW)
    assert desk.table.undo([batch]) == {key(), key("other")}


def test_a_session_whose_deletion_is_not_stored_yet_is_not_there() -> None:
    """Whatever storage still says of it."""
    desk = Desk()
    desk.accept("a")
    desk.finish("a")
    assert desk.table.change(Delete(key()), now=NOW) == Changed(existed=True)
    batch = desk.table.drain()
    assert desk.table.change(Pause(key()), now=NOW) == Changed(existed=False)
    desk.store.write(batch.changes)
    desk.table.durable(batch, {})
    assert desk.table.change(Pause(key()), now=NOW) == Changed(existed=False)
    assert desk.accept("b") == Accepted(0)
    assert desk.change(Pause(key())) == Changed(existed=True)


def test_a_session_that_was_deleted_twice_is_found_when_it_comes_again() -> None:
    """Both deletions were decided before the first one was stored."""
    desk, batches = Desk(), list[Batch]()
    for _ in range(2):
        desk.accept("a", claim_next=False) if not batches else desk.table.accept(
            *again("b"), WIDE, claim_next=False, now=NOW
        )
        run_id = RunId("b" if batches else "a")
        assert isinstance(desk.table.change(Cancel(ANONYMOUS, run_id), now=NOW), Stopped)
        assert desk.table.change(Delete(key()), now=NOW) == Changed(existed=True)
        batches.append(desk.table.drain())
    for batch in batches:
        desk.store.write(batch.changes)
        desk.table.durable(batch, {})
    desk.accept("c", claim_next=False)
    desk.table._forget(key())
    assert desk.change(Pause(key())) == Changed(existed=True)


def again(run_id: str) -> tuple[NewRun, Body]:
    new = NewRun(run_id=RunId(run_id), key=key(), input="x", created_at=NOW)
    return new, encoded_body(new)


def test_a_session_is_reported_when_it_is_resumed() -> None:
    desk, moved = Desk(), list[SessionKey]()
    desk.accept("a", claim_next=False)
    desk.change(Pause(key()))
    desk.table.watch(moved.append)
    moved.clear()
    desk.change(Resume(key()))
    assert set(moved) == {key()}


def test_a_session_stays_in_memory_until_all_of_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CACHED_SESSIONS", 1)
    desk = Desk()
    desk.accept("a", "first")
    desk.decide(desk.token("a"))
    batch = desk.table.drain()
    desk.table.change(Pause(key("first")), now=NOW)
    later = desk.table.drain()
    for each in (batch, later):
        desk.store.write(each.changes)
    desk.table.durable(batch, {})
    desk.accept("b", "second")
    assert key("first") in desk.table._sessions
    desk.table.durable(later, {})
    desk.accept("c", "third")
    assert key("first") not in desk.table._sessions


def test_missing_records_are_reported_before_anything_is_changed() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", input="long " * KEPT_BYTES)
    desk.table.records = None
    with pytest.raises(Missing) as missing:
        desk.decide(desk.token("a"))
    assert not desk.table.decided
    desk.table.found = {missing.value.what: missing.value.read(desk.store)}
    assert desk.finish("a") is ClaimResult.CLAIMED
    assert desk.claims[0].run.input == "long " * KEPT_BYTES


def accept_bounded(desk: Desk, run_id: str, most: int) -> AcceptAnswer:
    """Accept a run of `SIZE` bytes if its caller has at most so many then, with what storage says where it is asked."""
    new = NewRun(run_id=RunId(run_id), key=key(), input="x", created_at=NOW)
    bounds = replace(WIDE, stored_bytes=most)
    try:
        return desk.table.accept(new, encoded_body(new), bounds, claim_next=False, now=NOW)
    except Missing as missing:
        desk.table.found = {**desk.table.found, missing.what: missing.read(desk.store)}
        return accept_bounded(desk, run_id, most)


SIZE = encoded_body(NewRun(run_id=RunId("a"), key=key(), input="x", created_at=NOW)).size


def test_bytes_count_from_their_accept_on_and_once() -> None:
    desk = Desk()
    desk.table.records = None
    assert [accept_bounded(desk, each, 2 * SIZE) for each in "abc"] == [
        Accepted(1), Accepted(2), Refused("storage_full", 3),
    ]  # fmt: skip
    batch = desk.table.drain()
    assert accept_bounded(desk, "c", 2 * SIZE) == Refused("storage_full", 3)
    desk.store.write(batch.changes)
    assert desk.table.principals(batch) == {ANONYMOUS}
    desk.table.durable(batch, {ANONYMOUS: desk.store.stored_bytes(ANONYMOUS)})
    assert accept_bounded(desk, "c", 2 * SIZE) == Refused("storage_full", 3)
    assert [accept_bounded(desk, each, 3 * SIZE) for each in "cd"] == [Accepted(3), Refused("storage_full", 4)]


def test_bytes_that_could_not_be_stored_do_not_count() -> None:
    desk = Desk()
    desk.table.records = None
    for run_id in "ab":
        assert accept_bounded(desk, run_id, SIZE) == Accepted(1)
        desk.lose(desk.table.drain())
        desk.table.found.clear()


def test_bytes_that_were_stored_although_the_commit_seemed_to_fail_count() -> None:
    desk = Desk()
    desk.table.records = None
    assert accept_bounded(desk, "a", SIZE) == Accepted(1)
    batch = desk.table.drain()
    desk.store.write(batch.changes)
    desk.lose(batch)
    desk.table.found.clear()
    assert accept_bounded(desk, "b", SIZE) == Refused("storage_full", 2)


def test_an_overdue_run_whose_end_could_not_be_stored_is_due_again_a_second_later() -> None:
    desk = Desk()
    desk.accept("a", queue_deadline=NOW + 5, claim_next=False)
    desk.now += 10
    late = Outcome(status=RunStatus.FAILED)
    assert isinstance(desk.table.change(EndOverdue(key(), late), now=desk.now), Stopped)
    desk.lose()
    assert desk.table.due(desk.now) == []
    assert desk.table.due(desk.now + DUE_AGAIN_S) == [key()]


def test_sessions_whose_last_attempts_waited_for_another_one_are_reported_when_it_ends() -> None:
    desk = Desk(max_attempts=2)
    for name in ("a", "b"):
        desk.accept(name, session=name)
        desk.table.release(desk.token(name), counted=True, now=NOW)
        desk.keep()
    moved: list[SessionKey] = []
    desk.table.watch(moved.append)
    assert desk.table.claim_next(key("a"), now=NOW) is ClaimResult.CLAIMED
    desk.keep()
    assert desk.table.cannot_claim(key("b"), NOW) is ClaimResult.BLOCKED
    moved.clear()
    desk.finish("a")
    assert key("b") in moved
    assert desk.table.cannot_claim(key("b"), NOW) is None


def test_of_a_session_that_is_not_cached_nothing_waits_and_nothing_executes() -> None:
    table, unknown = Desk().table, key("unknown")

    assert (table.is_idle(unknown), table.executes(unknown), table.is_paused(unknown)) == (True, False, False)
    assert (table.input_until(unknown, NOW), table.cannot_claim(unknown, NOW)) == (None, ClaimResult.NOTHING)
    assert (table.is_waiting(RunId("r")), table.is_live(RunId("r")), table.position(RunId("r"))) == (False, False, None)
    new = NewRun(run_id=RunId("r"), key=unknown, input="x", created_at=NOW)
    assert table.refusal(new, most=0) is None
    assert table.session_of(RunId("r")) is None
    assert table.session_of(None) is None


def keyed(key: str) -> dict[str, Any]:
    return {"keyed": Keyed(key, key.encode() * 16, NOW - 60)}


def test_a_key_that_no_run_of_its_session_has_is_known_without_storage() -> None:
    desk = Desk()
    desk.table.records = None
    desk.table.found = {key(): None}
    for n in range(3):
        assert desk.accept(f"r{n}", **keyed(f"k{n}")) == Accepted(n)
    with pytest.raises(Missing) as missing:
        desk.accept("again", **keyed("k1"))
    desk.table.found = {missing.value.what: missing.value.read(desk.store)}
    assert desk.accept("again", **keyed("k1")) == Attached(RunId("r1"))


def test_of_a_session_that_comes_from_storage_all_keys_are_read_at_once() -> None:
    desk = Desk()
    for n in range(3):
        desk.accept(f"r{n}", claim_next=False, **keyed(f"k{n}"))
    again = Desk(desk.store, epoch=2)
    again.table.records = None
    with pytest.raises(Missing) as missing:
        again.accept("new", **keyed("k9"))
    assert sorted(missing.value.read(desk.store)) == ["k0", "k1", "k2"]
    again.table.found = {missing.value.what: missing.value.read(desk.store)}
    again.accept("new", **keyed("k9"))
    again.accept("other", **keyed("k8"))
    with pytest.raises(Missing):
        again.accept("old", **keyed("k2"))


def test_of_many_keys_none_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keys, "MOST", 2)
    desk = Desk()
    for n in range(3):
        desk.accept(f"r{n}", claim_next=False, **keyed(f"k{n}"))
    assert desk.accept("again", **keyed("k0")) == Attached(RunId("r0"))
    again = Desk(desk.store, epoch=2)
    assert again.accept("again", **keyed("k2")) == Attached(RunId("r2"))
    for table in (desk.table, again.table):
        session = table._find(key())
        assert session is not None
        assert session.keys is not None
        assert session.keys.may_have("nobody has used this")


def test_remembered_keys_are_found_in_whatever_order_they_came_and_take_little() -> None:
    """Ten thousand sessions are in memory: 100 MB with a thousand keys each, where objects would take 700."""
    names = [f"k{n}" for n in range(Keys.MOST)]
    tracemalloc.start()
    read, added = Keys(names), Keys()
    for name in [*names, *names]:
        added.add(name)
    names.clear()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 2 * 12_000
    for keys in (read, added):
        assert all(keys.may_have(f"k{n}") for n in range(Keys.MOST))
        assert not any(keys.may_have(f"other{n}") for n in range(Keys.MOST))
        keys.add("one more")
        assert keys.may_have("nobody has used this")


def test_short_inputs_stay_in_memory_as_long_as_their_runs_wait() -> None:
    desk = Desk()
    desk.table.records = None
    desk.table.found = {key(): None}
    desk.accept("a")
    desk.accept("b", metadata={"k": [1]})
    assert desk.finish("a") is ClaimResult.CLAIMED
    (claim,) = desk.claims
    assert (claim.run.input, claim.run.metadata, claim.run.attempt) == ("ask b", {"k": [1]}, 1)
    run = desk.table._runs[RunId("b")]
    assert claim.run == desk.store.run(run.session.ref, run.seq).run
    assert run.new is None


def test_what_was_stored_before_is_not_rolled_back() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", "other", claim_next=False)
    new = NewRun(run_id=RunId("c"), key=key(), input="x", created_at=NOW)
    desk.table.accept(new, encoded_body(new), WIDE, claim_next=True, now=NOW)
    desk.lose()
    assert desk.table.position(RunId("b")) == 1
    assert desk.table.position(RunId("c")) is None
    assert desk.finish("a") is ClaimResult.NOTHING


# -- what stays in memory -------------------------------------------------------------------------------


def test_a_table_begins_with_the_sessions_in_which_something_goes_on() -> None:
    desk = Desk()
    for run_id, session in (("a", "executes"), ("b", "rests"), ("c", "is held"), ("d", "waits")):
        desk.accept(run_id, session, claim_next=session != "waits")
    desk.finish("b")
    desk.finish("c", hold=True)
    assert [desk.table.session_of(RunId(each)) for each in "abcd"] == [
        key("executes"),
        None,
        key("is held"),
        key("waits"),
    ]
    before = desk.token("a")
    assert set(SessionTable.of(desk.store, max_attempts=3, numbers=Counted(9, 9, 9))._sessions) == {
        key("executes"), key("is held"), key("waits"),
    }  # fmt: skip
    again = Desk(desk.store, epoch=2)
    assert [claim.run.run_id for claim in again.orphans] == ["a"]
    assert again.orphans[0].token.fence > desk.last_fence
    assert again.accept("e", "is held") == Accepted(0)
    with pytest.raises(ClaimLost):
        again.table.checkpoint(before, b"{}")


def test_idle_sessions_leave_memory_before_busy_ones_and_come_back_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "CACHED_SESSIONS", 3)
    desk = Desk()
    desk.accept("busy", "busy")
    desk.accept("paused", "paused")
    desk.finish("paused")
    desk.change(Pause(key("paused")))
    for n in range(9):
        desk.accept(f"r{n}", f"s{n}")
        desk.finish(f"r{n}")
        assert len(desk.table._sessions) <= 3
    assert key("busy") in desk.table._sessions
    assert key("paused") not in desk.table._sessions
    assert desk.accept("later", "paused") == Accepted(1)
    assert desk.table.is_paused(key("paused"))


def test_a_session_is_never_dropped_to_make_room_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CACHED_SESSIONS", 1)
    desk = Desk()
    for n in range(2):
        desk.accept(f"r{n}", f"s{n}")
    for n in range(3):
        assert desk.accept(f"waits{n}", "new", claim_next=False) == Accepted(n + 1)
        assert key("new") in desk.table._sessions
    assert desk.table.waiting == 3


# -- questions ------------------------------------------------------------------------------------------


def test_a_question_whose_time_is_over_at_once_is_dismissed_by_what_is_claimed_with_its_end() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    assert desk.finish("a", **with_question("t1"), answer_within_s=0.0) is ClaimResult.CLAIMED
    assert [claim.run.run_id for claim in desk.claims] == ["b"]
    session = desk.store.sessions[key()]
    assert session.question is None
    assert [json.loads(each)["role"] for each in session.history] == ["user", "assistant", "user", "assistant"]
    assert session.closed == {"t1": (0, "dismissed")}


def test_the_answer_waits_in_its_session_and_goes_first() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    assert not desk.claims
    assert desk.accept("c", on_question=OnQuestion.ANSWER) == Accepted(0)
    assert (desk.claims[0].run.run_id, desk.claims[0].run.lane) == ("c", Lane.ANSWER)
    assert desk.claims[0].question is not None


def test_the_round_of_an_answer_that_is_rolled_back_is_closed_without_it_and_says_that_its_tool_may_have_run() -> None:
    desk = Desk()
    desk.accept("a")
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    desk.accept("b", on_question=OnQuestion.ANSWER)
    desk.checkpoint("b")
    desk.table.release(desk.token("b"), counted=True, now=NOW)
    desk.keep()
    assert desk.accept("c", lane=Lane.FRONT, if_busy=IfBusy.ROLLBACK) != Accepted(0), "it says what it has ended"
    left, closing = [row for row in desk.rows if isinstance(row, AddHistory)]
    assert (left.discarded, closing.discarded) == (True, False)
    assert closing.messages is not None
    result, note = json.loads(closing.messages)
    assert result["content"][0]["toolResult"]["content"] == [{"text": UNKNOWN_OUTCOME}]
    assert note["role"] == "assistant"
    assert desk.store.sessions[key()].question is None


def test_a_run_that_may_answer_is_not_refused_by_a_full_queue_while_a_question_is_open() -> None:
    desk = Desk()
    answer, plain = (
        NewRun(run_id=RunId("x"), key=key(), input="x", created_at=NOW, on_question=policy)
        for policy in (OnQuestion.ANSWER, OnQuestion.WAIT)
    )
    desk.accept("a")
    desk.accept("b")
    assert desk.table.refusal(answer, most=1) == Refused("queue_full", 2)
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    assert desk.table.refusal(answer, most=1) is None
    assert desk.table.refusal(plain, most=1) == Refused("queue_full", 2)


def test_the_time_of_a_run_stands_still_from_when_it_came_however_late_that_was_decided() -> None:
    desk = Desk()
    desk.accept("a")
    desk.now += 2
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    came = desk.now + 1
    desk.now += 4
    new = NewRun(run_id=RunId("b"), key=key(), input="x", created_at=came, queue_deadline=came + 5)
    desk.table.accept(new, encoded_body(new), WIDE, claim_next=True, now=desk.now)
    desk.keep()
    desk.now += 10
    desk.accept("c", on_question=OnQuestion.ANSWER)
    waited_s = desk.now - came
    assert desk.store.runs[RunId("b")].queue_deadline == came + 5 + waited_s


# -- records that are damaged ---------------------------------------------------------------------------


class Damaged(StoredRows):
    """A store in which one run cannot be read."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable = -1

    def run(self, session: SessionRef, seq: int) -> StoredRun:
        error = JournalUnavailable("damaged") if seq == self.unreadable else None
        return super().run(session, seq)._replace(error=error)


def test_a_run_that_cannot_be_read_is_claimed_as_damaged_before_the_one_behind_it() -> None:
    store = Damaged()
    desk = Desk(store)
    for run_id in ("a", "b", "c"):
        desk.accept(run_id, input="long " * KEPT_BYTES)
    store.unreadable = store.runs[RunId("b")].seq
    claimed = []
    for run_id in ("a", "b"):
        assert desk.finish(run_id) is ClaimResult.CLAIMED
        claimed += [(claim.run.run_id, claim.damaged) for claim in desk.claims]
    assert claimed == [("b", True), ("c", False)]


# -- the queue of a session -----------------------------------------------------------------------------


def queued(seq: int, lane: int = 3, urgency: int = 0) -> RunState:
    session = SessionState(SessionRef(1, SessionKey(ANONYMOUS, key().session_id), 0))
    return RunState(session, RunId(f"r{seq}"), seq, lane, urgency, NOW)


def test_a_queue_is_in_order_of_rank_however_its_runs_came_and_left() -> None:
    queue, runs = RunQueue(), [queued(seq, lane, seq % 3) for seq, lane in enumerate([3, 3, 0, 2, 3, 1, 3, 2, 3])]
    for run in runs:
        queue.add(run)
    left = sorted(runs, key=lambda run: run.rank)
    for gone in (4, 0, 0, 2, 0, 0):
        assert list(queue) == left
        assert queue.head is left[0]
        assert [queue.ahead(run.rank) for run in left] == list(range(len(left)))
        queue.remove(left.pop(gone))
        assert len(queue) == len(left)
    queue.add(runs[0])
    assert list(queue) == sorted([*left, runs[0]], key=lambda run: run.rank)


def test_what_leaves_at_the_head_costs_no_more_in_a_long_queue() -> None:
    queue = RunQueue()
    for seq in range(1000):
        queue.add(queued(seq))
    for seq in range(900):
        assert queue.head.seq == seq
        queue.remove(queue.head)
        assert len(queue._ranks) <= 2 * len(queue) + 1
    assert [run.seq for run in queue] == list(range(900, 1000))


def test_a_move_is_answered_by_what_became_of_the_run() -> None:
    desk = Desk()
    for run_id in ("a", "b", "c"):
        desk.accept(run_id)
    assert desk.change(Move(ANONYMOUS, RunId("c"), None)) == Changed(existed=True)
    assert [desk.table.position(RunId(each)) for each in "abc"] == [None, 2, 1]
    assert isinstance(desk.change(Cancel(ANONYMOUS, RunId("b"))), Stopped)
    assert desk.table.position(RunId("b")) is None


# -- what the next claim needs --------------------------------------------------------------------------


def read_at_once(desk: Desk, operation: Callable[[], object]) -> list[object]:
    """Have an operation decide from memory, and from records that it asks for; return what these were.

    It must ask before it decides anything.
    """
    desk.table.records, desk.table.found = None, {}
    asked: list[object] = []
    while True:
        try:
            operation()
        except Missing as missing:
            assert not desk.table.decided, "nothing is half done"
            asked.append(missing.what)
            desk.table.found[missing.what] = missing.read(desk.store)
        else:
            desk.keep()
            return asked


LONG = "long " * KEPT_BYTES


@pytest.mark.parametrize(("priority", "first"), [(1, "b"), (3, "j")])
def test_of_what_waits_and_what_was_to_join_only_the_run_that_is_next_is_read(priority: int, first: str) -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", input=LONG, priority=priority)
    desk.accept("j", input=LONG, if_busy=IfBusy.STEER)
    seq = desk.store.runs[RunId(first)].seq
    assert read_at_once(desk, lambda: desk.decide(desk.token("a"))) == [("run", seq)]
    assert [(claim.run.run_id, claim.run.input) for claim in desk.claims] == [(first, LONG)]


@pytest.mark.parametrize(("joined", "first"), [(("j",), "b"), ((), "j")])
def test_a_run_that_has_reached_its_host_is_next_only_if_that_ends_without_it(
    joined: tuple[RunId, ...], first: str
) -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b", input=LONG)
    desk.accept("j", input=LONG, if_busy=IfBusy.STEER)
    token, seq = desk.token("a"), desk.store.runs[RunId(first)].seq
    reached = desk.table.apply_joins(token, said("a"), lambda value, _: [{"text": str(value)}], now=desk.now)
    desk.keep()
    assert [each.run_id for each in reached] == ["j"]
    assert read_at_once(desk, lambda: desk.decide(token, joined=joined)) == [("run", seq)]
    assert [claim.run.run_id for claim in desk.claims] == [first]


def test_a_question_that_the_next_run_dismisses_is_read_before_it_is_claimed() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    desk.finish("a", **with_question("t1"), answer_within_s=5.0)
    desk.now += 6
    found = read_at_once(desk, lambda: desk.table.claim_next(key(), now=desk.now))
    assert len(found) == 1
    assert [claim.run.run_id for claim in desk.claims] == ["b"]
    assert desk.store.sessions[key()].question is None


def test_a_run_that_was_to_join_waits_once_and_is_not_read_for_its_turn() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("j", if_busy=IfBusy.STEER)
    assert desk.table.waiting == 1
    desk.finish("a", claim_next=False)
    assert desk.table.waiting == 1
    assert read_at_once(desk, lambda: desk.table.claim_next(key(), now=desk.now)) == []
    assert (desk.claims[0].run.run_id, desk.table.waiting) == ("j", 0)


def test_a_claim_shows_its_run_as_it_is_stored_whatever_happened_while_it_waited() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    desk.change(Move(ANONYMOUS, RunId("b"), 1))
    desk.accept("j", if_busy=IfBusy.STEER)
    shown = []
    for run_id in ("a", "b"):
        assert desk.finish(run_id) is ClaimResult.CLAIMED
        (claim,) = desk.claims
        run = desk.table._runs[claim.run.run_id]
        assert claim.run == desk.store.run(run.session.ref, run.seq).run
        shown.append((claim.run.run_id, claim.run.priority, claim.run.join))
    assert shown == [("b", 1, None), ("j", 3, JoinState.BECAME_NEXT_RUN)]


# -- runs that have begun -------------------------------------------------------------------------------


def test_a_run_that_is_cancelled_while_it_waits_again_leaves_no_checkpoints() -> None:
    desk = Desk()
    desk.accept("a")
    desk.checkpoint("a")
    desk.table.release(desk.token("a"), counted=True, now=desk.now)
    desk.keep()
    desk.change(Cancel(ANONYMOUS, RunId("a")))
    assert DropCheckpoints in desk.kinds()
    assert desk.store.database.execute("SELECT count(*) FROM staged").fetchone() == (0,)


def test_an_answer_whose_time_is_over_while_it_waits_again_closes_its_round() -> None:
    desk = Desk()
    desk.accept("a")
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    desk.accept("b", on_question=OnQuestion.ANSWER, timeout_s=10.0)
    desk.table.release(desk.token("b"), counted=True, now=desk.now)
    desk.keep()
    desk.now += 20
    desk.change(EndOverdue(key(), Outcome(status=RunStatus.FAILED)))
    session = desk.store.sessions[key()]
    assert session.question is None
    messages = [json.loads(each) for each in session.history]
    assert check_history(messages) == []
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[2]["content"][0]["toolResult"]["toolUseId"] == "t1"
    assert [each["text"] for each in messages[3]["content"]] == [
        "(This run ended early: timeout.)",
        "the run took longer than 10 s",
    ]
    assert [row.nth for row in desk.rows if isinstance(row, AddHistory)] == [2], "one row closes it"


def test_a_branch_of_history_stays_when_another_run_has_crashed_in_it() -> None:
    desk = Desk()
    use = {"toolUse": {"toolUseId": "t1", "name": "pay", "input": {}}}
    began = RoundStarted([*said("pay"), {"role": "assistant", "content": [use]}])
    desk.accept("a")
    desk.table.checkpoint(desk.token("a"), encode_messages(began))
    desk.finish("a", unresolved=True)
    desk.accept("b", resolution=Resolution(run_id=RunId("a"), tools=(ToolNotDone("t1", "me"),)))
    desk.finish("b", unresolved=True)
    session = desk.store.session(key())
    assert session is not None
    assert session.branch is not None
    desk.accept("c")
    desk.finish("c")
    later = desk.store.session(key())
    assert later is not None
    assert (later.branch, later.unresolved) == (session.branch, None)


def test_all_that_is_overdue_ends_and_everything_for_it_is_read_first() -> None:
    """A host that waits again, and a run that was to join it."""
    desk = Desk()
    desk.accept("a", timeout_s=10.0)
    desk.accept("j", if_busy=IfBusy.STEER, queue_deadline=NOW + 10)
    desk.checkpoint("a")
    desk.table.release(desk.token("a"), counted=True, now=desk.now)
    desk.keep()
    desk.now += 20
    answers: list[object] = []
    late = EndOverdue(key(), Outcome(status=RunStatus.FAILED))
    seq = desk.store.runs[RunId("a")].seq
    assert read_at_once(desk, lambda: answers.append(desk.table.change(late, now=desk.now))) == [("run", seq)]
    (stopped,) = answers
    assert isinstance(stopped, Stopped)
    assert sorted(stopped.ended) == ["a", "j"]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_the_round_of_an_answer_is_closed_once_however_little_its_run_leaves(left: int) -> None:
    desk = Desk()
    desk.accept("a")
    desk.finish("a", **with_question("t1"), answer_within_s=60.0)
    desk.accept("b", on_question=OnQuestion.ANSWER)
    result: Any = {"toolUseId": "t1", "status": "success", "content": [{"text": "paid"}]}
    messages: list[Any] = [{"role": "user", "content": [{"toolResult": result}]}, said("", "thanks")[1]]
    token = desk.token("b")
    asked = read_at_once(desk, lambda: desk.decide(token, messages=messages[:left]))
    assert len(asked) == (left == 0), "what the run has not closed is closed by its question"
    history = [json.loads(each) for each in desk.store.sessions[key()].history]
    assert len(history) == 2 + (left or 2)
    assert left == 1 or check_history(history) == []
    assert desk.store.sessions[key()].question is None


def test_a_run_without_checkpoints_is_not_left_to_be_taken_up() -> None:
    desk = Desk()
    desk.accept("a")
    desk.finish("a", unresolved=True)
    session = desk.store.session(key())
    assert session is not None
    assert session.unresolved is None


# -- what counts, and what is answered ------------------------------------------------------------------


def test_what_waits_at_other_servers_counts_as_if_it_were_here() -> None:
    desk = Desk()
    desk.accept("a")
    desk.accept("b")
    new = NewRun(run_id=RunId("c"), key=key(), input="x", created_at=NOW)

    def accept(**bounds: Any) -> AcceptAnswer:
        return desk.table.accept(new, encoded_body(new), replace(WIDE, **bounds), claim_next=True, now=NOW)

    desk.table.note_elsewhere(2, {ANONYMOUS: 1})
    assert accept(total=3) == Refused("server_full", 2)
    assert accept(per_principal=2) == Refused("principal_full", 2)
    assert accept(total=4, per_principal=3) == Accepted(2)


def test_an_answer_tells_the_options_of_its_session_and_the_run_with_them() -> None:
    desk = Desk()
    desk.accept("a")
    assert desk.change(SetOptions(key(), {"priority": 5})) == Changed(existed=True)
    steered = desk.accept("j", if_busy=IfBusy.STEER)
    waits = desk.accept("b")
    for answer in (steered, waits):
        assert isinstance(answer, Accepted)
        assert answer.defaults == RunDefaults(priority=5)
        assert answer.new is not None
        assert answer.new.priority == 5
    desk.table.release(desk.token("a"), counted=True, now=desk.now)
    assert desk.change(SetOptions(key(), {"priority": 5})) == Changed(existed=True), "nothing is to be stored"


def test_options_count_from_their_change_on_and_fill_what_a_caller_may_store() -> None:
    desk = Desk()
    desk.accept("a", claim_next=False)
    stored, options = desk.store.stored_bytes(ANONYMOUS), {"priority": 5}
    size = len(stored_options(SessionRef.of(1, key()), RunDefaults(priority=5)) or b"")
    desk.table.records = None

    def change(most: int) -> object:
        try:
            return desk.table.change(SetOptions(key(), options, most), now=NOW)
        except Missing as missing:
            desk.table.found = {**desk.table.found, missing.what: missing.read(desk.store)}
            return change(most)

    assert isinstance(change(stored + size - 1), Refused)
    assert change(stored + size) == Changed(existed=True)
    assert change(stored + size - 1) == Changed(existed=True), "they are these already"
    assert accept_bounded(desk, "b", stored + size + SIZE - 1) == Refused("storage_full", 2)
    assert isinstance(accept_bounded(desk, "b", stored + size + SIZE), Accepted)


def test_a_schedule_that_is_changed_has_its_next_time() -> None:
    desk = Desk()
    name = ScheduleId("x")
    desk.change(AddSchedule(key(), name, NOW + 5, b"{}", b"{}", 10))
    assert desk.change(ChangeSchedule(key(), name, NOW + 5, NOW + 9, b"{}")) == Changed(existed=True)
    found = desk.store.schedule(name)
    assert found is not None
    assert found.at == NOW + 9

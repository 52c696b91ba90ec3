"""Each kind of defect that the simulation is there for is found by it: the tests of the test.

A breakage is made by a small patch of the code under test; the first worlds have to show it. Without it nothing is
found in them (`test_simulation.py`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import chain
from typing import Any

import pytest
from msgspec.structs import replace as replace_

from breakage_support import SEEDS, is_noticed
from simulation.journals import SlowJournal
from simulation.trial import play
from strandline._agents.port import RunStopped
from strandline._engine.admission import Control, Subscribers
from strandline._engine.execution import (
    AgentPool,
    Claims,
    Execution,
    Hold,
    Holds,
    LiveAttempt,
    completion,
    recovery,
    runner,
)
from strandline._engine.execution.failures import disclosed
from strandline._engine.queues.slots import Slots
from strandline._history import close, fold, resume_point
from strandline._journal import accepting, lists, reader, table, transitions
from strandline._journal.accepting import Arrival
from strandline._journal.changes import AnswerQuestion, Body, DropSession
from strandline._journal.commits import GroupCommit
from strandline._journal.deadlines import Deadlines
from strandline._journal.errors import ClaimLost
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import (
    AcceptAnswer,
    Attached,
    Bounds,
    Cancel,
    CancelSession,
    Changed,
    ClaimResult,
    Delete,
    Ended,
    HistoryPage,
    Move,
    Stopped,
)
from strandline._journal.rules import Rank
from strandline._journal.sqlite_rows import SqliteRows
from strandline._journal.state import OpenRound, RunState, SessionState
from strandline._journal.table import SessionTable
from strandline._model import (
    INTERRUPTS,
    LOWEST_PRIORITY,
    Claim,
    Completion,
    Ending,
    Failed,
    FencingToken,
    IfBusy,
    Lane,
    Message,
    NewRun,
    OnDisconnect,
    Question,
    RoundStarted,
    ToolDone,
    ToolResult,
)

Break = Callable[[pytest.MonkeyPatch], None]
FIRST = 1000


def rank_by(patch: pytest.MonkeyPatch, rank: Callable[[RunState, Rank], Rank]) -> None:
    """Have runs wait at another rank than their own, which is passed."""
    own: Callable[[RunState], Rank] = vars(RunState)["rank"].fget
    patch.setattr(RunState, "rank", property(lambda run: rank(run, own(run))))


def lose_a_claim(patch: pytest.MonkeyPatch) -> None:
    """One claim in fifty never reaches its consumer."""
    claims = SlowJournal.claims

    async def losing(journal: SlowJournal) -> AsyncIterator[Claim]:
        async for claim in claims(journal):
            if claim.token.fence % 50 != 49:
                yield claim

    patch.setattr(SlowJournal, "claims", losing)


def take_any_token(patch: pytest.MonkeyPatch) -> None:
    """A token is good as long as its run executes, in any process."""

    def claimed(table: SessionTable, token: FencingToken) -> RunState:
        run = table._runs.get(token.run_id)
        if run is None or run.fence is None:
            raise ClaimLost("lost")
        return run

    patch.setattr(SessionTable, "_claimed", claimed)


def checkpoint_too_late(patch: pytest.MonkeyPatch) -> None:
    """A round is stored while its tools start."""

    async def begin_round(attempt: LiveAttempt) -> None:
        if attempt.stopping:
            raise RunStopped
        attempt.results = {}
        checkpoint = RoundStarted(attempt._fresh())
        asyncio.ensure_future(attempt._journal.checkpoint(attempt.claim.token, checkpoint))  # noqa: RUF006

    patch.setattr(LiveAttempt, "begin_round", begin_round)


def order_by_time(patch: pytest.MonkeyPatch) -> None:
    """Runs go by the time at which they were sent, not by their sequence."""

    rank_by(patch, lambda run, own: (run.lane, int(run.created_at * 1000), run.seq))


def forget_a_finished_tool(patch: pytest.MonkeyPatch) -> None:
    """What is closed early is closed without the results that its open round has."""

    def forgetful(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
        return close(messages, {}, ending)

    patch.setattr(completion, "close", forgetful)


def hold_nothing(patch: pytest.MonkeyPatch) -> None:
    """A run that ends before its thread does gives its session free at once."""
    finish = MemoryJournal.finish

    async def finish_without(
        journal: MemoryJournal, token: FencingToken, completion: Completion, *, claim_next: bool, hold: bool = False
    ) -> ClaimResult:
        return await finish(journal, token, completion, claim_next=claim_next, hold=False)

    async def keep_nothing(holds: Holds, hold: Hold) -> None:
        del holds._held[hold.claim.run.run_id]

    patch.setattr(MemoryJournal, "finish", finish_without)
    patch.setattr(Holds, "keep", keep_nothing)


def lose_queue_deadlines(patch: pytest.MonkeyPatch) -> None:
    """Nothing waits too long."""
    watch = Deadlines.watch

    def watch_inputs_alone(deadlines: Deadlines[Any], record: Any, at: float) -> None:
        if not isinstance(record, RunState):
            watch(deadlines, record, at)

    patch.setattr(Deadlines, "watch", watch_inputs_alone)


def keep_no_result(patch: pytest.MonkeyPatch) -> None:
    """What a crashed process had stored of a round comes back without the results of the tools that had ended."""

    def without_results(checkpoints: Sequence[Any], question: Any) -> Any:
        return fold(tuple(each for each in checkpoints if not isinstance(each, ToolDone)), question)

    patch.setattr(recovery, "fold", without_results)


def count_no_attempt(patch: pytest.MonkeyPatch) -> None:
    """A run that was cut off is requeued as if it had never been tried."""
    release = MemoryJournal.release

    async def uncounted(journal: MemoryJournal, token: FencingToken, *, counted: bool) -> None:
        await release(journal, token, counted=False)

    patch.setattr(MemoryJournal, "release", uncounted)


def go_on_whatever_was_done(patch: pytest.MonkeyPatch) -> None:
    """After a crash a run continues, also one with a tool in the middle that must not be started again."""

    def reckless(progress: Any, **settings: Any) -> Any:
        return resume_point(progress, **(settings | {"unknown_tool": "resume"}))

    patch.setattr(completion, "resume_point", reckless)


def end_in_spite_of_a_cancel(patch: pytest.MonkeyPatch) -> None:
    """Have nobody but the judge look how a run ends whose cancel was accepted."""
    patch.setattr(table, "check_cancel", lambda run, end, *, discarded: None)
    patch.setattr(reader, "faults_of", lambda run, row: [])


def let_a_cancelled_run_succeed(patch: pytest.MonkeyPatch) -> None:
    """A run that comes to its own end after its cancel was accepted ends as that."""
    end_in_spite_of_a_cancel(patch)


def forget_a_cancel(patch: pytest.MonkeyPatch) -> None:
    """What a dead process was asked to end continues in the next."""
    recover = recovery._ending

    def forgetful(orphan: Claim, progress: Any, options: Any, now: float) -> Any:
        return recover(replace_(orphan, run=replace_(orphan.run, cancel_requested=False)), progress, options, now)

    patch.setattr(recovery, "_ending", forgetful)
    end_in_spite_of_a_cancel(patch)


def let_a_key_give_two_runs(patch: pytest.MonkeyPatch) -> None:
    """A key is kept, and nobody looks at it."""
    patch.setattr(accepting, "answers_key", lambda keyed, run_id, ended_at, fingerprint: None)


def forget_in_a_crash(patch: pytest.MonkeyPatch, statement: str) -> None:
    """Have a statement be executed whenever a process begins."""
    opens = MemoryJournal.open

    async def forgetful(journal: MemoryJournal, owner: str, *, max_attempts: int) -> list[Claim]:
        journal._connection.execute(statement)
        return await opens(journal, owner, max_attempts=max_attempts)

    patch.setattr(MemoryJournal, "open", forgetful)


def forget_keys_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """Keys are known to one process only."""
    forget_in_a_crash(patch, "UPDATE runs SET key = NULL, fingerprint = NULL")


def take_any_body_for_a_key(patch: pytest.MonkeyPatch) -> None:
    """Whatever is requested under a key, it is answered by the run that it stands for."""
    patch.setattr(accepting, "answers_key", lambda keyed, run_id, ended_at, fingerprint: Attached(run_id))


def interrupt_nothing(patch: pytest.MonkeyPatch) -> None:
    """What interrupts only goes next."""
    patch.setattr(SessionTable, "_begun_and_waiting", lambda table, session, if_busy: [])
    patch.setattr(SessionTable, "_interrupt", lambda table, session, arrival: None)


def interrupt_the_innocent(patch: pytest.MonkeyPatch) -> None:
    """An interrupt cancels what waits, too."""

    def all_of_them(table: SessionTable, session: SessionState, if_busy: IfBusy) -> list[RunState]:
        return list(session.queue) if if_busy in INTERRUPTS else []

    patch.setattr(SessionTable, "_begun_and_waiting", all_of_them)


def interrupt_as(patch: pytest.MonkeyPatch, wanted: IfBusy, done: IfBusy) -> None:
    """Have the journal do one thing where another is wanted."""
    interrupt = SessionTable._interrupt

    def otherwise(table: SessionTable, session: SessionState, arrival: Arrival) -> Stopped | None:
        new = arrival.new
        if new.if_busy is wanted:
            arrival = replace_(arrival, new=replace_(new, if_busy=done))
        return interrupt(table, session, arrival)

    patch.setattr(SessionTable, "_interrupt", otherwise)


def roll_back_what_is_only_interrupted(patch: pytest.MonkeyPatch) -> None:
    """An interrupt hides what it ends."""
    interrupt_as(patch, IfBusy.INTERRUPT, IfBusy.ROLLBACK)


def roll_nothing_back(patch: pytest.MonkeyPatch) -> None:
    """A rollback hides nothing."""
    stopped = Claims.stopped

    def undiscarded(claims: Claims, key: Any, what: Any, *, force: bool = False, **_: Any) -> None:
        stopped(claims, key, what, force=force)

    interrupt_as(patch, IfBusy.ROLLBACK, IfBusy.INTERRUPT)
    patch.setattr(Claims, "stopped", undiscarded)


def show_agents_what_is_discarded(patch: pytest.MonkeyPatch) -> None:
    """The window has what was rolled back."""

    def show_all(*of: Any) -> list[tuple[int, Message]]:
        with closing(reader._back(reader.BACK, reader.in_full, *of)) as messages:
            return [(index, message) for index, message, _, _ in messages][::-1]

    patch.setattr(reader, "between", show_all)


def let_a_run_wait_that_is_to_be_refused(patch: pytest.MonkeyPatch) -> None:
    """A busy session refuses nobody."""
    accept = SessionTable.accept

    def accepting(
        table: SessionTable, new: NewRun, body: Body, bounds: Bounds, *, claim_next: bool, now: float
    ) -> AcceptAnswer:
        session = table._find(new.key)
        if new.if_busy is not IfBusy.REJECT or session is None:
            return accept(table, new, body, bounds, claim_next=claim_next, now=now)
        claimed, session.claimed = session.claimed, None
        try:
            return accept(table, new, body, bounds, claim_next=False, now=now)
        finally:
            session.claimed = claimed

    patch.setattr(SessionTable, "accept", accepting)


def take_no_notice_of_priorities(patch: pytest.MonkeyPatch) -> None:
    """Runs go by lane and sequence alone."""
    rank_by(patch, lambda run, own: (run.lane, 0, run.seq))


def line_an_interrupt_up_behind(patch: pytest.MonkeyPatch) -> None:
    """What interrupts waits for its turn."""
    rank_by(patch, lambda run, own: (max(3, run.lane), *own[1:]))


def line_up_behind_what_is_given_back(patch: pytest.MonkeyPatch) -> None:
    """A run that was cut off lines up behind all others."""
    rank_by(patch, lambda run, own: (9 if run.lane == 0 else run.lane, *own[1:]))


def leave_one_out(patch: pytest.MonkeyPatch) -> None:
    """A cancel of a session overlooks the last that waits there."""

    def nearly_all(table: SessionTable, change: CancelSession) -> Stopped:
        session = table._find(change.key)
        waiting = [] if session is None else list(session.queue)
        ended = [table._cancel_waiting(run) for run in waiting[:-1]]
        return Stopped({run_id: outcome for each in ended for run_id, outcome in each.items()}, [])

    patch.setattr(SessionTable, "_cancel_session", nearly_all)


def begin_what_was_cancelled(patch: pytest.MonkeyPatch) -> None:
    """A run whose agent is being built when its cancel comes begins nevertheless."""
    end = Execution.end

    def heedless(execution: Execution, ending: Ending, grace_s: float) -> None:
        end(execution, ending, grace_s)
        execution.attempt.stopping = False

    patch.setattr(Execution, "end", heedless)


def move_nothing(patch: pytest.MonkeyPatch) -> None:
    """A move is answered, and changes nothing."""

    def unmoved(table: SessionTable, change: Move) -> Any:
        run = table._runs.get(change.run_id)
        return Changed(existed=True) if run is not None and run.fence is None else Ended()

    patch.setattr(SessionTable, "_move", unmoved)


def forget_pauses_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A pause is known to one process only."""
    forget_in_a_crash(patch, "UPDATE sessions SET paused = 0")


def remember_what_was_deleted(patch: pytest.MonkeyPatch) -> None:
    """The agent of a deleted session stays in memory."""
    patch.setattr(AgentPool, "keeping_none", lambda pool, key: nullcontext())


def delete_what_waits(patch: pytest.MonkeyPatch) -> None:
    """A session is deleted with the runs that wait in it."""
    delete, drop = SessionTable._delete, SqliteRows._drop_session

    def reckless(table: SessionTable, change: Delete) -> Any:
        session = table._find(change.key)
        for run in [] if session is None or session.claimed is not None else session.queue:
            table._leave_queue(run)
            del table._runs[run.run_id]
        return delete(table, change)

    def drop_with_all(rows: SqliteRows, row: DropSession) -> None:
        rows._execute("DELETE FROM runs WHERE session = ? AND status = 'queued'", (row.session.no,))
        drop(rows, row)

    patch.setattr(SessionTable, "_delete", reckless)
    patch.setattr(SqliteRows, "_drop_session", drop_with_all)


def overlook_lost_clients(patch: pytest.MonkeyPatch) -> None:
    """A client that is lost looks like one that has its answer."""
    left = Subscribers.left
    patch.setattr(Subscribers, "left", lambda subscribers, run_id, *, lost: left(subscribers, run_id, lost=False))


def cancel_whatever_is_left_alone(patch: pytest.MonkeyPatch) -> None:
    """A run that is to continue once it has begun is cancelled all the same."""
    alone = Control.all_disconnected

    def reckless(control: Control, run_id: Any, key: Any, on_disconnect: OnDisconnect) -> None:
        alone(control, run_id, key, OnDisconnect.CANCEL)

    patch.setattr(Control, "all_disconnected", reckless)


def answer_any_question(patch: pytest.MonkeyPatch) -> None:
    """Any answer is accepted, to whatever question."""
    patch.setattr(accepting, "check_answer", lambda given, question, closed: None)


def answer_twice(patch: pytest.MonkeyPatch) -> None:
    """A question stays open when its answer is accepted."""
    meet = SessionTable._meet_question

    def forgetful(
        table: SessionTable,
        session: SessionState,
        requested: OpenRound,
        run: RunState,
        question: Question | None,
        *,
        dismiss: bool,
    ) -> None:
        meet(table, session, requested, run, question, dismiss=dismiss)
        if question is not None and not dismiss:
            requested.answer = None
            table._changes = [each for each in table._changes if not isinstance(each, AnswerQuestion)]

    patch.setattr(SessionTable, "_meet_question", forgetful)


def wait_for_no_input(patch: pytest.MonkeyPatch) -> None:
    """A session continues as soon as it has asked."""
    ask = SessionTable._ask

    def ask_in_passing(
        table: SessionTable, session: SessionState, seq: int, question: bytes, until: float, *, hold: bool
    ) -> None:
        ask(table, session, seq, question, table._now, hold=hold)

    patch.setattr(SessionTable, "_ask", ask_in_passing)


def line_an_answer_up_behind(patch: pytest.MonkeyPatch) -> None:
    """What answers waits for its turn."""
    rank_by(patch, lambda run, own: (Lane.NORMAL, LOWEST_PRIORITY, run.seq) if run.lane == Lane.ANSWER else own)


def forget_questions_in_a_crash(patch: pytest.MonkeyPatch) -> None:
    """A question is known to one process only."""
    forget_in_a_crash(patch, "DELETE FROM questions")


def do_again_what_had_ended(patch: pytest.MonkeyPatch) -> None:
    """What answers starts all tools of its round, also those that had ended before the question."""

    def forgetful(checkpoints: Sequence[Any], question: Any) -> Any:
        return fold(checkpoints, None if question is None else replace_(question, results={}))

    patch.setattr(runner, "fold", forgetful)


def dismiss_in_silence(patch: pytest.MonkeyPatch) -> None:
    """A question that is given up leaves its round open."""
    patch.setattr(transitions, "dismissed", lambda question, *, begun: [])


def keep_what_was_taken_back(patch: pytest.MonkeyPatch) -> None:
    """A cancel of a run that has asked is answered, and its question stays."""
    cancel = SessionTable._cancel

    def heedless(table: SessionTable, change: Cancel) -> Any:
        run = table._locate_run(change.run_id)
        session = None if run is None else table._find(run.key)
        requested = None if session is None else session.question
        if run is not None and requested is not None and requested.run == run.seq:
            return Stopped(ended={}, cancelling=[])
        return cancel(table, change)

    patch.setattr(SessionTable, "_cancel", heedless)


def disclose_all_that_was_raised(patch: pytest.MonkeyPatch) -> None:
    """Callers get the text of exceptions whatever the setting says."""
    patch.setattr(runner, "disclosed", lambda ending, error_text, run_id: disclosed(ending, "full", run_id))


def give_history_another_reason(patch: pytest.MonkeyPatch) -> None:
    """History does not say why a run failed."""

    def without_reason(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
        return close(messages, results, replace_(ending, detail="") if isinstance(ending, Failed) else ending)

    patch.setattr(completion, "close", without_reason)


def close_no_round_of_a_hidden_answer(patch: pytest.MonkeyPatch) -> None:
    """An answer that is rolled back takes with it what closes the round."""

    def left_open(table: SessionTable, run: RunState, *, closed: bool, begun: bool) -> None:
        if run.session.answered_by(run) is not None:
            table._drop_question(run.session)

    patch.setattr(SessionTable, "_close_round_of", left_open)


def show_no_open_end(patch: pytest.MonkeyPatch) -> None:
    """Nobody can see that the end of a history is open."""
    read = SlowJournal.read

    async def reads(journal: SlowJournal, query: Any) -> Any:
        page = await read(journal, query)
        return replace_(page, pending=False) if isinstance(page, HistoryPage) else page

    patch.setattr(SlowJournal, "read", reads)


def start_whatever_works_on(patch: pytest.MonkeyPatch) -> None:
    """How many of a principal's ended runs still work keeps nothing of it from starting."""
    patch.setattr(Slots, "is_full", lambda slots, principal: False)


def take_no_text_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    """A text that is to be the answer waits for one."""
    patch.setattr(accepting, "as_answer", lambda new, question: None)


def take_any_text_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    """A text is the answer if one thing is asked, whether its client wants that or not."""
    patch.setattr(NewRun, "may_answer", property(lambda new: new.lane == Lane.NORMAL and isinstance(new.input, str)))


def dismiss_nothing(patch: pytest.MonkeyPatch) -> None:
    """A run that is to end a question waits for the answer."""
    patch.setattr(NewRun, "dismisses", property(lambda new: new.if_busy in INTERRUPTS))


def forget_what_was_used(patch: pytest.MonkeyPatch) -> None:
    """A session in which nothing continues is at rest for long enough, whenever that began."""
    delete = SessionTable._delete

    def delete_any(table: SessionTable, change: Delete) -> Any:
        before = change.ended_before
        return delete(table, replace_(change, ended_before=None if before is None else before + 1e9))

    find_at_rest(patch, "rests_since < ?", "rests_since < ? + 1e9")
    patch.setattr(SessionTable, "_delete", delete_any)


def find_at_rest(patch: pytest.MonkeyPatch, condition: str, instead: str) -> None:
    """Have sessions be found to be at rest by another condition."""
    assert condition in lists._RESTS
    patch.setattr(lists, "_RESTS", lists._RESTS.replace(condition, instead))


def forget_although(patch: pytest.MonkeyPatch, condition: str, lives: str, value: Any) -> None:
    """Have a session be at rest whatever one of its attributes says, as it is stored and as it lives."""
    delete = SessionTable._delete

    def reckless(table: SessionTable, change: Delete) -> Any:
        session = table._find(change.key)
        if session is None or change.ended_before is None:
            return delete(table, change)
        held = getattr(session, lives)
        setattr(session, lives, value)
        try:
            return delete(table, change)
        finally:
            setattr(session, lives, held)

    find_at_rest(patch, condition, "TRUE")
    patch.setattr(SessionTable, "_delete", reckless)


def expire_an_open_question(patch: pytest.MonkeyPatch) -> None:
    """A session that waits to be answered is at rest."""
    forget_although(patch, "NOT EXISTS (SELECT 1 FROM questions WHERE session = no)", "round", None)


def forget_what_is_paused(patch: pytest.MonkeyPatch) -> None:
    """A session that is paused is at rest."""
    forget_although(patch, "paused = 0", "paused", False)


def forget_no_session(patch: pytest.MonkeyPatch) -> None:
    """No session is found that is at rest."""
    find_at_rest(patch, "paused = 0", "FALSE")


BREAKAGES: dict[str, tuple[Break, str]] = {
    "a lost claim": (lose_a_claim, "comes to no rest|no outcome|waits for good"),
    "a stale token that is taken": (
        take_any_token,
        "reported as|the model said|forgotten|succeeded|ended with another|executed at once|started 2 times",
    ),
    "a round that is stored after its tools start": (checkpoint_too_late, "forgotten|was started"),
    "an order by time": (order_by_time, "executed before|executed after"),
    "a hold that is not taken": (hold_nothing, "executed at once"),
    "a finished tool that is forgotten": (forget_a_finished_tool, "ended with another result"),
    "a queue deadline that is lost": (lose_queue_deadlines, "waited for .* s, and had"),
    "a stored result that is lost": (keep_no_result, "ended with another result"),
    "an attempt that is not counted": (count_no_attempt, "was cut off and not counted"),
    "a cancel that does not win": (let_a_cancelled_run_succeed, "although its cancel was accepted"),
    "a cancel that a crash forgets": (forget_a_cancel, "although its cancel was accepted"),
    "a key that is not looked at": (let_a_key_give_two_runs, "became 2 runs"),
    "a key that a crash forgets": (forget_keys_in_a_crash, "became 2 runs"),
    "a key that takes any body": (take_any_body_for_a_key, "which is another one"),
    "an interrupt that ends nothing": (interrupt_nothing, "had interrupted it"),
    "an interrupt that ends what waits": (interrupt_the_innocent, "was cancelled, though nobody requested it"),
    "an interrupt that hides": (roll_back_what_is_only_interrupted, "is hidden, and nobody has rolled it back"),
    "a rollback that hides nothing": (roll_nothing_back, "is not hidden, although"),
    "a window with what was rolled back": (show_agents_what_is_discarded, "the session had"),
    "a busy session that refuses nobody": (let_a_run_wait_that_is_to_be_refused, "was accepted beside"),
    "a priority that counts for nothing": (take_no_notice_of_priorities, "which goes before it"),
    "an interrupt that waits its turn": (line_an_interrupt_up_behind, "which goes before it"),
    "a run that was cut off and goes last": (line_up_behind_what_is_given_back, "which had begun"),
    "a cancel of a session that overlooks one": (leave_one_out, "waited when its session was cancelled"),
    "a cancel that comes too early": (begin_what_was_cancelled, "began after its cancel was accepted"),
    "a move that moves nothing": (move_nothing, "which goes before it|and was to have"),
    "a pause that a crash forgets": (forget_pauses_in_a_crash, "had been paused for"),
    "a deletion that an agent remembers": (remember_what_was_deleted, "the session had"),
    "a deletion of what waits": (delete_what_waits, "waits for good|comes to no rest|there are"),
    "a lost client that is overlooked": (overlook_lost_clients, "after its client was lost"),
    "a run that has begun and is left alone": (
        cancel_whatever_is_left_alone,
        "was cancelled, though nobody requested it",
    ),
    "an answer to whatever was asked": (
        answer_any_question,
        "answered by 2 runs|no run has asked|does not answer the question",
    ),
    "a question that is answered twice": (answer_twice, "was answered by 2 runs"),
    "a session that does not wait for input": (wait_for_no_input, "while its session waited for"),
    "an answer that waits its turn": (line_an_answer_up_behind, "started before run .*, which answers"),
    "a question that a crash forgets": (forget_questions_in_a_crash, "shown otherwise|waits for"),
    "a tool that an answer starts again": (do_again_what_had_ended, "had ended in run .* and were started again"),
    "a question that is given up in silence": (dismiss_in_silence, "is called 1 times and answered 0"),
    "a question that is taken back and stays": (keep_what_was_taken_back, "had been taken back"),
    "a text that is no answer": (take_no_text_for_an_answer, "was accepted, and does not answer what"),
    "a text that answers unasked": (take_any_text_for_an_answer, "is a text, and was taken for an answer"),
    "a question that nobody can end": (dismiss_nothing, "had dismissed"),
    "a session that is forgotten too soon": (forget_what_was_used, "s before its session was forgotten"),
    "a session that is forgotten while it asks": (expire_an_open_question, "was forgotten while it waited for"),
    "a session that is forgotten in a pause": (forget_what_is_paused, "was paused, and was forgotten"),
    "a session that is never forgotten": (forget_no_session, "was at rest for .*, and is kept"),
    "a round that a hidden answer leaves open": (close_no_round_of_a_hidden_answer, "answered 0|shown otherwise"),
    "an exception that callers are shown": (disclose_all_that_was_raised, "discloses what its agent raised"),
    "a history that does not say why": (give_history_another_reason, "the run does not close with"),
    "an open end that is not shown": (show_no_open_end, "is open, and shown otherwise"),
    "a principal whose ended runs work on": (start_whatever_works_on, "ended runs of its principal worked on"),
    "a run that continues with a tool in the middle": (go_on_whatever_was_done, "nobody knows what became of"),
}

BEGIN = {
    "a run that has begun and is left alone": 1036,
    "a hold that is not taken": 1041,
    "a queue deadline that is lost": 1019,
    "a question that nobody can end": 1082,
    "a text that is no answer": 1040,
    "a cancel of a session that overlooks one": 1040,
    "a deletion that an agent remembers": 1085,
    "a round that a hidden answer leaves open": 1082,
    "a pause that a crash forgets": 1050,
    "a lost client that is overlooked": 1955,
    "a stale token that is taken": 1408,
    "a question that is taken back and stays": 1080,
    "an order by time": 1166,
    "a finished tool that is forgotten": 1026,
    "a stored result that is lost": 1039,
    "a principal whose ended runs work on": 838,
    "a cancel that comes too early": 1386,
    "a cancel that does not win": 1156,
    "a cancel that a crash forgets": 1156,
    "a busy session that refuses nobody": 1058,
    "a session that is forgotten while it asks": 270,
    "a session that is forgotten in a pause": 1562,
    "a session that is never forgotten": 50,
}
"""Where the search begins for those that few worlds show: shortly before the first, which saves playing the others."""
ELSEWHERE = {"a principal whose ended runs work on": [866]}
"""Worlds that show them on other versions of Python, on which a seed is another world (3.14); they are played first."""


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, reported = BREAKAGES[name]
    make(monkeypatch)
    first = BEGIN.get(name, FIRST)
    seeds = chain(ELSEWHERE.get(name, ()), range(first, first + SEEDS))
    assert is_noticed(reported, seeds, "memory"), f"{name} stays unnoticed in {SEEDS} worlds"


def test_the_simulation_finds_claims_that_come_before_their_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is begun then may never be kept; only the journal on SQLite has commits that fail."""
    flush = GroupCommit._flush

    def deliver_too_early(commits: GroupCommit) -> None:
        claims = commits.table._claims
        commits.table._claims = []
        commits._feed.put(claims)
        flush(commits)

    monkeypatch.setattr(GroupCommit, "_flush", deliver_too_early)
    faults = (fault for seed in range(FIRST, FIRST + 100) for fault in play(seed, "sqlite").faults)
    assert any("began, and is not kept" in fault for fault in faults)

"""The soak's judge finds what is wrong about questions, cancels, moves, pauses and deletions, and no more than that."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from judging.evidence import End
from soak.case import NOT_ANSWERED, NOT_GIVEN
from soak.ledger import Line
from soak.message import OUT_OF_ORDER
from soak.records import Answered, Deletion, Move, Pause, SentRequest, Stored, Sweep, View
from soak_support import DONE, FAILED, QUEUED, SESSION, World, assistant, ran, result, use, user

ASKER, ANSWER, SECOND, NEXT = "q0-0", "a0-0", "a0-1", "c6-0"
REQUEST = "request-1"
NEEDS_INPUT = End(kind="needs_input", text=f"{REQUEST} {ASKER}.0")
RESULT = f"did token-6 as {ANSWER} said"
OWN = "gone-0.0"
LATE_NS = 10_000


class Asking(World):
    """The same story, in which then a run asks from second 261 on, its answer starts at 262, and another run waits."""

    def __init__(self) -> None:
        super().__init__()
        self.add(ASKER, f"{ASKER} asks.1", begun=260.0, ended=NEEDS_INPUT)
        self.add(ANSWER, "", begun=262.0, ended=End(kind="succeeded", text=f"{ASKER}: {RESULT}"), thread=ASKER)
        self.add(NEXT, NEXT, begun=264.0, ended=End(kind="succeeded", text=f"{NEXT}: nothing done"))
        self.lines += [replace(line, run_id=f"run-{ANSWER}") for line in ran(ASKER, "asks", 6, "done", pid=3)]
        self.history += [
            user({"text": f"{ASKER} asks.1"}),
            assistant(use("asks", 6)),
            user(result(6, RESULT, "success")),
            assistant({"text": f"{ASKER}: {RESULT}"}),
            user({"text": NEXT}),
            assistant({"text": f"{NEXT}: nothing done"}),
        ]
        self.refuse(SECOND, 409, "already_answered", REQUEST)

    def add(self, label: str, text: str, *, begun: float, ended: End, thread: str = "") -> None:
        number, run_id = len(self.records.stored) + 1, f"run-{label}"
        requests = (REQUEST,) if thread else ()
        self.records.requests[label] = SentRequest(
            name=label, session=SESSION, text=text, sent=number, thread=thread, answers=requests
        )
        self.records.stored.append(
            Stored(sequence=number, run_id=run_id, session=SESSION, status=ended.kind, attempt=1)
        )
        self.records.views[run_id] = View(
            status_code=200,
            status=ended.kind,
            attempt=1,
            started=True,
            ended=ended,
            label=label,
            created=261.2 if thread else 100.0 + number,
            begun=begun,
            ended_s=begun + 1,
        )

    def refuse(self, label: str, status_code: int, code: str, request: str) -> None:
        """Have an answer refused."""
        self.records.requests[label] = SentRequest(
            name=label, session=SESSION, text="", sent=20, thread=ASKER, answers=(request,)
        )
        self.records.answered.append(Answered(label=label, status_code=status_code, at_ns=99, code=code))

    def dismiss(self) -> None:
        """Have nobody answer: the round is closed when the next run starts, the time being over."""
        self.records.stored = [run for run in self.records.stored if run.run_id != f"run-{ANSWER}"]
        del self.records.views[f"run-{ANSWER}"], self.records.requests[ANSWER], self.records.requests[SECOND]
        self.records.answered = [each for each in self.records.answered if each.label != SECOND]
        self.lines = [line for line in self.lines if line.run_id != f"run-{ANSWER}"]
        self.history[18:20] = [user(result(6, f"{NOT_ANSWERED}: ...", "error")), assistant({"text": NOT_GIVEN})]

    def leave_open(self) -> None:
        """Have nobody answer, and nothing come after it."""
        self.dismiss()
        self.records.stored.pop()
        del self.records.views[f"run-{NEXT}"], self.history[18:]
        self.records.pending.add(SESSION)

    def delete(self, **changes: object) -> None:
        """Have somebody delete a session in which one run had ended."""
        self.records.requests["d0-0"] = SentRequest(name="d0-0", session=OWN, text="d0-0", sent=10)
        self.records.answered.append(Answered(label="d0-0", status_code=200, at_ns=20, run_id="run-d0-0"))
        self.records.views["run-d0-0"] = View(status_code=404)
        self.records.not_found["run-d0-0"] = 50
        deletion = Deletion(session=OWN, sent=30, answered=40, status_code=204, idle=True, shown=404)
        self.records.deletions.append(replace(deletion, **changes))

    def sweep(
        self,
        *,
        answered_s: float,
        running: bool = False,
        status_code: int = 200,
        stopped: tuple[str, ...] = (),
        **more: object,
    ) -> None:
        sweep = Sweep(
            session=SESSION,
            running=running,
            force=False,
            sent=LATE_NS,
            answered_s=answered_s,
            answered=3 * LATE_NS,
            status_code=status_code,
            stopped=stopped,
            cancelling=stopped,
        )
        self.records.sweeps.append(replace(sweep, **more))

    def move(self, label: str, priority: int | None, answered_s: float = 240.0, **more: object) -> None:
        move = Move(
            run_id=f"run-{label}", priority=priority, sent_s=answered_s - 0.1, answered_s=answered_s, status_code=200
        )
        self.records.moves.append(replace(move, **{"status_code": 200, **more}))

    def pause(self, answered_s: float, resuming: float, at_ns: int = LATE_NS) -> None:
        until = at_ns + LATE_NS
        pause = Pause(session=SESSION, since_s=answered_s, since=at_ns, until_s=resuming, until=until)
        self.records.pauses.append(pause)

    def leave(self, label: str, at: float, on_disconnect: str) -> None:
        """Have the client of a run hang up."""
        self.ask(label, on_disconnect=on_disconnect)
        self.records.left_at[label] = at


def all_well(world: Asking) -> None:
    pass


def dismiss(world: Asking) -> None:
    world.dismiss()


def leave_open(world: Asking) -> None:
    world.leave_open()


def withdraw(world: Asking) -> None:
    """Its run was cancelled while it waited for input."""
    world.dismiss()
    world.cancel(ASKER, 200, answered_s=261.5)
    world.view(NEXT, begun=261.6, ended_s=262.0)


def fail_after_the_answer(world: Asking) -> None:
    world.ask(ASKER, text=f"{ASKER} asks.1 error")
    world.history[16] = user({"text": f"{ASKER} asks.1 error"})
    world.records.stored[-2] = replace(world.records.stored[-2], status="failed")
    world.view(ANSWER, status="failed", ended=End(kind="agent_error", text=OUT_OF_ORDER))
    world.history[19] = assistant({"text": "(This run ended early: agent_error.)"}, {"text": OUT_OF_ORDER})


def delete(world: Asking) -> None:
    world.delete()


def delete_in_two_requests(world: Asking) -> None:
    """The first one had no answer, and was carried out."""
    world.delete(status_code=404, unsure=True, shown=0)


def delete_once_more(world: Asking) -> None:
    """The first deletion took its time: what it deleted was sent after it."""
    world.delete(sent=5, shown=0)
    world.records.deletions.append(Deletion(session=OWN, sent=45, answered=50, status_code=404))


def send_again_after_a_deletion(world: Asking) -> None:
    """Its client had no answer, and did not know that it had ended before."""
    world.delete()
    world.records.requests["d0-0"] = replace(world.records.requests["d0-0"], text="d0-0 work.1", key="d0-0")
    world.records.unsure.add("d0-0")
    for run_id, at_ns in (("run-d0-0", 22), ("run-again", 60)):
        for line in ran("d0-0", "work", 9, "done", pid=3):
            how = {"session": OWN, "run_id": run_id, "at_ns": at_ns, "token": run_id}
            world.lines.append(replace(line, **how))
    world.records.views["run-again"] = View(status_code=404)


def force_the_end_of_a_hold(world: Asking) -> None:
    world.cancel(DONE, 200, force=True, answered_s=212.0)


def overlap(world: Asking) -> None:
    world.lines[1], world.lines[2] = world.lines[2], world.lines[1]


def overlap_by_force(world: Asking) -> None:
    overlap(world)
    world.cancel(DONE, 200, force=True, answered_s=212.0)


def overlap_by_a_forced_cancel_of_the_session(world: Asking) -> None:
    overlap(world)
    world.sweep(answered_s=300.0, running=True, force=True)


def be_moved_too_late(world: Asking) -> None:
    world.move(QUEUED, 4, 250.5, status_code=409, code="too_late")
    world.move(QUEUED, 4, 251.5, status_code=409, code="already_ended")


def cancel_a_session(world: Asking) -> None:
    world.be_cancelled()
    world.sweep(answered_s=240.9, running=True, status_code=202, stopped=(f"run-{FAILED}",))
    for label in (ASKER, ANSWER, NEXT, QUEUED):
        world.ask(label, sent=2 * LATE_NS)
    for number, line in enumerate(world.lines):
        if line.label in (ASKER, QUEUED):
            world.lines[number] = replace(line, at_ns=3 * LATE_NS + number)
    world.records.seen_waiting.clear()


def leave_and_be_cancelled(world: Asking) -> None:
    world.be_cancelled()
    world.leave(FAILED, 238.5, "cancel")


def move_to_the_front(world: Asking) -> None:
    """It starts before one that was accepted earlier."""
    world.move(QUEUED, None, 235.0)
    world.records.views[f"run-{QUEUED}"], world.records.views[f"run-{FAILED}"] = (
        replace(world.records.views[f"run-{QUEUED}"], begun=240.0, ended_s=241.0),
        replace(world.records.views[f"run-{FAILED}"], begun=250.0, ended_s=251.0),
    )
    world.history[12:16] = [*world.history[14:16], *world.history[12:14]]


def go_on_in_a_process_that_was_there_before_the_pause(world: Asking) -> None:
    """It had taken the run, and its first line came later."""
    world.pause(251.2, 252.0)
    world.lines.append(Line(kind="model", session=SESSION, label=NEXT, pid=7, at_ns=LATE_NS + 1))


def pause_between(world: Asking) -> None:
    world.pause(241.2, 249.9)


@pytest.mark.parametrize(
    "story",
    [
        all_well,
        dismiss,
        leave_open,
        withdraw,
        fail_after_the_answer,
        delete,
        delete_in_two_requests,
        delete_once_more,
        go_on_in_a_process_that_was_there_before_the_pause,
        send_again_after_a_deletion,
        force_the_end_of_a_hold,
        overlap_by_force,
        overlap_by_a_forced_cancel_of_the_session,
        be_moved_too_late,
        cancel_a_session,
        leave_and_be_cancelled,
        move_to_the_front,
        pause_between,
    ],
)
def test_whatever_may_be_is_no_fault(story: Callable[[Asking], None]) -> None:
    world = Asking()
    story(world)
    assert world.judged() == []


# -- questions -----------------------------------------------------------------------------------------


def answer_twice(world: Asking) -> None:
    world.add(SECOND, "", begun=263.5, ended=End(kind="succeeded", text=f"{ASKER}: {RESULT}"), thread=ASKER)


def answer_another_question(world: Asking) -> None:
    world.ask(ANSWER, answers=("another",))


def request_what_no_tool_requests(world: Asking) -> None:
    world.view(ASKER, ended=End(kind="needs_input", text=f"{REQUEST} {ASKER}.1"))


def go_on_without_an_answer(world: Asking) -> None:
    world.lines[-2:] = ran(ASKER, "asks", 6, "done", pid=3)


def go_on_with_another_answer(world: Asking) -> None:
    reported = RESULT.replace(ANSWER, SECOND)
    world.history[18]["content"] = [result(6, reported, "success")]
    world.history[19]["content"] = [{"text": f"{ASKER}: {reported}"}]
    world.view(ANSWER, ended=End(kind="succeeded", text=f"{ASKER}: {reported}"))


def refuse_the_only_answer(world: Asking) -> None:
    world.dismiss()
    world.refuse(SECOND, 409, "already_answered", REQUEST)


def say_that_it_was_dismissed(world: Asking) -> None:
    world.refuse(SECOND, 409, "dismissed", REQUEST)


def not_know_the_question(world: Asking) -> None:
    world.refuse(SECOND, 404, "not_found", REQUEST)


def accept_an_answer_to_nothing(world: Asking) -> None:
    world.ask(ANSWER, answers=("unknown",))
    world.records.answered.append(Answered(label=ANSWER, status_code=200, at_ns=99, run_id=f"run-{ANSWER}"))


def start_meanwhile(world: Asking) -> None:
    world.view(NEXT, begun=261.5)


def start_before_the_time_is_over(world: Asking) -> None:
    world.dismiss()
    world.view(NEXT, begun=262.0)


def dismiss_for_nothing(world: Asking) -> None:
    world.dismiss()
    world.view(NEXT, begun=255.0)


def dismiss_for_a_cancel_of_another_run(world: Asking) -> None:
    dismiss_for_nothing(world)
    world.cancel(QUEUED, 0)


def dismiss_for_a_cancel_of_another_session(world: Asking) -> None:
    dismiss_for_nothing(world)
    world.sweep(answered_s=240.5, running=True, session=OWN)


def start_meanwhile_for_a_cancel_of_another_run(world: Asking) -> None:
    start_before_the_time_is_over(world)
    world.cancel(QUEUED, 0)


def start_meanwhile_for_a_cancel_of_another_session(world: Asking) -> None:
    start_before_the_time_is_over(world)
    world.sweep(answered_s=240.5, running=True, session=OWN)


def close_a_question_that_nobody_answered_otherwise(world: Asking) -> None:
    world.dismiss()
    world.history[19] = assistant({"text": "the moon"})


def answer_what_had_ended(world: Asking) -> None:
    world.view(ASKER, status="succeeded", ended=End(kind="succeeded", text="done"))


def show_a_closed_round_as_pending(world: Asking) -> None:
    world.records.pending.add(SESSION)


def show_an_open_round_as_closed(world: Asking) -> None:
    world.leave_open()
    world.records.pending.clear()


# -- cancels -------------------------------------------------------------------------------------------


def stay_held(world: Asking) -> None:
    world.cancel(DONE, 200, force=True, answered_s=212.0, held=True)


def end_after_a_forced_cancel(world: Asking) -> None:
    world.cancel(DONE, 200, force=True, answered_s=210.5)


def ask_after_a_cancel(world: Asking) -> None:
    world.cancel(ASKER, 202, answered_s=260.5)


def end_though_its_session_was_cancelled(world: Asking) -> None:
    world.sweep(answered_s=240.5, running=True, status_code=202, stopped=(f"run-{FAILED}",))


def be_left_out(world: Asking) -> None:
    world.sweep(answered_s=240.5, running=True)


def wait_and_be_left_out(world: Asking) -> None:
    world.sweep(answered_s=240.5)


def be_cancelled_with_a_session_that_says_otherwise(world: Asking) -> None:
    cancel_a_session(world)
    world.records.sweeps = [replace(world.records.sweeps[0], stopped=(), cancelling=())]


def be_cancelled_as_soon_as_the_client_leaves(world: Asking) -> None:
    world.be_cancelled()
    world.leave(FAILED, 240.5, "cancel")


def be_cancelled_though_only_what_waits_is(world: Asking) -> None:
    world.be_cancelled()
    world.leave(FAILED, 238.5, "cancel_if_queued")


def go_on_without_a_client(world: Asking) -> None:
    world.leave(QUEUED, 240.0, "cancel")


def overlap_by_a_cancel_of_the_session_without_force(world: Asking) -> None:
    overlap(world)
    world.sweep(answered_s=300.0, running=True)


def overlap_by_a_forced_cancel_of_what_waits(world: Asking) -> None:
    overlap(world)
    world.sweep(answered_s=300.0, force=True)


# -- moves, pauses, deletions --------------------------------------------------------------------------


def start_before_what_was_moved(world: Asking) -> None:
    world.records.monotonic_s = 106.0
    world.move(QUEUED, None, 235.0)


def start_before_what_was_made_urgent(world: Asking) -> None:
    world.records.monotonic_s = 106.0
    world.move(QUEUED, 1, 235.0)


def keep_the_priority(world: Asking) -> None:
    world.move(QUEUED, 4, 249.0)


def be_too_late_before_it_begins(world: Asking) -> None:
    world.move(QUEUED, 4, 249.0, status_code=409, code="too_late")


def have_ended_before_it_ends(world: Asking) -> None:
    world.move(QUEUED, 4, 250.5, status_code=409, code="already_ended")


def start_in_a_pause(world: Asking) -> None:
    world.pause(249.0, 253.0)


def go_on_in_a_pause(world: Asking) -> None:
    world.pause(251.2, 252.0)
    world.lines.append(Line(kind="model", session=OWN, label="d0-0", pid=2, at_ns=LATE_NS + 1))
    world.lines.append(Line(kind="model", session=SESSION, label=NEXT, pid=7, at_ns=LATE_NS + 2))


def give_up_what_was_paused(world: Asking) -> None:
    given_up(world)
    world.pause(105.2, 105.6)


def given_up(world: Asking) -> None:
    ended = End(kind="queue_timeout", text="it waited too long")
    world.ask(QUEUED, queue_timeout_s=0.5)
    world.view(QUEUED, status="failed", started=False, ended=ended, begun=None, ended_s=105.6)
    world.records.stored[4] = replace(world.records.stored[4], status="failed")
    world.records.reported[f"run-{QUEUED}"] = {ended}
    del world.history[14:16]


def give_up_what_waited_for_an_answer(world: Asking) -> None:
    given_up(world)
    world.view(ASKER, ended_s=105.1)
    world.view(ANSWER, created=105.5)


def be_busy_with_nothing(world: Asking) -> None:
    world.delete(status_code=409)
    world.records.deletions.append(replace(world.records.deletions[0], status_code=204))


def be_shown_after_its_deletion(world: Asking) -> None:
    world.delete(shown=200)


def keep_a_deleted_run(world: Asking) -> None:
    world.delete()
    world.records.stored.append(Stored(sequence=9, run_id="run-d0-0", session=OWN, status="succeeded", attempt=1))


def keep_a_deleted_run_that_was_sent_once(world: Asking) -> None:
    keep_a_deleted_run(world)
    world.ask("d0-0", key="k")


def keep_a_deleted_run_without_a_key(world: Asking) -> None:
    keep_a_deleted_run(world)
    world.records.unsure.add("d0-0")


def be_shown_after_two_requests_to_delete_it(world: Asking) -> None:
    world.delete(status_code=404, unsure=True, shown=200)


def keep_a_deleted_history(world: Asking) -> None:
    world.delete()
    world.records.histories[OWN] = [user({"text": "d0-0"}), assistant({"text": "d0-0: nothing done"})]


def execute_after_its_deletion(world: Asking) -> None:
    world.delete()
    world.lines.insert(0, Line(kind="model", session=OWN, label="d0-0", pid=1, at_ns=25))
    world.lines.append(Line(kind="model", session=OWN, label="d0-0", pid=1, at_ns=60))


def lose_what_was_not_deleted(world: Asking) -> None:
    world.delete(status_code=404, shown=0)


def be_gone_without_a_deletion(world: Asking) -> None:
    world.records.answered.append(Answered(label=DONE, status_code=404, at_ns=99, code="not_found"))


def not_find_a_run(world: Asking) -> None:
    world.records.not_found[f"run-{DONE}"] = 50


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (answer_twice, "was answered by 2 runs"),
        (answer_another_question, "answers what no run has asked"),
        (request_what_no_tool_requests, "and its message does not"),
        (go_on_without_an_answer, "continued without an answer"),
        (go_on_with_another_answer, f"was answered by {ANSWER}, and history has"),
        (refuse_the_only_answer, "there was no other answer"),
        (say_that_it_was_dismissed, "there was an answer"),
        (not_know_the_question, "answers the whole question"),
        (accept_an_answer_to_nothing, "answers what no run has asked"),
        (start_meanwhile, f"({NEXT}) started while its session waited for run-{ASKER}"),
        (start_before_the_time_is_over, f"({NEXT}) started while its session waited for run-{ASKER}"),
        (dismiss_for_nothing, "nothing is known that does"),
        (dismiss_for_a_cancel_of_another_run, "nothing is known that does"),
        (dismiss_for_a_cancel_of_another_session, "nothing is known that does"),
        (start_meanwhile_for_a_cancel_of_another_run, "started while its session waited"),
        (start_meanwhile_for_a_cancel_of_another_session, "started while its session waited"),
        (close_a_question_that_nobody_answered_otherwise, f"nobody has answered {ASKER}, and its round is closed by"),
        (answer_what_had_ended, "and an answer was accepted for it"),
        (show_a_closed_round_as_pending, "is not open, and shown otherwise"),
        (show_an_open_round_as_closed, "is open, and shown otherwise"),
        (stay_held, "is still held"),
        (end_after_a_forced_cancel, "ended as succeeded, although its cancel was accepted"),
        (ask_after_a_cancel, "ended as needs_input, although its cancel was accepted"),
        (end_though_its_session_was_cancelled, "was cancelled with its session"),
        (be_left_out, "had not ended when"),
        (wait_and_be_left_out, "waited when"),
        (be_cancelled_with_a_session_that_says_otherwise, "though nobody requested it"),
        (be_cancelled_as_soon_as_the_client_leaves, "though nobody requested it"),
        (be_cancelled_though_only_what_waits_is, "though nobody requested it"),
        (go_on_without_a_client, "after its client was lost"),
        (overlap_by_a_cancel_of_the_session_without_force, "executed at once"),
        (overlap_by_a_forced_cancel_of_what_waits, "executed at once"),
        (start_before_what_was_moved, f"({FAILED}) started while run-{QUEUED}"),
        (start_before_what_was_made_urgent, f"({FAILED}) started while run-{QUEUED}"),
        (keep_the_priority, "has priority 3, and was to have ['4']"),
        (be_too_late_before_it_begins, "had not begun when it was too late"),
        (have_ended_before_it_ends, "had not ended when it was not moved"),
        (start_in_a_pause, "had been paused for"),
        (go_on_in_a_pause, "continued in another server while"),
        (give_up_what_was_paused, "s that count, and had 0.5"),
        (give_up_what_waited_for_an_answer, "s that count, and had 0.5"),
        (be_busy_with_nothing, "was said to be busy"),
        (be_shown_after_its_deletion, "is shown with 200"),
        (keep_a_deleted_run, "and is still stored"),
        (keep_a_deleted_run_that_was_sent_once, "and is still stored"),
        (keep_a_deleted_run_without_a_key, "and is still stored"),
        (be_shown_after_two_requests_to_delete_it, "is shown with 200"),
        (keep_a_deleted_history, "has 'd0-0', which is no run"),
        (execute_after_its_deletion, "was executed after"),
        (lose_what_was_not_deleted, "was not there to be deleted"),
        (be_gone_without_a_deletion, "was answered 404, and"),
        (not_find_a_run, "could not be found"),
    ],
)
def test_whatever_is_wrong_is_found(wrong: Callable[[Asking], None], said: str) -> None:
    world = Asking()
    wrong(world)
    faults = world.judged()
    assert any(said in fault for fault in faults), faults


def test_another_worker_of_a_server_that_was_there_before_a_pause_may_go_on() -> None:
    """The server has taken the run before; a dead worker was to be replaced."""
    world = Asking()
    go_on_in_a_pause(world)
    world.lines[-2:] = [replace(line, parent=42) for line in world.lines[-2:]]
    world.lines.insert(0, replace(world.lines[0], kind="model", pid=41, parent=42, at_ns=1))
    assert world.judged() == []


def test_what_waits_for_an_answer_waits_for_the_time_of_an_answer_alone() -> None:
    """One that comes after that time, and before anything else begins, still answers; what waits may have ended."""
    world = Asking()
    given_up(world)
    world.view(ASKER, ended_s=103.0)
    world.view(QUEUED, created=103.1, ended_s=105.1)
    world.view(ANSWER, created=105.5)
    assert not [fault for fault in world.judged() if "that count" in fault]
    world.view(QUEUED, created=103.1, ended_s=104.9)
    assert [fault for fault in world.judged() if "that count" in fault]

"""The soak's judge finds nothing wrong with true records, and whatever was made wrong in them."""

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from judging.evidence import End
from soak.case import NOT_STARTED, UNKNOWN, Rules
from soak.ledger import Line
from soak.records import Answered, Exit, Seen, SentRequest, Struck, View
from soak_support import BROKE, CRASHED, DONE, FAILED, QUEUED, SESSION, World, ran, result, user


def test_true_records_have_no_fault() -> None:
    assert World().judged() == []


def lose_a_run(world: World) -> None:
    world.records.stored = [run for run in world.records.stored if run.run_id != f"run-{DONE}"]
    del world.history[:4]
    world.records.seen.clear()


def lose_a_waiting_run(world: World) -> None:
    world.records.stored.pop()
    del world.history[-2:]


def lose_a_run_that_executed(world: World) -> None:
    world.records.views[f"run-{CRASHED}"] = View(status_code=404)


def leave_a_run_waiting(world: World) -> None:
    world.records.stored[-1] = replace(world.records.stored[-1], status="queued")


def report_two_outcomes(world: World) -> None:
    world.records.reported[f"run-{DONE}"].add(End(kind="crashed", text="the server died"))


def report_two_ends(world: World) -> None:
    world.records.reported_at[f"run-{DONE}"].add("t99")


def report_another_answer(world: World) -> None:
    world.end(DONE, End(kind="succeeded", text="c0-0: did something"))


def start_a_tool_twice(world: World) -> None:
    world.lines[2:2] = [replace(line, token="token-9") for line in ran(DONE, "work", 1, "done")]


def forget_a_side_effect(world: World) -> None:
    world.lines[2:2] = ran(DONE, "work", 8, "done")


def show_a_result_that_never_was(world: World) -> None:
    world.history[2]["content"] = [result(1, "did something", "success")]


def show_a_failure_as_a_success(world: World) -> None:
    world.history[6]["content"][0]["toolResult"]["status"] = "success"


def show_a_tool_that_ran_as_not_started(world: World) -> None:
    world.history[10]["content"] = [result(4, NOT_STARTED, "error")]


def show_what_had_ended_as_unknown(world: World) -> None:
    world.history[2]["content"] = [result(1, UNKNOWN, "error")]


def make_a_tool_up(world: World) -> None:
    del world.lines[2:4]


def leave_a_tool_without_a_result(world: World) -> None:
    del world.history[6]["content"][0]


def change_history(world: World) -> None:
    world.records.seen[SESSION].add(Seen(count=2, digest=b"another"))


def show_a_run_twice(world: World) -> None:
    world.history += world.history[-2:]


def show_a_run_that_nobody_requested(world: World) -> None:
    world.history[-2] = user({"text": "who is there"})


def swap_runs_in_history(world: World) -> None:
    world.history[:8] = [*world.history[4:8], *world.history[:4]]
    world.records.seen.clear()


def accept_out_of_order(world: World) -> None:
    first, second, *others = world.records.stored
    world.records.stored = [replace(second, sequence=1), replace(first, sequence=2), *others]


def send_after_an_answer_what_comes_before_it(world: World) -> None:
    world.records.requests[DONE] = replace(world.records.requests[DONE], sent=600)


def execute_in_another_order(world: World) -> None:
    world.lines[:6] = [*world.lines[2:6], *world.lines[:2]]


def execute_two_at_once(world: World) -> None:
    world.lines[1], world.lines[2] = world.lines[2], world.lines[1]


def execute_beside_what_has_not_ended(world: World) -> None:
    world.lines[-1:-1] = ran(FAILED, "work", 9, "done", pid=1)


def execute_two_at_once_in_two_processes(world: World) -> None:
    execute_two_at_once(world)
    world.lines[1] = replace(world.lines[1], pid=9)


def run_what_was_refused(world: World) -> None:
    world.lines.append(Line(kind="model", session=SESSION, label="c5-0", pid=2, at_ns=900))


def fail_without_reason(world: World) -> None:
    world.end(QUEUED, End(kind="agent_error", text="the conversation is malformed"))


def close_otherwise(world: World) -> None:
    world.history[11]["content"] = [{"text": "(This run ended early: stopped.)"}]


def say_another_reason(world: World) -> None:
    world.history[11]["content"][-1] = {"text": "the moon"}


def time_out_without_a_timeout(world: World) -> None:
    world.end(CRASHED, End(kind="timeout", text="the time was up"))


def time_out_early(world: World) -> None:
    time_out_without_a_timeout(world)
    world.records.requests[CRASHED] = replace(world.records.requests[CRASHED], timeout_s=2.0)


def take_too_long(world: World) -> None:
    world.records.requests[DONE] = replace(world.records.requests[DONE], timeout_s=2.0)
    world.view(DONE, ended_s=210.0 + 60.0)


def wait_too_long(world: World) -> None:
    world.ask(DONE, queue_timeout_s=10.0)


def store_another_status(world: World) -> None:
    world.records.stored[0] = replace(world.records.stored[0], status="cancelled")


def crash_without_a_tool(world: World) -> None:
    world.end(FAILED, End(kind="crashed", text="the server died"))


def try_too_often(world: World) -> None:
    world.records.stored[2] = replace(world.records.stored[2], attempt=4)


def succeed_long_after_the_time_was_up(world: World) -> None:
    world.records.requests[DONE] = replace(world.records.requests[DONE], timeout_s=0.1)
    world.view(DONE, ended_s=210.0 + 2.0)


def become_two_runs(world: World) -> None:
    world.records.answered.append(Answered(label=DONE, status_code=200, at_ns=91, run_id=f"run-{BROKE}"))


def succeed_after_a_cancel(world: World) -> None:
    world.cancel(DONE, 202)


def be_cancelled(world: World) -> None:
    world.be_cancelled()


def be_cancelled_too_late(world: World) -> None:
    be_cancelled(world)
    world.cancel(FAILED, 409)


def interrupt_nothing(world: World) -> None:
    world.records.requests[FAILED] = replace(world.records.requests[FAILED], if_busy="interrupt")
    world.records.views[f"run-{FAILED}"] = replace(world.records.views[f"run-{FAILED}"], created=231.0)
    world.records.views[f"run-{CRASHED}"] = replace(world.records.views[f"run-{CRASHED}"], ended_s=235.0)
    world.begin_elsewhere(sequence=6, begun=232.0)


def hide_what_nobody_rolled_back(world: World) -> None:
    world.records.hidden[SESSION] = frozenset({12, 13})
    be_cancelled(world)
    world.cancel(FAILED, 200)


def hide_a_part(world: World) -> None:
    world.records.hidden[SESSION] = frozenset({12})


def start_before_what_is_more_urgent_and_is_seen_waiting(world: World) -> None:
    be_more_urgent(world)
    world.records.monotonic_s = 106.0


def be_more_urgent(world: World) -> None:
    world.records.requests[QUEUED] = replace(world.records.requests[QUEUED], priority=1)


def start_before_what_is_more_urgent_and_was_accepted_before_another_run(world: World) -> None:
    be_more_urgent(world)
    world.begin_elsewhere(sequence=6, begun=209.0)


def report_another_end_than_is_stored(world: World) -> None:
    world.records.reported[f"run-{DONE}"] = {End(kind="crashed", text="the server died")}


def report_the_end_of_a_run_that_has_none(world: World) -> None:
    world.view(QUEUED, ended=None)
    world.records.reported[f"run-{QUEUED}"] = {End(kind="crashed", text="the server died")}


def answer_with_another_run(world: World) -> None:
    world.records.answered.append(Answered(label=DONE, status_code=200, at_ns=91, run_id=f"run-{BROKE}"))


def start_a_tool_of_what_was_given_up(world: World) -> None:
    world.end(CRASHED, End(kind="queue_timeout", text="it waited too long"))


def be_cancelled_too_late_or_not_at_all(world: World) -> None:
    be_cancelled_too_late(world)
    world.cancel(FAILED, 0)


def wait_in_a_busy_session(world: World) -> None:
    world.ask(QUEUED, if_busy="reject", sent=600)
    world.view(QUEUED, created=239.5, begun=239.5)
    world.view(FAILED, ended_s=241.0)


def roll_back_and_hide_nothing(world: World) -> None:
    be_cancelled(world)
    world.ask(QUEUED, if_busy="rollback")
    world.view(QUEUED, created=240.5)
    world.view(FAILED, ended_s=242.0)
    world.begin_elsewhere(sequence=6, begun=241.0)


def end_by_itself(world: World) -> None:
    world.records.exits.append(Exit(server=5, signals=(), phase="ready", code=1))


def end_with_another_code(world: World) -> None:
    world.records.exits.append(Exit(server=5, signals=("TERM",), phase="ready", code=1))


def complain(world: World) -> None:
    world.records.exits.append(Exit(server=5, signals=("KILL",), phase="ready", code=-9, complaints=("Traceback",)))


def leave_something(world: World) -> None:
    world.records.left = 1


def show_an_unknown_outcome_as_a_success(world: World) -> None:
    world.history[10]["content"][0]["toolResult"]["status"] = "success"


def see_a_fault_at_once(world: World) -> None:
    world.records.faults.append("a client was answered twice")


def list_a_run_twice(world: World) -> None:
    world.records.stored.append(world.records.stored[-1])


def show_another_question(world: World) -> None:
    world.history[0] = user({"text": f"{DONE} work.2"})


def succeed_with_a_model_that_fails(world: World) -> None:
    world.end(FAILED, End(kind="succeeded", text=f"{FAILED}: nothing done"))


def succeed_without_all_tools(world: World) -> None:
    world.ask(DONE, text=f"{DONE} work.1 work.2")
    world.history[0] = user({"text": f"{DONE} work.1 work.2"})


def end_in_an_unknown_way(world: World) -> None:
    world.end(FAILED, End(kind="exploded", text="bang"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (show_an_unknown_outcome_as_a_success, "reads as unknown, and as a success"),
        (see_a_fault_at_once, "a client was answered twice"),
        (list_a_run_twice, "a run is listed twice"),
        (show_another_question, f"the question of {DONE} is wrong"),
        (succeed_with_a_model_that_fails, "succeeded, though its model fails"),
        (succeed_without_all_tools, "succeeded with 1 of 2 tools"),
        (end_in_an_unknown_way, "ended as exploded: bang"),
        (lose_a_run, "was answered 200, and is lost"),
        (lose_a_waiting_run, "was seen as waiting, and is lost"),
        (lose_a_run_that_executed, "was known, and could not be found"),
        (leave_a_run_waiting, "has no outcome"),
        (report_two_outcomes, "ended in more than one way"),
        (report_two_ends, "ended more than once"),
        (report_another_answer, "answered 'c0-0: did something'"),
        (start_a_tool_twice, "was started 2 times"),
        (forget_a_side_effect, "was started, and is not in history"),
        (show_a_result_that_never_was, "ended otherwise, and reads as"),
        (show_a_failure_as_a_success, "was raised, and reads as a success"),
        (show_a_tool_that_ran_as_not_started, "has no known end, and reads as"),
        (show_what_had_ended_as_unknown, "ended, and reads as unknown"),
        (make_a_tool_up, "never started, and reads as"),
        (leave_a_tool_without_a_result, "is malformed"),
        (change_history, "was changed in its first 2 messages"),
        (show_a_run_twice, "stands 2 times in history, not 1"),
        (show_a_run_that_nobody_requested, "a question that nobody asked"),
        (swap_runs_in_history, "in another order than they have in history"),
        (accept_out_of_order, "which is first by sequence"),
        (send_after_an_answer_what_comes_before_it, "and executed after it"),
        (execute_in_another_order, "in another order than they have in history"),
        (execute_two_at_once, "executed at once"),
        (execute_beside_what_has_not_ended, "executed at once"),
        (execute_two_at_once_in_two_processes, "executed at once"),
        (run_what_was_refused, "was refused, and ran"),
        (fail_without_reason, "failed without reason"),
        (close_otherwise, "and history closes with"),
        (say_another_reason, "and history closes with 'the moon'"),
        (time_out_without_a_timeout, "and had no end of time"),
        (time_out_early, "and had 2.0"),
        (take_too_long, "ended as succeeded 58.0 s after its time was up"),
        (succeed_long_after_the_time_was_up, "ended as succeeded 1.9 s after its time was up"),
        (wait_too_long, "waited for 109.0 s, and had 10.0"),
        (store_another_status, "is stored as cancelled, and its outcome as succeeded"),
        (crash_without_a_tool, "though it could have continued"),
        (try_too_often, "had 4 attempts"),
        (become_two_runs, "became 2 runs"),
        (succeed_after_a_cancel, "although its cancel was accepted"),
        (be_cancelled, "though nobody requested it"),
        (be_cancelled_too_late, "though its cancel came too late"),
        (interrupt_nothing, "had interrupted it"),
        (hide_what_nobody_rolled_back, "nobody has rolled it back"),
        (hide_a_part, "is hidden in part"),
        (start_before_what_is_more_urgent_and_is_seen_waiting, "which goes before it"),
        (start_before_what_is_more_urgent_and_was_accepted_before_another_run, "which goes before it"),
        (report_another_end_than_is_stored, "and is stored as"),
        (report_the_end_of_a_run_that_has_none, "was reported to have ended, and has not"),
        (answer_with_another_run, "which is another one"),
        (start_a_tool_of_what_was_given_up, "left no trace, and its tool use-4 was started"),
        (be_cancelled_too_late_or_not_at_all, "though its cancel came too late"),
        (wait_in_a_busy_session, "was to be refused by a busy session"),
        (roll_back_and_hide_nothing, "is not hidden, although"),
        (end_by_itself, "ended with 1"),
        (end_with_another_code, "ended with 1"),
        (complain, "complained"),
        (leave_something, "still executed, waited or were held"),
    ],
)
def test_whatever_is_wrong_is_found(wrong: Callable[[World], None], said: str) -> None:
    world = World()
    wrong(world)
    faults = world.judged()
    assert any(said in fault for fault in faults), faults


def test_a_process_with_the_number_of_one_that_was_killed_is_another_one() -> None:
    world = World()
    execute_beside_what_has_not_ended(world)
    world.lines[-3:-1] = [replace(line, process="of the other one") for line in world.lines[-3:-1]]
    assert not any("executed at once" in fault for fault in world.judged())


def test_a_run_that_nobody_saw_waiting_may_have_been_accepted_late() -> None:
    """Its request may have waited for the disk for a long time."""
    world = World()
    be_more_urgent(world)
    world.begin_elsewhere(sequence=4, begun=209.0)
    assert not any("which goes before it" in fault for fault in world.judged())


def test_a_cancel_that_was_answered_and_a_rollback_are_no_faults() -> None:
    world = World()
    be_cancelled(world)
    world.cancel(FAILED, 0)
    assert world.judged() == []
    world = World()
    be_cancelled(world)
    world.records.requests[QUEUED] = replace(world.records.requests[QUEUED], if_busy="rollback")
    world.records.views[f"run-{QUEUED}"] = replace(world.records.views[f"run-{QUEUED}"], created=240.5)
    world.records.hidden[SESSION] = frozenset({12, 13})
    assert world.judged() == []


def test_a_run_that_was_cancelled_when_it_waited_again_may_leave_no_trace() -> None:
    """Its model was called, its server died, and it was cancelled before it continued; nothing else is like that."""
    missing = "stands 0 times in history"

    def without_a_trace(*, status_code: int = 200, blow: float = 240.5) -> World:
        world = World()
        world.be_cancelled()
        world.cancel(FAILED, status_code)
        world.records.blows.append(blow)
        del world.history[12:14]
        return world

    assert without_a_trace().judged() == []
    assert any(missing in fault for fault in without_a_trace(status_code=202).judged()), "it executed"
    assert any(missing in fault for fault in without_a_trace(blow=230.0).judged()), "no server ended meanwhile"
    assert any(missing in fault for fault in without_a_trace(blow=242.0).judged()), "no server ended meanwhile"
    for since, until, is_fault in (
        (240.5, 240.5, True),
        (230.0, 239.5, True),
        (230.0, 232.0, False),
        (242.0, 242.5, False),
    ):
        world = without_a_trace(blow=0.0)
        world.records.struck.append(Struck(how="STOP", since=since, until=until))
        assert any(missing in fault for fault in world.judged()) != is_fault, "a worker was struck, meanwhile or not"
    world = without_a_trace()
    world.lines[-1:-1] = ran(FAILED, "work", 5, None)
    assert any(missing in fault for fault in world.judged()), "it had started a tool"
    world = World()
    world.records.blows.append(240.5)
    del world.history[12:14]
    assert any(missing in fault for fault in world.judged()), "it was not cancelled"


def test_an_idempotent_tool_may_start_again() -> None:
    world = World()
    world.lines = [replace(line, tool="again") if line.label == DONE else line for line in world.lines]
    world.lines[0:0] = ran(DONE, "again", 1, None, pid=0)
    assert any("was started 2 times" in fault for fault in world.judged())
    assert world.judged(Rules(idempotent=frozenset({"again"}))) == []


def test_nothing_crashes_that_could_have_continued() -> None:
    """A tool that may be started again, or a model that may be informed, is no reason to fail; a last attempt is."""
    could = "though it could have continued"
    for rules in (Rules(inform=True), Rules(idempotent=frozenset({"work"}))):
        assert any(could in fault for fault in World().judged(rules)), rules
        assert World().judged(replace(rules, max_attempts=1)) == []


def test_a_run_that_was_given_up_while_it_waited_leaves_no_trace() -> None:
    world = World()
    run_id = f"run-{QUEUED}"
    world.records.requests[QUEUED] = replace(world.records.requests[QUEUED], queue_timeout_s=0.5)
    world.records.stored[-1] = replace(world.records.stored[-1], status="failed")
    ended = End(kind="queue_timeout", text="it waited too long")
    view = View(status_code=200, status="failed", ended_at="t5", ended=ended, created=105.0, ended_s=105.6)
    world.records.views[run_id] = view
    world.records.reported[run_id] = {ended}
    assert any("stands 1 times in history, not 0" in fault for fault in world.judged())
    del world.history[-2:]
    assert world.judged() == []
    world.records.views[run_id] = replace(view, ended_s=105.3)
    assert any("queue_timeout after" in fault for fault in world.judged())


def test_a_run_may_ask_its_model_and_be_known_to_nobody_if_its_server_died_while_that_was_committed() -> None:
    """Once it starts a tool it is kept, and once anybody has heard of it."""
    world = World()
    world.records.requests["c9-9"] = SentRequest(name="c9-9", session=SESSION, text="c9-9 work.1", sent=900)
    world.lines.append(Line(kind="model", session=SESSION, label="c9-9", pid=2, at_ns=901))
    assert world.judged() == []
    world.records.answered.append(Answered(label="c9-9", status_code=202, at_ns=99, run_id="run-c9-9"))
    assert any("is lost" in fault for fault in world.judged())
    world.records.answered.pop()
    world.lines += [replace(line, label="c9-9", run_id="run-c9-9") for line in ran("c9-9", "work", 9, "done")]
    assert any("is lost" in fault for fault in world.judged())

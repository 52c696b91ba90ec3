"""The simulation's own rules find what is wrong in the record of a life: true ones are falsified, one thing at a time.

What breaks the engine so that a rule shows it is in `tests/properties/test_breakages.py`; here are the rules that no
breakage needs.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

import pytest
from msgspec.structs import replace

from simulation.judge import judge
from simulation.life import Life, live
from simulation.record import Event
from strandline._model import ErrorCode, IfBusy, Outcome, Run, RunError, RunStatus

SEEDS: Final = range(100)
FALSIFIED: Final = 100
"""How many lives of one world are judged at most."""
Falsify = Callable[[Life], Iterator[Life]]
AGES_S: Final = 100_000.0
LATER_S: Final = (8.0, 20.0, 60.0, 200.0, 1000.0)
"""By how much a time is falsified: enough to be late, and little enough that no server was stopped meanwhile."""


@cache
def played(seed: int) -> Life:
    return live(seed)


def with_run(life: Life, run: Run, **changes: Any) -> Life:
    return replace(life, runs=life.runs | {run.run_id: replace(run, **changes)})


def with_event(life: Life, place: int, **details: Any) -> Life:
    """Return the life with other details of one event."""
    event = life.events[place]
    changed = Event(event.at, event.what, event.run, event.details | details)
    return replace(life, events=[*life.events[:place], changed, *life.events[place + 1 :]])


def with_more(life: Life, *more: tuple[str, str, dict[str, Any]]) -> Life:
    """Return the life with more events at its end."""
    at = life.events[-1].at
    return replace(life, events=[*life.events, *(Event(at, what, run, details) for what, run, details in more)])


def events(life: Life, what: str) -> Iterator[tuple[int, Event]]:
    return ((place, event) for place, event in enumerate(life.events) if event.what == what)


def ended(life: Life, *statuses: RunStatus) -> Iterator[Run]:
    return (run for run in life.runs.values() if run.status in statuses)


def failed_with(code: ErrorCode) -> Falsify:
    """Have a run that succeeded be stored as failed so."""

    def falsify(life: Life) -> Iterator[Life]:
        for run in ended(life, RunStatus.SUCCEEDED):
            outcome = Outcome(status=RunStatus.FAILED, error=RunError(code, "why"))
            yield with_run(life, run, status=RunStatus.FAILED, outcome=outcome)

    return falsify


# -- why and when runs ended ---------------------------------------------------------------------------


def end_late(status: RunStatus) -> Falsify:
    def falsify(life: Life) -> Iterator[Life]:
        for run in ended(life, status):
            if run.ended_at is not None:
                for later_s in LATER_S:
                    yield with_run(life, run, ended_at=run.ended_at + later_s)

    return falsify


def start_late(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.SUCCEEDED):
        if run.started_at is not None and run.ended_at is not None:
            for later_s in LATER_S:
                yield with_run(life, run, started_at=run.started_at + later_s, ended_at=run.ended_at + later_s)


def give_up_at_once(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.FAILED):
        if run.outcome and run.outcome.error and run.outcome.error.code is ErrorCode.QUEUE_TIMEOUT:
            yield with_run(life, run, ended_at=run.created_at)


def continue_later_for_nothing(life: Life) -> Iterator[Life]:
    for place, event in events(life, "accepted"):
        later = Event(event.at, "later", event.run, {})
        yield replace(life, events=[*life.events[: place + 1], later, *life.events[place + 1 :]])


def store_two_statuses(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.SUCCEEDED):
        yield with_run(life, run, status=RunStatus.CANCELLED)


def succeed_without_an_attempt(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.CANCELLED):
        if run.started_at is None:
            yield with_run(life, run, status=RunStatus.SUCCEEDED, outcome=Outcome(status=RunStatus.SUCCEEDED))


def answer_otherwise(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.SUCCEEDED):
        assert run.outcome is not None
        yield with_run(life, run, outcome=replace(run.outcome, output="the moon"))


def ask_without_a_tool_that_asks(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.SUCCEEDED):
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=[])
        yield with_run(life, run, status=RunStatus.NEEDS_INPUT, outcome=outcome)


def fail_without_a_code(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.SUCCEEDED):
        yield with_run(life, run, status=RunStatus.FAILED, outcome=Outcome(status=RunStatus.FAILED))


def drain_for_ages(life: Life) -> Iterator[Life]:
    for place, _ in events(life, "drained"):
        yield with_event(life, place, took_s=AGES_S)


# -- what was accepted and refused ---------------------------------------------------------------------


def fresh_request(life: Life, **more: Any) -> tuple[str, str, dict[str, Any]]:
    """Return a request to a session that nobody has."""
    _, asked = next(events(life, "requested"))
    session = asked.details["session"]._replace(session_id="fresh")
    return "requested", "fresh", asked.details | {"session": session} | more


def refuse_an_idle_session(life: Life) -> Iterator[Life]:
    yield with_more(life, fresh_request(life), ("refused", "fresh", {"code": "session_busy"}))


def refuse_a_key_that_is_new(life: Life) -> Iterator[Life]:
    yield with_more(life, fresh_request(life, key="fresh"), ("reused", "fresh", {}))


def accept_beyond_the_bound(life: Life) -> Iterator[Life]:
    for place, _ in events(life, "accepted"):
        yield with_event(life, place, position=999)


def store_another_policy(life: Life) -> Iterator[Life]:
    for run in life.runs.values():
        yield with_run(life, run, if_busy=IfBusy.ROLLBACK if run.if_busy is IfBusy.ENQUEUE else IfBusy.ENQUEUE)


def show_what_was_rolled_back(life: Life) -> Iterator[Life]:
    for run in ended(life, RunStatus.CANCELLED):
        if run.discard and run.discarded:
            yield with_run(life, run, discarded=False)


def let_a_run_wait_for_an_answer_that_was_not_to_wait(life: Life) -> Iterator[Life]:
    for place, _ in events(life, "requested"):
        yield with_event(life, place, if_busy="reject")


def accept_an_answer_after_its_session_was_cancelled(life: Life) -> Iterator[Life]:
    for place, asked in events(life, "requested"):
        if asked.details["answers"]:
            known = {"session": asked.details["session"], "running": True, "force": False}
            cancel = [Event(asked.at, "sweeping", "s", known)]
            cancel.append(Event(asked.at, "swept", "s", {"ended": [], "requested": []}))
            yield replace(life, events=[*life.events[:place], *cancel, *life.events[place:]])


# -- histories -----------------------------------------------------------------------------------------


def show_a_history_without_its_beginning(life: Life) -> Iterator[Life]:
    for place, event in events(life, "history"):
        yield with_event(life, place, messages=event.details["messages"][1:])


def keep_a_history_without_its_beginning(life: Life) -> Iterator[Life]:
    for key, messages in life.shown.items():
        yield replace(life, shown=life.shown | {key: messages[1:]})


def show_an_end_otherwise(life: Life) -> Iterator[Life]:
    for key, pending in life.pending.items():
        yield replace(life, pending=life.pending | {key: not pending})


def hide_one_message(life: Life) -> Iterator[Life]:
    for key, hidden in life.hidden.items():
        yield replace(life, hidden=life.hidden | {key: hidden ^ {0}})


def history_with(change: Callable[[list[Any]], list[Any]]) -> Falsify:
    def falsify(life: Life) -> Iterator[Life]:
        for key, messages in life.history.items():
            if messages and not life.hidden[key]:
                changed = change(messages)
                yield replace(life, history=life.history | {key: changed}, shown=life.shown | {key: changed})

    return falsify


def say_something_else(messages: list[Any]) -> list[Any]:
    place = next(n for n, each in enumerate(messages) if each["role"] == "assistant")
    return [*messages[:place], {**messages[place], "content": [{"text": "the moon"}]}, *messages[place + 1 :]]


def forget_the_last_run(messages: list[Any]) -> list[Any]:
    asked = [n for n, each in enumerate(messages) if each["role"] == "user" and "text" in each["content"][0]]
    return messages[: asked[-1]]


def add_a_run_of_nobody(messages: list[Any]) -> list[Any]:
    said = [{"role": role, "content": [{"text": "the moon"}]} for role in ("user", "assistant")]
    return [*messages, *said]


def know_another_state(life: Life) -> Iterator[Life]:
    for place, _ in events(life, "entered"):
        yield with_event(life, place, state="the moon")


# -- runs that join ------------------------------------------------------------------------------------


def hear_nothing(life: Life) -> Iterator[Life]:
    for place, event in events(life, "model"):
        if event.details["heard"]:
            yield with_event(life, place, heard=[])


def hear_what_waits(life: Life) -> Iterator[Life]:
    for place, _ in events(life, "model"):
        yield with_event(life, place, heard=["the moon"])


def refuse_to_join_what_executes(life: Life) -> Iterator[Life]:
    for place, event in events(life, "model"):
        request, text, details = fresh_request(life, expected=event.run)
        added = [Event(event.at, request, text, details), Event(event.at, "refused", text, {"code": "not_running"})]
        yield replace(life, events=[*life.events[: place + 1], *added, *life.events[place + 1 :]])


def join_another_run(life: Life) -> Iterator[Life]:
    expected = {event.run for _, event in events(life, "requested") if event.details["expected"]}
    for place, event in events(life, "accepted"):
        if event.details["text"] in expected:
            yield with_event(life, place, joins="another")


def wait_beside_what_executes(life: Life) -> Iterator[Life]:
    for place, event in events(life, "accepted"):
        if event.details["joins"]:
            yield with_event(life, place, joins=None)


def wait_beyond_the_bound(life: Life) -> Iterator[Life]:
    yield replace(life, options=replace(life.options, max_queued_per_session=0))
    yield replace(life, options=replace(life.options, max_queued=0))


# -- schedules -----------------------------------------------------------------------------------------


def make_a_schedule_of_other_times(life: Life) -> Iterator[Life]:
    for place, event in events(life, "scheduled"):
        yield with_event(life, place, first_s=event.details["first_s"] + 0.5)


def accept_before_the_time(life: Life) -> Iterator[Life]:
    for run in life.runs.values():
        if "@" in run.metadata["text"]:
            yield with_run(life, run, created_at=run.created_at - 100.0)


STORIES: Final[dict[str, tuple[Falsify, str]]] = {
    "a cancelled run ends late": (end_late(RunStatus.CANCELLED), "s after its cancel was accepted"),
    "a run ends late": (end_late(RunStatus.SUCCEEDED), "s after its time was up"),
    "a run starts late": (start_late, " waited for "),
    "a run is given up early": (give_up_at_once, "s that count, and had"),
    "a run continues later, and nothing stopped": (continue_later_for_nothing, "to continue later, without a cause"),
    "a run has two statuses": (store_two_statuses, "is stored as cancelled, and its outcome as succeeded"),
    "a run crashed, and nothing else": (failed_with(ErrorCode.CRASHED), "and nothing had crashed"),
    "a run crashed that could continue": (failed_with(ErrorCode.CRASHED), "though it could have continued"),
    "a run that began had waited too long": (failed_with(ErrorCode.QUEUE_TIMEOUT), "and had begun"),
    "a run succeeded that never began": (succeed_without_an_attempt, "and never began"),
    "an agent answered otherwise": (answer_otherwise, "'the moon'), but its agent"),
    "an agent asked that only answered": (ask_without_a_tool_that_asks, "'needs_input', '', ''), but its agent"),
    "an agent failed that answered": (failed_with(ErrorCode.AGENT_ERROR), "and nothing had failed"),
    "a run was stopped, and its server was not": (failed_with(ErrorCode.STOPPED), "in a process that was not stopped"),
    "a run failed, and nobody knows why": (fail_without_a_code, "which nobody requested"),
    "a drain takes ages": (drain_for_ages, "the drain of process"),
    "an idle session is refused as busy": (refuse_an_idle_session, "its session is busy, and it was not"),
    "a new key is refused": (refuse_a_key_that_is_new, "its key belongs to another, and there is none"),
    "a queue is longer than its bound": (accept_beyond_the_bound, "was accepted at position 999"),
    "a policy is stored otherwise": (store_another_policy, "was to be enqueue, and is rollback"),
    "what was rolled back is not hidden": (show_what_was_rolled_back, "was rolled back, and is not hidden"),
    "a run waits for an answer that was to be refused": (
        let_a_run_wait_for_an_answer_that_was_not_to_wait, "and was not to wait for what run",
    ),
    "a cancelled question is answered": (
        accept_an_answer_after_its_session_was_cancelled, "its session had been cancelled, question and all",
    ),
    "a history was shown without its beginning": (show_a_history_without_its_beginning, " is malformed: "),
    "a history is kept without its beginning": (keep_a_history_without_its_beginning, " is malformed: "),
    "an open end is shown otherwise": (show_an_end_otherwise, "open, and shown otherwise"),
    "one message more or less is hidden": (hide_one_message, "does not hide what is discarded, and nothing else"),
    "a run said something else": (history_with(say_something_else), "in history: "),
    "a run is in no history": (history_with(forget_the_last_run), "stands 0 times in history, not 1"),
    "a run of nobody is in history": (history_with(add_a_run_of_nobody), "'the moon', which is no run"),
    "an agent did not hear what had joined": (hear_nothing, "at its last model call the agent of run"),
    "an agent heard what had not joined": (hear_what_waits, "has heard 'the moon', which has not joined it"),
    "a run that executes is not to be joined": (refuse_to_join_what_executes, "does not execute, and it did"),
    "a run joins another than it expected": (join_another_run, ", and joins another"),
    "a run that could join waits": (wait_beside_what_executes, "which executed, and did not"),
    "more wait in a session than may": (wait_beyond_the_bound, "was accepted while 0 waited in its session"),
    "more wait than may": (wait_beyond_the_bound, "was accepted while 0 waited"),
    "a schedule has other times": (make_a_schedule_of_other_times, "which is none of schedule"),
    "a schedule fires early": (accept_before_the_time, "was accepted before its time"),
    "an agent had another state": (know_another_state, "had the state of 'the moon'"),
}  # fmt: skip


@pytest.mark.parametrize("name", STORIES)
def test_a_falsified_life_is_found(name: str) -> None:
    falsify, said = STORIES[name]
    for seed in SEEDS:
        life = played(seed)
        for place, false in enumerate(falsify(life)):
            if any(said in fault for fault in judge(false)):
                assert not any(said in fault for fault in judge(life))
                return
            if place >= FALSIFIED:
                break
    pytest.fail(f"no rule finds it in {len(SEEDS)} worlds")

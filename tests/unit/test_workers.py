"""Agents in workers: what they do is the same, and what dies with a worker is what was in it."""

import asyncio
import inspect
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import target_support
from engine_support import Played, echo, key, outcome, play_round, prompt_of, send, tool_texts
from strandline._agents.port import Attempt, RunStopped
from strandline._clock import SystemClock
from strandline._encoding import encode_messages
from strandline._engine.loops import Call
from strandline._engine.options import Options
from strandline._engine.service import Service
from strandline._history import UNKNOWN_OUTCOME
from strandline._journal.errors import ClaimLost
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, Checkpoint, ErrorCode, FencingToken, RunId, RunStatus, ToolDone
from strandline._workers import messages as m
from strandline._workers.channel import Frames, frame
from strandline._workers.loops import WorkerLoops
from strandline._workers.process import WorkerProcess
from strandline._workers.reports import reports
from strandline.errors import JournalUnavailable
from strandline.testing import Gate
from strandline.testing._checker import check_history
from target_support import run, until
from unit import (
    test_multi,
    test_self_managed,
    test_singleton,
    test_strands,
    test_strands_endings,
    test_strands_questions,
    test_window,
)
from workers_support import SETUP, Nearby, nearby

NUMBERS = count()
THE_SAME = [
    test_strands.test_a_round_is_durable_before_any_tool_of_it_starts,
    test_strands.test_a_checkpoint_has_the_changes_of_the_users_hooks,
    test_strands.test_the_window_slides_in_the_agent_and_in_the_journal_and_history_keeps_all,
    test_strands.test_agent_state_is_kept_when_a_run_succeeds_and_rolled_back_when_it_fails,
    test_strands.test_an_interrupt_leaves_its_round_open_until_it_is_answered,
    test_strands.test_partial_text_of_a_stream_that_broke_is_kept_and_that_of_a_repeated_call_is_not,
    test_strands.test_a_tool_that_calls_sys_exit_fails_its_own_run_and_is_not_requested_again,
    test_strands.test_a_conversation_that_user_code_broke_is_rebuilt_from_history,
    test_strands_endings.test_what_a_guardrail_redacts_is_redacted_in_history_and_for_the_model_of_the_next_run,
    test_strands_endings.test_structured_output_that_is_valid_at_last_is_the_answer,
    test_strands_endings.test_a_result_that_a_hook_still_looked_at_when_the_run_failed_is_not_forgotten,
    test_strands_endings.test_the_model_of_the_next_run_sees_that_tools_had_no_output,
    test_window.test_messages_that_the_agents_own_code_pins_stay_pinned,
    test_window.test_a_conversation_goes_on_under_another_manager_than_before,
    test_strands_questions.test_two_tools_that_ask_are_answered_together,
    test_strands_questions.test_a_sub_agent_that_requests_input_is_answered_through_its_user,
    test_multi.test_the_nodes_of_a_graph_go_on_with_their_conversations_also_once_it_was_made_anew,
    test_multi.test_a_stop_reaches_a_polite_tool_in_a_node_and_no_further_node_starts,
    test_singleton.test_each_session_goes_on_with_its_own_conversation_and_state,
    test_singleton.test_a_stop_in_the_middle_does_not_cancel_the_next_run,
    test_self_managed.test_the_conversation_is_the_session_managers_also_once_the_agent_was_made_anew,
]
"""Of all that is claimed of agents, what has most to do with the way to them and back."""


@pytest.mark.parametrize("test", THE_SAME, ids=lambda test: test.__name__.removeprefix("test_"))
def test_the_same_is_true_of_agents_in_workers(
    test: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_support, "WORKERS", "2")
    assert list(inspect.signature(test).parameters) == ["tmp_path"]
    test(tmp_path)


# -- what dies with a worker --------------------------------------------------------------------------


@asynccontextmanager
async def in_workers(
    behaviour: Callable[[Attempt], Awaitable[str]],
    *,
    workers: int = 2,
    journal: MemoryJournal | None = None,
    spawn: Callable[[], Nearby] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Service, WorkerLoops, Played]]:
    played = Played(behaviour)
    clock = SystemClock()
    target, loops = nearby(played, workers, spawn)
    service = Service(
        journal=journal or MemoryJournal(clock),
        target=target,
        loops=loops,
        clock=clock,
        new_run_id=lambda key: RunId(f"run_{next(NUMBERS)}"),
        workspace=lambda key: tempfile.gettempdir(),
        options=Options(**{"cancel_grace_s": 0.3, "drain_grace_s": 0, **options}),
    )
    await loops.start(target.probe).done
    await service.start()
    try:
        yield service, loops, played
    finally:
        await service.abort()


def place_of(service: Service, loops: WorkerLoops, run_id: RunId) -> int:
    """Return in which worker a run executes."""
    (execution,) = [each for each in service._runner.executing() if each.attempt.context.run_id == run_id]
    return next(place for place, worker in enumerate(loops._workers) if worker is execution.call.loop)


def kill(loops: WorkerLoops, place: int) -> None:
    """Have a worker die by itself."""
    worker = loops._workers[place]
    loops._processes[worker].kill()


def test_a_run_goes_on_in_another_worker_at_its_last_round_when_its_own_one_dies(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, other = Gate(), Gate()
    done: list[str] = []

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "other":
            await other.wait()
            return "undisturbed"

        async def pays() -> str:
            done.append("paid")
            return "paid"

        if attempt.context.attempt == 1:
            await play_round(attempt, "t1", pays)
            await model.wait()
        return f"answer to {prompt_of(attempt)}, attempt {attempt.context.attempt}"

    async def main() -> None:
        async with in_workers(behaviour) as (service, loops, _):
            beside = await send(service, "other", "b")
            await other.reached.wait()
            ticket = await send(service, "go", "a")
            await model.reached.wait()
            (execution,) = [
                each for each in service._runner.executing() if each.attempt.context.run_id == ticket.run_id
            ]
            await until(lambda: execution.attempt._checkpointed == 3)  # the reports of its round have arrived
            place = place_of(service, loops, ticket.run_id)
            assert place != place_of(service, loops, beside.run_id), "they were spread"
            kill(loops, place)
            ended = await outcome(ticket)
            assert ended.output == "answer to go, attempt 2"
            assert done == ["paid"], "a tool that has ended is not started again"
            other.open()
            assert (await outcome(beside)).output == "undisturbed"
            view = await service.run(ANONYMOUS, beside.run_id)
            assert view.run.attempt == 1
            await until(lambda: all(each.pid is not None for each in loops.load().workers))
            assert loops.load().workers_lost == 1
            check_history(await service.history(key("a"), count=0, include_tool_messages=True))

    with caplog.at_level(logging.INFO, "strandline.workers"):
        run(main)
    assert "has died: killed" in caplog.text


def test_a_run_whose_worker_dies_in_a_tool_ends_as_crashed_and_its_session_goes_on() -> None:
    tool = Gate()

    async def behaviour(attempt: Attempt) -> str:
        async def waits() -> str:
            await tool.wait()
            return "never"

        if prompt_of(attempt) == "go":
            await play_round(attempt, "t1", waits)
        return f"answer to {prompt_of(attempt)}"

    async def main() -> None:
        async with in_workers(behaviour) as (service, loops, _):
            ticket = await send(service, "go")
            follows = await send(service, "next")
            await tool.reached.wait()
            kill(loops, place_of(service, loops, ticket.run_id))
            ended = await outcome(ticket)
            assert ended.error is not None
            assert ended.error.code is ErrorCode.CRASHED
            assert (await outcome(follows)).output == "answer to next"
            history = await service.history(key(), count=0, include_tool_messages=True)
            assert UNKNOWN_OUTCOME in str(tool_texts(history))
            assert len(service._holds) == 0, "nothing of it can work any more"

    run(main)


def test_a_run_that_a_worker_may_not_start_since_the_lease_may_be_over_waits_again_and_counts_no_attempt() -> None:
    calls: list[str] = []

    async def behaviour(attempt: Attempt) -> str:
        calls.append(prompt_of(attempt))
        if len(calls) == 1:
            raise RunStopped
        return await echo(attempt)

    async def main() -> None:
        async with in_workers(behaviour) as (service, _, _):
            ticket = await send(service, "go")
            assert (await outcome(ticket)).status is RunStatus.SUCCEEDED, "its client waits for it"
            view = await service.wait(ANONYMOUS, ticket.run_id, 30)
            assert (view.run.status, view.run.attempt) == (RunStatus.SUCCEEDED, 1)
            assert calls == ["go", "go"]

    run(main)


def test_a_cancelled_run_ends_as_cancelled_when_its_worker_dies_meanwhile() -> None:
    model = Gate()

    async def behaviour(attempt: Attempt) -> str:
        await model.wait()
        return "never"

    async def main() -> None:
        async with in_workers(behaviour, cancel_grace_s=20.0) as (service, loops, _):
            ticket = await send(service, "go")
            await model.reached.wait()
            await service.cancel(ANONYMOUS, ticket.run_id)
            kill(loops, place_of(service, loops, ticket.run_id))
            assert (await outcome(ticket)).status is RunStatus.CANCELLED

    run(main)


def test_an_agent_that_was_idle_in_a_worker_that_died_is_made_anew_without_an_attempt_counted() -> None:
    async def main() -> None:
        async with in_workers(echo, workers=1) as (service, loops, played):
            await outcome(await send(service, "one"))
            await outcome(await send(service, "two"))
            assert len(played.built) == 1
            kill(loops, 0)
            await until(lambda: loops.load().workers_lost == 1)
            ticket = await send(service, "three")
            assert (await outcome(ticket)).output == "echo three"
            assert len(played.built) == 2
            assert len(played.built[1][1].messages) == 4, "with its conversation"
            assert (await service.run(ANONYMOUS, ticket.run_id)).run.attempt == 1

    run(main)


def test_a_worker_drops_an_agent_that_is_no_longer_needed() -> None:
    async def main() -> None:
        async with in_workers(echo, workers=1, max_agents=1) as (service, loops, _):
            (process,) = loops._processes.values()
            assert isinstance(process, Nearby)
            assert process.runtime is not None
            agents = process.runtime._agents
            await outcome(await send(service, "one", "a"))
            assert len(agents) == 1
            await outcome(await send(service, "two", "b"))
            await until(lambda: len(agents) == 1)
            assert loops._workers[0].agents == 1

    run(main)


def test_what_the_journal_does_not_take_fails_the_run_and_stops_its_agent() -> None:
    """A run must not continue with a result that cannot be stored."""
    gone_on: list[str] = []
    cancelled = Gate()

    class Refusing(MemoryJournal):
        error: Exception

        async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
            if isinstance(checkpoint, ToolDone):
                raise self.error
            await super().checkpoint(token, checkpoint)

    async def behaviour(attempt: Attempt) -> str:
        async def works() -> str:
            return "done"

        await play_round(attempt, "t1", works)
        try:
            await cancelled.wait()
        except asyncio.CancelledError:
            gone_on.append("cancelled")
            raise
        return "never"

    async def main() -> None:
        for error in (JournalUnavailable("no room"), ClaimLost("stale")):
            journal = Refusing(SystemClock())
            journal.error = error
            async with in_workers(behaviour, journal=journal) as (service, _, _):
                ended = await outcome(await send(service, "go"))
                assert ended.error is not None
                assert (ended.error.code, ended.error.detail) == (ErrorCode.AGENT_ERROR, str(error))
        assert gone_on == ["cancelled", "cancelled"]

    run(main)


def test_something_that_works_on_when_its_hold_is_over_ends_with_its_worker_when_that_harms_nobody() -> None:
    straggler, beside = Gate(), Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "stuck":
            await asyncio.to_thread(straggler.block)
        elif prompt_of(attempt) == "beside":
            await beside.wait()
        return f"answer to {prompt_of(attempt)}"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, hold_limit_s=0.2) as (service, loops, _):
            (worker,) = loops._workers
            innocent = await send(service, "beside", "b")
            await beside.reached.wait()
            stuck = await send(service, "stuck", "a", timeout_s=0.2)
            follows = await send(service, "next", "a")
            assert (await outcome(stuck)).error is not None
            assert (await outcome(follows)).output == "answer to next"
            assert loops._workers != [worker], "another worker has taken its place"
            assert worker in loops._processes, "it still does what somebody waits for"
            assert len(service._holds.lingering_calls()) == 1
            beside.open()
            assert (await outcome(innocent)).output == "answer to beside"
            await until(lambda: worker not in loops._processes)
            await until(lambda: not service._holds.lingering_calls())
            assert loops.load().workers_lost == 0, "it exited on request"
        straggler.open()

    run(main)


def test_of_workers_that_are_to_end_there_are_no_more_than_workers_and_no_run_dies_for_one() -> None:
    stragglers, beside = Gate(), Gate()
    waiting: list[str] = []

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "stuck":
            await asyncio.to_thread(stragglers.block)
        else:
            waiting.append(prompt_of(attempt))
            await beside.wait()
        return f"answer to {prompt_of(attempt)}"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, hold_limit_s=0.1, max_holds=8) as (service, loops, _):
            tickets = []
            for number in range(2):
                tickets.append(await send(service, "beside", f"b{number}"))
                await until(lambda: len(waiting) == len(tickets))
                await outcome(await send(service, "stuck", f"a{number}", timeout_s=0.1))
                await until(lambda: len(service._holds) == 0)
            first, second = loops._draining[0], loops._workers[0]
            await asyncio.sleep(0.2)  # (past the hold limit)
            service._holds.tick()
            assert loops._draining == [first], "the other one is to end when this one has"
            assert loops._workers == [second]
            assert len(service._holds.lingering_calls()) == 2
            beside.open()
            for each in tickets:
                assert (await outcome(each)).output == "answer to beside"
                assert (await service.run(ANONYMOUS, each.run_id)).run.attempt == 1
            await until(lambda: not service._holds.lingering_calls())
            assert not {first, second} & set(loops._processes)
        stragglers.open()

    run(main)


def test_no_worker_is_ended_for_what_is_left_over_while_no_other_one_takes_calls() -> None:
    async def main() -> None:
        async with in_workers(echo, workers=2) as (_, loops, _):
            one, other = loops._workers
            straggler: Call[Any] = Call(asyncio.get_running_loop().create_future(), one)
            other.leaving = True
            assert not loops.drain(straggler)
            assert loops._workers == [one, other]
            other.leaving = False
            assert loops.drain(straggler)
            assert loops._workers[0] is not one
            assert loops.drain(straggler), "it was seen to before"

    run(main)


def test_a_process_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    started: list[Nearby] = []
    played = Played(echo)

    def spawn() -> Nearby:
        if len(started) == 1:
            started.append(started[0])
            raise BlockingIOError("no more processes")
        started.append(Nearby(played))
        return started[-1]

    async def main() -> None:
        async with in_workers(echo, workers=1, spawn=spawn) as (service, loops, _):
            kill(loops, 0)
            await until(lambda: loops.load().workers_lost == 1)
            assert (await outcome(await send(service, "go"))).output == "echo go"
            assert len(started) == 3

    run(main)
    assert "worker 0 cannot be replaced yet: no more processes" in caplog.text


def test_a_worker_that_does_not_answer_is_named_and_what_it_does_is_not_waited_for() -> None:
    async def main() -> None:
        async with in_workers(echo, workers=1) as (service, loops, _):
            (process,) = loops._processes.values()
            assert isinstance(process, Nearby)
            assert process.runtime is not None
            model = Gate()

            async def behaviour(attempt: Attempt) -> str:
                await model.wait()
                return "done"

            process._target.behaviour = behaviour  # type: ignore[attr-defined]
            ticket = await send(service, "go")
            await model.reached.wait()
            (reported,) = await service.stacks()
            assert any("in behaviour" in line for line in reported.stack)
            process.runtime._receive = lambda order: None  # type: ignore[method-assign]
            process.runtime.channel._receive = process.runtime._receive
            (reported,) = await service.stacks()
            pid = loops._workers[0].pid
            assert reported.stack == [f"worker {pid} does not answer; `py-spy dump --pid {pid}` may show why"]
            loops.beat()
            await until(lambda: loops.load().silent_s > 0.05)
            assert ticket.run_id == reported.run.run_id

    run(main)


def test_sessions_that_are_all_in_one_worker_after_a_death_spread_again() -> None:
    """As far as that brings anything: a session whose worker is about as busy as another stays where its agent is."""
    gate = Gate()

    async def behaviour(attempt: Attempt) -> str:
        if prompt_of(attempt) == "wait":
            await gate.wait()
        return "done"

    async def main() -> None:
        async with in_workers(behaviour) as (service, loops, played):
            sessions = [f"s{number}" for number in range(12)]
            gone = loops._workers[1]
            gone.leaving = True
            for session in sessions:
                await outcome(await send(service, "hello", session))
            gone.leaving = False
            assert [worker.agents for worker in loops._workers] == [12, 0]
            tickets = [await send(service, "wait", session) for session in sessions]
            await until(lambda: sum(worker.running for worker in loops._workers) == 12)
            assert [worker.running for worker in loops._workers] == [8, 4]
            gate.open()
            for ticket in tickets:
                await outcome(ticket)
            assert len(played.built) == 16, "four were made anew"

    run(main)


def test_a_ping_during_the_start_of_a_process_is_answered(tmp_path: Path) -> None:
    """One that was never given would have the worker count as silent for as long as it lives."""
    (tmp_path / "agent.py").write_text("async def agent(message, session):\n    return message\n")
    process = WorkerProcess(replace(SETUP, target=str(tmp_path / "agent.py"), path=sys.path))
    try:
        process._socket.sendall(frame(encode_messages(m.Ping())))  # long before it reads anything
        process._socket.settimeout(20)
        frames, kinds = Frames(), set[type]()
        while not {m.Loaded, m.Ready, m.Heartbeat} <= kinds:
            kinds |= {type(report) for each in frames.feed(process._socket.recv(1 << 16)) for report in reports(each)}
    finally:
        process.request_exit()
        process.wait(20)
        process._socket.close()


def test_who_shares_a_worker_with_code_that_blocks_it_goes_on_by_the_rules_of_a_crash() -> None:
    """Nothing of a tool in the middle works on once the worker is killed: so its outcome may be shown as unknown."""
    blocks, tool = Gate(), Gate()

    async def behaviour(attempt: Attempt) -> str:
        async def waits() -> str:
            await tool.wait()
            return "never"

        if prompt_of(attempt) == "blocks":
            blocks.block()
        elif attempt.context.attempt == 1:
            await play_round(attempt, "t1", waits)
        return f"attempt {attempt.context.attempt}"

    async def main() -> None:
        async with in_workers(behaviour, workers=1, unknown_tool="resume", hold_limit_s=60.0) as (service, loops, _):
            (process,) = loops._processes.values()
            assert isinstance(process, Nearby)
            beside = await send(service, "beside", "b")
            await tool.reached.wait()
            blocking = await send(service, "blocks", "a", timeout_s=0.2)
            ended = await outcome(blocking)
            assert ended.error is not None
            assert ended.error.code is ErrorCode.TIMEOUT
            assert (await outcome(beside)).output == "attempt 2"
            assert UNKNOWN_OUTCOME in str(tool_texts(await service.history(key("b"), include_tool_messages=True)))
            assert loops.load().given_up == 1
            blocks.open()
            await asyncio.to_thread(process.loops.close)

    run(main)

"""The service and all behind it, on virtual time: order, exclusivity, isolation, bounds, fairness."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from engine_support import Played, echo, history, key, prompt_of, send, serving, texts, until_idle
from strandline._agents.port import Attempt
from strandline._engine.streams import Later
from strandline._history import close as close_run
from strandline._history import history_faults
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import A, Query, RunQuery
from strandline._model import (
    ANONYMOUS,
    Ending,
    ErrorCode,
    IfBusy,
    Message,
    Outcome,
    Principal,
    RunError,
    RunId,
    RunStatus,
    ToolResult,
)
from strandline.errors import Draining, Invalid, NotFound, QueueFull, ServerFull, SessionBusy
from strandline.testing._virtual import Deadlock, VirtualClock, run_virtual


async def outcome(ticket_stream: object) -> Outcome:
    end = await ticket_stream.outcome()  # type: ignore[attr-defined]
    assert isinstance(end, Outcome)
    return end


def test_runs_of_one_session_go_one_at_a_time_in_the_order_of_acceptance() -> None:
    async def main(clock: VirtualClock) -> None:
        log: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            log.append(f"> {prompt_of(attempt)}")
            await asyncio.sleep(1)
            log.append(f"< {prompt_of(attempt)}")
            return await echo(attempt)

        async with serving(clock, Played(behaviour)) as service:
            tickets = [await send(service, str(n)) for n in range(5)]
            assert [ticket.position for ticket in tickets] == [0, 1, 2, 3, 4]
            outputs = [(await outcome(ticket.stream)).output for ticket in tickets]
            assert outputs == [f"echo {n}" for n in range(5)]
            assert log == [f"{mark} {n}" for n in range(5) for mark in "><"]
            assert texts(await history(service)) == [text for n in range(5) for text in (f"{n}", f"echo {n}")]

    run_virtual(main)


def test_sessions_go_on_in_parallel() -> None:
    async def main(clock: VirtualClock) -> float:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return "done"

        async with serving(clock, Played(behaviour)) as service:
            tickets = [await send(service, "x", f"s{n}") for n in range(50)]
            for ticket in tickets:
                await outcome(ticket.stream)
            return clock.monotonic()

    assert run_virtual(main) == pytest.approx(1, abs=0.01)


def test_no_more_than_max_running_execute() -> None:
    async def main(clock: VirtualClock) -> int:
        running = most = 0

        async def behaviour(attempt: Attempt) -> str:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            return "done"

        async with serving(clock, Played(behaviour), max_running=3) as service:
            tickets = [await send(service, "x", f"s{n % 10}") for n in range(40)]
            for ticket in tickets:
                await outcome(ticket.stream)
            return most

    assert run_virtual(main) == 3


def test_a_failing_run_fails_alone_and_leaves_a_valid_history() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            attempt.add_text("I was about to ")
            if prompt_of(attempt) == "bad":
                raise RuntimeError("secret token 123")
            return await echo(attempt)

        target = Played(behaviour)
        async with serving(clock, target) as service:
            tickets = [await send(service, text) for text in ("one", "bad", "two")]
            ends = [await outcome(ticket.stream) for ticket in tickets]
            assert [end.status for end in ends] == ["succeeded", "failed", "succeeded"]
            assert ends[1].error is not None
            assert ends[1].error.code is ErrorCode.AGENT_ERROR
            assert ends[1].error.detail == "RuntimeError: secret token 123"
            messages = await history(service)
            assert history_faults(messages) == []
            assert messages[3]["content"] == [
                {"text": "I was about to "},
                {"text": "(This run ended early: agent_error.)"},
                {"text": "RuntimeError: secret token 123"},
            ]
            assert len(target.built) == 2, "the agent of a failed run must be dropped and rebuilt"
            assert len(target.built[1][1].messages) == 4, "the rebuilt agent must know the closed failed run"

    run_virtual(main)


def test_user_code_that_cancels_its_own_task_fails_its_run_only() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            if prompt_of(attempt) == "exit":
                raise asyncio.CancelledError
            return await echo(attempt)

        async with serving(clock, Played(behaviour)) as service:
            bad, good = await send(service, "exit"), await send(service, "x")
            assert (await outcome(bad.stream)).status is RunStatus.FAILED
            assert (await outcome(good.stream)).output == "echo x"

    run_virtual(main)


def test_a_full_queue_refuses_before_acceptance_and_says_where_the_run_would_have_stood() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(10)
            return await echo(attempt)

        target = Played(behaviour)
        async with serving(clock, target, max_queued_per_session=2, max_queued=3) as service:
            first = await send(service, "0")
            waiting = [await send(service, str(n)) for n in (1, 2)]
            with pytest.raises(QueueFull) as refusal:
                await send(service, "no")
            assert not isinstance(refusal.value, ServerFull)
            assert refusal.value.position == 3
            assert refusal.value.estimated_wait_s is None, "no run has ended yet"
            await send(service, "other", "t")
            await send(service, "other waits", "t")
            with pytest.raises(ServerFull):
                await send(service, "no", "t")
            assert service.health().queue_depth == 3
            await outcome(first.stream)
            assert (await send(service, "again")).estimated_wait_s == pytest.approx(20, abs=0.1)
            for ticket in waiting:
                await outcome(ticket.stream)
            await until_idle(service)
            assert "no" not in texts(await history(service))

    run_virtual(main)


def test_a_caller_that_is_cancelled_while_accepting_loses_neither_run_nor_slot() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), max_running=1) as service:
            caller = asyncio.create_task(send(service, "left"))
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.sleep(0.1)
            assert texts(await history(service)) == ["left", "echo left"]
            assert (await outcome((await send(service, "next", "t")).stream)).output == "echo next"

    run_virtual(main)


def test_a_waiter_that_leaves_does_not_end_its_run() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(5)
            return await echo(attempt)

        async with serving(clock, Played(behaviour)) as service:
            ticket = await send(service, "x")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ticket.stream.outcome(), 1)
            view = await service.run(ANONYMOUS, ticket.run_id)
            assert (view.run.status, view.phase) == (RunStatus.RUNNING, "model")
            view = await service.wait(ANONYMOUS, ticket.run_id, 60)
            assert view.run.outcome is not None
            assert view.run.outcome.output == "echo x"

    run_virtual(main)


def test_a_run_that_ends_while_it_is_read_is_waited_for_no_more_and_shown_as_ended() -> None:
    async def main(clock: VirtualClock) -> None:
        released = asyncio.Event()

        class SlowReads(MemoryJournal):
            """Delivers what it read of a run when the run has ended."""

            async def read(self, query: Query[A]) -> A:
                answer = await super().read(query)
                if isinstance(query, RunQuery) and not released.is_set():
                    released.set()
                    await until_idle(service)
                    await asyncio.sleep(60)
                return answer

        async def behaviour(attempt: Attempt) -> str:
            await released.wait()
            return await echo(attempt)

        async with serving(clock, Played(behaviour), SlowReads(clock)) as service:
            ticket = await send(service, "x")
            view = await service.wait(ANONYMOUS, ticket.run_id, 60)
            assert view.run.status is RunStatus.SUCCEEDED

    run_virtual(main)


def test_a_session_with_ten_thousand_waiting_runs_delays_another_by_at_most_one_slot() -> None:
    many = 10_000

    async def main(clock: VirtualClock) -> None:
        started: list[tuple[str, float]] = []

        async def behaviour(attempt: Attempt) -> str:
            started.append((attempt.context.session_id, clock.monotonic()))
            await asyncio.sleep(1)
            return "done"

        target = Played(behaviour)
        async with serving(clock, target, max_running=1, max_queued_per_session=many, max_queued=many + 1) as service:
            for n in range(many + 1):
                await send(service, str(n), "busy")
            for nth, pause_s in enumerate((10.5, 3.01, 1.99)):
                await asyncio.sleep(pause_s)
                assert service.health().queue_depth > many - 20
                sent, before = clock.monotonic(), len(started)
                await outcome((await send(service, "x", f"other-{nth}")).stream)
                (session, at), *_ = started[before:]
                assert session == f"other-{nth}", "it is the next to start"
                assert at - sent <= 1.0, "when the one that ran has ended"

    run_virtual(main)


def test_principals_take_turns_whatever_the_number_of_their_sessions() -> None:
    async def main(clock: VirtualClock) -> list[str]:
        order: list[str] = []

        async def behaviour(attempt: Attempt) -> str:
            order.append(attempt.context.principal)
            await asyncio.sleep(1)
            return "done"

        async with serving(clock, Played(behaviour), max_running=1) as service:
            for n in range(20):
                await send(service, "x", f"s{n}", "many")
            tickets = [await send(service, "x", f"t{n}", "few") for n in range(3)]
            for ticket in tickets:
                await outcome(ticket.stream)
            return order

    order = run_virtual(main)
    turns = order[1 : len(order) - order[::-1].index("few")]  # (the first of many had begun when the others came)
    assert turns.count("few") == 3
    assert all(before != after for before, after in pairwise(turns))


def test_principals_do_not_see_each_others_runs_and_sessions() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            ticket = await send(service, "mine", principal="me")
            await outcome(ticket.stream)
            with pytest.raises(NotFound):
                await service.run(Principal("you"), ticket.run_id)
            assert await service.history(key(principal="you"), count=0, include_tool_messages=True) == []
            with pytest.raises(NotFound):
                await service.run(Principal("me"), RunId("run_unknown"))

    run_virtual(main)


def test_history_counts_messages_after_filtering_from_the_end() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            for n in range(700):
                await outcome((await send(service, str(n))).stream)
            last = await service.history(key(), count=3, include_tool_messages=False)
            assert texts(last) == ["echo 698", "699", "echo 699"]
            everything = await service.history(key(), count=0, include_tool_messages=False)
            assert len(everything) == 1400
            assert texts(everything[:2]) == ["0", "echo 0"]

    run_virtual(main)


def test_a_session_is_deleted_only_while_nothing_of_it_runs() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(1)
            return await echo(attempt)

        target = Played(behaviour)
        async with serving(clock, target) as service:
            ticket = await send(service, "x")
            with pytest.raises(SessionBusy):
                await service.delete(key())
            await outcome(ticket.stream)
            assert await service.delete(key())
            assert not await service.delete(key())
            assert await history(service) == []
            await outcome((await send(service, "y")).stream)
            assert texts(await history(service)) == ["y", "echo y"]
            assert target.built[-1][1].messages == [], "the agent of a deleted session must be forgotten"

    run_virtual(main)


def test_agents_are_kept_between_runs_and_evicted_by_count_and_by_age() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Played(echo)
        async with serving(clock, target, max_agents=2, agent_idle_s=100) as service:
            for session in ("a", "b", "a", "c", "a", "b"):
                await outcome((await send(service, "x", session)).stream)
            assert [built[0].session_id for built in target.built] == ["a", "b", "c", "b"]
            assert service.health().agents_in_memory == 2
            assert target.rested == 0
            await asyncio.sleep(20)
            assert target.rested == 2
            assert service.health().agents_in_memory == 2
            await asyncio.sleep(100)
            assert service.health().agents_in_memory == 0
            await outcome((await send(service, "x", "a")).stream)
            assert len(target.built[-1][1].messages) == 6

    run_virtual(main)


def test_health_shows_the_present_state() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            attempt.enter("tool slow")
            await asyncio.sleep(30)
            return "done"

        async with serving(clock, Played(behaviour)) as service:
            assert not service.health().processing
            ticket = await send(service, "a")
            await send(service, "b")
            await asyncio.sleep(20)
            health = service.health()
            assert (health.processing, health.running, health.queue_depth) == (True, 1, 1)
            assert health.oldest_wait_s == pytest.approx(20)
            assert health.longest_no_progress_s == pytest.approx(20, abs=0.1)
            assert (await service.run(ANONYMOUS, ticket.run_id)).phase == "tool slow"
            assert service.idle_s() == 0

    run_virtual(main)


def test_the_virtual_loop_reports_a_deadlock_instead_of_hanging() -> None:
    async def main(clock: VirtualClock) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        run_virtual(main)


def test_waiting_for_a_run_that_goes_on_later_returns_it_as_it_is() -> None:
    async def main(clock: VirtualClock) -> None:
        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(100)
            return "done"

        async with serving(clock, Played(behaviour)) as service:
            await send(service, "a")
            ticket = await send(service, "b")
            waiter = asyncio.ensure_future(ticket.stream.outcome())
            await asyncio.sleep(1)
            await service.drain()
            assert await waiter is Later.LATER

    run_virtual(main)


def test_a_run_that_cannot_be_closed_ends_as_failed_and_its_session_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours must not hold a session for good."""
    broken = [True]
    real = close_run

    def close(messages: list[Message], results: dict[str, ToolResult], ending: Ending) -> list[Message]:
        if broken and len(messages) > 1:
            broken.clear()
            raise TypeError("a defect")
        return real(messages, results, ending)

    monkeypatch.setattr("strandline._engine.execution.completion.close", close)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            bad, good = await send(service, "bad"), await send(service, "good")
            assert (await outcome(bad.stream)).error == RunError(
                ErrorCode.AGENT_ERROR, "the run could not be ended properly; the server's log says more"
            )
            assert (await outcome(good.stream)).output == "echo good"
            messages = await history(service)
            assert history_faults(messages) == []
            assert texts(messages) == [
                "bad",
                "(This run ended early: agent_error.)",
                "the run could not be ended properly; the server's log says more",
                "good",
                "echo good",
            ]

    run_virtual(main)


def test_those_that_were_collected_into_a_run_that_cannot_be_closed_end_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def close(messages: list[Message], results: dict[str, ToolResult], ending: Ending) -> list[Message]:
        if len(messages) > 1:
            raise TypeError("a defect")
        return close_run(messages, results, ending)

    monkeypatch.setattr("strandline._engine.execution.completion.close", close)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            both = [await send(service, text, if_busy=IfBusy.COLLECT) for text in ("one", "two")]
            ends = [await outcome(ticket) for ticket in both]
            assert [end.error is not None and end.error.code for end in ends] == [ErrorCode.AGENT_ERROR] * 2
            assert texts(await history(service))[:2] == ["one", "two"]
            assert len(service._streams) == 0

    run_virtual(main)


def test_what_is_refused_is_counted() -> None:
    """For want of room, or since the server stops; not what its caller wanted to be refused."""

    async def main(clock: VirtualClock) -> None:
        async def slow(attempt: Attempt) -> str:
            await asyncio.sleep(10)
            return "done"

        async with serving(clock, Played(slow), max_queued_per_session=1, drain_grace_s=60) as service:
            for _ in range(2):
                await send(service, "x")
            assert service.health().refused_runs == 0
            with pytest.raises(QueueFull):
                await send(service, "x")
            with pytest.raises(SessionBusy):
                await send(service, "x", if_busy=IfBusy.REJECT)
            assert service.health().refused_runs == 1
            draining = asyncio.ensure_future(service.drain())
            await asyncio.sleep(1)
            with pytest.raises(Draining):
                await send(service, "x")
            assert service.health().refused_runs == 2
            await draining

    run_virtual(main)


def test_metadata_is_bounded_since_it_is_shown_in_lists_too() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), max_metadata_bytes=100) as service:
            with pytest.raises(Invalid, match="max_metadata_bytes"):
                await send(service, "x", metadata={"note": "n" * 100})
            assert service.health().queue_depth == 0
            assert (await service.runs(key())).runs == []
            ticket = await send(service, "x", metadata={"note": "n" * 80})
            assert (await outcome(ticket.stream)).output == "echo x"

    run_virtual(main)


def test_metadata_is_nested_so_deep_and_no_deeper_since_agents_copy_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            for deep in (nested(101), nested(960), {"list": [[{"a": each} for each in ("flat", nested(98))]]}):
                with pytest.raises(Invalid, match="metadata must be nested at most 100 levels"):
                    await send(service, "x", metadata=deep)
            assert (await service.runs(key())).runs == []
            for flat in (nested(100), {"list": [[{"a": each} for each in ("flat", nested(96))]]}):
                ticket = await send(service, "x", metadata=flat)
                assert (await outcome(ticket.stream)).output == "echo x"
            assert (await service.runs(key())).runs[-1].run.metadata == nested(100)

    run_virtual(main)


def nested(levels: int) -> dict[str, Any]:
    """Return a dict of so many levels, itself counted."""
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"a": made}
    return made

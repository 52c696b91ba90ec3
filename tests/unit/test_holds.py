"""Sessions that wait for what still works of a run that has ended."""

import asyncio
import logging
from typing import Any

import pytest

from engine_support import (
    Played,
    Stubborn,
    echo,
    history,
    key,
    outcome,
    play_round,
    prompt_of,
    send,
    serving,
    until_idle,
)
from strandline._agents.port import Attempt
from strandline._engine.events import Reason
from strandline._engine.loops import Call
from strandline._engine.queues import Share
from strandline._journal.memory import MemoryJournal
from strandline._model import ANONYMOUS, ErrorCode, FencingToken, IfBusy, Principal, RunStatus
from strandline._server import CONNECTIONS_GRACE_S
from strandline.errors import Draining, HoldsFull, JournalUnavailable, SessionBusy
from strandline.testing._checker import check_history
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual


class Lingering:
    """A target whose run leaves work behind if it is asked to `hang`, and notes when each run began."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.work = Stubborn()
        self.began: dict[str, float] = {}
        self.target = Played(self.behaviour)

    async def behaviour(self, attempt: Attempt) -> str:
        text = prompt_of(attempt)
        self.began[text] = self.clock.monotonic()

        async def tool() -> str:
            self.work.leave()
            await asyncio.sleep(100_000)
            return "never"

        if text.startswith("hang"):
            await play_round(attempt, "t1", tool)
        elif text.startswith("leave"):
            self.work.leave()
        return f"answer to {text}"


def test_a_thread_that_outlives_its_run_holds_its_session_alone_until_it_ends() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, timeout_s=10, cancel_grace_s=1, hold_limit_s=60) as service:
            hangs, next_one = await send(service, "hang"), await send(service, "next")
            end = await outcome(hangs)
            assert clock.monotonic() <= 11.01
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            view = await service.run(ANONYMOUS, hangs.run_id)
            assert view.run.held
            assert view.run.locks_session
            assert view.phase == "held"
            health = service.health()
            assert (health.held, health.running, health.queue_depth, health.processing) == (1, 0, 1, True)
            assert health.locked_sessions == 1
            assert (await outcome(await send(service, "other", "other session"))).output == "answer to other"
            with pytest.raises(SessionBusy):
                await service.delete(key())
            await asyncio.sleep(30)
            assert "next" not in played.began
            played.work.end()
            assert (await outcome(next_one)).output == "answer to next"
            assert played.began["next"] == pytest.approx(clock.monotonic(), abs=0.1)
            view = await service.run(ANONYMOUS, hangs.run_id)
            assert not view.run.held
            assert view.phase is None
            assert view.run.outcome == end
            assert check_history(await history(service)) == []
            assert len(service._queues) == 0

    run_virtual(main)


def test_a_hold_is_given_up_at_its_limit_and_the_session_goes_on_with_a_fresh_agent() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, timeout_s=10, cancel_grace_s=1, hold_limit_s=60) as service:
            await send(service, "hang")
            assert (await outcome(await send(service, "next"))).output == "answer to next"
            assert played.began["next"] == pytest.approx(10.8 + 60, abs=0.1)
            assert len(played.target.built) == 2
            assert service.health().held == 0
            assert len(service._holds.lingering_calls()) == 1
            played.work.end()
            assert service._holds.lingering_calls() == []

    run_virtual(main)


def test_a_run_that_succeeded_and_left_a_thread_is_answered_at_once_and_held() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target) as service:
            first = await send(service, "leave")
            assert (await outcome(first)).status is RunStatus.SUCCEEDED
            second = await send(service, "next")
            assert second.position == 1
            await asyncio.sleep(5)
            assert "next" not in played.began
            played.work.end()
            assert (await outcome(second)).output == "answer to next"
            assert len(played.target.built) == 2, "an agent that a thread may still touch is not used again"

    run_virtual(main)


def test_a_run_that_interrupts_waits_until_nothing_of_the_interrupted_one_works() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, cancel_grace_s=1, hold_limit_s=60) as service:
            hangs = await send(service, "hang")
            await asyncio.sleep(1)
            next_one = await send(service, "next", if_busy=IfBusy.INTERRUPT)
            assert (await outcome(hangs)).status is RunStatus.CANCELLED
            await asyncio.sleep(30)
            assert "next" not in played.began
            assert service.health().held == 1
            played.work.end()
            assert (await outcome(next_one)).output == "answer to next"

    run_virtual(main)


def test_the_time_of_what_waits_stands_still_while_its_session_is_held() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, queue_timeout_s=20) as service:
            await outcome(await send(service, "leave"))
            patient = await send(service, "patient")
            hasty = await send(service, "hasty", queue_timeout_s=3)
            await asyncio.sleep(50)
            assert service.health().queue_depth == 2
            blocker = Played(played.behaviour)

            async def slow(attempt: Attempt) -> str:
                await asyncio.sleep(10)
                return "slow"

            blocker.behaviour = slow
            service._pool._target = blocker
            played.work.end()
            end = await outcome(hasty)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            assert clock.monotonic() == pytest.approx(53, abs=0.1)
            assert (await outcome(patient)).output == "slow"

    run_virtual(main)


def test_a_restart_ends_every_hold() -> None:
    async def main(clock: VirtualClock) -> None:
        journal, played = MemoryJournal(clock), Lingering(clock)
        async with serving(clock, played.target, journal) as service:
            first = await send(service, "leave")
            await outcome(first)
            second = await send(service, "next")
            await asyncio.sleep(1)
        async with serving(clock, Played(echo), journal) as service:
            assert (await service.wait(ANONYMOUS, second.run_id, 10)).run.status is RunStatus.SUCCEEDED
            run = (await service.run(ANONYMOUS, first.run_id)).run
            assert (run.status, run.held) == (RunStatus.SUCCEEDED, False)

    run_virtual(main)


def test_too_many_threads_left_behind_have_the_server_stop_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, max_holds=3, hold_limit_s=5) as service:
            for n in range(2):
                await outcome(await send(service, "leave", f"s{n}"))
            await asyncio.sleep(6)  # given up, and still counted
            assert not service.exhausted.is_set()
            assert service.health().ready
            await outcome(await send(service, "leave", "s2"))
            await asyncio.wait_for(service.exhausted.wait(), 1)
            assert not service.health().ready

    with caplog.at_level(logging.WARNING, "strandline.holds"):
        run_virtual(main)
    assert any("max_still_working" in record.message for record in caplog.records)
    assert any("stubborn" in record.message for record in caplog.records), "the log says what works on"


def test_a_drain_does_not_wait_for_a_hold() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, drain_grace_s=6) as service:
            await outcome(await send(service, "leave"))
            began = clock.monotonic()
            await service.drain()
            assert clock.monotonic() - began < 1

    run_virtual(main)


def test_a_hold_that_is_forced_while_the_server_stops_is_answered_before_connections_are_closed() -> None:
    """Nothing ends it any more; its session continues after the next start."""

    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, hold_limit_s=60) as service:
            left = await send(service, "leave")
            await outcome(left)
            await service.drain(close=False)
            requested_at = clock.monotonic()
            assert (await service.cancel(ANONYMOUS, left.run_id, force=True)).run.held
            assert clock.monotonic() < requested_at + CONNECTIONS_GRACE_S
            played.work.end()

    run_virtual(main)


def test_a_release_that_the_journal_cannot_keep_yet_is_made_later() -> None:
    async def main(clock: VirtualClock) -> None:
        class Full(MemoryJournal):
            failures = 3

            async def release(self, token: FencingToken, *, counted: bool) -> None:
                if self.failures:
                    self.failures -= 1
                    raise JournalUnavailable("the disk is full")
                await super().release(token, counted=counted)

        played = Lingering(clock)
        async with serving(clock, played.target, Full(clock)) as service:
            await outcome(await send(service, "leave"))
            second = await send(service, "next")
            played.work.end()
            assert (await outcome(second)).output == "answer to next"
            assert clock.monotonic() >= 3

    run_virtual(main)


def test_of_a_shared_agent_one_run_goes_at_a_time_and_a_thread_left_behind_stops_the_server() -> None:
    async def main(clock: VirtualClock) -> None:
        work, inside = Stubborn(), 0

        async def behaviour(attempt: Attempt) -> str:
            nonlocal inside
            assert inside == 0, "another run is inside"
            inside += 1
            await asyncio.sleep(1)
            inside -= 1
            if prompt_of(attempt) == "leave":
                work.leave()
            return "done"

        target = Played(behaviour)
        target.singleton = True
        async with serving(clock, target, max_running=8, hold_limit_s=1000) as service:
            for ticket in [await send(service, f"{n}", f"s{n}") for n in range(4)]:
                assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            assert len(target.built) == 4, "it is swapped in for every run"
            leaving, never = await send(service, "leave"), await send(service, "never", "other")
            await outcome(leaving)
            await asyncio.wait_for(service.exhausted.wait(), 1)
            await asyncio.sleep(10)
            assert (await service.run(ANONYMOUS, never.run_id)).run.status is RunStatus.QUEUED
            with pytest.raises(Draining):
                await send(service, "more")

    run_virtual(main)


def test_an_agent_that_keeps_its_own_history_gets_none_and_leaves_none() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Played(echo, resumable=False)
        target.self_managed = True
        async with serving(clock, target) as service:
            assert (await outcome(await send(service, "a"))).output == "echo a"
            assert await history(service) == []
            await until_idle(service)

    run_virtual(main)


def test_a_hold_that_is_being_given_up_counts_once() -> None:
    async def main(clock: VirtualClock) -> None:
        class Full(MemoryJournal):
            async def release(self, token: FencingToken, *, counted: bool) -> None:
                raise JournalUnavailable("the disk is full")

        played = Lingering(clock)
        async with serving(clock, played.target, Full(clock), max_holds=3, hold_limit_s=1) as service:
            await outcome(await send(service, "leave", "a"))
            await asyncio.sleep(5)
            await outcome(await send(service, "leave", "b"))
            await asyncio.sleep(0.1)
            assert not service.exhausted.is_set()
            await outcome(await send(service, "leave", "c"))
            await asyncio.wait_for(service.exhausted.wait(), 1)

    run_virtual(main)


def test_what_one_principal_leaves_behind_keeps_itself_out_and_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        options: dict[str, Any] = {"max_holds": 4, "max_holds_per_principal": 2, "hold_limit_s": 5, "timeout_s": 10}
        async with serving(clock, played.target, cancel_grace_s=1, **options) as service:
            at_once = [await send(service, "hang", f"s{n}", "ada") for n in range(8)]
            queued = await send(service, "queued", "s0", "ada")
            for each in at_once:
                assert (await outcome(each)).status is RunStatus.FAILED
            await asyncio.sleep(6)  # all are given up, and still work
            assert len(service._holds.lingering_calls()) == 8
            assert not service.exhausted.is_set(), "one principal alone does not stop the server"
            with pytest.raises(HoldsFull, match="8 ended runs of ada are still executing"):
                await send(service, "more", "another", "ada")
            assert (await outcome(await send(service, "hello", "s", "bob"))).output == "answer to hello"
            waits = await service.run(Principal("ada"), queued.run_id)
            assert (waits.run.status, waits.estimated_wait_s) == (RunStatus.QUEUED, None)
            assert waits.why is not None
            assert waits.why.code is Reason.HOLDS_FULL
            assert waits.why.text.startswith("8 ended runs of ada are still executing")
            assert service.shares() == {"ada": Share(claimed=0, waiting=1, lingering=8)}
            assert service.vitals().lingering == 8
            played.work.end()
            assert (await outcome(queued)).output == "answer to queued"
            assert (await outcome(await send(service, "more", "another", "ada"))).output == "answer to more"
            assert service.shares() == {}

    with caplog.at_level(logging.WARNING, "strandline.claims"):
        run_virtual(main)
    shown = [each.getMessage() for each in caplog.records if "max_still_working_per_caller" in each.message]
    assert len(shown) == 1
    assert "of ada" in shown[0]


def test_lingering_runs_of_several_principals_together_still_stop_the_server() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, max_holds=4, max_holds_per_principal=2) as service:
            for name in ("ada", "ada", "bob"):
                await outcome(await send(service, "leave", f"s{len(played.began)}", name))
            assert not service.exhausted.is_set()
            await outcome(await send(service, "leave", "s", "bob"))
            await asyncio.wait_for(service.exhausted.wait(), 1)

    run_virtual(main)


def test_lingering_runs_with_all_threads_for_tools_stop_the_server() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        options: dict[str, Any] = {
            "max_holds": 8,
            "max_holds_per_principal": 1,
            "executor_threads": 3,
            "cancel_grace_s": 1,
        }
        async with serving(clock, played.target, timeout_s=5, **options) as service:
            tickets = [await send(service, "hang", f"s{n}", "ada") for n in range(3)]
            for each in tickets:
                await outcome(each)
            await asyncio.wait_for(service.exhausted.wait(), 1)

    run_virtual(main)


def test_a_run_that_is_known_by_its_key_is_answered_while_its_principal_may_start_nothing() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        async with serving(clock, played.target, max_holds=4, max_holds_per_principal=1) as service:
            keyed = {"idempotency_key": "k", "fingerprint": b"f"}
            first = await send(service, "leave", "s", "ada", **keyed)
            await outcome(first)
            again = await send(service, "leave", "s", "ada", **keyed)
            assert (again.run_id, again.replayed) == (first.run_id, True)
            with pytest.raises(HoldsFull):
                await send(service, "leave", "s", "ada", idempotency_key="another", fingerprint=b"f")

    run_virtual(main)


class Relieved(InlineLoops):
    """Loops that end what is left over when they are asked to, unless they say that it cannot be seen to now."""

    def __init__(self, clock: VirtualClock, played: Lingering) -> None:
        super().__init__()
        self.clock = clock
        self.played = played
        self.requests: list[float] = []
        self.refuses = 0

    def drain(self, call: Call[Any]) -> bool:
        self.requests.append(self.clock.monotonic())
        if len(self.requests) <= self.refuses:
            return False
        self.played.work.end()
        return True


def test_what_is_left_over_is_ended_by_force_at_the_hold_limit_and_no_sooner_if_its_hold_is_forced() -> None:
    async def main(clock: VirtualClock) -> None:
        played = Lingering(clock)
        loops = Relieved(clock, played)
        async with serving(clock, played.target, loops=loops, hold_limit_s=60) as service:
            loops.refuses = 2
            first = await send(service, "leave")
            await outcome(first)
            await asyncio.sleep(1)
            assert not (await service.cancel(ANONYMOUS, first.run_id, force=True)).run.held
            assert (await outcome(await send(service, "next"))).output == "answer to next"
            await asyncio.sleep(55)
            assert loops.requests == [], "somebody who forces holds must not end workers as fast as that"
            await asyncio.sleep(10)
            assert loops.requests == pytest.approx([60, 61, 62], abs=1.1), "a refused drain is tried again"
            assert service._holds.lingering_calls() == []
            await asyncio.sleep(10)
            assert len(loops.requests) == 3

    run_virtual(main)

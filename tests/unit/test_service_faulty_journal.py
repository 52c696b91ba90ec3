"""The engine over a journal that fails: nothing is lost, nothing ends twice, no slot leaks."""

import asyncio
import gc
import json
import logging
from functools import partial
from typing import Any

import pytest
from starlette.requests import Request

from engine_support import Played, echo, history, outcome, play_round, send, serving, texts, tool_texts, until_idle
from logged import ours
from strandline._agents.port import Attempt
from strandline._engine.execution.claims import CLAIM_RETRY_S
from strandline._engine.execution.retry import RETRY_S
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http.middleware.guard import Guard
from strandline._http.routes.health import Probes
from strandline._journal.errors import RunIdTaken
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import EndOverdue
from strandline._model import ErrorCode, NewRun, Outcome, RunId
from strandline._settings import AppSettings
from strandline.errors import JournalUnavailable, RecordDamaged
from strandline.testing._checker import check_history
from strandline.testing._virtual import VirtualClock, run_virtual


class Faulty(MemoryJournal):
    """Fails each operation as often as `failures` says, and stores nothing while there is a `hindrance`."""

    def __init__(self, clock: VirtualClock, **failures: int) -> None:
        super().__init__(clock)
        self.failures = failures
        self.hindrance: str | None = None

    @property
    def trouble(self) -> str | None:
        return self.hindrance

    def _maybe_fail(self, operation: str) -> None:
        if self.failures.get(operation, 0):
            self.failures[operation] -= 1
            raise JournalUnavailable("the disk is full")

    async def accept(self, *args: Any, **options: Any) -> Any:
        self._maybe_fail("accept")
        return await super().accept(*args, **options)

    async def finish(self, *args: Any, **options: Any) -> Any:
        self._maybe_fail("finish")
        return await super().finish(*args, **options)

    async def claim_next(self, *args: Any) -> Any:
        self._maybe_fail("claim_next")
        return await super().claim_next(*args)

    async def change(self, change: Any) -> Any:
        self._maybe_fail("change")
        return await super().change(change)

    async def checkpoint(self, *args: Any) -> None:
        self._maybe_fail("checkpoint")
        await super().checkpoint(*args)


def test_a_server_whose_journal_keeps_nothing_is_not_ready_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Faulty(clock)
        async with serving(clock, Played(echo), journal) as service:
            assert await probed(service) == (200, "ready")
            assert service.health().ready
            for hindrance in ("the disk is full", "it is locked"):
                journal.hindrance = hindrance
                assert await probed(service) == (503, "journal_unavailable")
                assert not service.health().ready
                await asyncio.sleep(10)
            journal.hindrance = None
            assert await probed(service) == (200, "ready")
            await asyncio.sleep(10)
            journal.hindrance = "the disk is full"
            await service.drain()
            assert await probed(service) == (503, "draining")

    with caplog.at_level(logging.INFO, logger="strandline.readiness"):
        run_virtual(main)
    said = [(each.levelname, each.message) for each in caplog.records if each.name == "strandline.readiness"]
    assert [level for level, _ in said] == ["ERROR", "ERROR", "INFO"]
    assert "the disk is full" in said[0][1]
    assert "docs/operations.md" in said[0][1]
    assert "it is locked" in said[1][1]
    assert "ready again" in said[2][1]


async def probed(service: Service) -> tuple[int, str]:
    """Return what `/readyz` says."""
    settings = AppSettings()
    probes = Probes(service, Guard(settings, loopback=True), settings, auth="none")
    answer = await probes.readyz(Request({"type": "http"}))
    assert (answer.status_code == 503) == ("retry-after" in answer.headers)
    return answer.status_code, json.loads(bytes(answer.body))["status"]


def test_an_accept_that_fails_is_reported_and_leaks_no_slot() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Faulty(clock, accept=3), max_running=1) as service:
            for _ in range(3):
                with pytest.raises(JournalUnavailable):
                    await send(service, "x")
            end = await (await send(service, "y")).stream.outcome()
            assert isinstance(end, Outcome)
            assert end.output == "echo y"

    run_virtual(main)


class Doubtful(MemoryJournal):
    """Stores the first run, and finds it when that is decided again, as after a commit whose answer was lost."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.is_doubtful = True

    async def accept(self, new: NewRun, bounds: Any, *, claim_next: bool) -> Any:
        answer = await super().accept(new, bounds, claim_next=claim_next and not self.is_doubtful)
        if self.is_doubtful:
            self.is_doubtful = False
            await asyncio.sleep(1)
            raise RunIdTaken(new.run_id)
        return answer


def test_a_run_whose_commit_was_made_although_its_answer_was_lost_is_accepted() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Doubtful(clock), max_running=1) as service:
            ticket = await send(service, "1")
            assert not ticket.replayed
            assert (await outcome(ticket)).output == "echo 1"
            assert (await outcome(await send(service, "2"))).output == "echo 2"
            assert texts(await history(service)) == ["1", "echo 1", "2", "echo 2"]

    run_virtual(main)


def test_a_run_whose_commit_was_made_as_its_server_stopped_continues_later() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Doubtful(clock)) as service:
            sending = asyncio.create_task(send(service, "1"))
            await asyncio.sleep(0.5)
            await service.drain()
            assert isinstance(await (await sending).stream.outcome(), Later)

    run_virtual(main)


def test_an_outcome_that_cannot_be_kept_yet_is_offered_again_until_it_is() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Faulty(clock, finish=5)) as service:
            first, second = await send(service, "1"), await send(service, "2")
            ends = [await ticket.stream.outcome() for ticket in (first, second)]
            assert [end.output for end in ends if isinstance(end, Outcome)] == ["echo 1", "echo 2"]
            assert texts(await history(service)) == ["1", "echo 1", "2", "echo 2"]
            assert clock.monotonic() >= 5

    run_virtual(main)


def test_a_waiting_run_that_cannot_be_claimed_yet_is_claimed_later() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Faulty(clock, claim_next=2), max_running=1) as service:
            tickets = [await send(service, "x", session) for session in ("a", "b", "c")]
            for ticket in tickets:
                assert isinstance(await ticket.stream.outcome(), Outcome)
            await until_idle(service)

    run_virtual(main)


def test_a_run_that_waited_too_long_and_cannot_be_ended_yet_is_ended_later() -> None:
    async def main(clock: VirtualClock) -> None:
        async def slow(attempt: Attempt) -> str:
            await asyncio.sleep(50)
            return "late"

        async with serving(clock, Played(slow), Faulty(clock, change=3)) as service:
            first, second = await send(service, "1"), await send(service, "2", queue_timeout_s=10)
            end = await outcome(second)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            assert clock.monotonic() == pytest.approx(10 + 3 * CLAIM_RETRY_S)
            assert (await outcome(first)).output == "late"

    run_virtual(main)


def test_overdue_runs_are_ended_once_however_long_the_journal_takes() -> None:
    class Hanging(MemoryJournal):
        def __init__(self, clock: VirtualClock) -> None:
            super().__init__(clock)
            self.calls = 0
            self.over = asyncio.Event()

        async def change(self, change: Any) -> Any:
            if isinstance(change, EndOverdue):
                self.calls += 1
                await self.over.wait()
            return await super().change(change)

    async def main(clock: VirtualClock) -> None:
        async def slow(attempt: Attempt) -> str:
            await asyncio.sleep(500)
            return "late"

        journal = Hanging(clock)
        async with serving(clock, Played(slow), journal) as service:
            await send(service, "1")
            second = await send(service, "2", queue_timeout_s=10)
            await asyncio.sleep(300)
            assert journal.calls == 1
            journal.over.set()
            end = await outcome(second)
            assert end.error is not None
            assert end.error.code is ErrorCode.QUEUE_TIMEOUT
            third = await send(service, "3", queue_timeout_s=10)
            assert (await outcome(third)).error == end.error

    run_virtual(main)


def test_a_round_without_space_for_its_checkpoint_starts_its_tools_once_there_is_some() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Faulty(clock, checkpoint=3)
        started: list[float] = []

        async def behaviour(attempt: Attempt) -> str:
            await play_round(attempt, "t1", partial(_noted, started, clock))
            return "answer"

        async with serving(clock, Played(behaviour), journal) as service:
            end = await (await send(service, "1")).stream.outcome()
            assert isinstance(end, Outcome)
            assert end.output == "answer"
            assert started == [pytest.approx(3 * RETRY_S)]
            assert tool_texts(await history(service)) == ["done"]

    run_virtual(main)


def test_a_round_that_never_has_a_checkpoint_ends_its_run_at_the_deadline_without_a_tool() -> None:
    async def main(clock: VirtualClock) -> None:
        started: list[float] = []

        async def behaviour(attempt: Attempt) -> str:
            await play_round(attempt, "t1", partial(_noted, started, clock))
            return "answer"

        async with serving(clock, Played(behaviour), Faulty(clock, checkpoint=10_000), timeout_s=20) as service:
            end = await (await send(service, "1")).stream.outcome()
            assert isinstance(end, Outcome)
            assert end.error is not None
            assert end.error.code is ErrorCode.TIMEOUT
            assert clock.monotonic() == pytest.approx(20, abs=RETRY_S)
            assert started == []
            assert check_history(await history(service)) == []

    run_virtual(main)


async def _noted(started: list[float], clock: VirtualClock) -> str:
    started.append(clock.monotonic())
    return "done"


def test_a_run_that_a_newer_owner_took_over_ends_there_and_not_here() -> None:
    async def main(clock: VirtualClock) -> None:
        journal = MemoryJournal(clock)

        async def behaviour(attempt: Attempt) -> str:
            await asyncio.sleep(10)
            return "too late"

        async with serving(clock, Played(behaviour), journal) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(1)
            await journal.open("a newer owner", max_attempts=3)
            assert await ticket.stream.outcome() is Later.LATER
            assert texts(await history(service)) == []
            assert service.health().running == 0

    run_virtual(main)


def test_a_run_of_a_dead_process_that_can_never_be_ended_keeps_no_server_down(caplog: pytest.LogCaptureFixture) -> None:
    class Damaged(MemoryJournal):
        async def finish(self, token: Any, *args: Any, **options: Any) -> Any:
            if token.run_id == stuck:
                raise RecordDamaged("what session s asks is damaged")
            return await super().finish(token, *args, **options)

    stuck: RunId | None = None

    async def main(clock: VirtualClock) -> None:
        nonlocal stuck
        journal = Damaged(clock)

        async def hang(attempt: Attempt) -> str:
            await asyncio.sleep(100_000)
            return "never"

        async with serving(clock, Played(hang, resumable=False), journal) as service:
            stuck = (await send(service, "hang")).run_id
            await asyncio.sleep(1)
        async with serving(clock, Played(echo), journal) as service:
            assert (await outcome(await send(service, "hi", "t"))).output == "echo hi"

    run_virtual(main)
    assert "cannot be ended: what session s asks is damaged" in caplog.text


def test_a_client_that_leaves_while_its_accept_fails_leaves_no_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Faulty):
        async def accept(self, *args: Any, **options: Any) -> Any:
            await asyncio.sleep(1)
            return await super().accept(*args, **options)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo), Slow(clock, accept=1)) as service:
            asking = asyncio.create_task(send(service, "x"))
            await asyncio.sleep(0.5)
            asking.cancel()
            await asyncio.sleep(1)
            gc.collect()
            assert (await outcome(await send(service, "y"))).output == "echo y"

    run_virtual(main)
    gc.collect()
    assert ours(caplog) == []

"""An outage of the journal fails many operations many times, and the log says so once."""

import asyncio
import logging

import pytest

from engine_support import Played, outcome, send, serving, tool_result, tool_round
from strandline._agents.port import Attempt
from strandline._engine.execution import Retries
from strandline._model import RunStatus
from strandline.errors import JournalUnavailable
from strandline.testing._virtual import VirtualClock, run_virtual
from unit.test_service_faulty_journal import Faulty

_log = logging.getLogger("strandline.test")


def test_the_first_failure_of_an_outage_is_logged_and_each_new_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        retries = Retries(clock)
        left = 5

        async def operation() -> str:
            nonlocal left
            left -= 1
            if left > 0:
                raise JournalUnavailable("it is away")
            return "stored"

        def others(reason: str) -> None:
            for number in range(100):
                retries.failed(_log, "run %s waits", number, error=JournalUnavailable(reason))

        stored = asyncio.create_task(retries.until_stored(operation, "run %s cannot be ended yet", "a", log=_log))
        await asyncio.sleep(2.5)
        others("it is away")
        others("it is full")
        assert await stored == "stored"
        assert retries.waited == 1
        await asyncio.sleep(3.5)
        others("it is away")

    run_virtual(main)
    assert [each.getMessage() for each in caplog.records] == [
        "run a cannot be ended yet: it is away",
        "run 0 waits: it is full",
        "run 0 waits: it is away",
    ]


def test_an_outage_that_lasts_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        retries = Retries(clock)
        for _ in range(150):
            retries.failed(_log, "it waits", error=JournalUnavailable("it is away"))
            await asyncio.sleep(1.0)

    run_virtual(main)
    assert len(caplog.records) == 3


def test_an_outage_with_many_runs_is_a_line_when_it_begins_and_one_with_counts_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Faulty(clock)
        go = asyncio.Event()

        async def work(attempt: Attempt) -> str:
            await go.wait()
            return "done"

        async with serving(clock, Played(work), journal, max_running=20) as service:
            tickets = [await send(service, "go", f"s{number % 40}") for number in range(80)]
            journal.hindrance = "the database is away"
            journal.failures = dict.fromkeys(("finish", "claim_next", "change", "accept"), 100)
            go.set()
            await asyncio.sleep(1.5)
            for _ in range(7):
                with pytest.raises(JournalUnavailable):
                    await send(service, "go", "late")
            await asyncio.sleep(1.0)
            journal.failures.clear()
            await asyncio.sleep(1.5)
            journal.hindrance = None
            for ticket in tickets:
                assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            await asyncio.sleep(1.5)

    with caplog.at_level(logging.INFO):
        run_virtual(main)
    said = [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("strandline")]
    assert all(each.exc_info is None for each in caplog.records)
    assert [level for level, _ in said] == ["ERROR", "ERROR", "INFO"], said
    assert "cannot be stored yet: the disk is full" in said[0][1]
    assert "the database is away; 20 runs execute and 60 wait" in said[1][1]
    assert "ready again after 3 s" in said[2][1]
    assert "7 requests were refused, and 20 operations of runs had to wait" in said[2][1]


def test_runs_that_wait_before_their_tools_are_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: VirtualClock) -> None:
        journal = Faulty(clock)

        async def work(attempt: Attempt) -> str:
            attempt.add(tool_round("tool", "t"))
            await attempt.begin_round()
            await attempt.end_tool("t", tool_result("t"))
            return "done"

        async with serving(clock, Played(work), journal, max_running=20) as service:
            journal.hindrance = "the disk is full"
            journal.failures = {"checkpoint": 100}
            tickets = [await send(service, "go", f"s{number}") for number in range(20)]
            await asyncio.sleep(3.5)
            journal.failures.clear()
            journal.hindrance = None
            for ticket in tickets:
                assert (await outcome(ticket)).status is RunStatus.SUCCEEDED
            await asyncio.sleep(1.5)

    with caplog.at_level(logging.INFO):
        run_virtual(main)
    said = [each.getMessage() for each in caplog.records if each.name.startswith("strandline")]
    assert len([each for each in said if "waits before its tools: the disk is full" in each]) == 1, said
    assert "20 operations of runs had to wait" in said[-1], said

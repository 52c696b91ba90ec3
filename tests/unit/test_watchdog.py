"""Runs without a sign of life: reported once, and cancelled if wanted. On virtual time."""

import asyncio
import logging
from typing import Any

import pytest

from engine_support import Played, history, outcome, send, serving, texts
from strandline._agents.port import Attempt
from strandline._history import ended_early
from strandline._model import RunStatus
from strandline.testing._virtual import VirtualClock, run_virtual
from unit.test_service_timeouts import in_a_tool


@pytest.mark.parametrize("action", ["report", "cancel"])
def test_a_run_without_a_sign_of_life_is_reported_once_and_cancelled_if_wanted(
    action: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(clock: VirtualClock) -> None:
        options: dict[str, Any] = {"stall_after_s": 120, "stall_action": action, "timeout_s": 1000}
        async with serving(clock, Played(in_a_tool), cancel_grace_s=1, **options) as service:
            ticket = await send(service, "x")
            await asyncio.sleep(119)
            assert service.health().stalled == 0
            await asyncio.sleep(2)
            if action == "report":
                assert service.health().stalled == 1
                assert service.health().longest_no_progress_s == pytest.approx(121)
                await asyncio.sleep(60)
                assert service.health().running == 1
            else:
                assert (await outcome(ticket)).status is RunStatus.CANCELLED
                assert clock.monotonic() <= 122
                assert texts(await history(service)) == ["x", ended_early("cancelled")]

    with caplog.at_level(logging.WARNING, "strandline.runner"):
        run_virtual(main)
    assert sum("no sign of life" in record.message for record in caplog.records) == 1


def test_whatever_a_run_reports_is_a_sign_of_life() -> None:
    async def main(clock: VirtualClock) -> None:
        async def touches(attempt: Attempt) -> str:
            for _ in range(10):
                await asyncio.sleep(100)
                attempt.touch()
            return "done"

        async with serving(clock, Played(touches), stall_after_s=120, stall_action="cancel") as service:
            assert (await outcome(await send(service, "x"))).output == "done"

    run_virtual(main)

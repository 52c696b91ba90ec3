"""A server none of whose workers takes calls says so and accepts nothing, as soon as that is no matter of a moment."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from starlette.requests import Request

from engine_support import Played, echo, key, outcome, send, serving
from strandline._engine.service import Service
from strandline._http.middleware.guard import Guard
from strandline._http.routes.health import Probes
from strandline._settings import AppSettings
from strandline.errors import NoWorker
from strandline.testing._virtual import VirtualClock, run_virtual
from workers_support import Few, few_workers


def served(main: Callable[[Service, Few], Coroutine[Any, Any, None]], workers: int = 2) -> None:
    """Serve with workers that the test controls; agents run without them."""

    async def begun(clock: VirtualClock) -> None:
        async with few_workers(clock, workers) as few:
            await few.loops.begin()
            async with serving(clock, Played(echo), loops=few.loops) as service:
                await main(service, few)

    run_virtual(begun)


async def probed(service: Service) -> tuple[int, str]:
    """Return what `/readyz` says."""
    settings = AppSettings()
    probes = Probes(service, Guard(settings, loopback=True), settings, auth="none")
    answer = await probes.readyz(Request({"type": "http"}))
    reported = json.loads(bytes(answer.body))
    assert (answer.status_code == 503) == ("retry-after" in answer.headers) == ("docs/operations.md" in str(reported))
    return answer.status_code, reported["status"]


def test_a_server_whose_workers_are_all_dead_is_not_ready_until_one_takes_calls_and_says_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(service: Service, few: Few) -> None:
        await asyncio.sleep(20)
        few.are_ready = False
        for each in few.all:
            each.dies()
        await asyncio.sleep(3.5)
        assert await probed(service) == (200, "ready"), "for a moment"
        await asyncio.sleep(2.5)
        assert await probed(service) == (503, "no_worker")
        assert not service.health().ready
        await asyncio.sleep(100)
        assert await probed(service) == (503, "no_worker")
        few.all[2].accepts_calls()
        await asyncio.sleep(0)
        assert await probed(service) == (200, "ready"), "at once"
        await asyncio.sleep(100)
        assert await probed(service) == (200, "ready")
        few.all[3].dies()
        few.all[2].dies()
        await asyncio.sleep(10)
        await service.drain()
        assert service.health().draining

    with caplog.at_level(logging.INFO, logger="strandline.readiness"):
        served(main)
    said = [(each.levelname, each.message) for each in caplog.records if each.name == "strandline.readiness"]
    assert [level for level, _ in said] == ["ERROR", "INFO", "ERROR"]
    assert "no worker takes calls" in said[0][1]
    assert "docs/operations.md" in said[0][1]
    assert "ready again" in said[1][1]


def test_a_server_is_ready_as_long_as_one_worker_takes_calls() -> None:
    async def main(service: Service, few: Few) -> None:
        few.are_ready = False
        few.all[0].dies()
        for _ in range(50):
            await asyncio.sleep(1)
            assert await probed(service) == (200, "ready")
            assert (await outcome(await send(service, "go"))).output == "echo go"

    served(main)


def test_a_server_stays_ready_while_dead_workers_are_replaced_in_time() -> None:
    async def main(service: Service, few: Few) -> None:
        for _ in range(20):
            for worker in few.loops._workers:
                few.all[worker.pid].dies()
            for _ in range(30):
                await asyncio.sleep(0.1)
                assert await probed(service) == (200, "ready")

    served(main)


def test_workers_that_cannot_be_started_are_no_workers() -> None:
    async def main(service: Service, few: Few) -> None:
        few.refuses = True
        few.all[0].dies()
        await asyncio.sleep(10)
        assert await probed(service) == (503, "no_worker")
        few.refuses = False
        await asyncio.sleep(2)
        assert await probed(service) == (200, "ready")

    served(main, workers=1)


def test_workers_that_all_fail_at_the_start_are_no_workers() -> None:
    async def begun(clock: VirtualClock) -> None:
        async with few_workers(clock) as few:
            few.all[0].is_ready = False
            begins = asyncio.create_task(few.loops.begin())
            await asyncio.sleep(60)
            few.refuses = True
            few.all[0].dies()
            await begins
            async with serving(clock, Played(echo), loops=few.loops) as service:
                assert await probed(service) == (200, "ready")
                await asyncio.sleep(6)
                assert await probed(service) == (503, "no_worker")

    run_virtual(begun)


def test_without_a_worker_runs_are_refused_and_what_was_accepted_can_be_seen_and_cancelled() -> None:
    keyed: dict[str, Any] = {"idempotency_key": "k", "fingerprint": b"go"}

    async def main(service: Service, few: Few) -> None:
        ticket = await send(service, "go", **keyed)
        assert (await outcome(ticket)).output == "echo go"
        few.refuses = True
        few.all[0].dies()
        await asyncio.sleep(10)
        with pytest.raises(NoWorker) as refused:
            await send(service, "more")
        assert refused.value.retry_after_s > 0
        assert service.health().refused_runs == 1
        again = await send(service, "go", **keyed)
        assert (again.run_id, again.replayed) == (ticket.run_id, True)
        assert await service.delete(key())
        few.refuses = False
        await asyncio.sleep(2)
        assert (await outcome(await send(service, "more"))).output == "echo more"

    served(main, workers=1)

"""`/health` answers in milliseconds whatever user code does."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import httpx
import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, Server, serving

BLOCKED_S = 2.0
EVERY_S = 0.02
P99_S = 0.025
MEASUREMENTS = 3


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def probed(server: Server, blocked: "Future[httpx.Response]") -> list[float]:
    """Ask for `/health` until a run has ended; return how long the answers took, in seconds, sorted."""
    times: list[float] = []
    while not blocked.done():
        begun = time.monotonic()
        assert server.health()["status"] == "healthy"
        times.append(time.monotonic() - begun)
        wait([blocked], max(0.0, EVERY_S - times[-1]))
    return sorted(times)


def test_health_while_an_async_tool_blocks_its_loop(
    at: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Probed every 20 ms for 2 s: 99 of 100 answers within 25 ms. A busy machine may disturb a measurement or two.

    If user code ran on the loop that serves HTTP, every measurement would show an answer that took 2 s.
    """
    seen: list[str] = []
    passed = False
    with serving(TARGETS / "blocking.py", folder=tmp_path, variables=at.environment) as server:
        while not passed and len(seen) < MEASUREMENTS:
            number = len(seen) + 1
            blocked = server.ask(f"block {BLOCKED_S}", f"blocked-{number}")
            at.reached("blocks", times=number)
            other = server.ask("hello", "other")  # of another session, which has to wait for the same loop
            times = probed(server, blocked)
            p99 = times[len(times) * 99 // 100 - 1]
            seen.append(f"{len(times)} probes, p99 {p99 * 1000:.1f} ms, max {times[-1] * 1000:.1f} ms")
            passed = p99 < P99_S and len(times) > BLOCKED_S / EVERY_S / 2
            assert blocked.result(DEADLINE_S).json()["response"] == f"answer to block {BLOCKED_S}"
            assert other.result(DEADLINE_S).json()["response"] == "answer to hello"
        assert server.chat("afterwards", "other")["response"] == "answer to afterwards"
        assert server.history("blocked-1")
    with capsys.disabled():
        print(f"\n/health while an async tool blocks for {BLOCKED_S:g} s: {'; '.join(seen)}")  # noqa: T201
    assert passed, seen

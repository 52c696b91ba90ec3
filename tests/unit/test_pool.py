"""Idle agents whose loops are lost are dropped; who looks for them each second looks at loops, not at agents."""

import asyncio
from typing import Any

import pytest

from engine_support import Played, echo, key, outcome, send, serving
from strandline._agents.port import Attempt, Finished
from strandline._engine.execution import AgentPool, Retries
from strandline._engine.execution.pool import REST_AFTER_S
from strandline._engine.options import Options
from strandline.testing._virtual import InlineLoops, VirtualClock, run_virtual


class Idle:
    """An agent."""

    async def run(self, attempt: Attempt) -> Finished:
        raise NotImplementedError

    def compact(self) -> None:
        """Nothing."""


class LostLoops(InlineLoops):
    """Loops of which some are lost; counts how often anybody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[object] = set()
        self.checks = 0
        self.discarded: list[object] = []
        self.posted: list[object] = []

    def is_current(self, loop: object) -> bool:
        self.checks += 1
        return loop not in self.lost

    accepts = is_current

    def post(self, work: object) -> None:
        self.posted.append(work)

    def discard(self, thing: object) -> None:
        self.discarded.append(thing)


@pytest.mark.parametrize("resting", [False, True])
def test_only_when_a_loop_is_lost_its_idle_agents_are_looked_for_and_dropped(resting: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        loops = LostLoops()
        nowhere: Any = None
        pool = AgentPool(nowhere, nowhere, loops, clock, Options(max_agents=2000), str, Retries(clock))
        agents = [Idle() for _ in range(1000)]
        for number, agent in enumerate(agents):
            pool.put(key(f"s{number}"), agent, "ab"[number % 2])
        if resting:
            clock._loop.advance(REST_AFTER_S)  # type: ignore[attr-defined]
            pool.evict()
        loops.checks = 0
        pool.drop_lost()
        assert (len(pool), loops.checks) == (1000, 2)
        loops.lost = {"a"}
        pool.drop_lost()
        assert loops.discarded == agents[::2]
        assert len(pool) == 500
        loops.checks = 0
        pool.drop_lost()
        assert loops.checks == 1, "a lost loop is not checked again"
        pool.put(key("s0"), agents[0], "a")
        pool.drop_lost()
        assert len(pool) == 500, "nor is what comes from there later kept"

    run_virtual(main)


def test_an_idle_agent_rests_once_and_is_dropped_when_idle_for_too_long() -> None:
    async def main(clock: VirtualClock) -> None:
        loops = LostLoops()
        nowhere: Any = None
        pool = AgentPool(nowhere, nowhere, loops, clock, Options(agent_idle_s=10.0), str, Retries(clock))
        agents = [Idle() for _ in range(3)]
        for number, agent in enumerate(agents):
            pool.put(key(f"s{number}"), agent, "a")
            await asyncio.sleep(REST_AFTER_S * 0.75)
            pool.evict()
        assert loops.posted == [agents[0].compact, agents[1].compact], "each once, and not the one that has just come"
        assert pool.pop(key("s0")) is agents[0]
        pool.put(key("s0"), agents[0], "a")
        await asyncio.sleep(REST_AFTER_S)
        pool.evict()
        assert sorted(loops.posted[2:], key=hash) == sorted((agents[0].compact, agents[2].compact), key=hash)
        assert not loops.discarded
        await asyncio.sleep(10.0 - REST_AFTER_S)
        pool.evict()
        assert loops.discarded == [agents[1], agents[2], agents[0]], "the longest idle first"

    run_virtual(main)


def test_an_object_that_all_sessions_share_is_made_ready_anew_before_each_run() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Played(echo)
        target.singleton = True
        async with serving(clock, target) as service:
            for text in ("a", "b"):
                await outcome(await send(service, text))
            assert (len(target.built), service.health().agents_in_memory) == (2, 0)

    run_virtual(main)

"""Idle agents whose loops are lost are dropped; who looks for them each second looks at loops, not at agents."""

from typing import Any

import pytest

from engine_support import Played, echo, key, outcome, send, serving
from strandline.agents.port import Attempt, Finished
from strandline.engine.execution import AgentPool
from strandline.engine.execution.pool import REST_AFTER_S
from strandline.engine.options import Options
from strandline.testing.virtual import InlineLoops, VirtualClock, run_virtual


class Idle:
    """An agent."""

    async def run(self, attempt: Attempt) -> Finished:
        raise NotImplementedError

    def rest(self) -> None:
        """Nothing."""


class LostLoops(InlineLoops):
    """Loops of which some are lost; counts how often anybody asks."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[object] = set()
        self.asked = 0
        self.discarded: list[object] = []

    def is_current(self, loop: object) -> bool:
        self.asked += 1
        return loop not in self.lost

    accepts = is_current

    def post(self, work: object) -> None:
        """Nothing."""

    def discard(self, thing: object) -> None:
        self.discarded.append(thing)


@pytest.mark.parametrize("resting", [False, True])
def test_only_when_a_loop_is_lost_its_idle_agents_are_looked_for_and_dropped(resting: bool) -> None:
    async def main(clock: VirtualClock) -> None:
        loops = LostLoops()
        nowhere: Any = None
        pool = AgentPool(nowhere, nowhere, loops, clock, Options(max_agents=2000), str)
        agents = [Idle() for _ in range(1000)]
        for number, agent in enumerate(agents):
            pool.put(key(f"s{number}"), agent, "ab"[number % 2])
        if resting:
            clock._loop.advance(REST_AFTER_S)  # type: ignore[attr-defined]
            pool.evict()
        loops.asked = 0
        pool.drop_lost()
        assert (len(pool), loops.asked) == (1000, 2)
        loops.lost = {"a"}
        pool.drop_lost()
        assert loops.discarded == agents[::2]
        assert len(pool) == 500
        loops.asked = 0
        pool.drop_lost()
        assert loops.asked == 1, "what is lost once is not asked for again"
        pool.put(key("s0"), agents[0], "a")
        pool.drop_lost()
        assert len(pool) == 500, "nor is what comes from there later kept"

    run_virtual(main)


def test_an_object_that_all_sessions_share_is_made_ready_anew_before_each_run() -> None:
    async def main(clock: VirtualClock) -> None:
        target = Played(echo)
        target.exclusive = True
        async with serving(clock, target) as service:
            for text in ("a", "b"):
                await outcome(await send(service, text))
            assert (len(target.built), service.health().agents_in_memory) == (2, 0)

    run_virtual(main)

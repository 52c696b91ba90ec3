"""Each kind of defect that the simulation is there for is found by it: the tests of the test.

A breakage is made by a small patch of the code under test; the first seeds have to tell. Without it the same seeds
find nothing.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest

from simulation.journals import SlowJournal
from simulation.trial import STORES, play
from strandline.engine import attempt as live_attempt
from strandline.engine import runner
from strandline.engine.attempt import LiveAttempt
from strandline.engine.holds import Holds
from strandline.history import close
from strandline.journal import memory
from strandline.journal.kept import KeptRun
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Take
from strandline.model import Claim, Ending, Message, RoundStarted, Settlement, Token, ToolResult

Break = Callable[[pytest.MonkeyPatch], None]
SEEDS = 200


def lose_a_claim(patch: pytest.MonkeyPatch) -> None:
    """One claim in fifty never reaches its consumer."""
    claims = SlowJournal.claims

    async def losing(journal: SlowJournal) -> AsyncIterator[Claim]:
        async for claim in claims(journal):
            if claim.token.fence % 50 != 49:
                yield claim

    patch.setattr(SlowJournal, "claims", losing)


def take_any_token(patch: pytest.MonkeyPatch) -> None:
    """A token is good as long as its run executes, whoever executes it."""

    def claimed(journal: MemoryJournal, token: Token) -> Any:
        run = journal._runs.get(token.run_id)
        if run is None or run.fence is None:
            raise memory.ClaimLost("lost")
        return run

    patch.setattr(MemoryJournal, "_claimed", claimed)


def stage_too_late(patch: pytest.MonkeyPatch) -> None:
    """A round is staged while its tools start."""

    async def begin_round(attempt: LiveAttempt) -> None:
        if attempt.stopping:
            raise live_attempt.RunStopped
        attempt.results = {}
        fact = RoundStarted(attempt._fresh())
        asyncio.ensure_future(attempt._journal.stage(attempt.claim.token, fact))  # noqa: RUF006

    patch.setattr(LiveAttempt, "begin_round", begin_round)


def order_by_time(patch: pytest.MonkeyPatch) -> None:
    """Runs go by the time at which they were sent, not by their sequence."""

    def rank(run: Any) -> tuple[int, int, int]:
        return (run.lane, int(run.new.created_at * 1000), run.sequence)

    patch.setattr(KeptRun, "rank", rank)


def forget_a_finished_tool(patch: pytest.MonkeyPatch) -> None:
    """What is closed early is closed without the results that its open round has."""

    def forgetting(messages: Sequence[Message], results: Mapping[str, ToolResult], ending: Ending) -> list[Message]:
        return close(messages, {}, ending)

    patch.setattr(runner, "close", forgetting)


def hold_nothing(patch: pytest.MonkeyPatch) -> None:
    """A run that ends before its thread does gives its session free at once."""
    settle = MemoryJournal.settle

    async def settle_without(
        journal: MemoryJournal, token: Token, settlement: Settlement, *, take: bool, hold: bool = False
    ) -> Take:
        return await settle(journal, token, settlement, take=take, hold=False)

    async def keep_nothing(holds: Holds, claim: Claim, call: Any) -> None:
        del holds._held[claim.run.run_id]

    patch.setattr(MemoryJournal, "settle", settle_without)
    patch.setattr(Holds, "keep", keep_nothing)


BREAKAGES: dict[str, tuple[Break, str]] = {
    "a lost claim": (lose_a_claim, "comes to no rest|no end|waits for good"),
    "a stale token that is taken": (take_any_token, "told as|the model said|forgotten|succeeded|ended with another"),
    "a round that is staged after its tools start": (stage_too_late, "forgotten|was started|no trace"),
    "an order by time": (order_by_time, "started before|started after"),
    "a hold that is not taken": (hold_nothing, "executed at once"),
    "a finished tool that is forgotten": (forget_a_finished_tool, "ended with another result"),
}


def first_broken(seeds: range, journal: str = "memory") -> list[str] | None:
    """Return what is broken in the first world in which something is."""
    return next((faults for seed in seeds if (faults := play(seed, journal).faults)), None)


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, told = BREAKAGES[name]
    make(monkeypatch)
    faults = first_broken(range(SEEDS))
    assert faults is not None, f"{name} stays unnoticed for {SEEDS} seeds"
    assert re.search(told, " ".join(faults)), faults


@pytest.mark.parametrize("journal", STORES)
def test_the_same_seeds_find_nothing_without_a_breakage(journal: str) -> None:
    assert first_broken(range(SEEDS), journal) is None

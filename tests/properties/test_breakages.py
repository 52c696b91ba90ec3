"""Each kind of defect that the simulation is there for is found by it: the tests of the test.

A breakage is made by a small patch of the code under test; the first worlds have to tell. Without it nothing is
found in them (`test_simulation.py`).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace as replace_

from simulation.journals import SlowJournal
from simulation.trial import play
from strandline.agents.port import RunStopped
from strandline.engine import attempt, recovery
from strandline.engine.attempt import LiveAttempt
from strandline.engine.holds import Holds
from strandline.engine.queue_limits import QueueLimits
from strandline.errors import ClaimLost
from strandline.history import close, fold, reopened
from strandline.journal import memory
from strandline.journal.kept import KeptRun
from strandline.journal.memory import MemoryJournal
from strandline.journal.port import Take
from strandline.model import Claim, Ending, Message, RoundStarted, Settlement, Token, ToolDone, ToolResult

Break = Callable[[pytest.MonkeyPatch], None]
FIRST = 1000
SEEDS = 500


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
            raise ClaimLost("lost")
        return run

    patch.setattr(MemoryJournal, "_claimed", claimed)


def stage_too_late(patch: pytest.MonkeyPatch) -> None:
    """A round is staged while its tools start."""

    async def begin_round(attempt: LiveAttempt) -> None:
        if attempt.stopping:
            raise RunStopped
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

    patch.setattr(attempt, "close", forgetting)


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


def lose_queue_deadlines(patch: pytest.MonkeyPatch) -> None:
    """Nothing waits too long."""
    patch.setattr(QueueLimits, "watch", lambda limits, run_id, key, deadline, since=None: None)


def keep_no_result(patch: pytest.MonkeyPatch) -> None:
    """What a crashed process had staged of a round comes back without the results of the tools that had ended."""

    def without_results(facts: Sequence[Any]) -> Any:
        return fold(tuple(each for each in facts if not isinstance(each, ToolDone)))

    patch.setattr(recovery, "fold", without_results)


def count_no_attempt(patch: pytest.MonkeyPatch) -> None:
    """A run that was cut off is given back as if it had never been tried."""
    release = MemoryJournal.release

    async def uncounted(journal: MemoryJournal, token: Token, *, counted: bool, take: bool) -> Take:
        return await release(journal, token, counted=False, take=take)

    patch.setattr(MemoryJournal, "release", uncounted)


def go_on_whatever_was_done(patch: pytest.MonkeyPatch) -> None:
    """After a crash a run goes on, also one with a tool in the middle that must not be started again."""

    def reckless(progress: Any, **settings: Any) -> Any:
        return reopened(progress, **(settings | {"unknown_tool": "tell"}))

    patch.setattr(recovery, "reopened", reckless)


def let_a_cancelled_run_succeed(patch: pytest.MonkeyPatch) -> None:
    """A run that comes to its own end after its cancel was accepted ends as that."""
    patch.setattr(memory, "check_cancel", lambda run, end, *, discarded: None)


def forget_a_cancel(patch: pytest.MonkeyPatch) -> None:
    """What a dead process was asked to end goes on in the next."""
    recover = recovery._ending

    def forgetting(orphan: Claim, progress: Any, options: Any, now: float) -> Any:
        return recover(replace_(orphan, run=replace_(orphan.run, cancel_requested=False)), progress, options, now)

    patch.setattr(recovery, "_ending", forgetting)
    patch.setattr(memory, "check_cancel", lambda run, end, *, discarded: None)


BREAKAGES: dict[str, tuple[Break, str]] = {
    "a lost claim": (lose_a_claim, "comes to no rest|no end|waits for good"),
    "a stale token that is taken": (
        take_any_token,
        "told as|the model said|forgotten|succeeded|ended with another|executed at once|started 2 times",
    ),
    "a round that is staged after its tools start": (stage_too_late, "forgotten|was started"),
    "an order by time": (order_by_time, "started before|started after"),
    "a hold that is not taken": (hold_nothing, "executed at once"),
    "a finished tool that is forgotten": (forget_a_finished_tool, "ended with another result"),
    "a queue deadline that is lost": (lose_queue_deadlines, "started .* after it had waited too long"),
    "a staged result that is lost": (keep_no_result, "ended with another result"),
    "an attempt that is not counted": (count_no_attempt, "was cut off and not counted"),
    "a cancel that does not win": (let_a_cancelled_run_succeed, "although its cancel was accepted"),
    "a cancel that a crash forgets": (forget_a_cancel, "although its cancel was accepted"),
    "a run that goes on with a tool in the middle": (go_on_whatever_was_done, "nobody knows what became of"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_the_simulation_finds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, told = BREAKAGES[name]
    make(monkeypatch)
    found = (re.search(told, fault) for seed in range(FIRST, FIRST + SEEDS) for fault in play(seed, "memory").faults)
    assert any(found), f"{name} stays unnoticed in {SEEDS} worlds"

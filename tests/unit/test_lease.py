"""No tool and no model call starts where the lease may be over, although everything before it was durable."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool
from strands.hooks import AfterToolsEvent, BeforeToolsEvent, HookOrder
from strands.tools.executors import SequentialToolExecutor

from engine_support import key
from strandline._agents.port import RunStopped
from strandline._clock import SystemClock, boottime
from strandline._engine.requests import Request
from strandline._model import ANONYMOUS, Outcome, RunStatus
from strandline._workers import messages as m
from strandline._workers.attempt import RemoteAttempt
from strandline.testing import ScriptedModel, call, results
from strands_support import RecordingJournal, ask, run, serving
from workers_support import Few, order, virtual


class Lent(RecordingJournal):
    """A journal with a lease that a test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.until: float | None = None

    def owned_until(self) -> float | None:
        return self.until

    def lapse(self) -> None:
        self.until = -1.0


def two_tools(messages: Any) -> Any:
    return "done" if results(messages) else [call("note", {"name": "a"}), call("note", {"name": "b"})]


def noting(started: list[str], on_start: Callable[[], object] = lambda: None) -> Any:
    @tool
    def note(name: str) -> str:
        """Note that it was started."""
        started.append(name)
        on_start()
        return name

    return note


def test_a_tool_whose_round_was_durable_before_the_lease_ended_does_not_start(tmp_path: Path) -> None:
    async def main() -> None:
        journal, started = Lent(), list[str]()

        def make() -> Agent:
            agent = Agent(model=ScriptedModel(two_tools), tools=[noting(started)])
            agent.add_hook(lambda event: journal.lapse(), BeforeToolsEvent, order=HookOrder.SDK_LAST + 2000.0)
            return agent

        async with serving(make, tmp_path, journal) as service:
            outcome = await ask(service, "go")
        assert journal.log[0] == "RoundStarted"
        assert (started, outcome.status) == ([], RunStatus.FAILED)

    run(main)


def test_neither_the_next_tool_nor_the_next_model_call_starts_after_the_lease_has_ended(tmp_path: Path) -> None:
    async def main() -> None:
        journal, started = Lent(), list[str]()
        model = ScriptedModel(two_tools)
        note = noting(started, journal.lapse)

        def make() -> Agent:
            return Agent(model=model, tools=[note], tool_executor=SequentialToolExecutor())

        async with serving(make, tmp_path, journal) as service:
            assert (await ask(service, "go")).status is RunStatus.FAILED
        assert started == ["a"]
        assert model.calls == 1

    run(main)


class Lapsing(Lent):
    """A journal whose lease is over for a moment."""

    def owned_until(self) -> float | None:
        until, self.until = self.until, None
        return until


def test_a_run_that_would_start_after_the_lease_has_ended_waits_again_and_counts_no_attempt(tmp_path: Path) -> None:
    async def main() -> None:
        journal = Lapsing()
        model = ScriptedModel(lambda messages: "hello")
        async with serving(lambda: Agent(model=model), tmp_path, journal) as service:
            journal.lapse()
            ticket = await service.submit(Request(key=key(), input="go"))
            outcome = await ticket.stream.outcome()
            assert isinstance(outcome, Outcome), "its client waits for it"
            view = await service.wait(ANONYMOUS, ticket.run_id, 30)
            assert (outcome.status, view.run.attempt, model.calls) == (RunStatus.SUCCEEDED, 1, 1)

    run(main)


def test_a_model_call_that_would_start_after_the_lease_has_ended_is_made_later_and_no_tool_again(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        journal, started = Lapsing(), list[str]()
        model = ScriptedModel(two_tools)

        def lapse(event: AfterToolsEvent) -> None:
            if len(started) == 2:
                journal.lapse()

        def make() -> Agent:
            agent = Agent(model=model, tools=[noting(started)])
            agent.add_hook(lapse, AfterToolsEvent, order=HookOrder.SDK_LAST + 2000.0)
            return agent

        async with serving(make, tmp_path, journal) as service:
            ticket = await service.submit(Request(key=key(), input="go"))
            outcome = await ticket.stream.outcome()
            assert isinstance(outcome, Outcome)
            view = await service.wait(ANONYMOUS, ticket.run_id, 30)
        assert (outcome.status, outcome.output, view.run.attempt) == (RunStatus.SUCCEEDED, "done", 1)
        assert (sorted(started), model.calls) == (["a", "b"], 2)

    run(main)


@pytest.mark.parametrize(
    "start",
    [
        lambda attempt: attempt.begin_model(),
        lambda attempt: attempt.enter("node a"),
        lambda attempt: attempt.begin_tool("t", "a", {}),
    ],
)
def test_a_worker_starts_nothing_after_the_lease_has_ended_and_asks_nobody(
    start: Callable[[RemoteAttempt], object],
) -> None:
    sent: list[bytes] = []
    until: float | None = boottime() + 60.0

    async def main() -> None:
        nonlocal until
        attempt = RemoteAttempt(order(0), threading.Event(), sent.append, SystemClock(), owned_until=lambda: until)
        start(attempt)
        assert len(sent) == 1
        until = boottime() - 1.0
        with pytest.raises(RunStopped):
            start(attempt)
        assert len(sent) == 1

    asyncio.run(main())


def test_workers_are_told_until_when_they_may_start_something_and_so_is_each_new_one() -> None:
    async def main(few: Few) -> None:
        await asyncio.sleep(1)
        few.loops.owned_until(5.0)
        await asyncio.sleep(1)
        assert [each.owned_until for each in few.loops._processes] == [5.0]
        assert m.OwnedUntil(5.0) in few.all[0].orders()
        few.all[0].over.set()
        await asyncio.sleep(5)
        assert len(few.all) == 2
        assert few.loops._workers[0].owned_until == 5.0

    virtual(main)

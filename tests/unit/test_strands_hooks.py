"""The reports of a real agent to its attempt: signs of life, and in which task each tool is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from strands import Agent, tool
from strands.tools.executors import SequentialToolExecutor

from engine_support import key, silent_recorder
from strandline._agents.parameters import NOTHING
from strandline._agents.strands import StrandsTarget
from strandline._clock import SystemClock
from strandline._engine.execution import LiveAttempt, Retries
from strandline._history import fold
from strandline._model import (
    WHOLE_HISTORY,
    AgentRecord,
    Checkpoint,
    Claim,
    FencingToken,
    Run,
    RunId,
    RunStatus,
    Succeeded,
)
from strandline.testing import Gate, ScriptedModel, Signal, call, in_turn, pause, results, say, think

RUN = Run(
    run_id=RunId("r"),
    key=key(),
    input="go",
    lane=3,
    priority=3,
    resumable=True,
    metadata={},
    sequence=1,
    status=RunStatus.RUNNING,
    attempt=1,
    created_at=0.0,
)


class Nowhere:
    async def checkpoint(self, token: FencingToken, checkpoint: Checkpoint) -> None:
        return None

    def owned_until(self) -> None:
        return None


class Heard(LiveAttempt):
    """An attempt that notes what it hears."""

    def __init__(self) -> None:
        claim = Claim(token=FencingToken(RUN.run_id, 1), run=RUN)
        clock = SystemClock()
        nowhere: Any = Nowhere()
        super().__init__(claim, fold([]), nowhere, Signal(), "/nowhere", clock, silent_recorder(clock), Retries(clock))
        self.touched = 0
        self.looked = 0
        self.seen: dict[str, bool] = {}
        self.tasks: dict[str, list[asyncio.Task[Any] | None]] = {}

    def touch(self) -> None:
        super().touch()
        self.touched += 1

    def enter(self, phase: str) -> None:
        super().enter(phase)
        self.tasks.setdefault(phase, []).append(asyncio.current_task())

    def look(self, what: str) -> None:
        """Note whether there was a sign of life since the last look."""
        self.seen[what] = self.touched > self.looked
        self.looked = self.touched


async def executed(agent: Agent, heard: Heard) -> Any:
    target = StrandsTarget(lambda: agent, takes=NOTHING, description="test")
    record = AgentRecord(messages=[], origins=[], window=WHOLE_HISTORY, length=0, state=None)
    built = await target.build(key(), record, fold([]))
    async with asyncio.timeout(20):
        return await built.run(heard)


def test_reasoning_and_what_a_tool_or_a_sub_agent_streams_are_signs_of_life() -> None:
    async def main() -> None:
        heard = Heard()

        class Sign:
            def __init__(self, what: str) -> None:
                self.what = what

            async def wait(self) -> None:
                heard.look(self.what)

        @tool
        async def stream() -> AsyncIterator[str]:
            """Say how far it is."""
            for step in ("one", "two", "three"):
                yield step
                heard.look(f"step {step}")
            yield "arrived"

        sub_model = ScriptedModel(in_turn([say("I think that"), pause(Sign("a sub-agent's text")), say("yes")]))
        model = ScriptedModel(
            in_turn(
                [think("Hm."), pause(Sign("reasoning")), call("stream"), pause(Sign("a tool's input"))],
                [call("scout", {"input": "x"})],
                "done",
            )
        )
        agent = Agent(model=model, tools=[stream, Agent(model=sub_model, name="scout")])
        finished = await executed(agent, heard)
        assert isinstance(finished.ending, Succeeded)
        assert "arrived" in str(heard.messages)
        assert len(heard.seen) == 6
        assert all(heard.seen.values()), heard.seen

    asyncio.run(main())


def test_each_tool_of_a_round_is_entered_in_the_task_that_executes_it() -> None:
    async def main(agent_options: dict[str, Any]) -> tuple[Heard, dict[str, Any]]:
        own: dict[str, Any] = {}
        arrived = asyncio.Barrier(1 if agent_options else 2)

        async def noted(name: str) -> str:
            own[name] = asyncio.current_task()
            await arrived.wait()
            return name

        @tool
        async def left() -> str:
            """Go left."""
            return await noted("left")

        @tool
        async def right() -> str:
            """Go right."""
            return await noted("right")

        model = ScriptedModel(
            lambda messages: "done" if results(messages) else [call("left"), call("right"), call("nowhere")]
        )
        heard = Heard()
        await executed(Agent(model=model, tools=[left, right], **agent_options), heard)
        assert heard.tasks["tool left"] == [own["left"]]
        assert heard.tasks["tool right"] == [own["right"]]
        return heard, own

    heard, own = asyncio.run(main({}))
    assert own["left"] is not own["right"]
    assert own["left"] is not heard.tasks["model"][0]
    asyncio.run(main({"tool_executor": SequentialToolExecutor()}))


def test_a_tool_of_a_sub_agent_that_outlives_a_cancel_keeps_the_task_of_the_sub_agent_alive() -> None:
    async def main() -> None:
        gate = Gate()
        swallowed = asyncio.Event()

        @tool
        async def stubborn() -> str:
            """Do not stop."""
            try:
                await gate.wait()
            except asyncio.CancelledError:
                swallowed.set()
                await gate.wait()
            return "done at last"

        sub = Agent(model=ScriptedModel(lambda messages: [call("stubborn")]), name="scout", tools=[stubborn])
        model = ScriptedModel(lambda messages: [call("scout", {"input": "x"})])
        heard = Heard()
        run = asyncio.ensure_future(executed(Agent(model=model, tools=[sub]), heard))
        await gate.reached.wait()
        (task,) = heard.tasks["tool scout"]
        assert task is not None
        run.cancel()
        await swallowed.wait()
        assert not task.done(), "who watches the tools of a run must see that one still works"
        gate.open()
        async with asyncio.timeout(20):
            while not (run.done() and task.done()):
                run.cancel()  # again: Strands waits for a tool that swallowed the first
                await asyncio.sleep(0)

    asyncio.run(main())

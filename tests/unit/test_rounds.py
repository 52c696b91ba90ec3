"""Tools that try to end the process, in every agent that works for a run: the run fails, and no tool starts again."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest
from strands import Agent, ToolContext, tool
from strands.hooks import AfterToolsEvent
from strands.multiagent import GraphBuilder, Swarm
from strands.tools.executors import ConcurrentToolExecutor, SequentialToolExecutor

from strandline._agents.function import Session
from strandline._agents.load import target_for
from strandline._agents.port import Target
from strandline._model import ErrorCode, Outcome, RunStatus
from strandline.testing import ScriptedModel, call, results
from target_support import ask, history, run, serving

MOST: Final = 4
"""How often a model asks again before it gives up: the guard must not let it ask twice."""


class Ending(BaseException):
    """One of somebody's own, which is no `Exception`."""


class Story:
    """What the models of a test say, and how often its tool has started."""

    def __init__(self, way: str, *, insists: bool = True) -> None:
        self.started = 0
        self.calm = False
        self._way = way
        self._insists = insists

    def leave(self) -> Any:
        """Return the tool that ends in its way."""
        way = self._way

        def end() -> str:
            self.started += 1
            if way.startswith("exit"):
                sys.exit(3)
            raise asyncio.CancelledError if way == "cancel" else Ending("enough")

        if way.endswith("sync"):

            @tool(name="leave")
            def leave() -> str:
                """Leave."""
                return end()

        else:

            @tool(name="leave")
            async def leave() -> str:
                """Leave."""
                return end()

        return leave

    def asking(self, name: str, given: Any = None) -> ScriptedModel:
        """Return a model that calls a tool, and again; one that does not insist takes the first result."""
        times = 0

        def script(messages: Any) -> Any:
            nonlocal times
            times += 1
            if self.calm or times > MOST or (results(messages) and not self._insists):
                return "fine"
            return [call(name, given)]

        return ScriptedModel(script)

    def worker(self, **options: Any) -> Agent:
        """Return an agent whose model calls the tool."""
        return Agent(model=self.asking("leave"), tools=[self.leave()], name="worker", callback_handler=None, **options)


def graph(story: Story, **options: Any) -> object:
    builder = GraphBuilder()
    builder.add_node(story.worker(**options), "works")
    builder.add_node(Agent(model=ScriptedModel(lambda _: "fine"), callback_handler=None), "sums up")
    builder.add_edge("works", "sums up")
    return builder.set_execution_timeout(30).build()


def nested(story: Story) -> object:
    builder = GraphBuilder()
    builder.add_node(graph(story), "inner")  # type: ignore[arg-type]
    return builder.set_execution_timeout(30).build()


def swarm(story: Story) -> object:
    return Swarm([story.worker()])


def sub_agent(story: Story, **options: Any) -> object:
    return Agent(model=story.asking("worker", {"input": "x"}), tools=[story.worker(**options).as_tool()])


def deep(story: Story) -> object:
    middle = Agent(
        model=story.asking("worker", {"input": "x"}),
        tools=[story.worker().as_tool()],
        name="middle",
        callback_handler=None,
    )
    return Agent(model=story.asking("middle", {"input": "x"}), tools=[middle.as_tool()])


def in_an_async_tool(story: Story) -> object:
    @tool
    async def delegate() -> str:
        """Delegate."""
        return str(await story.worker().invoke_async("x"))

    return Agent(model=story.asking("delegate"), tools=[delegate])


def in_a_sync_tool(story: Story) -> object:
    @tool
    def delegate() -> str:
        """Delegate."""
        return str(story.worker()("x"))

    return Agent(model=story.asking("delegate"), tools=[delegate])


def in_a_tool_that_forgives(story: Story) -> object:
    @tool
    async def delegate() -> str:
        """Delegate."""
        try:
            return str(await story.worker().invoke_async("x"))
        except BaseException as error:
            return f"it said {error!r}"

    return Agent(model=story.asking("delegate"), tools=[delegate])


PLACES: Final[dict[str, Callable[[Story], object]]] = {
    "an agent": Story.worker,
    "an agent, one tool after the other": lambda story: story.worker(tool_executor=SequentialToolExecutor()),
    "a node of a graph": graph,
    "a node, one tool after the other": lambda story: graph(story, tool_executor=SequentialToolExecutor()),
    "a node, side by side": lambda story: graph(story, tool_executor=ConcurrentToolExecutor()),
    "a graph in a graph": nested,
    "a swarm": swarm,
    "a sub-agent": sub_agent,
    "a sub-agent, one tool after the other": lambda story: sub_agent(story, tool_executor=SequentialToolExecutor()),
    "a sub-agent of a sub-agent": deep,
    "an agent made in an async tool": in_an_async_tool,
    "an agent made in a sync tool": in_a_sync_tool,
    "an agent made in a tool that catches everything": in_a_tool_that_forgives,
}
WAYS: Final = ("exit", "exit sync", "raise", "raise sync", "cancel")


async def _fails_once(target: Target, story: Story, folder: Path) -> Outcome:
    async with serving(target, folder) as service:
        end = await ask(service, "go")
        assert (end.status, story.started) == (RunStatus.FAILED, 1)
        assert end.error is not None
        assert end.error.code is ErrorCode.AGENT_ERROR
        assert "(This run ended early: agent_error.)" in str(await history(service))
        story.calm = True
        assert (await ask(service, "next")).status is RunStatus.SUCCEEDED
        assert (await ask(service, "x", "another")).status is RunStatus.SUCCEEDED
    return end


@pytest.mark.parametrize(
    ("way", "insists"), [*((way, True) for way in WAYS), ("raise", False)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("place", PLACES)
def test_a_tool_that_tries_to_end_the_process_fails_its_run_wherever_it_is_and_starts_once(
    place: str, way: str, insists: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        story = Story(way, insists=insists)
        end = await _fails_once(target_for(lambda: PLACES[place](story), "test"), story, tmp_path)
        assert end.error is not None
        assert "tried to end the process" in end.error.detail or place.endswith("one tool after the other")

    run(main)


@pytest.mark.parametrize("way", WAYS)
def test_so_does_one_of_an_agent_that_a_function_uses(way: str, tmp_path: Path) -> None:
    async def main() -> None:
        story = Story(way)

        async def answer(message: str, session: Session) -> str:
            try:
                return str(await story.worker().invoke_async(message))
            except Exception as error:
                return f"all is well, but for {error}"

        await _fails_once(target_for(answer, "test"), story, tmp_path)

    run(main)


def beside_a_question(story: Story, *, first: bool) -> Agent:
    """Return an agent that calls the tool and one that asks a person, in one round."""

    @tool(context=True)
    def confirm(tool_context: ToolContext) -> str:
        """Ask."""
        return str(tool_context.interrupt("confirm", reason="sure?"))

    def script(messages: Any) -> Any:
        if story.calm or results(messages):
            return "fine"
        return [call("leave"), call("confirm")] if first else [call("confirm"), call("leave")]

    return Agent(model=ScriptedModel(script), tools=[story.leave(), confirm], name="worker", callback_handler=None)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", [True, False], ids=["before", "behind"])
@pytest.mark.parametrize("place", ["itself", "a sub-agent"])
def test_so_does_one_beside_a_tool_that_requests_input(place: str, first: bool, way: str, tmp_path: Path) -> None:
    """An answer would resume the round, and start it again."""

    async def main() -> None:
        story = Story(way)

        def make() -> Agent:
            worker = beside_a_question(story, first=first)
            if place == "itself":
                return worker
            return Agent(model=story.asking("worker", {"input": "x"}), tools=[worker.as_tool()], callback_handler=None)

        end = await _fails_once(target_for(make, "test"), story, tmp_path)
        assert end.error is not None
        assert "leave" in end.error.detail

    run(main)


def test_a_tool_that_an_agents_own_code_calls_may_do_as_it_likes(tmp_path: Path) -> None:
    """Code that calls it directly gets the error, and decides."""

    async def main() -> None:
        story = Story("exit sync")

        @tool(context=True)
        def careful(tool_context: ToolContext) -> str:
            """Use the other tool."""
            try:
                cast(Agent, tool_context.agent).tool.leave(record_direct_tool_call=False)
            except SystemExit as error:
                return f"it left with {error.code}"
            return "it stayed"

        def script(messages: Any) -> Any:
            reported = list(results(messages).values())
            return reported[-1] if reported else [call("careful")]

        make = lambda: Agent(model=ScriptedModel(script), tools=[story.leave(), careful])  # noqa: E731
        async with serving(target_for(make, "test"), tmp_path) as service:
            end = await ask(service, "go")
        assert (end.status, end.output) == (RunStatus.SUCCEEDED, "it left with 3")

    run(main)


def test_so_does_one_whose_agent_calls_its_model_no_more(tmp_path: Path) -> None:
    """A hook of the user's ends the turn after the round, so that no guard before the next model call is asked."""

    async def main() -> None:
        story = Story("raise")

        def enough(event: AfterToolsEvent) -> None:
            event.end_turn = "that was it"

        def make() -> Agent:
            helper = story.worker(hooks=[_Hook(enough)])
            outer = Agent(model=story.asking("worker", {"input": "x"}), tools=[helper.as_tool()])
            outer.add_hook(enough, AfterToolsEvent)
            return outer

        await _fails_once(target_for(make, "test"), story, tmp_path)

    run(main)


@pytest.mark.parametrize("make", [Story.worker, sub_agent], ids=["itself", "its sub-agent"])
def test_so_does_one_of_an_agent_that_all_sessions_share_each_time(
    make: Callable[[Story], object], tmp_path: Path
) -> None:
    """Such an agent is made again what it was before each run, its hooks too."""

    async def main() -> None:
        story = Story("raise")
        async with serving(target_for(make(story), "test"), tmp_path, max_agents=0) as service:
            for times in (1, 2, 3):
                assert (await ask(service, "go", f"s{times}")).status is RunStatus.FAILED
                assert story.started == times

    run(main)


def test_agents_beside_the_runs_of_a_server_are_as_strands_has_them() -> None:
    """A program that has Strandline mounted may run agents of its own: nothing of theirs is changed."""
    story = Story("raise")
    result = story.worker()("x")
    assert str(result).strip() == "fine"
    assert story.started == MOST


class _Hook:
    def __init__(self, callback: Callable[[AfterToolsEvent], None]) -> None:
        self._callback = callback

    def register_hooks(self, registry: Any, **options: Any) -> None:
        registry.add_callback(AfterToolsEvent, self._callback)

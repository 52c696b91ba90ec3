"""Real Graphs and Swarms behind the real engine: their answers, what they remember, how they fail, what is refused."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from strands import Agent, ToolContext, tool
from strands.hooks import AfterMultiAgentInvocationEvent, AfterNodeCallEvent, BeforeNodeCallEvent
from strands.models.model import Model
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.base import MultiAgentBase
from strands.multiagent.graph import Graph
from strands.session import FileSessionManager
from strands.types.content import Messages

from engine_support import key, texts
from strandline._agents.factory import FactoryTarget
from strandline._agents.parameters import NOTHING
from strandline._agents.port import Attempt, Finished, Signal
from strandline._clock import SystemClock
from strandline._engine.requests import Request
from strandline._engine.streams import Later
from strandline._journal.memory import MemoryJournal
from strandline._model import ErrorCode, Outcome, RunStatus
from strandline.testing import Gate, Script, ScriptedModel, call, pause, results, say, stop
from strandline.testing import question as prompt_of
from target_support import Noting, ask, history, run, serving, until


def factory(make: Callable[[], object], **options: Any) -> FactoryTarget:
    return FactoryTarget(make, takes=NOTHING, description="test", **options)


def agent(name: str, script: Script | str = "", **options: Any) -> Agent:
    """An agent that says its name and how many questions it has seen, or what the script says."""

    def counted(messages: Messages) -> str:
        return f"{name} {len([message for message in messages if message['role'] == 'user'])}"

    return Agent(
        model=ScriptedModel((lambda _: script) if isinstance(script, str) and script else script or counted),
        name=name,
        callback_handler=None,
        **options,
    )


def graph(
    *nodes: Agent | MultiAgentBase,
    edges: Sequence[tuple[str, str]] = (),
    timeout_s: float = 30,
    **settings: Any,
) -> Graph:
    """A Graph of these nodes, named after them; without edges one after the other."""
    builder = GraphBuilder()
    names = [str(getattr(node, "name", None) or node.id) for node in nodes]  # type: ignore[union-attr]
    for node, name in zip(nodes, names, strict=True):
        builder.add_node(node, name)
    for before, after in edges or pairwise(names):
        builder.add_edge(before, after)
    builder.set_execution_timeout(timeout_s)
    for setting, value in settings.items():
        getattr(builder, setting)(value)
    return builder.build()


def handing_over(to: str) -> Script:
    def script(messages: Messages) -> Any:
        given = results(messages)
        return "handed over" if given else [call("handoff_to_agent", {"agent_name": to, "message": "go on"})]

    return script


# -- the answer ---------------------------------------------------------------------------------------


def test_question_and_the_last_nodes_answer_become_two_messages(tmp_path: Path) -> None:
    async def main() -> None:
        target = factory(lambda: graph(agent("plans"), agent("writes")))
        async with serving(target, tmp_path) as service:
            assert not target.resumable
            outcome = await ask(service, "q")
            assert (outcome.status, outcome.output) == (RunStatus.SUCCEEDED, "writes 1")
            assert outcome.usage is not None
            assert outcome.usage["totalTokens"] > 0
            assert texts(await history(service)) == ["q", "writes 1"]

    run(main)


def test_the_usage_is_that_of_all_nodes_in_this_run_alone(tmp_path: Path) -> None:
    async def main() -> None:
        def same() -> Graph:
            return graph(agent("a", "fixed"), agent("b", "fixed"))

        async with serving(factory(lambda: agent("a", "fixed")), tmp_path) as service:
            alone = (await ask(service, "q")).usage
        async with serving(factory(same), tmp_path) as service:
            first, second = (await ask(service, "q")).usage, (await ask(service, "q")).usage
        assert alone is not None
        assert first is not None
        assert second is not None
        assert first["outputTokens"] == 2 * alone["outputTokens"]
        assert second["outputTokens"] == first["outputTokens"]

    run(main)


def test_several_ends_of_a_graph_are_joined_in_the_order_in_which_they_ran(tmp_path: Path) -> None:
    async def main() -> None:
        after_early = Gate()

        def made() -> Graph:
            late = agent("late", lambda _: [pause(after_early), "late"])
            made = graph(agent("start"), late, agent("early"), edges=[("start", "late"), ("start", "early")])

            def ended(event: AfterNodeCallEvent) -> None:
                if event.node_id == "early":
                    after_early.open()

            made.add_hook(ended, AfterNodeCallEvent)
            return made

        async with serving(factory_of_one(made), tmp_path) as service:
            assert (await ask(service, "q")).output == "early 1\n\nlate"

    run(main)


def factory_of_one(make: Callable[[], Graph]) -> FactoryTarget:
    """A factory whose annotation says what it makes, so that it is called for the session only."""

    def annotated() -> Graph:
        return make()

    return factory(annotated)


def test_a_swarm_answers_with_what_its_last_agent_said(tmp_path: Path) -> None:
    async def main() -> None:
        def make() -> Swarm:
            return Swarm([agent("first", handing_over("second")), agent("second", "the answer")])

        async with serving(factory(make), tmp_path) as service:
            assert (await ask(service, "q")).output == "the answer"
            assert texts(await history(service)) == ["q", "the answer"]

    run(main)


def test_a_nested_swarm_answers_for_its_graph_and_structured_output_is_given_as_json(tmp_path: Path) -> None:
    class City(BaseModel):
        name: str

    async def main() -> None:
        def make() -> Graph:
            inner = Swarm([agent("one", handing_over("two")), agent("two", "from within")], id="team")
            return graph(agent("start"), inner)

        def structured() -> Graph:
            model = ScriptedModel(lambda _: [call("City", {"name": "Rome"})])
            return graph(Agent(model=model, name="only", structured_output_model=City))

        async with serving(factory(make), tmp_path) as service:
            assert (await ask(service, "q")).output == "from within"
        async with serving(factory(structured), tmp_path) as service:
            assert (await ask(service, "q")).output == '{"name":"Rome"}'
            await history(service)

    run(main)


def test_blocks_of_content_reach_the_nodes_as_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[Any] = []
        image = {"image": {"format": "png", "source": {"bytes": b"\x89PNG"}}}

        def see(messages: Messages) -> str:
            seen.append(messages[-1]["content"])
            return "seen"

        def make() -> Graph:
            return graph(agent("only", see))

        async with serving(factory(make), tmp_path) as service:
            ticket = await service.submit(Request(key=key(), input=[{"text": "what is it?"}, image]))
            await asyncio.wait_for(ticket.stream.outcome(), 20)
            assert seen == [[{"text": "what is it?"}, image]]
            assert (await history(service))[0]["content"] == [{"text": "what is it?"}, image]
            assert (await ask(service, "again")).output == "seen", "bytes in a node's conversation can be kept"

    run(main)


# -- what is remembered -------------------------------------------------------------------------------


def test_the_nodes_of_a_graph_go_on_with_their_conversations_also_once_it_was_made_anew(tmp_path: Path) -> None:
    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        for expected in (1, 2), (3, 4):
            async with serving(factory(lambda: graph(agent("a"), agent("b"))), tmp_path, journal) as service:
                assert [(await ask(service, "q")).output for _ in expected] == [f"b {n}" for n in expected]
                assert (await ask(service, "q", f"other{expected[0]}")).output == "b 1"
                await service.drain()

    run(main)


def test_a_compacted_graph_remembers_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        made = graph(agent("a"))
        inner = made.nodes["a"].executor
        assert isinstance(inner, Agent)
        async with serving(factory_of_one(lambda: made), tmp_path) as service:
            await ask(service, "q")
            await until(lambda: inner.messages == [])  # the pool lets it rest after a second
            assert (await ask(service, "q")).output == "a 2"

    run(main)


def test_a_nodes_state_is_kept_and_a_node_that_is_new_begins_anew(tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def note(tool_context: ToolContext) -> str:
            """Count in the agent's state."""
            tool_context.agent.state.set("n", (tool_context.agent.state.get("n") or 0) + 1)
            return str(tool_context.agent.state.get("n"))

        def script(messages: Messages) -> Any:
            given = results(messages)
            return f"noted {next(iter(given.values()))}" if given else [call("note")]

        journal = MemoryJournal(SystemClock())
        async with serving(factory(lambda: graph(agent("a", script, tools=[note]))), tmp_path, journal) as service:
            assert (await ask(service, "q")).output == "noted 1"
            await service.drain()

        def larger() -> Graph:
            return graph(agent("a", script, tools=[note]), agent("new"))

        async with serving(factory(larger), tmp_path, journal) as service:
            assert (await ask(service, "q")).output == "new 1"
            await service.drain()
        async with serving(factory(lambda: graph(agent("a", script, tools=[note]))), tmp_path, journal) as service:
            assert (await ask(service, "q")).output == "noted 3"

    run(main)


def test_a_swarm_remembers_its_shared_context_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        prompts: list[str] = []

        def first(messages: Messages) -> Any:
            prompts.append(prompt_of(messages))
            assert len([each for each in messages if "text" in each["content"][0] and each["role"] == "user"]) == 1
            if results(messages):
                return "handed over"
            reported = {"agent_name": "second", "message": "go on", "context": {"colour": "red"}}
            return [call("handoff_to_agent", reported)] if "first question" in prompt_of(messages) else "no"

        def make() -> Swarm:
            return Swarm([agent("first", first), agent("second", "done")])

        journal = MemoryJournal(SystemClock())
        async with serving(factory(make), tmp_path, journal) as service:
            assert (await ask(service, "the first question")).output == "done"
            await service.drain()
        async with serving(factory(make), tmp_path, journal) as service:
            assert (await ask(service, "the second")).output == "no"
        assert "colour" in prompts[-1]
        assert "the first question" not in prompts[-1]

    run(main)


def test_what_a_swarm_remembers_is_kept_again_only_when_it_changed(tmp_path: Path) -> None:
    async def main() -> None:
        def first(messages: Messages) -> Any:
            reported = {"agent_name": "second", "message": "go on", "context": {"colour": "red"}}
            return "handed over" if results(messages) else [call("handoff_to_agent", reported)]

        journal = Noting()
        async with serving(
            factory(lambda: Swarm([agent("first", first), agent("second")])), tmp_path, journal
        ) as service:
            await ask(service, "q")
            await ask(service, "q")
        assert [completion.state is not None for completion in journal.completions] == [True, False]

    run(main)


def test_after_a_failure_the_nodes_know_nothing_of_the_failed_run(tmp_path: Path) -> None:
    async def main() -> None:
        def fails(messages: Messages) -> Any:
            if "fail" in prompt_of(messages):
                raise ConnectionError("the provider is out of order")
            return f"b {len(messages)}"

        async with serving(factory(lambda: graph(agent("a"), agent("b", fails))), tmp_path) as service:
            assert (await ask(service, "one")).output == "b 1"
            assert (await ask(service, "fail")).status is RunStatus.FAILED
            assert (await ask(service, "two")).output == "b 3", "one question, one answer, this question"

    run(main)


# -- failures -----------------------------------------------------------------------------------------


def boom(messages: Messages) -> Any:
    raise ConnectionError("the provider is out of order")


def deny(made: Graph | Swarm) -> Graph | Swarm:
    def cancel(event: BeforeNodeCallEvent) -> None:
        event.cancel_node = "not today"

    made.add_hook(cancel, BeforeNodeCallEvent)
    return made


def never(messages: Messages) -> Any:
    return [pause(Gate()), "never"]


def asking() -> Agent:
    @tool(context=True)
    def approve(tool_context: ToolContext) -> str:
        """Ask a person."""
        return str(tool_context.interrupt("approval", reason="may I?"))

    return agent("asks", lambda _: [call("approve")], tools=[approve])


FAILURES: dict[str, tuple[Callable[[], object], str]] = {
    "a node of a graph": (lambda: graph(agent("a"), agent("b", boom)), "node b: ConnectionError: the provider is out"),
    "a node of a swarm": (lambda: Swarm([agent("a", boom)]), "the Swarm failed: node a: ConnectionError: the provider"),
    "a nested node": (
        lambda: graph(graph(agent("in", boom), set_graph_id="team")),
        "node team/in: ConnectionError: the provider",
    ),
    "a nested swarm, which returns": (
        lambda: graph(Swarm([agent("in", boom)], id="team")),
        "node team/in: ConnectionError: the provider",
    ),
    "a cancelled node of a graph": (lambda: deny(graph(agent("a"))), "node a: not today"),
    "a cancelled node of a swarm": (lambda: deny(Swarm([agent("a")])), "node a: not today"),
    "a graph's node timeout": (
        lambda: graph(agent("a", never), set_node_timeout=0.05),
        "node a: Exception: Node 'a' execution timed out after 0.05s",
    ),
    "a swarm's node timeout": (
        lambda: Swarm([agent("a", never)], node_timeout=0.05),
        "node a did not end in the time that it has",
    ),
    "a graph's number of executions": (
        lambda: graph(agent("a"), agent("b"), set_max_node_executions=1),
        "Max node executions reached: 1",
    ),
    "a swarm's number of handoffs": (
        lambda: Swarm([agent("a", handing_over("b")), agent("b", handing_over("a"))], max_handoffs=2),
        "Max handoffs reached: 2",
    ),
    "an input request in a graph": (lambda: graph(asking()), "asks requested input (approval)"),
    "an input request in a swarm": (lambda: Swarm([asking()]), "asks requested input (approval)"),
    "an input request in a nested swarm": (lambda: graph(Swarm([asking()], id="team")), "requested input (approval)"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_a_node_fails_the_run_and_names_it(failure: str, tmp_path: Path) -> None:
    async def main() -> None:
        make, said = FAILURES[failure]
        async with serving(factory(make), tmp_path) as service:
            for _ in range(2):
                outcome = await ask(service, "q")
                assert outcome.status is RunStatus.FAILED
                assert outcome.error is not None
                assert outcome.error.code is ErrorCode.AGENT_ERROR
                assert said in outcome.error.detail
            assert texts(await history(service)).count("q") == 2

    run(main)


def cut(messages: Messages) -> Any:
    return [say("half an ans"), stop("max_tokens")]


@pytest.mark.parametrize(
    ("make", "is_out_of_tokens"),
    [
        (lambda: graph(agent("a"), agent("b", cut)), True),
        (lambda: graph(Swarm([agent("in", cut)], id="team")), True),
        (lambda: Swarm([agent("a", cut)]), True),
        (lambda: graph(agent("a", boom)), False),
        (lambda: Swarm([agent("a", boom)]), False),
        (lambda: deny(graph(agent("a"))), False),
    ],
)
@pytest.mark.parametrize("error_text", ["full", "id"])
def test_a_node_out_of_tokens_differs_from_one_that_failed(
    make: Callable[[], object], is_out_of_tokens: bool, error_text: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(factory(make), tmp_path, error_text=error_text) as service:
            outcome = await ask(service, "q")
            assert outcome.error is not None
            assert outcome.error.code is ErrorCode.AGENT_ERROR
            assert outcome.error.out_of_tokens is is_out_of_tokens

    run(main)


def test_what_the_one_node_at_work_had_said_is_kept_when_it_fails(tmp_path: Path) -> None:
    async def main() -> None:
        def make() -> Graph:
            broken = agent("b", lambda _: [say("half an ans"), ConnectionError("gone")])
            return graph(agent("a", "what a says"), broken)

        async with serving(factory(make), tmp_path) as service:
            await ask(service, "q")
            assert texts(await history(service)) == [
                "q",
                "half an ans",
                "(This run ended early: agent_error.)",
                "the Graph failed: node b: ConnectionError: gone",
            ]

    run(main)


def test_what_two_nodes_say_at_once_is_not_mixed(tmp_path: Path) -> None:
    async def main() -> None:
        gates = [Gate(), Gate()]

        def make() -> Graph:
            one = agent("a", lambda _: [say("from a"), pause(gates[0]), ConnectionError("gone")])
            two = agent("b", lambda _: [say("from b"), pause(gates[1]), say("more")])
            return graph(agent("start"), one, two, edges=[("start", "a"), ("start", "b")])

        async with serving(factory_of_one(make), tmp_path) as service:
            running = asyncio.create_task(ask(service, "q"))
            for gate in gates:
                await asyncio.wait_for(gate.reached.wait(), 20)
            gates[0].open()
            assert (await running).status is RunStatus.FAILED
            assert texts(await history(service)) == [
                "q",
                "(This run ended early: agent_error.)",
                "the Graph failed: node a: ConnectionError: gone",
            ]

    run(main)


def test_a_stop_reaches_a_polite_tool_in_a_node_and_no_further_node_starts(tmp_path: Path) -> None:
    async def main() -> None:
        entered, reported, started = threading.Event(), threading.Event(), list[str]()

        @tool(context=True)
        def polite(tool_context: ToolContext) -> str:
            """Work until stopped."""
            entered.set()
            if tool_context.cancel_signal.wait(20):
                reported.set()
            return "stopped"

        def first(messages: Messages) -> Any:
            return "done" if results(messages) else [call("polite")]

        def second(messages: Messages) -> str:
            started.append("b")
            return "b"

        def make() -> Graph:
            return graph(agent("a", first, tools=[polite]), agent("b", second))

        async with serving(factory(make), tmp_path, drain_grace_s=0.1) as service:
            ticket = await service.submit(Request(key=key(), input="q"))
            assert await asyncio.to_thread(entered.wait, 20)
            while (await service.run(ticket.key.principal, ticket.run_id)).phase != "node a":
                await asyncio.sleep(0.01)
            await service.drain()
            end = await asyncio.wait_for(ticket.stream.outcome(), 20)
            assert not isinstance(end, Later), "a run that is not resumable is not requeued"
            assert end.error is not None
            assert end.error.code is ErrorCode.STOPPED
            assert reported.is_set()
            assert started == []

    run(main)


def test_a_cancel_that_comes_too_late_does_not_cancel_the_next_run(tmp_path: Path) -> None:
    async def main() -> None:
        made: list[Graph] = []
        cancelled_at: list[Signal] = []

        class Seen(FactoryTarget):
            async def build(self, *given: Any) -> Any:
                built: Any = await super().build(*given)
                run_it = built.run

                async def noted(attempt: Attempt) -> Finished:
                    cancelled_at.append(attempt.signal)
                    return await run_it(attempt)  # type: ignore[no-any-return]

                built.run = noted
                return built

        async def end_late(event: AfterMultiAgentInvocationEvent) -> None:
            if len(cancelled_at) == 1:
                cancelled_at[0].set()
                inner: Any = made[0].nodes["a"].executor
                await until(inner.cancel_signal.is_set)

        def make() -> Graph:
            made.append(graph(agent("a")))
            made[-1].add_hook(end_late, AfterMultiAgentInvocationEvent)
            return made[-1]

        async with serving(Seen(make, takes=NOTHING, description="test"), tmp_path) as service:
            assert (await ask(service, "q")).output == "a 1"
            assert (await ask(service, "q")).output == "a 2"

    run(main)


def test_a_node_that_is_reset_within_a_run_forgets_earlier_runs_then(tmp_path: Path) -> None:
    async def main() -> None:
        visits: list[str] = []

        def make() -> Graph:
            builder = GraphBuilder()
            builder.add_node(agent("a"), "a")
            builder.add_node(agent("b"), "b")
            builder.add_edge("a", "b")
            builder.add_edge("b", "a", condition=lambda state: len(state.execution_order) < 3)
            builder.set_entry_point("a")
            builder.reset_on_revisit().set_execution_timeout(30)
            made = builder.build()

            def note(event: AfterNodeCallEvent) -> None:
                visits.append(str(made.state.results[event.node_id].result).strip())

            made.add_hook(note, AfterNodeCallEvent)
            return made

        async with serving(factory_of_one(make), tmp_path) as service:
            await ask(service, "q")
            await ask(service, "q")
        assert visits == ["a 1", "b 1", "a 1", "b 1", "a 2", "b 2", "a 1", "b 1"]

    run(main)


def test_a_cancelled_swarm_has_not_succeeded(tmp_path: Path) -> None:
    async def main() -> None:
        entered = threading.Event()

        @tool(context=True)
        def polite(tool_context: ToolContext) -> str:
            """Work until stopped."""
            entered.set()
            assert tool_context.cancel_signal.wait(20)
            return "stopped"

        def make() -> Swarm:
            return Swarm([agent("a", lambda _: [call("polite")], tools=[polite])])

        async with serving(factory(make), tmp_path, drain_grace_s=0.1) as service:
            ticket = await service.submit(Request(key=key(), input="q"))
            assert await asyncio.to_thread(entered.wait, 20)
            await service.drain()
            end = await asyncio.wait_for(ticket.stream.outcome(), 20)
            assert isinstance(end, Outcome)
            assert end.status is RunStatus.FAILED
            assert "Cancelled by user" not in texts([end.message] if end.message else [])

    run(main)


# -- what is refused ----------------------------------------------------------------------------------


class Odd(MultiAgentBase):
    """An orchestrator of a user's own."""

    id = "odd"

    async def invoke_async(self, task: Any, invocation_state: Any = None, **options: Any) -> Any:
        raise NotImplementedError


ONE = agent("one")
MODEL: Model = ScriptedModel(lambda _: "fine")
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a graph's session manager": (
        lambda folder: graph(agent("a"), set_session_manager=FileSessionManager("x", storage_dir=str(folder))),
        "the Graph has a session manager",
    ),
    "a nested swarm's session manager": (
        lambda folder: graph(
            Swarm([agent("a")], id="t", session_manager=FileSessionManager("x", storage_dir=str(folder)))
        ),
        "the Swarm has a session manager",
    ),
    "checkpointing in a node": (lambda _: graph(agent("a", checkpointing=True)), "checkpointing=True"),
    "an orchestrator of one's own": (lambda _: graph(Odd()), "node odd of the Graph is an object of type"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_what_a_graph_cannot_have_fails_the_run_with_the_reason(refused: str, tmp_path: Path) -> None:
    async def main() -> None:
        make, said = REFUSED[refused]
        async with serving(factory(lambda: make(tmp_path)), tmp_path) as service:
            outcome = await ask(service, "q")
            assert outcome.error is not None
            assert said in outcome.error.detail

    run(main)


def test_neither_a_graph_nor_an_agent_of_it_serves_two_sessions(tmp_path: Path) -> None:
    async def main() -> None:
        same, shared = graph(agent("a")), agent("b")
        for make, name in ((lambda: same, "Graph"), (lambda: graph(shared), "Agent")):
            async with serving(factory_of_one(make), tmp_path) as service:
                assert (await ask(service, "q", "one")).status is RunStatus.SUCCEEDED
                outcome = await ask(service, "q", "two")
                assert outcome.error is not None
                assert f"the same {name} for two sessions" in outcome.error.detail

    run(main)


def test_the_agents_of_a_graph_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        def make() -> Graph:
            return graph(Agent(model=MODEL, name="a"))

        async with serving(factory(make), tmp_path) as service:
            await ask(service, "q")

    run(main)
    assert capsys.readouterr().out == ""


def test_nodes_get_the_context_of_their_run(tmp_path: Path) -> None:
    async def main() -> None:
        reported: list[Any] = []

        @tool(context=True)
        def look(tool_context: ToolContext) -> str:
            """Look at what the run knows."""
            reported.append(dict(tool_context.invocation_state))
            return "seen"

        def make() -> Graph:
            return graph(agent("a", lambda messages: "ok" if results(messages) else [call("look")], tools=[look]))

        async with serving(factory(make), tmp_path) as service:
            await ask(service, "q")
            assert reported[0]["session_id"] == "s"
            assert reported[0]["workspace"] == str(tmp_path / "s")

    run(main)

"""One Agent object for all sessions: what a run does to it is gone when the next session has its turn."""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.hooks import BeforeModelCallEvent
from strands.session import FileSessionManager
from strands.types.content import Messages

from engine_support import key, texts
from strandline._agents.singleton import SingletonTarget
from strandline._clock import SystemClock
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._journal.memory import MemoryJournal
from strandline._model import RunStatus
from strandline.errors import TargetError
from strandline.testing import Gate, ScriptedModel, call, pause, results
from strandline.testing import question as prompt_of
from target_support import ask, history, run, serving

TURNS: dict[str, Any] = {"max_running": 1, "max_agents": 0}
"""One run at a time, and no agent stays in memory: the engine's options for a singleton target."""


def target(agent: Agent) -> SingletonTarget:
    return SingletonTarget(agent, description="agent test")


@tool
def extra() -> str:
    """Do more."""
    return "more"


def set_state(agent: Agent) -> None:
    agent.state.set("secret", "of one")


def set_prompt(agent: Agent) -> None:
    agent.system_prompt = "secret"


def add_tool(agent: Agent) -> None:
    agent.tool_registry.register_tool(extra)


def remove_tool(agent: Agent) -> None:
    agent.tool_registry.registry.pop("spare")


def add_hook(agent: Agent) -> None:
    agent.add_hook(lambda event: None, BeforeModelCallEvent)


def narrow_window(agent: Agent) -> None:
    manager = agent.conversation_manager
    assert isinstance(manager, SlidingWindowConversationManager)
    manager.window_size, manager.removed_message_count = 2, 7


def replace_manager(agent: Agent) -> None:
    agent.conversation_manager = SlidingWindowConversationManager(3)


def keep_attribute(agent: Agent) -> None:
    agent.secret = "of one"  # type: ignore[attr-defined]


def change_model(agent: Agent) -> None:
    agent.model.config["temperature"] = 2  # type: ignore[attr-defined]


def replace_model(agent: Agent) -> None:
    agent.model = ScriptedModel(lambda _: "secret")


def keep_model_state(agent: Agent) -> None:
    agent._model_state["response_id"] = "of one"


def add_plugin(agent: Agent) -> None:
    agent._plugin_registry._plugins["secret"] = agent._plugin_registry._plugins["strands:model"]


def add_middleware(agent: Agent) -> None:
    agent._middleware_registry._handlers["secret"] = []  # type: ignore[index]


def retry_more(agent: Agent) -> None:
    agent._retry_strategy._max_attempts = 99


def nothing(agent: Agent) -> None: ...


CHANGES: list[Callable[[Agent], None]] = [
    set_state,
    set_prompt,
    add_tool,
    remove_tool,
    add_hook,
    narrow_window,
    replace_manager,
    keep_attribute,
    change_model,
    replace_model,
    keep_model_state,
    add_plugin,
    add_middleware,
    retry_more,
    nothing,
]


def seen(agent: Agent) -> dict[str, Any]:
    """What the next session could see of an agent that a run begins on."""
    return copy.deepcopy(
        {
            "attributes": sorted(vars(agent)),
            "messages": texts(agent.messages[:-1]),  # type: ignore[arg-type]
            "state": agent.state.get(),
            "system_prompt": agent.system_prompt,
            "tools": sorted(agent.tool_registry.registry),
            "dynamic_tools": sorted(agent.tool_registry.dynamic_tools),
            "hooks": {kind.__name__: len(each) for kind, each in agent.hooks._registered_callbacks.items()},
            "manager": (id(agent.conversation_manager), vars(agent.conversation_manager)),
            "model": (id(agent.model), agent.model.config),  # type: ignore[attr-defined]
            "model_state": agent._model_state,
            "interrupts": agent._interrupt_state.to_dict(),
            "plugins": sorted(agent._plugin_registry._plugins),
            "middleware": len(agent._middleware_registry._handlers),
            "retries": vars(agent._retry_strategy)["_max_attempts"],
            "metrics": (len(agent.event_loop_metrics.agent_invocations), agent.event_loop_metrics.cycle_count),
            "cancelled": agent.cancel_signal.is_set(),
        }
    )


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_that_a_run_does_to_the_agent_is_there_for_the_next_session(
    change: Callable[[Agent], None], tmp_path: Path
) -> None:
    async def main() -> None:
        looks: list[dict[str, Any]] = []

        @tool(context=True)
        def meddle(tool_context: ToolContext) -> str:
            """Change the agent."""
            change(tool_context.agent)
            return "meddled"

        @tool
        def spare() -> str:
            """Do nothing."""
            return ""

        def script(messages: Messages) -> Any:
            return "done" if "meddle" not in prompt_of(messages) or results(messages) else [call("meddle")]

        model = ScriptedModel(script)
        model.config = {"temperature": 0}  # type: ignore[attr-defined]
        agent = Agent(model=model, tools=[meddle, spare], system_prompt="be kind", state={"n": 1})

        def look(event: BeforeModelCallEvent) -> None:
            if not results(event.agent.messages):
                looks.append(seen(event.agent))

        agent.add_hook(look, BeforeModelCallEvent)
        async with serving(target(agent), tmp_path, **TURNS) as service:
            await ask(service, "look", "before")
            assert (await ask(service, "meddle", "one")).status is RunStatus.SUCCEEDED
            await ask(service, "look", "two")
        before, _, after = looks
        assert after == before

    run(main)


def test_each_session_goes_on_with_its_own_conversation_and_state(tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def count(tool_context: ToolContext) -> str:
            """Count in the agent's state."""
            tool_context.agent.state.set("n", (tool_context.agent.state.get("n") or 0) + 1)
            return str(tool_context.agent.state.get("n"))

        def script(messages: Messages) -> Any:
            given = results(messages)
            own = {text.split()[0] for text in texts(messages) if "#" in text}  # type: ignore[arg-type]
            return f"{' '.join(sorted(own))} {next(iter(given.values()))}" if given else [call("count")]

        served = target(Agent(model=ScriptedModel(script), tools=[count]))
        journal = MemoryJournal(SystemClock())
        async with serving(served, tmp_path, journal, **TURNS) as service:
            for number in range(1, 4):
                answers = await asyncio.gather(*(ask(service, f"{each} #{number}", each) for each in "abc"))
                assert [answer.output for answer in answers] == [f"{each} {number}" for each in "abc"]
            assert len(await history(service, "a")) == 12
            await service.drain()
        async with serving(served, tmp_path, journal, **TURNS) as service:
            assert (await ask(service, "b #4", "b")).output == "b 4"

    run(main)


def test_the_messages_that_the_agent_was_made_with_stand_before_each_conversation(tmp_path: Path) -> None:
    async def main() -> None:
        primers: Any = [
            {"role": "user", "content": [{"text": "rule"}]},
            {"role": "assistant", "content": [{"text": "ok"}]},
        ]
        agent = Agent(model=ScriptedModel(lambda messages: " ".join(texts(messages))), messages=primers)  # type: ignore[arg-type]
        async with serving(target(agent), tmp_path, **TURNS) as service:
            assert (await ask(service, "x", "one")).output == "rule ok x"
            assert (await ask(service, "y", "two")).output == "rule ok y"
            assert (await ask(service, "z", "one")).output == "rule ok x rule ok x z"

    run(main)


def test_a_question_in_one_session_does_not_wait_for_an_answer_in_another(tmp_path: Path) -> None:
    async def main() -> None:
        @tool(context=True)
        def approve(tool_context: ToolContext) -> str:
            """Ask a person."""
            return str(tool_context.interrupt("approval", reason="may I?"))

        agent = Agent(
            model=ScriptedModel(lambda messages: [call("approve")] if prompt_of(messages) == "ask" else "quick"),
            tools=[approve],
        )
        async with serving(target(agent), tmp_path, **TURNS) as service:
            assert (await ask(service, "ask", "one")).status is not RunStatus.SUCCEEDED
            assert (await ask(service, "x", "two")).output == "quick"

    run(main)


def test_a_run_that_fails_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        def script(messages: Messages) -> Any:
            if prompt_of(messages) == "fail":
                raise ConnectionError("gone")
            return " ".join(texts(messages))  # type: ignore[arg-type]

        agent = Agent(model=ScriptedModel(script))
        async with serving(target(agent), tmp_path, **TURNS) as service:
            assert (await ask(service, "fail", "one")).status is RunStatus.FAILED
            assert (await ask(service, "x", "two")).output == "x"

    run(main)


def test_a_stop_in_the_middle_does_not_cancel_the_next_run(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        agent = Agent(
            model=ScriptedModel(lambda messages: [pause(gate), "late"] if prompt_of(messages) == "slow" else "quick")
        )
        served = target(agent)
        async with serving(served, tmp_path, drain_grace_s=0.05, **TURNS) as service:
            slow = asyncio.create_task(ask_or_later(service))
            await asyncio.wait_for(gate.reached.wait(), 20)
            await service.drain()
            await slow
        agent.cancel()  # as a tool does that is late
        async with serving(served, tmp_path, **TURNS) as service:
            assert (await ask(service, "x", "two")).output == "quick"

    run(main)


async def ask_or_later(service: Service) -> None:
    ticket = await service.submit(Request(key=key("one"), input="slow"))
    await ticket.stream.outcome()


def test_an_agent_that_is_a_tool_of_it_remembers_nothing_of_another_session(tmp_path: Path) -> None:
    async def main() -> None:
        helper = Agent(
            model=ScriptedModel(lambda messages: f"asked {len(messages)}"), name="helper", callback_handler=None
        )

        def script(messages: Messages) -> Any:
            given = results(messages)
            return next(iter(given.values())) if given else [call("helper", {"input": "help"})]

        agent = Agent(model=ScriptedModel(script), tools=[helper.as_tool(preserve_context=True)])
        async with serving(target(agent), tmp_path, **TURNS) as service:
            assert (await ask(service, "q", "one")).output.strip() == "asked 1"
            assert (await ask(service, "q", "two")).output.strip() == "asked 1"

    run(main)


def test_the_start_up_line_says_what_a_factory_would_do_better() -> None:
    served = target(Agent(model=ScriptedModel(lambda _: "")))
    assert served.singleton
    assert served.resumable
    assert "one run at a time" in served.description
    assert "make_agent" in served.description
    assert "\n" not in served.description


@pytest.mark.parametrize("part", ["session_manager", "checkpointing", "background_tasks"])
def test_a_singleton_agent_with_unsupported_options_is_refused_with_the_reason(part: str, tmp_path: Path) -> None:
    value = FileSessionManager("x", storage_dir=str(tmp_path)) if part == "session_manager" else True
    agent = Agent(model=ScriptedModel(lambda _: ""), **{part: value})  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="session manager" if part == "session_manager" else part):
        target(agent)

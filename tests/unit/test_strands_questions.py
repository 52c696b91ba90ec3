"""Strands agents that ask a person: how they resume, for all kinds of agents and managers of their window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, ToolContext, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager
from strands.types.content import Messages

from engine_support import key, tool_texts
from strandline._agents.singleton import SingletonTarget
from strandline._clock import SystemClock
from strandline._engine.requests import Request
from strandline._history import DISMISSED
from strandline._journal.memory import MemoryJournal
from strandline._model import RunStatus
from strandline.errors import Invalid
from strandline.testing import ScriptedModel, call, results
from strandline.testing import question as prompt_of
from strands_support import answer, ask, history, run, serving
from target_support import serving as serving_target


@tool(context=True)
def approve(what: str, tool_context: ToolContext) -> str:
    """Ask a person.

    Args:
        what: What for.
    """
    tool_context.agent.state.set("asked", (tool_context.agent.state.get("asked") or 0) + 1)
    return f"{what}: {tool_context.interrupt(what, reason='sure?')}"


def script(messages: Messages) -> Any:
    """Ask for what the question names, all at once."""
    if reported := results(messages):
        return ", ".join(sorted(reported.values()))
    words = prompt_of(messages).split()
    return [call("approve", {"what": each}) for each in words[1:]] if words[0] == "ask" else f"answer to {words[0]}"


def factory(**more: Any) -> Callable[[], Agent]:
    return lambda: Agent(model=ScriptedModel(script), tools=[approve], **more)


def test_two_tools_that_ask_are_answered_together(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(factory(), tmp_path) as service:
            end = await ask(service, "ask a b")
            # (they ask in threads: either may be the first)
            first, second = sorted(end.input_requests, key=lambda each: each.name)
            for one in (first, second):
                with pytest.raises(Invalid, match="together"):
                    await service.submit(Request(key=key(), answers={one.id: "yes"}))
            given = {first.id: "yes", second.id: {"no": ["not", "now"]}}
            ticket = await service.submit(Request(key=key(), answers=given))
            last: Any = await ticket.stream.outcome()
            assert last.output == "a: yes, b: {'no': ['not', 'now']}"
            assert len(await history(service)) == 4

    run(main)


def test_what_an_agent_keeps_goes_over_to_the_one_that_goes_on(tmp_path: Path) -> None:
    """State that was written before the question is there, and nothing of the question is left after it."""

    async def main() -> None:
        journal = MemoryJournal(SystemClock())
        async with serving(factory(), tmp_path, journal) as service:
            end = await ask(service, "ask a")
            assert service.health().agents_in_memory == 0
        async with serving(factory(), tmp_path, journal) as service:
            assert (await answer(service, end)).output == "a: yes"
            record = await journal.load(key())
            assert record.state is not None
            assert record.state["state"] == {"asked": 2}
            assert "interrupt_state" not in record.state
            assert service.health().agents_in_memory == 1
            assert (await ask(service, "next")).output == "answer to next"

    run(main)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_window_that_slides_over_a_question_stays_one_that_a_provider_takes(size: int, tmp_path: Path) -> None:
    async def main() -> None:
        def made() -> Agent:
            return factory(conversation_manager=SlidingWindowConversationManager(window_size=size))()

        journal = MemoryJournal(SystemClock())
        async with serving(made, tmp_path, journal) as service:
            for n in range(3):
                await ask(service, f"n{n}")
                end = await ask(service, f"ask a{n}")
                assert (await answer(service, end)).output == f"a{n}: yes"
            await ask(service, "ask b")
        async with serving(made, tmp_path, journal, input_timeout_s=0.001) as service:
            await service.cancel_session(key(), running=True)
            assert (await ask(service, "last")).output == "answer to last"
            assert tool_texts(await history(service)) == ["a0: yes", "a1: yes", "a2: yes", DISMISSED]

    run(main)


def test_a_singleton_agent_requests_input_in_each_session_alone(tmp_path: Path) -> None:
    async def main() -> None:
        target = SingletonTarget(factory()(), description="one")
        async with serving_target(target, tmp_path) as service:
            first = await ask(service, "ask a", "s")
            assert first.status is RunStatus.NEEDS_INPUT
            assert (await ask(service, "hello", "t")).output == "answer to hello"
            second = await ask(service, "ask b", "t")
            assert (await answer(service, first, "one", "s")).output == "a: one"
            assert (await answer(service, second, "two", "t")).output == "b: two"

    run(main)


def test_a_sub_agent_that_requests_input_is_answered_through_its_user(tmp_path: Path) -> None:
    async def main() -> None:
        def outer(messages: Messages) -> Any:
            reported = results(messages)
            return f"it says {list(reported.values())}" if reported else [call("helper", {"input": "ask a"})]

        def made() -> Agent:
            helper = Agent(model=ScriptedModel(script), tools=[approve], name="helper", description="asks")
            return Agent(model=ScriptedModel(outer), tools=[helper])

        async with serving(made, tmp_path) as service:
            end = await ask(service, "go")
            assert [each.name for each in end.input_requests] == ["a"]
            last = await answer(service, end)
            assert "a: yes" in last.output, last

    run(main)

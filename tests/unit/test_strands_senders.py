"""Who said it, as Strands agents and their tools see it: in the run, in the conversation, and rebuilt from history."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strands import Agent, ToolContext, tool

from engine_support import key
from strandline._clock import SystemClock
from strandline._engine.requests import Request
from strandline._journal.memory import MemoryJournal
from strandline._model import IfBusy, Outcome, Sender
from strandline.testing import ScriptedModel, call, results
from strandline.testing import question as prompt_of
from strands_support import history, run, serving
from target_support import ask

ADA, BOB = Sender("U1", "Ada"), Sender("U2", "Bob")
CUSTOM_ADA = {"custom": {"sender": {"id": "U1", "name": "Ada"}}}


class World:
    """Agents whose tool notes the sender of the run, and the metadata of the user's messages."""

    def __init__(self) -> None:
        self.senders: list[Any] = []
        self.metadata: list[list[Any]] = []
        self.prompts: list[str] = []
        self.on_look: Callable[[], object] = lambda: None

    def agent(self) -> Agent:
        @tool(context=True)
        def look(tool_context: ToolContext) -> str:
            """Look."""
            self.senders.append(tool_context.invocation_state["sender"])
            messages: list[Any] = tool_context.agent.messages
            self.metadata.append([each.get("metadata") for each in messages if each["role"] == "user"])
            self.on_look()
            return "seen"

        @tool(context=True)
        def approve(tool_context: ToolContext) -> str:
            """Ask a person."""
            return str(tool_context.interrupt("approval", reason="sure?"))

        def script(messages: Any) -> Any:
            if results(messages):
                return "done"
            self.prompts.append(prompt_of(messages))
            return [call("approve")] if "pay" in self.prompts[-1] else [call("look")]

        return Agent(model=ScriptedModel(script), tools=[look, approve])


def metadata_of(messages: list[Any]) -> list[Any]:
    return [each.get("metadata") for each in messages if each["role"] == "user"]


def test_a_message_keeps_its_sender_in_the_agent_in_history_and_in_an_agent_that_is_built_from_it(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        journal, world = MemoryJournal(SystemClock()), World()
        async with serving(world.agent, tmp_path, journal, trusted_senders=True) as service:
            await ask(service, "hi", sender=ADA)
            await ask(service, "ho")
            assert metadata_of(await history(service)) == [CUSTOM_ADA, None, None, None]
        async with serving(world.agent, tmp_path, journal, trusted_senders=True) as service:
            await ask(service, "hum", sender=BOB)
        named = {"id": "U1", "name": "Ada"}
        assert world.senders == [named, None, {"id": "U2", "name": "Bob"}]
        custom_bob = {"custom": {"sender": {"id": "U2", "name": "Bob"}}}
        assert world.metadata == [
            [CUSTOM_ADA],
            [CUSTOM_ADA, None, None],
            [CUSTOM_ADA, None, None, None, custom_bob],
        ], "the live agent and the one that was built anew know the same"
        assert world.prompts == ["hi", "ho", "hum"], "without a template the model reads the text alone"

    run(main)


def test_what_is_said_meanwhile_keeps_its_sender_in_a_live_agent_and_in_one_that_is_built_from_history(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        journal, world = MemoryJournal(SystemClock()), World()
        loop = asyncio.get_running_loop()
        async with serving(world.agent, tmp_path, journal, trusted_senders=True) as service:
            steer = Request(key=key(), input="and kind", if_busy=IfBusy.STEER, sender=ADA)
            world.on_look = lambda: asyncio.run_coroutine_threadsafe(service.submit(steer), loop).result(30)
            await ask(service, "hi", sender=ADA)
            world.on_look = lambda: None
            await ask(service, "ho", sender=BOB)
        async with serving(world.agent, tmp_path, journal, trusted_senders=True) as service:
            await ask(service, "hum", sender=BOB)
        custom_bob = {"custom": {"sender": {"id": "U2", "name": "Bob"}}}
        assert world.metadata == [
            [CUSTOM_ADA],
            [CUSTOM_ADA, CUSTOM_ADA, custom_bob],
            [CUSTOM_ADA, CUSTOM_ADA, custom_bob, None, custom_bob],
        ]

    run(main)


def test_the_model_reads_who_said_it_where_a_template_says_how(tmp_path: Path) -> None:
    async def main() -> None:
        world = World()
        options: dict[str, Any] = {"trusted_senders": True, "sender_template": "{name} ({id}): {text}"}
        async with serving(world.agent, tmp_path, **options) as service:
            await ask(service, "hi", sender=ADA)
            await ask(service, "ho")
            ticket = await service.submit(Request(key=key("s", "bot"), input="hum"))
            assert isinstance(await ticket.stream.outcome(), Outcome)
            first, *_ = await history(service)
            assert first["content"] == [{"text": "Ada (U1): hi"}], "history has what the model has read"
        assert world.prompts == ["Ada (U1): hi", "ho", "bot (bot): hum"]
        assert world.senders == [{"id": "U1", "name": "Ada"}, None, {"id": "bot", "name": "bot"}]

    run(main)


def test_an_answer_says_who_gave_it_and_is_not_put_into_a_template(tmp_path: Path) -> None:
    async def main() -> None:
        world = World()
        options: dict[str, Any] = {"trusted_senders": True, "sender_template": "{name}: {text}"}
        async with serving(world.agent, tmp_path, **options) as service:
            end = await ask(service, "pay", sender=ADA)
            answers = {end.input_requests[0].id: "yes"}
            ticket = await service.submit(Request(key=key(), answers=answers, sender=BOB))
            assert isinstance(await ticket.stream.outcome(), Outcome)
            asked, _, given, _ = await history(service)
            assert given["content"][0]["toolResult"]["content"] == [{"text": "yes"}]
        custom_bob = {"custom": {"sender": {"id": "U2", "name": "Bob"}}}
        assert (asked.get("metadata"), given.get("metadata")) == (CUSTOM_ADA, custom_bob)

    run(main)

"""Sessions as the original runner left them: written by Strands' own `FileSessionManager` and a real agent."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from strands import Agent, tool
from strands.agent.conversation_manager import SlidingWindowConversationManager, SummarizingConversationManager
from strands.session.file_session_manager import FileSessionManager
from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, say

IMAGE: Final = {"image": {"format": "png", "source": {"bytes": b"\x89PNG\x00\xff"}}}


def script(messages: Messages) -> Answer:
    """Answer a question; use a tool for `tool`, `hang`, and fail for `fail`, after a tool for `tool fail`."""
    last = messages[-1]["content"]
    text = next(
        (b["text"] for m in reversed(messages) for b in m["content"] if m["role"] == "user" and "text" in b), ""
    )
    if any("toolResult" in block for block in last):
        if text.endswith("fail"):
            raise ConnectionError("the provider is out of order")
        return f"used a tool for {text}"
    if text.startswith(("tool", "hang")):
        return [say("Let me see. "), call(text.split()[0], {"what": text})]
    if text.endswith("fail"):
        raise ConnectionError("the provider is out of order")
    return f"answer to {text}"


@tool(name="tool")
def use(what: str) -> str:
    """Do something.

    Args:
        what: what to do
    """
    return f"did {what}"


hanging: asyncio.Event


@tool
async def hang(what: str) -> str:
    """Do something that never ends.

    Args:
        what: what to do
    """
    hanging.set()
    await asyncio.Event().wait()
    return what


def agent_of(folder: Path, session: str, agent_id: str = "default", manager: Any = None) -> Agent:
    return Agent(
        agent_id=agent_id,
        model=ScriptedModel(script),
        tools=[use, hang],
        session_manager=FileSessionManager(session, storage_dir=str(folder)),
        conversation_manager=manager,
        callback_handler=None,
    )


async def ask(agent: Agent, *questions: Any) -> None:
    """Ask; a question that begins with `hang` is cancelled while its tool works."""
    global hanging
    for question in questions:
        hanging = asyncio.Event()
        run = asyncio.create_task(agent.invoke_async(question))
        if isinstance(question, str) and question.startswith("hang"):
            await hanging.wait()
            run.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await run


async def write(folder: Path) -> None:
    """Write one session of each kind."""
    sound = agent_of(folder, "sound")
    sound.state.set("mood", {"is": "good"})
    await ask(sound, "one", "tool two", [{"text": "three"}, IMAGE])
    await ask(agent_of(folder, "failed"), "one fail", "two", "tool three fail", "four fail", "five fail")
    await ask(agent_of(folder, "cut"), "one", "hang two")
    await ask(agent_of(folder, "went-on"), "hang one")
    await ask(agent_of(folder, "went-on"), "two")
    await ask(agent_of(folder, "windowed", manager=SlidingWindowConversationManager(window_size=4)), *"abcdef")
    summarizing = agent_of(folder, "summarized", manager=SummarizingConversationManager(preserve_recent_messages=2))
    await ask(summarizing, *"abcdef")
    summarizing.conversation_manager.reduce_context(summarizing)
    await ask(summarizing, "g")
    agent_of(folder, "empty")
    await ask(agent_of(folder, "two", "first"), "one")
    await ask(agent_of(folder, "two", "second"), "two")

"""The agent of the race test, held at the checkpoint `asked` before every answer."""

import asyncio

from strands import Agent
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline.testing import ScriptedModel, question


async def repeat(messages: Messages) -> str:
    """Answer the last question."""
    await asyncio.to_thread(pass_step, "asked")
    return f"You asked: {question(messages)}"


def make_agent() -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(repeat))

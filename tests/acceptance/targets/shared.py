"""One agent for all sessions. It answers with all questions that it knows; each model call begins and ends at a
checkpoint, `QUESTION begins` and `QUESTION ends`."""

import asyncio

from strands import Agent
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline.testing import ScriptedModel, question


async def script(messages: Messages) -> str:
    """Say which questions are in the conversation."""
    await asyncio.to_thread(pass_step, f"{question(messages)} begins")
    known = [block["text"] for each in messages if each["role"] == "user" for block in each["content"]]
    await asyncio.to_thread(pass_step, f"{question(messages)} ends")
    return " ".join(known)


agent = Agent(model=ScriptedModel(script))

"""An agent with a badly written async tool: it blocks its event loop for the given time."""

import asyncio
import time

from strands import Agent, tool
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline.testing import Answer, ScriptedModel, call, question, results


@tool
async def block(seconds: float) -> str:
    """Block the event loop.

    Args:
        seconds: for how long
    """
    await asyncio.to_thread(pass_step, "blocks")
    time.sleep(seconds)
    return "done"


def script(messages: Messages) -> Answer:
    """Block on `block SECONDS`; answer everything else at once."""
    word, _, seconds = question(messages).partition(" ")
    if word != "block" or results(messages):
        return f"answer to {question(messages)}"
    return [call("block", {"seconds": float(seconds)})]


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(script), tools=[block])

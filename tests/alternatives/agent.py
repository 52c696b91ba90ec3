"""The agent that the race test asks: it repeats the question, slowly, and fails when it is asked to.

Any server may serve it: `make_agent` is a factory. `ANSWER_S` sets how many seconds an answer takes.
"""

import asyncio
import os

from strands import Agent
from strands.types.agent import ConcurrentInvocationMode
from strands.types.content import Messages

from strandline.testing import ScriptedModel, question

ANSWER_S = float(os.environ.get("ANSWER_S", "0.2"))


async def repeat(messages: Messages) -> str:
    """Answer the last question after a while; a question with `please fail` is the provider's failure."""
    prompt = question(messages)
    await asyncio.sleep(ANSWER_S)
    if "please fail" in prompt:
        raise ConnectionError("the provider is out of order")
    return f"You asked: {prompt}"


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(repeat), callback_handler=None)


def make_reentrant_agent(session_id: str) -> Agent:
    """Build an agent that lets several calls in at once, which its makers call unsafe."""
    mode = ConcurrentInvocationMode.UNSAFE_REENTRANT
    return Agent(model=ScriptedModel(repeat), callback_handler=None, concurrent_invocation_mode=mode)

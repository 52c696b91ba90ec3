"""The agent of the memory benchmark: ten tools that it never calls. A question `hold` is never answered."""

import asyncio

from strands import Agent, tool
from strands.types.content import Messages
from strands.types.tools import AgentTool

from strandline.testing import ScriptedModel, question


async def answer(messages: Messages) -> str:
    prompt = question(messages)
    if prompt == "hold":
        await asyncio.Event().wait()
    return f"You said: {prompt}"


def make_tool(number: int) -> AgentTool:
    @tool(name=f"tool_{number}", description="Look something up in one of ten places.")
    def look_up(query: str, limit: int = 10) -> str:
        return f"{limit} results for {query}"

    return look_up


MODEL = ScriptedModel(answer)
TOOLS = [make_tool(number) for number in range(10)]


def make_agent(session_id: str) -> Agent:
    return Agent(model=MODEL, tools=list(TOOLS), callback_handler=None)

"""The scripted agent of `strandline init`, with a tool that ends only when its run is cancelled, and one that asks."""

import asyncio

from strands import Agent, ToolContext, tool

from strandline.providers import load_model


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def ponder(seconds: int) -> str:
    """Think it over."""
    await asyncio.Event().wait()
    return f"thought for {seconds} s"


@tool(context=True)
def pay(amount: int, tool_context: ToolContext) -> str:
    """Pay, if a person agrees."""
    return f"paid {amount}" if tool_context.interrupt("pay", reason={"amount": amount}) == "yes" else "paid nothing"


def make_agent(session_id: str) -> Agent:
    return Agent(model=load_model("scripted"), tools=[add, ponder, pay])

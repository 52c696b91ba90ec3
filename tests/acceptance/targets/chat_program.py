"""The scripted agent of `strandline init`, with a tool more that ends only when its run is cancelled."""

import asyncio

from strands import Agent, tool

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


def make_agent(session_id: str) -> Agent:
    return Agent(model=load_model("scripted"), tools=[add, ponder])

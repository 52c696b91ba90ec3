"""An agent, and beside it a page that talks with it and shows the answer as it comes."""

from pathlib import Path

from script import model
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from strands import Agent, tool

import strandline

PAGE = Path(__file__).with_name("page.html")


@tool
def order_status(number: int) -> str:
    """Say how far an order is.

    Args:
        number: The order's number.
    """
    return {17: "on its way", 18: "waiting to be packed"}.get(number, "unknown")


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=model, tools=[order_status], system_prompt="You answer a shop's customers.")


async def page(request: Request) -> FileResponse:
    """Return the page. It comes from where the agent is, so that a browser lets it ask there."""
    return FileResponse(PAGE)


agent = strandline.asgi(make_agent, journal="sqlite:data/journal.db")
app = Starlette(routes=[Route("/", page), Mount("/agent", agent)], lifespan=agent.lifespan)

"""A shop's FastAPI app, and beside its own routes an agent that knows the shop's orders."""

import asyncio

from fastapi import FastAPI, HTTPException, Response
from script import model
from strands import Agent, tool

import strandline

ORDERS = {17: "on its way", 18: "waiting to be packed"}


@tool
def order_status(number: int) -> str:
    """Say how far an order is.

    Args:
        number: The order's number.
    """
    return ORDERS.get(number, "unknown")


@tool
async def pack(number: int) -> str:
    """Pack an order. Takes a while.

    Args:
        number: The order's number.
    """
    await asyncio.sleep(2)
    ORDERS[number] = "packed"
    return "packed"


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=model, tools=[order_status, pack], system_prompt="You answer a shop's customers.")


agent = strandline.asgi(make_agent, journal="sqlite:data/journal.db")
app = FastAPI(title="A shop", lifespan=agent.lifespan)
app.mount("/agent", agent)


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, str]:
    """A route of the shop's own."""
    if number not in ORDERS:
        raise HTTPException(404, "there is no such order")
    return {"status": ORDERS[number]}


@app.post("/orders/{number}/question")
async def question(number: int, text: str, response: Response) -> dict[str, str]:
    """Another one, which asks the agent: each order has a conversation of its own."""
    session = strandline.session_key(f"order-{number}")
    ticket = await agent.service.submit(strandline.Request(key=session, input=text))
    end = await ticket.outcome()
    if end is strandline.Later.LATER:  # the server stops, and continues it after its restart
        response.status_code = 202
        response.headers["Location"] = f"/agent/v1/runs/{ticket.run_id}"
        return {"run_id": ticket.run_id, "answer": ""}
    return {"run_id": ticket.run_id, "answer": end.output}

"""A LangGraph graph that answers questions about orders. Strandline keeps the conversation: it has no checkpointer."""

import re
from typing import Literal

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from script import model

from strandline import Session

ORDERS = {"17": "left the warehouse on Monday, and comes on Thursday", "18": "waits for a spare part"}


class Desk(MessagesState):
    """What goes through the graph: the conversation, and the order that it is about."""

    order: str | None


def triage(state: Desk) -> Literal["look_up", "reply"]:
    """Look up an order if one was named, now or before."""
    return "look_up" if _named(state) or state["order"] else "reply"


def look_up(state: Desk) -> Desk:
    """Put what is known about the order before the model."""
    order = _named(state) or state["order"]
    known = ORDERS.get(order or "", "is not known here")
    return {"messages": [SystemMessage(f"Order {order} {known}.")], "order": order}


async def reply(state: Desk) -> Desk:
    """Ask the model."""
    return {"messages": [await model.ainvoke(state["messages"])], "order": state["order"]}


def _named(state: Desk) -> str | None:
    found = re.search(r"order (\d+)", state["messages"][-1].text)
    return found and found[1]


builder = StateGraph(Desk)
builder.add_node("look_up", look_up)
builder.add_node("reply", reply)
builder.add_conditional_edges(START, triage)
builder.add_edge("look_up", "reply")
builder.add_edge("reply", END)
graph = builder.compile()


async def answer(message: str, session: Session) -> str:
    """Run the graph on the conversation so far; keep the order for the next question of this session."""
    kinds = {"user": HumanMessage, "assistant": AIMessage}
    said = [kinds[each["role"]](each["content"][0]["text"]) for each in session.messages]
    end = await graph.ainvoke(Desk(messages=[*said, HumanMessage(message)], order=session.state.get("order")))
    session.state["order"] = end["order"]
    return str(end["messages"][-1].text)

"""A Graph and a Swarm of two agents each; every model call is a checkpoint, `NODE QUESTION`."""

import asyncio

from strands import Agent
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.graph import Graph
from strands.types.content import Messages

from acceptance.checkpoints import pass_step
from strandline.testing import Answer, ScriptedModel, call, question, results


def node(name: str, *, hands_over_to: str | None = None) -> Agent:
    """Make an agent that answers with its name and how many questions it remembers, or hands over."""

    async def script(messages: Messages) -> Answer:
        prompt = next(word for word in question(messages).split() if word.startswith("q"))
        await asyncio.to_thread(pass_step, f"{name} {prompt}")
        if hands_over_to is not None and not results(messages):
            return [call("handoff_to_agent", {"agent_name": hands_over_to, "message": f"{prompt} is yours"})]
        return f"{name} knows {len([each for each in messages if each['role'] == 'user'])}"

    return Agent(model=ScriptedModel(script), name=name)


def make_graph(session_id: str) -> Graph:
    """Build the Graph of one session."""
    builder = GraphBuilder()
    builder.add_node(node("plans"), "plans")
    builder.add_node(node("writes"), "writes")
    builder.add_edge("plans", "writes")
    builder.set_execution_timeout(60)
    return builder.build()


def make_swarm():  # type: ignore[no-untyped-def]
    """Build the Swarm of one session."""
    return Swarm([node("first", hands_over_to="second"), node("second")])

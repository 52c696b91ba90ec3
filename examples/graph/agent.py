"""Three agents in a graph: one plans, one writes, and one shortens what has become too long."""

from script import model
from strands import Agent
from strands.multiagent import GraphBuilder
from strands.multiagent.graph import Graph, GraphState

LONG = 60


def too_long(state: GraphState) -> bool:
    """Return whether the text must go to the third agent."""
    return len(str(state.results["write"].result)) > LONG


def make_graph(session_id: str) -> Graph:
    """Make the graph of one session; its agents remember what they did in this session."""
    builder = GraphBuilder()
    builder.add_node(Agent(model=model, system_prompt="Plan a text about what you are asked, in a few points."), "plan")
    builder.add_node(Agent(model=model, system_prompt="Write the text that was planned, in a few sentences."), "write")
    builder.add_node(Agent(model=model, system_prompt="Say the same in one sentence."), "shorten")
    builder.add_edge("plan", "write")
    builder.add_edge("write", "shorten", condition=too_long)
    return builder.set_execution_timeout(300).build()

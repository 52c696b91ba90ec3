"""Agents that are told what waits: they answer with what they were told, and with what their tool has read.

`plan LABEL told read` has a round for each further word: `told` returns the `waiting` of the run, `read` is
`waiting_messages`. The answer has what each round returned, a line each. Any other text answers `alone: TEXT`.
Checkpoint: `LABEL model N` before the model's call N (from 0) is answered.
"""

import asyncio
import json
import re

from strands import Agent, ToolContext, tool
from strands.multiagent import GraphBuilder, Swarm
from strands.multiagent.graph import Graph
from strands.types.content import Messages

import strandline
from acceptance.checkpoints import pass_step
from strandline._history import SAID_MEANWHILE
from strandline.testing import Answer, ScriptedModel, call
from strandline.tools import waiting_messages


async def script(messages: Messages) -> Answer:
    """Do what the plan of the last run says."""
    users = [message["content"] for message in messages if message["role"] == "user"]
    begin = max(at for at, content in enumerate(users) if not any("toolResult" in block for block in content))
    plan = re.search(r"plan \w+(?: told| read)+", " ".join(block.get("text", "") for block in users[begin]))
    if plan is None:
        said = [block["text"] for block in users[begin] if block.get("text", SAID_MEANWHILE) != SAID_MEANWHILE]
        return f"alone: {'; '.join(said)}"
    _, label, *rounds = plan[0].split()
    returned = [
        block["toolResult"]["content"] for content in users[begin:] for block in content if "toolResult" in block
    ]
    await asyncio.to_thread(pass_step, f"{label} model {len(returned)}")
    if len(returned) == len(rounds):
        return "\n".join(part["text"] for content in returned for part in content)
    return [call({"told": "told", "read": "waiting_messages"}[rounds[len(returned)]])]


@tool(context=True)
def told(tool_context: ToolContext) -> str:
    """Return what the agent was told."""
    return json.dumps(tool_context.invocation_state.get("waiting"))


def make_agent(session_id: str) -> Agent:
    """Build the agent of one session."""
    return Agent(model=ScriptedModel(script), tools=[told, waiting_messages])


def make_graph(session_id: str) -> Graph:
    """Build a Graph of one session; the second node answers with what it was told, and has read."""
    builder = GraphBuilder()
    builder.add_node(Agent(model=ScriptedModel(lambda messages: "planned"), name="plans"), "plans")
    builder.add_node(make_agent(session_id), "reads")
    builder.add_edge("plans", "reads")
    builder.set_execution_timeout(60)
    return builder.build()


def make_swarm(session_id: str) -> Swarm:
    """Build a Swarm of one session, of one agent."""
    return Swarm([make_agent(session_id)])


async def answer(message: str, session: strandline.Session) -> str:
    """Answer with what an agent of the function was told, and has read."""
    if not message.startswith("plan "):
        return f"alone: {message}"
    return str(await make_agent(session.id).invoke_async(message, invocation_state={"waiting": session.waiting}))

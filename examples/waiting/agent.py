"""A packer that packs one box after the other, and stops as soon as somebody waits."""

from script import model
from strands import Agent, ToolContext, tool

from strandline.tools import waiting_messages


@tool(context=True)
def pack(tool_context: ToolContext) -> str:
    """Pack one box. Says how many messages wait, and from whom."""
    waiting = tool_context.invocation_state["waiting"]
    senders = ", ".join(sender["name"] for sender in waiting["senders"])
    return f"One box is packed. {waiting['count']} wait. {senders}".strip()


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(
        model=model,
        tools=[pack, waiting_messages],
        system_prompt="You pack boxes, one at a time. If somebody waits, read the messages, and say where you stopped.",
    )

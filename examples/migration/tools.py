"""The agent's tools, the same before and after. What they keep in the agent's state comes along."""

from strands import ToolContext, tool


@tool(context=True)
def lend(title: str, tool_context: ToolContext) -> str:
    """Lend a book.

    Args:
        title: Which one.
    """
    state = tool_context.agent.state
    state.set("lent", [*(state.get("lent") or []), title])
    return f"You have {title} now."


@tool(context=True)
def lent(tool_context: ToolContext) -> str:
    """List what was lent."""
    return "You have " + ", ".join(tool_context.agent.state.get("lent") or ["nothing"]) + "."

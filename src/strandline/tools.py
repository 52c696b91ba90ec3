"""Tools for Strands agents that Strandline serves: `Agent(tools=[waiting_messages])`."""

from strandline._agents.waiting_tool import waiting_messages

__all__ = ["waiting_messages"]

"""An agent whose tools come from an MCP server. One client, started here, serves the agents of all sessions."""

import sys
from pathlib import Path

from mcp import StdioServerParameters, stdio_client
from reconnecting import Reconnecting
from script import model
from strands import Agent

SERVER = StdioServerParameters(command=sys.executable, args=[str(Path(__file__).with_name("shop.py"))])

shop = Reconnecting(lambda: stdio_client(SERVER), startup_timeout=10)
shop.start()
tools = shop.list_tools_sync()


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=model, tools=[*tools], system_prompt="You sell what is in stock.")

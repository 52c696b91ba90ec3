"""An MCP client that connects again when its server is gone; the one of Strands fails for good then."""

import asyncio
import contextlib
import threading
from typing import Any

from strands.tools.mcp import MCPClient
from strands.tools.mcp.mcp_types import MCPToolResult
from strands.types.exceptions import MCPClientInitializationError


class Reconnecting(MCPClient):
    """A client that is started once for the whole process, and used by the agents of all sessions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection = 0
        self.connecting = threading.Lock()

    async def call_tool_async(self, *args: Any, **options: Any) -> MCPToolResult:
        """Call a tool. If the server dies meanwhile, the result is unknown, and the call is not repeated."""
        connection = self.connection
        try:
            result = await super().call_tool_async(*args, **options)
        except MCPClientInitializationError:  # not connected: nothing was sent, so it can be sent now
            await asyncio.to_thread(self.connect_again, connection)
            return await super().call_tool_async(*args, **options)
        if result["status"] == "error" and "Connection closed" in str(result["content"]):
            result["content"].append({"text": "The server is gone. What it did of this call is unknown."})
            with contextlib.suppress(MCPClientInitializationError):
                await asyncio.to_thread(self.connect_again, connection)
        return result

    def connect_again(self, connection: int) -> None:
        """Connect, unless somebody else has done so since `connection`."""
        with self.connecting:
            if connection == self.connection:
                self.connection += 1
                with contextlib.suppress(Exception):
                    self.stop(None, None, None)
                self.start()

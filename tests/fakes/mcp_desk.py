"""An MCP server over stdio for tests: `python mcp_desk.py`, with a folder in `DESK`.

While a file `closed` is in the folder it does not start. It notes its process id in `pid`, and in `waiting` that
somebody waits for it.
"""

import os
import sys
from pathlib import Path

DESK = Path(os.environ["DESK"])
if (DESK / "closed").exists():
    sys.exit("closed")  # before anything is imported, which takes a second

import anyio  # noqa: E402
from mcp.server import MCPServer  # noqa: E402

server = MCPServer("desk")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def wait() -> str:
    """Wait for good."""
    (DESK / "waiting").touch()
    await anyio.sleep_forever()
    return "never"


if __name__ == "__main__":
    (DESK / "pid").write_text(str(os.getpid()))
    server.run()

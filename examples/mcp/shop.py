"""An MCP server over stdio: a shop with a few things in it. `agent.py` starts it."""

from mcp.server import MCPServer

STOCK = {"lantern": 3, "rope": 12, "tent": 0}

server = MCPServer("shop")


@server.tool()
def stock(thing: str) -> str:
    """Return how many of a thing are in stock."""
    return f"{STOCK.get(thing, 0)} of {thing}"


@server.tool()
def reserve(thing: str, count: int) -> str:
    """Put some of a thing aside. They are no longer in stock then."""
    if STOCK.get(thing, 0) < count:
        return f"Only {STOCK.get(thing, 0)} of {thing} are there."
    STOCK[thing] -= count
    return f"{count} of {thing} put aside"


if __name__ == "__main__":
    server.run()

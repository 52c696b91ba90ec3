"""A plain function as the agent: it answers at once, so that what is measured is the server."""

from strandline import Session


async def agent(message: str, session: Session) -> str:
    return f"You said: {message}"

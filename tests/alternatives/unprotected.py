"""No protection: requests to one session share its agent and run at the same time.

The agents must be built to let several calls in at once (`make_reentrant_agent`); by default Strands refuses.
"""

from typing import Any

from fastapi import FastAPI

from alternatives.sessions import Chat, MakeAgent, Sessions, build, main


def make_app(make_agent: MakeAgent) -> FastAPI:
    """Serve all requests at once."""
    sessions = Sessions(make_agent)

    async def ask(chat: Chat) -> Any:
        return await sessions.invoke(chat)

    return build(sessions, ask)


if __name__ == "__main__":
    main(make_app)

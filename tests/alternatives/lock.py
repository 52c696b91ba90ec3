"""A lock per session, in memory: requests wait for it, in order, and are gone when the process is."""

import asyncio
from collections import defaultdict
from typing import Any

from fastapi import FastAPI

from alternatives.sessions import Chat, MakeAgent, Sessions, build, main


def make_app(make_agent: MakeAgent) -> FastAPI:
    """Serve one request of a session at a time."""
    sessions = Sessions(make_agent)
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(chat: Chat) -> Any:
        async with locks[chat.session_id]:
            return await sessions.invoke(chat)

    return build(sessions, ask)


if __name__ == "__main__":
    main(make_app)

"""A lock per session, in memory: requests wait for it, in order, and are gone when the process is.

`POST /stream` is `/chat` that streams the text.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from alternatives.sessions import Chat, MakeAgent, Sessions, build, main


def make_app(make_agent: MakeAgent) -> FastAPI:
    """Serve one request of a session at a time."""
    sessions = Sessions(make_agent)
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(chat: Chat) -> Any:
        async with locks[chat.session_id]:
            return await sessions.invoke(chat)

    app = build(sessions, ask)

    @app.post("/stream")
    async def stream(chat: Chat) -> StreamingResponse:
        async def texts() -> AsyncIterator[str]:
            async with locks[chat.session_id]:
                async for event in sessions.agent(chat.session_id).stream_async(chat.message):
                    if "data" in event:
                        yield f"data: {json.dumps({'text': event['data']})}\n\n"

        return StreamingResponse(texts(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    main(make_app)

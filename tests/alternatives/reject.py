"""Refusal: a request to a session that is in use gets 409, and its sender may try again."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from alternatives.sessions import Chat, MakeAgent, Sessions, build, main


def make_app(make_agent: MakeAgent) -> FastAPI:
    """Serve a request of a session only while there is no other."""
    sessions = Sessions(make_agent)
    busy: set[str] = set()

    async def ask(chat: Chat) -> Any:
        if chat.session_id in busy:
            return JSONResponse({"status": "error", "response": "busy"}, status_code=409)
        busy.add(chat.session_id)
        try:
            return await sessions.invoke(chat)
        finally:
            busy.discard(chat.session_id)

    return build(sessions, ask)


if __name__ == "__main__":
    main(make_app)

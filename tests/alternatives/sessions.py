"""What all alternatives share: an agent per session in memory, the original's routes, a command line.

They differ in one function: what `POST /chat` does about a session that is in use.
"""

import argparse
import runpy
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from strands import Agent

MakeAgent = Callable[[str], Agent]


class Chat(BaseModel):
    """The body of `POST /chat`."""

    message: str
    session_id: str = "default"


Ask = Callable[[Chat], Awaitable[Any]]


class Sessions:
    """The agents of all sessions, and how many requests are inside."""

    def __init__(self, make_agent: MakeAgent) -> None:
        self._make_agent = make_agent
        self._agents: dict[str, Agent] = {}
        self.inside = 0

    def agent(self, session_id: str) -> Agent:
        """Return the one agent of a session."""
        if session_id not in self._agents:
            self._agents[session_id] = self._make_agent(session_id)
        return self._agents[session_id]

    def messages(self, session_id: str) -> list[Any]:
        """Return the history of a session; an unknown one has none."""
        agent = self._agents.get(session_id)
        return list(agent.messages) if agent else []

    async def invoke(self, chat: Chat) -> dict[str, str]:
        """Ask the agent, and answer as the original did: a failure of the agent is an answer too."""
        try:
            result = await self.agent(chat.session_id).invoke_async(chat.message)
        except Exception as error:
            return {"status": "error", "response": str(error), "session_id": chat.session_id}
        return {"status": "success", "response": str(result).strip(), "session_id": chat.session_id}


def build(sessions: Sessions, ask: Ask) -> FastAPI:
    """Make the app of an alternative out of what it does on `POST /chat`."""
    app = FastAPI()

    @app.post("/chat")
    async def chat(body: Chat) -> Any:
        sessions.inside += 1
        try:
            return await ask(body)
        finally:
            sessions.inside -= 1

    @app.get("/history")
    async def history(session_id: str = "default") -> Any:
        return {"status": "success", "messages": sessions.messages(session_id)}

    @app.get("/health")
    async def health() -> Any:
        inside = sessions.inside
        return {"status": "healthy", "processing": inside > 0, "queue_depth": max(0, inside - 1)}

    return app


def main(make_app: Callable[[MakeAgent], FastAPI]) -> None:
    """Serve on the loopback interface and print the URL to stderr, as `strandline serve` does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--agent", required=True, metavar="FILE:NAME", help="a function of a session id")
    options = parser.parse_args()
    file, _, name = options.agent.rpartition(":")
    app = make_app(runpy.run_path(file)[name])
    listener = socket.create_server(("127.0.0.1", options.port), backlog=512)
    print(f"serving at http://127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)  # noqa: T201
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])

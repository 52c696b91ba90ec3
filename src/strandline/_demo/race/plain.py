"""The servers that people write first: Starlette over an agent per session, with a lock per session or without.

    python -m strandline._demo.race.plain [--lock | --let-in]

They speak the part of Strandline's HTTP that the race needs. With FastAPI they would be the same: it is Starlette.
"""

import asyncio
import socket
import sys
from collections import defaultdict
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from strands import Agent

from strandline._demo.race.agent import make_agent, make_reentrant_agent
from strandline._demo.race.parent_watch import exit_with_parent


def make_app(*, lock: bool = False, let_in: bool = False) -> Starlette:
    """Serve one agent per session; with `lock`, one request of a session at a time, in the order of arrival.

    Strands itself refuses a call of a working agent, unless concurrent calls are allowed (`let_in`).
    """
    agents: dict[str, Agent] = {}
    locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    make = make_reentrant_agent if let_in else make_agent
    executing = 0

    async def chat(request: Request) -> JSONResponse:
        nonlocal executing
        body: dict[str, Any] = await request.json()
        session_id = body["session_id"]
        if session_id not in agents:
            agents[session_id] = make(session_id)
        turn: AbstractAsyncContextManager[Any] = locks[session_id] if lock else nullcontext()
        executing += 1
        try:
            async with turn:
                result = await agents[session_id].invoke_async(body["message"])
        except Exception as error:
            return JSONResponse({"status": "error", "response": str(error)})
        finally:
            executing -= 1
        return JSONResponse({"status": "success", "response": str(result).strip()})

    async def history(request: Request) -> JSONResponse:
        agent = agents.get(request.query_params["session_id"])
        return JSONResponse({"messages": agent.messages if agent else []})

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"processing": executing > 0, "queue_depth": max(0, executing - 1)})

    return Starlette(
        routes=[
            Route("/chat", chat, methods=["POST"]),
            Route("/history", history),
            Route("/health", health),
        ]
    )


def main() -> None:
    """Serve on a port of the loopback interface that the system chooses, and print the URL to stderr."""
    exit_with_parent()
    listener = socket.create_server(("127.0.0.1", 0))
    app = make_app(lock="--lock" in sys.argv[1:], let_in="--let-in" in sys.argv[1:])
    sys.stderr.write(f"serving at http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stderr.flush()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""Before: one Strands agent behind HTTP, with a queue in memory and a session folder under /data."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from script import model
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from strands import Agent
from strands.session import FileSessionManager

from tools import lend, lent

AGENT_ID = os.environ.get("AGENT_ID", "agent")
HOST = os.environ.get("HOST", "0.0.0.0")
PORT = int(os.environ.get("PORT", "8080"))
IDLE_TIMEOUT_S = float(os.environ.get("IDLE_TIMEOUT_MINUTES", "15")) * 60
SESSIONS = os.environ.get("SESSIONS", "/data")

Question = tuple[str, "asyncio.Future[dict[str, Any]]"]

agent = Agent(
    model=model,
    tools=[lend, lent],
    session_manager=FileSessionManager(AGENT_ID, storage_dir=SESSIONS),
    callback_handler=None,
)
queue: asyncio.Queue[Question] = asyncio.Queue()
processing = False
last_used = time.monotonic()


async def work() -> None:
    """Answer one question after the other."""
    global processing, last_used
    while True:
        message, answer = await queue.get()
        processing = True
        try:
            said = {"status": "success", "response": str(await agent.invoke_async(message)).strip()}
        except Exception as error:
            said = {"status": "error", "response": str(error)}
        processing, last_used = False, time.monotonic()
        answer.set_result({**said, "agent_id": AGENT_ID})


async def stop_when_idle() -> None:
    """End the process when nobody has asked anything for long."""
    while not server.should_exit:
        await asyncio.sleep(1)
        server.should_exit = not processing and time.monotonic() - last_used > IDLE_TIMEOUT_S


async def chat(request: Request) -> JSONResponse:
    """`POST /chat`: put the message into the queue and wait for its answer."""
    answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    await queue.put(((await request.json())["message"], answer))
    return JSONResponse(await answer)


async def health(request: Request) -> JSONResponse:
    """`GET /health`: the state of the runner."""
    return JSONResponse(
        {"status": "healthy", "agent_id": AGENT_ID, "processing": processing, "queue_depth": queue.qsize()}
    )


async def history(request: Request) -> JSONResponse:
    """`GET /history`: the last messages; `count=0` is all of them."""
    count = int(request.query_params.get("count", "1"))
    return JSONResponse({"status": "success", "messages": agent.messages[-count:]})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Work through the queue for as long as the server runs."""
    tasks = [asyncio.create_task(work()), asyncio.create_task(stop_when_idle())]
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


routes = [Route("/chat", chat, methods=["POST"]), Route("/health", health), Route("/history", history)]
server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes, lifespan=lifespan), HOST, PORT, log_level="warning"))

if __name__ == "__main__":
    server.run()

"""Apps with Strandline in them, for uvicorn: what each does differently is in its name."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response

import strandline

AGENT = str(Path(__file__).with_name("agent.py"))

alone = strandline.asgi(AGENT, journal="sqlite:journal.db", lock_wait=0.2, drain_grace=1.0)

mounted = FastAPI(lifespan=alone.lifespan)
mounted.mount("/agent", alone)


@mounted.middleware("http")
async def stamp(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers["X-Stamped"] = "yes"
    return response


rooted = FastAPI(lifespan=alone.lifespan, root_path="/shop")
rooted.mount("/agent", alone)

forgotten = FastAPI()
forgotten.mount("/agent", alone)


@contextlib.asynccontextmanager
async def both(app: FastAPI) -> AsyncIterator[None]:
    async with alone.lifespan(app):
        app.state.own = "mine"
        yield


beside = FastAPI(lifespan=both)
beside.mount("/agent", alone)


@beside.get("/own")
async def own(request: Request) -> str:
    return str(request.app.state.own)

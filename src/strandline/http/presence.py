"""Whether the client of a request is still there while it waits for a run."""

import asyncio
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from strandline.engine.service import Service
from strandline.model import RunId

T = TypeVar("T")


async def while_present(request: Request, service: Service, run_id: RunId, answer: "asyncio.Future[T]") -> T:
    """Return what `answer` comes to. Raises `ClientDisconnect` if the client leaves before.

    Nobody is left to be answered then: `answer` is cancelled, and what it takes in memory is free at once.
    """
    gone = asyncio.ensure_future(_gone(request))
    gone.add_done_callback(lambda _: answer.cancel())
    service.joined(run_id)
    lost = False
    try:
        return await answer
    except asyncio.CancelledError:
        if gone.done() and not gone.cancelled():
            lost = True
            raise ClientDisconnect from gone.exception()
        raise
    finally:
        service.left(run_id, lost=lost)
        gone.cancel()


async def _gone(request: Request) -> None:
    """Return when the client has left; whatever still comes of its request is of no interest."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

"""What is done to its end whoever waits for it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T], under_way: set[asyncio.Task[Any]]) -> T:
    """Return what `work` does, in a task that is in `under_way` until it is done; cancelling this does not stop it."""
    task = asyncio.create_task(work)
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    task.add_done_callback(_looked_at)
    return await asyncio.shield(task)


def _looked_at(task: "asyncio.Task[Any]") -> None:
    """Note that whoever asked knows of a failure, or is not there any more."""
    if not task.cancelled():
        task.exception()

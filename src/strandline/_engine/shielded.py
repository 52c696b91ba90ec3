"""Work that completes even if its caller is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_the_end(work: Coroutine[Any, Any, T], under_way: set[asyncio.Task[Any]]) -> T:
    """Return the result of `work`, which completes even if the caller is cancelled: as a task, in `under_way` until
    then."""
    task = asyncio.create_task(work)
    under_way.add(task)
    task.add_done_callback(under_way.discard)
    task.add_done_callback(_retrieve)
    return await asyncio.shield(task)


def _retrieve(task: "asyncio.Task[Any]") -> None:
    """Retrieve a failure: the caller has it, or is gone."""
    if not task.cancelled():
        task.exception()

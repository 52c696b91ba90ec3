"""An agent that talks: `COUNT SIZE` says so many pieces of so many characters; `COUNT SIZE in step with N` as one of N.

Those in step say each piece when all of them have said the one before.
"""

import asyncio
from collections.abc import AsyncIterator

from strandline.agents.function import Session

STEPS: dict[int, asyncio.Barrier] = {}


async def answer(message: str, session: Session) -> AsyncIterator[str]:
    """Say numbered pieces."""
    count, size, *step = message.split()
    together = STEPS.setdefault(int(step[-1]), asyncio.Barrier(int(step[-1]))) if step else None
    for number in range(int(count)):
        if together is not None:
            await together.wait()
        else:
            await asyncio.sleep(0)
        yield f"{number} ".ljust(int(size), ".")

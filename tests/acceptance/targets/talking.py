"""An agent that talks: `COUNT SIZE` says so many pieces of so many characters; `COUNT SIZE in step at PORT` in company.

Those in step say each piece when a rendezvous at that port has heard that all of them have said the one before; so it
does not matter which processes they are in.
"""

import asyncio
from collections.abc import AsyncIterator

from strandline._agents.function import Session


async def answer(message: str, session: Session) -> AsyncIterator[str]:
    """Say numbered pieces."""
    count, size, *step = message.split()
    together = await asyncio.open_connection("127.0.0.1", int(step[-1])) if step else None
    for number in range(int(count)):
        if together is not None:
            together[1].write(b".")
            await together[0].readexactly(1)
        else:
            await asyncio.sleep(0)
        yield f"{number} ".ljust(int(size), ".")
    if together is not None:
        together[1].close()
        await together[1].wait_closed()

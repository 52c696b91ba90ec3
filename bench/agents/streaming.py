"""The agent of the streaming benchmark: words at a pace, each with the time at which it was said.

It is asked with `RATE COUNT`, chunks a second and how many; a question `hold` is never answered. The times are
`CLOCK_MONOTONIC`, which all processes of a machine share.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from strands import Agent
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

from strandline.testing import ScriptedModel, question


class Paced(ScriptedModel):
    """A model that says each chunk when its time has come; one that is late says the next at once."""

    async def stream(self, messages: Messages, *args: Any, **more: Any) -> AsyncGenerator[StreamEvent, None]:
        """Stream one answer."""
        prompt = question(messages)
        if prompt == "hold":
            await asyncio.Event().wait()
        rate, count = map(int, prompt.split())
        begin = time.monotonic()
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockStart": {"contentBlockIndex": 0, "start": {}}}
        for number in range(count):
            if (early := begin + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(early)
            delta = {"text": f"@{time.monotonic_ns()};"}
            yield {"contentBlockDelta": {"contentBlockIndex": 0, "delta": delta}}  # type: ignore[typeddict-item]
        yield {"contentBlockStop": {"contentBlockIndex": 0}}
        yield {"messageStop": {"stopReason": "end_turn"}}


MODEL = Paced(lambda messages: "")


def make_agent(session_id: str) -> Agent:
    return Agent(model=MODEL, callback_handler=None)

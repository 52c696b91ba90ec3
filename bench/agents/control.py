"""The agent of the run-control benchmark. It does what it is asked to: `take 50`, `stream 20`, both in milliseconds."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from strands import Agent
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

from strandline.testing import ScriptedModel, question

STREAMS_S = 30.0
WORD = "word "


async def answer(messages: Messages) -> str:
    """`take N`: answer after so long. `stream N`: say words for half a minute, one every so often."""
    what, _, number = question(messages).partition(" ")
    seconds = float(number) / 1000
    if what == "stream":
        return WORD * int(STREAMS_S / seconds)
    await asyncio.sleep(seconds)
    return "Done."


class Slow(ScriptedModel):
    """A model that streams at a pace: one event for each word, as providers have it."""

    async def stream(self, messages: Messages, *args: Any, **more: Any) -> AsyncGenerator[StreamEvent, None]:
        """Stream one answer; wait before each word of one that is to be streamed slowly."""
        what, _, number = question(messages).partition(" ")
        async for event in super().stream(messages, *args, **more):
            if what == "stream" and "contentBlockDelta" in event:
                await asyncio.sleep(float(number) / 1000)
            yield event


MODEL = Slow(answer, chunk_size=len(WORD))


def make_agent(session_id: str) -> Agent:
    return Agent(model=MODEL, callback_handler=None)

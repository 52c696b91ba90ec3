"""A client of the demo's model server: `OpenAIModel`, but an answer that got too long is an answer all the same.

Strands raises when a model reaches its token limit, since an agent that works may have lost half of a tool call. A
small model that tells stories has lost the end of a story.
"""

from collections.abc import AsyncGenerator
from typing import Any

from strands.models.openai import OpenAIModel
from strands.types.streaming import StreamEvent


class ServedModel(OpenAIModel):
    """An `OpenAIModel` whose answers end where its token limit cuts them."""

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[StreamEvent, None]:
        """Stream what the server streams, with the stop reason `max_tokens` told as `end_turn`."""
        async for event in super().stream(*args, **kwargs):
            stop = event.get("messageStop")
            if stop is not None and stop["stopReason"] == "max_tokens":
                yield {"messageStop": {"stopReason": "end_turn"}}
            else:
                yield event
